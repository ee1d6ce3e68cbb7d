// SPDX-License-Identifier: Apache-2.0
#pragma once  // schedule/messages.hpp: runs in; messages, in batches under an engine's limits, out. Knows no chunk.

#include <cstddef>
#include <cstdint>
#include <span>
#include <unshard/base/plain_vector.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/communicator.hpp>
#include <unshard/schedule/strided.hpp>
#include <unshard/schedule/transfer.hpp>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Some runs that go to or come from one peer together.
struct message {
  transfer_kind kind;
  int peer;
  std::uint32_t key;
  std::size_t first, count;  // in order()
  std::size_t bytes;
  std::size_t ordinal;  // among the messages of this pair of ranks, parts counted
};

/// What may bound how much one batch moves.
struct message_limits {
  std::size_t keys = 1;        // most messages between two ranks
  std::size_t pair_bytes = 0;  // most bytes between two ranks
  std::size_t other = 0;       // operations of the first batch that are no messages
  std::size_t shifts = 0;      // most cyclic shifts in a batch, for the sake of staging; 0: any number
};

/// This rank's runs of one movement, grouped: at most one message for each pair of ranks and key, messages longer than
/// an operation may be in parts, and all cut into batches at the same transfers on both ends. The batches follow the
/// cyclic shifts: in shift d each rank sends to the rank d above it.
class messages {
 public:
  messages(int rank, int ranks, const capabilities& engine) : rank_(rank), ranks_(ranks), engine_(engine) {}

  /// A new run; its number.
  std::uint32_t add(const scheduled_run& run) {
    runs_.push_back(run);
    return static_cast<std::uint32_t>(runs_.size() - 1);
  }
  void copy(std::uint32_t run) { copies_.push_back(run); }
  /// Both ends name the same keys for the same runs, in the same order.
  void send(int peer, std::uint32_t key, std::uint32_t run) { sends_.push_back({peer, key, run}); }
  void recv(int peer, std::uint32_t key, std::uint32_t run) { recvs_.push_back({peer, key, run}); }
  plain_vector<strided_block>& blocks() { return blocks_; }  ///< of the runs that are strided

  /// Groups and cuts, once all runs are there. All ranks give equal limits.
  void finish(const message_limits& limits) {
    const std::size_t parts = engine_.max_bytes == 0 ? 0 : limits.pair_bytes / engine_.max_bytes + 1;
    const std::size_t a_pair = limits.keys + parts;
    const auto n = static_cast<std::size_t>(ranks_);
    const std::size_t operations = engine_.max_operations == 0 ? 0 : engine_.max_operations - limits.other;
    shifts_a_batch_ = limits.shifts == 0 || limits.shifts > n ? n : limits.shifts;
    if (operations != 0 && 2 * a_pair > operations) {
      messages_a_batch_ = operations / 2;
      shifts_a_batch_ = 1;
    } else if (operations != 0 && 2 * n * a_pair > operations) {
      shifts_a_batch_ = (std::min)(shifts_a_batch_, operations / (2 * a_pair));
    }
    batches_a_group_ = messages_a_batch_ == 0 ? 1 : (a_pair + messages_a_batch_ - 1) / messages_a_batch_;
    group(sends_, transfer_kind::send);
    group(recvs_, transfer_kind::recv);
  }

  /// Empty again, with the room that it had.
  void clear() {
    messages_a_batch_ = shifts_a_batch_ = 0;
    batches_a_group_ = 1;
    const auto empty = [](auto&... lists) { (lists.clear(), ...); };
    empty(runs_, blocks_, copies_, sends_, recvs_, order_, list_);
  }

