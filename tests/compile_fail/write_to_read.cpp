// expect-error: read-only|const value|not assignable
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give([[maybe_unused]] archetype::handle* p, [[maybe_unused]] archetype::communicator& comm) {
  for (auto& c : unshard::chunks(std::span(p, 1), comm, unshard::read_write, {.budget = 1})) {
    for (auto piece : c) piece.as<float>()[0] = 1;
  }
#ifdef SHOULD_FAIL
  for (auto& c : unshard::chunks(std::span(p, 1), comm, unshard::read, {.budget = 1})) {
    for (auto piece : c) piece.as<float>()[0] = 1;
  }
#endif
}
