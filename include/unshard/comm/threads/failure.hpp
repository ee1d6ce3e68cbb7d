// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/threads/failure.hpp: why a group of threads can't go on, and what each of its ranks is told.

#include <string>
#include <string_view>
#include <unshard/error.hpp>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The first failure of a group; every call after it throws it.
struct threads_failure {
  enum kind { none, aborted, gone, timeout, mismatch } what = none;
  int rank = 0;      ///< who aborted, went, gave up
  int missing = -1;  ///< who did not come in time
  std::string text;

  /// As the rank that asks is to see it: who is told that it came too late is not the one that others wait for.
  [[noreturn]] void rethrow(int asks, int ranks) const {
    const std::string here = concat(" [rank ", asks, " of ", ranks, ']');
    switch (what) {
      case mismatch:
        throw batch_mismatch(text + here);
      case timeout:
        if (asks == missing)
          throw peer_failed(concat("threads_communicator: rank ", rank, " gave up on this rank after ", text,
                                   ". Raise timeout_ms, or find what holds this rank up.", here),
                            rank);
        throw peer_timeout(
            concat("threads_communicator: rank ", missing, " did not arrive; rank ", rank, " waited ", text,
                   ". A slow rank can't be told from a dead one: look at that rank, or raise ", "timeout_ms.", here),
            missing);
      case gone:
        throw peer_failed(
            concat("threads_communicator: rank ", rank, " is gone, ", text, ", and can't take part any more.", here),
            rank);
      default:
        throw peer_failed(concat("threads_communicator: rank ", rank, " aborted: ", text, here), rank);
    }
  }

  /// A message as a string, or none of it where memory is short.
  static std::string words(std::string_view message) noexcept {
    try {
      return std::string(message);
    } catch (...) {
      return {};
    }
  }
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
