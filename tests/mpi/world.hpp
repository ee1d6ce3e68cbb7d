// SPDX-License-Identifier: Apache-2.0
#pragma once  // world.hpp: what tests over MPI share. Each process runs every test case, with its own rank.

#include <doctest/doctest.h>
#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <thread>
#include <unshard/comm/mpi.hpp>
#include <vector>

#include "../random_copies.hpp"

namespace world {

using namespace engines;

inline int rank() {
  int r = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &r);
  return r;
}
inline int size() {
  int n = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &n);
  return n;
}
/// Sleeps, as MPI_Barrier would spin on a machine with fewer cores than ranks.
inline void barrier() {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  for (int done = 0; done == 0; MPI_Test(&request, &done, MPI_STATUS_IGNORE))
    std::this_thread::sleep_for(std::chrono::microseconds(200));
}
/// A deadline that a test which works never meets.
inline constexpr int patient_ms = 60'000;

/// All ranks' words: that of rank r says r.
inline bool exchange_works(unshard::mpi_communicator& c, int timeout_ms = patient_ms) {
  const bytes mine(16, static_cast<std::byte>(c.rank() + 1));
  bytes all(16 * index(c.size()));
  c.exchange(mine, all, timeout_ms);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i] != static_cast<std::byte>(i / 16 + 1)) return false;
  }
  return true;
}

}  // namespace world
