// expect-error: no_element_size'\)? does not satisfy|with P = archetype::no_element_size
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give([[maybe_unused]] archetype::no_element_size* p) {
#ifdef SHOULD_FAIL
  static_cast<void>(unshard::make_plan(std::span(p, 1), {.budget = 1}));
#endif
}
