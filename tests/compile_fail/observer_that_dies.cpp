// expect-error: no matching|could not convert|no viable conversion|designator order|cannot convert|cannot bind
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give() {
  auto log = [](const unshard::event&) {};
  static_cast<void>(unshard::options{.observer = log});
#ifdef SHOULD_FAIL
  static_cast<void>(unshard::options{.observer = [](const unshard::event&) {}});  // would be gone before the range
#endif
}
