// expect-error: cost\(p\) is to be an integer
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"
struct weighed : archetype::handle {
#ifdef SHOULD_FAIL
  double cost() const;
#else
  unsigned cost() const;
#endif
};
void give([[maybe_unused]] weighed* p) { unshard::make_plan(std::span{p, 1}, {.budget = 1}); }
