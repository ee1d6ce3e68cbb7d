// expect-error: no_rank'\)? does not satisfy 'communicator'|communicator<archetype::no_rank>|with C = archetype::no_rank
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give([[maybe_unused]] archetype::handle* p, [[maybe_unused]] archetype::no_rank& comm) {
#ifdef SHOULD_FAIL
  for (auto& c : unshard::chunks(std::span(p, 1), comm, unshard::read, {.budget = 1})) static_cast<void>(c);
#endif
}