  /// The same on every rank.
  std::size_t batches() const { return groups() * batches_a_group_; }
  /// Groups of cyclic shifts, one after another.
  std::size_t groups() const {
    const auto n = static_cast<std::size_t>(ranks_);
    return shifts_a_batch_ == 0 ? 1 : (n + shifts_a_batch_ - 1) / shifts_a_batch_;
  }
  std::size_t group_of(const message& m) const { return shift_of(m) / shifts_a_batch_; }
  /// The batch of one part of a message.
  std::size_t batch_of(const message& m, std::size_t part) const {
    const std::size_t within = messages_a_batch_ == 0 ? 0 : (m.ordinal + part) / messages_a_batch_;
    return group_of(m) * batches_a_group_ + within;
  }
  std::size_t parts_of(const message& m) const { return parts_of(m.bytes); }

  const plain_vector<scheduled_run>& runs() const { return runs_; }
  const plain_vector<std::uint32_t>& copies() const { return copies_; }
  const plain_vector<message>& list() const { return list_; }
  std::span<const std::uint32_t> runs_of(const message& m) const { return {order_.data() + m.first, m.count}; }
  std::span<const strided_block> blocks_of(const run_end& e) const {
    if (e.blocks == 0) return {};  // then `at` is an offset of bytes, no place in the list
    return {blocks_.data() + e.at, e.blocks};
  }
  const capabilities& engine() const { return engine_; }

 private:
  struct entry {
    int peer;
    std::uint32_t key;
    std::uint32_t run;
  };

  std::size_t shift_of(const message& m) const {
    const int up = m.kind == transfer_kind::send ? m.peer - rank_ : rank_ - m.peer;
    return static_cast<std::size_t>((up + ranks_) % ranks_);
  }
  std::size_t parts_of(std::size_t bytes) const {
    return engine_.max_bytes == 0 ? 1 : (bytes + engine_.max_bytes - 1) / engine_.max_bytes;
  }

  /// Entries in the order in which they came become messages: by peer, then by key.
  void group(plain_vector<entry>& sorted, transfer_kind kind) {
    std::size_t in_order = 1;
    bool keyed = false;
    while (in_order < sorted.size() && sorted[in_order - 1].peer <= sorted[in_order].peer) ++in_order;
    if (in_order < sorted.size()) {  // else, as on most ranks, all are with the root
      plain_vector<std::size_t> start(static_cast<std::size_t>(ranks_) + 1, 0);
      for (const entry& e : sorted) ++start[static_cast<std::size_t>(e.peer) + 1];
      for (std::size_t r = 1; r < start.size(); ++r) start[r] += start[r - 1];
      spare_.resize(sorted.size(), entry{});
      for (const entry& e : sorted) spare_[start[static_cast<std::size_t>(e.peer)]++] = e;
      sorted.swap(spare_);
    }
    for (const entry& e : sorted) keyed = keyed || e.key != 0;
    if (keyed)
      sort(sorted, [](const entry& a, const entry& b) { return a.peer != b.peer ? a.peer < b.peer : a.key < b.key; });
    for (std::size_t i = 0; i < sorted.size();) {
      const entry head = sorted[i];
      message m{kind, head.peer, head.key, order_.size(), 0, 0, 0};
      if (!list_.empty() && list_.back().kind == kind && list_.back().peer == head.peer)
        m.ordinal = list_.back().ordinal + parts_of(list_.back());
      for (; i < sorted.size() && sorted[i].peer == head.peer && sorted[i].key == head.key; ++i) {
        order_.push_back(sorted[i].run);
        m.bytes += runs_[sorted[i].run].bytes;
        ++m.count;
      }
      list_.push_back(m);
    }
  }

  int rank_;
  int ranks_;
  capabilities engine_;
  std::size_t shifts_a_batch_ = 0;
  std::size_t messages_a_batch_ = 0;  // where the limit is less than one shift; else 0
  std::size_t batches_a_group_ = 1;
  plain_vector<scheduled_run> runs_;
  plain_vector<strided_block> blocks_;
  plain_vector<std::uint32_t> copies_;
  plain_vector<entry> sends_, recvs_, spare_;
  plain_vector<std::uint32_t> order_;
  plain_vector<message> list_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
