// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/mpi/pacer.hpp: how a host waits for what it must poll.

#include <algorithm>
#include <chrono>
#include <thread>

namespace unshard {
inline namespace v0 {
namespace detail {

/// How a rank waits: it polls, and the longer nothing moves the less often. Engines such as MPI move bytes only
/// while they are polled, so a poll that took time counts as movement and starts the wait anew. The constants are
/// measured: docs/mpi.md.
class pacer {
 public:
  using clock = std::chrono::steady_clock;
  explicit pacer(int timeout_ms) : timeout_ms_(timeout_ms), begun_(clock::now()), busy_(begun_), looked_(begun_) {}

  /// After a poll that began at `polled` and completed nothing: spins, yields or sleeps. True about once in a
  /// millisecond at most: time to look for bad news.
  bool pause(clock::time_point polled) {
    const auto now = clock::now();
    if (now - polled > working_poll) busy_ = now;
    const auto quiet = now - busy_;
    if (quiet > yields_until) {
      std::this_thread::sleep_for(std::clamp<clock::duration>(quiet / 128, least_sleep, most_sleep));
    } else if (quiet > spins_until) {
      std::this_thread::yield();
    }
    if (now - looked_ < looks_every) return false;
    looked_ = now;
    return true;
  }
  void moved() { busy_ = clock::now(); }
  bool expired() const { return timeout_ms_ > 0 && clock::now() - begun_ > std::chrono::milliseconds(timeout_ms_); }

 private:
  static constexpr std::chrono::microseconds working_poll{3};
  static constexpr std::chrono::microseconds spins_until{200};
  static constexpr std::chrono::microseconds yields_until{2000};
  static constexpr std::chrono::microseconds least_sleep{50};
  static constexpr std::chrono::microseconds most_sleep{500};
  static constexpr std::chrono::microseconds looks_every{1000};
  int timeout_ms_;
  clock::time_point begun_;
  clock::time_point busy_;
  clock::time_point looked_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
