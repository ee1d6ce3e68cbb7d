// expect-error: batch_without_recv'\)? does not satisfy 'batch'|with B = archetype::batch_without_recv
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give([[maybe_unused]] archetype::handle* p, [[maybe_unused]] archetype::no_recv& comm) {
#ifdef SHOULD_FAIL
  for (auto& c : unshard::chunks(std::span(p, 1), comm, unshard::read, {.budget = 1})) static_cast<void>(c);
#endif
}
