// expect-error: trivially copyable
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give([[maybe_unused]] const unshard::piece& p) {
#ifdef SHOULD_FAIL
  static_cast<void>(p.as<std::string>());
#endif
}
