// SPDX-License-Identifier: Apache-2.0
// comm/mpi.hpp under the kit that is there for everybody's engines.
#include <unshard/testing/conformance.hpp>

#include "world.hpp"

TEST_CASE("mpi_communicator: the conformance kit finds nothing") {
  const auto found = unshard::check_communicator([] { return unshard::mpi_communicator(MPI_COMM_WORLD); });
  for (const auto& f : found) FAIL_CHECK(f.check << ": " << f.what);
  CHECK(found.empty());
  world::barrier();
}
