// expect-error: const_shard'\)? does not satisfy 'writable_parameter'|writable_parameter<P>|with P =
// SPDX-License-Identifier: Apache-2.0
// archetype::const_shard
#include "../archetypes.hpp"

void give([[maybe_unused]] archetype::const_shard* p, [[maybe_unused]] archetype::communicator& comm) {
  for (auto& c : unshard::chunks(std::span(p, 1), comm, unshard::read, {.budget = 1})) static_cast<void>(c);
#ifdef SHOULD_FAIL
  for (auto& c : unshard::chunks(std::span(p, 1), comm, unshard::read_write, {.budget = 1})) static_cast<void>(c);
#endif
}
