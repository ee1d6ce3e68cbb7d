// expect-error: memory_that_throws'\)? does not satisfy 'memory_resource'|with M = archetype::memory_that_throws
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give([[maybe_unused]] archetype::handle* p, [[maybe_unused]] archetype::communicator& comm,
          [[maybe_unused]] archetype::memory_that_throws& memory) {
#ifdef SHOULD_FAIL
  for (auto& c : unshard::chunks(std::span(p, 1), comm, unshard::read, {.budget = 1}, memory)) static_cast<void>(c);
#endif
}
