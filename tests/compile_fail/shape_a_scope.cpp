// expect-error: no matching function|no viable constructor|cannot convert
// SPDX-License-Identifier: Apache-2.0
#include "../archetypes.hpp"

void give(const unshard::chunk_plan& plan, [[maybe_unused]] archetype::handle* p, archetype::communicator& comm,
          [[maybe_unused]] const unshard::options& o) {
  unshard::gather_scope scope(plan, 0, std::span(p, 1), comm, unshard::read, static_cast<unshard::run_options>(o));
#ifdef SHOULD_FAIL
  unshard::gather_scope shaped(plan, 0, std::span(p, 1), comm, unshard::read, o);
#endif
}
