// SPDX-License-Identifier: Apache-2.0
// A process is killed in the middle of a range: the others are told within the deadline. Not a doctest program, as MPI
// can't be finalised any more; tests/mpi/killed runs it. Prints a line for each rank that was told.
#include <mpi.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <unshard/comm/mpi.hpp>
#include <unshard/unshard.hpp>
#include <vector>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  unshard::mpi_communicator comm(MPI_COMM_WORLD);
  const unshard::flat_shard layout({1 << 20}, comm.size());
  std::vector<std::vector<float>> shards(4, std::vector<float>(std::size_t{1} << 20));
  std::vector<unshard::parameter_view> handles;
  for (auto& s : shards) handles.emplace_back("", layout, 4, std::as_writable_bytes(std::span(s)));
  const auto begun = std::chrono::steady_clock::now();
  try {
    for (auto& chunk :
         unshard::chunks(handles, comm, unshard::read_write, {.budget = 4 * unshard::MiB, .timeout_ms = 2000})) {
      if (chunk.number() == 1 && comm.rank() == comm.size() - 1) std::raise(SIGKILL);
    }
    std::printf("rank %d: no error\n", comm.rank());
  } catch (const unshard::error& e) {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    std::printf("told after %.1f s: %s\n", took.count(), e.what());
  }
  std::fflush(stdout);
  std::_Exit(0);  // MPI_Finalize would wait for the dead process
}
