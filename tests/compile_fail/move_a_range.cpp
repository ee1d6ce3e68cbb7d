// expect-error: deleted function|deleted constructor|implicitly-deleted|implicitly deleted
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give([[maybe_unused]] archetype::handle* p, [[maybe_unused]] archetype::communicator& comm) {
  auto range = unshard::chunks(std::span(p, 1), comm, unshard::read, {.budget = 1});
#ifdef SHOULD_FAIL
  auto other = std::move(range);
#endif
}
