// expect-error: (use of|call to) deleted (member )?function '.*chunks|O = unshard::(v0::)?options
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give(const unshard::chunk_plan& plan, [[maybe_unused]] archetype::handle* p, archetype::communicator& comm,
          [[maybe_unused]] const unshard::options& o) {
  for (auto& c : unshard::chunks(plan, std::span(p, 1), comm, unshard::read, static_cast<unshard::run_options>(o)))
    static_cast<void>(c);
  for (auto& c : unshard::chunks(plan, std::span(p, 1), comm, unshard::read, {.verify = false})) static_cast<void>(c);
#ifdef SHOULD_FAIL
  unshard::chunks(plan, std::span(p, 1), comm, unshard::read, o);  // its budget and in_flight can't hold
#endif
}
