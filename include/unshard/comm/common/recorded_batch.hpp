// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/common/recorded_batch.hpp: a batch for a transport of one's own: it keeps what it is given.

#include <cstddef>
#include <span>
#include <unshard/communicator.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// A batch that records its operations, for the engine's launch and wait to carry out. It copies the lists of regions;
/// the bytes stay the caller's. An engine on host memory needs no other: launch calls run_before, then starts sends()
/// and receives(); wait calls run_after once all of them have arrived.
class recorded_batch {
 public:
  /// What goes to a peer: the concatenation of `from`.
  struct outgoing {
    std::vector<const_region> from;
    int peer;
    /// The bytes where `from` is one contiguous run: always, for engines that declare no regions.
    std::span<const std::byte> bytes() const { return {from.front().base, bytes_of(from.front())}; }
  };
  /// What arrives from a peer.
  struct incoming {
    std::vector<region> to;
    int peer;
    std::span<std::byte> bytes() const { return {to.front().base, bytes_of(to.front())}; }
  };

  void send(std::span<const const_region> from, int peer) { sends_.push_back({{from.begin(), from.end()}, peer}); }
  void recv(std::span<const region> to, int peer) { receives_.push_back({{to.begin(), to.end()}, peer}); }
  void copy_before(std::span<const const_region> from, std::span<const region> to) {
    before_.push_back({{from.begin(), from.end()}, {to.begin(), to.end()}});
  }
  void copy_after(std::span<const const_region> from, std::span<const region> to) {
    after_.push_back({{from.begin(), from.end()}, {to.begin(), to.end()}});
  }

  const std::vector<outgoing>& sends() const { return sends_; }        ///< in the order in which they were given
  const std::vector<incoming>& receives() const { return receives_; }  ///< likewise
  /// Copies on this rank, before any of its transfers. Host memory.
  void run_before() const { run(before_); }
  /// Those after all of its transfers.
  void run_after() const { run(after_); }

 private:
  struct copy {
    std::vector<const_region> from;
    std::vector<region> to;
  };
  static void run(const std::vector<copy>& copies) {
    for (const copy& c : copies) copy_regions(c.from, c.to);
  }

  std::vector<outgoing> sends_;
  std::vector<incoming> receives_;
  std::vector<copy> before_;
  std::vector<copy> after_;
};
static_assert(batch<recorded_batch>);

}  // namespace v0
}  // namespace unshard
