#pragma once  // world.hpp: what tests over MPI share. Each process runs every test case, with its own rank.

#include <doctest/doctest.h>
#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <exception>
#include <string>
#include <thread>
#include <unshard/comm/mpi.hpp>
#include <vector>

namespace world {

using bytes = std::vector<std::byte>;

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
inline std::size_t index(int i) { return static_cast<std::size_t>(i); }

/// A deadline that a test which works never meets.
inline constexpr int patient_ms = 60'000;

inline unshard::const_region run_of(const bytes& b) { return {b.data(), {std::ssize(b)}, {1}}; }
inline unshard::region run_of(bytes& b) { return {b.data(), {std::ssize(b)}, {1}}; }

inline bytes pattern(std::size_t size, int seed) {
  bytes b(size);
  for (std::size_t i = 0; i < size; ++i) b[i] = static_cast<std::byte>(i * 7 + i / 251 + index(seed) * 31);
  return b;
}

inline void send(unshard::mpi_batch& b, const bytes& from, int peer) {
  const unshard::const_region r = run_of(from);
  b.send({&r, 1}, peer);
}
inline void recv(unshard::mpi_batch& b, bytes& to, int peer) {
  const unshard::region r = run_of(to);
  b.recv({&r, 1}, peer);
}

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

/// The message of the E that f throws; anything else fails the test that looks at it.
template <class E, class F>
std::string thrown(F f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    return std::string("another exception: ") + e.what();
  }
  return "nothing";
}
inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace world
