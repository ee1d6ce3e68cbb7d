// expect-error: no_shard'\)? does not satisfy|with P = archetype::no_shard
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give([[maybe_unused]] archetype::no_shard* p) {
#ifdef SHOULD_FAIL
  static_cast<void>(unshard::make_plan(std::span(p, 1), {.budget = 1}));
#endif
}
