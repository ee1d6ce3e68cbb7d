// expect-error: done_without_wait'\)? does not satisfy 'completion'|with D = archetype::done_without_wait
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give([[maybe_unused]] archetype::handle* p, [[maybe_unused]] archetype::no_wait& comm) {
#ifdef SHOULD_FAIL
  for (auto& c : unshard::chunks(std::span(p, 1), comm, unshard::read, {.budget = 1})) static_cast<void>(c);
#endif
}
