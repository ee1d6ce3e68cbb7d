// SPDX-License-Identifier: Apache-2.0
// doctest's main for tests over MPI. A test passes where it passes on all ranks; rank 0 prints, the others only when
// they failed.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <mpi.h>

#include <cstdio>
#include <sstream>

int main(int argc, char** argv) {
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &level);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  doctest::Context context(argc, argv);
  std::ostringstream said;
  context.setCout(&said);
  const int mine = context.run();
  int worst = 0;
  MPI_Allreduce(&mine, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  if (rank == 0 || mine != 0) std::printf("rank %d:\n%s", rank, said.str().c_str());
  std::fflush(stdout);
  MPI_Finalize();
  return worst;
}
