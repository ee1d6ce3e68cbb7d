// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/threads/batch.hpp: what the ranks recorded, matched end to end and cut into blocks of work.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unshard/base/sort.hpp>
#include <unshard/base/stream_copy.hpp>
#include <unshard/comm/threads/kept_regions.hpp>
#include <unshard/communicator.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// What one rank recorded in a batch: its operations, and copies of their lists. Not the bytes.
struct threads_side {
  struct message {
    int peer = 0;
    kept_list list;
  };
  struct own_copy {
    kept_list from;
    kept_list to;
  };

  kept_regions<const_region> from;
  kept_regions<region> to;
  std::vector<message> sends;
  std::vector<message> receives;
  std::vector<own_copy> before;
  std::vector<own_copy> after;

  bool empty() const { return sends.empty() && receives.empty() && before.empty() && after.empty(); }
  void clear() {
    from.clear();
    to.clear();
    sends.clear();
    receives.clear();
    before.clear();
    after.clear();
  }
};

/// Bytes that one thread copies without a pause.
struct threads_segment {
  /// Bytes of one memcpy. Above the size of a core's second cache glibc's is about 10 % slower (AMD EPYC, glibc 2.36).
  static constexpr std::size_t longest_run = std::size_t{1} << 17;

  kept_position<const_region> from;
  kept_position<region> to;
  std::size_t bytes = 0;
  bool streams = false;  // around the caches

  void copy() const {
    kept_cursor<const_region> source(from);
    kept_cursor<region> target(to);
    for (std::size_t left = bytes; left > 0;) {
      const std::size_t run = (std::min)({source.run(), target.run(), left, longest_run});
      const std::size_t rows = (std::min)({source.rows(run), target.rows(run), left / run});
      const index_t from_stride = source.stride(run);
      const index_t to_stride = target.stride(run);
      const std::byte* in = source.data();
      std::byte* out = target.data();
      for (std::size_t i = 0; i < rows; ++i, in += from_stride, out += to_stride) copy_run(out, in, run, streams);
      source.advance(rows, run);
      target.advance(rows, run);
      left -= rows * run;
    }
    if (streams) stream_fence();
  }
};

/// The blocks of a batch: about 1 MiB each, smaller towards the end of a phase so that all threads end together.
/// A block is one part of a long message or several short messages. Takes time in proportion to the regions.
class threads_work {
 public:
  static constexpr int phases = 3;  // own copies, transfers, own copies
  static constexpr std::size_t largest_block = std::size_t{1} << 20;
  static constexpr std::size_t smallest_block = std::size_t{1} << 17;
  /// Bytes of a batch, of all ranks together, from which on it goes around the caches.
  static constexpr std::size_t streams_from = std::size_t{1} << 25;

  /// Begins a batch of `bytes`, all phases together.
  void begin(std::size_t bytes) { streams_ = bytes >= streams_from; }
  /// Opens the next phase, of `bytes` in all, for so many threads.
  void begin_phase(std::size_t bytes, int workers) {
    bytes_ += bytes;
    left_ = bytes;
    share_ = 2 * static_cast<std::size_t>(workers);
    block_ = 0;
  }
  void add(kept_position<const_region> from, kept_position<region> to, std::size_t bytes) {
    while (bytes > 0) {
      if (block_ == 0) {
        blocks_.push_back(segments_.size());
        block_ = std::clamp(left_ / share_, smallest_block, largest_block);
      }
      // A rest that is not worth a seek goes along.
      const std::size_t part = bytes <= block_ + smallest_block / 4 ? bytes : block_;
      segments_.push_back({from, to, part, streams_});
      left_ -= part;
      block_ -= (std::min)(part, block_);
      bytes -= part;
      if (bytes > 0) {
        from.advance(part);
        to.advance(part);
      }
    }
  }
  /// Segments of which several may start alike, as replicas are sent the same bytes: those are cut side by side, so
  /// that a thread reads a part once, then writes it from its cache.
  void add_all(std::vector<threads_segment>& list) {
    const auto start = [](const threads_segment& s) {
      return reinterpret_cast<std::uintptr_t>(s.from.runs.front().base);
    };
    std::erase_if(list, [](const threads_segment& s) { return s.bytes == 0; });
    detail::sort(list, [&](const threads_segment& a, const threads_segment& b) { return start(a) < start(b); });
    for (auto first = list.begin(); first != list.end();) {
      const auto last = std::find_if(first, list.end(), [&](const threads_segment& s) {
        return start(s) != start(*first) || s.bytes != first->bytes;
      });
      const std::size_t part = last - first == 1 ? first->bytes : smallest_block;
      for (std::size_t left = first->bytes; left > 0; left -= (std::min)(part, left)) {
        for (auto s = first; s != last; ++s) {
          add(s->from, s->to, (std::min)(part, left));
          s->from.advance((std::min)(part, left));
          s->to.advance((std::min)(part, left));
        }
      }
      first = last;
    }
  }
  void end_phase() { ends_.push_back(blocks_.size()); }
  void clear() {
    segments_.clear();
    blocks_.clear();
    ends_.clear();
    bytes_ = 0;
  }

  std::size_t bytes() const { return bytes_; }
  std::size_t blocks() const { return blocks_.size(); }
  /// One past the last block of a phase.
  std::size_t end(int phase) const { return ends_[static_cast<std::size_t>(phase)]; }

  void copy(std::size_t block) const {
    const std::size_t last = block + 1 == blocks_.size() ? segments_.size() : blocks_[block + 1];
    for (std::size_t s = blocks_[block]; s < last; ++s) segments_[s].copy();
  }

 private:
  std::vector<threads_segment> segments_;
  std::vector<std::size_t> blocks_;  // the first segment of each
  std::vector<std::size_t> ends_;    // one past the last block of each phase
  std::size_t bytes_ = 0;            // of all phases
  std::size_t left_ = 0;             // bytes of the phase in no block yet
  std::size_t share_ = 1;
  std::size_t block_ = 0;  // room in the last block
  bool streams_ = false;   // the batch does
};

/// What a pair of ranks disagrees about, for the message of a batch_mismatch.
inline std::string threads_difference(std::size_t batch, int from, int to, std::size_t message, std::string_view sent,
                                      std::string_view received) {
  return concat("threads_communicator: batch ", batch, ", message ", message, " from rank ", from, " to rank ", to,
                ": rank ", from, " sends ", sent, ", rank ", to, " receives ", received,
                ". Nothing was copied. Both ranks must list the same messages, in one order.");
}

/// The sends of one pair of ranks that no receive has met yet: a list through the sender's array of next ones.
struct message_queue {  // not inside match_messages: g++ 12 crashes on it there
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  std::size_t head = none;
  std::size_t tail = none;
  std::size_t taken = 0;
};

/// The messages of all sides, end to end: the k-th send of rank s to rank r is the k-th receive of r from s. Returns
/// the first difference in words, or nothing; then `matched(s, send, r, receive)` was called for every message, in the
/// order of the receives. Takes time in proportion to the messages, and ranks squared.
template <class Matched>
std::string match_messages(std::size_t batch, const std::vector<threads_side>& sides, Matched matched) {
  using queue = message_queue;
  constexpr std::size_t none = queue::none;
  const std::size_t ranks = sides.size();
  std::vector<queue> queues(ranks * ranks);
  std::vector<std::vector<std::size_t>> next(ranks);
  for (std::size_t s = 0; s < ranks; ++s) {
    const auto& sends = sides[s].sends;
    next[s].assign(sends.size(), none);
    for (std::size_t i = 0; i < sends.size(); ++i) {
      queue& q = queues[s * ranks + static_cast<std::size_t>(sends[i].peer)];
      (q.head == none ? q.head : next[s][q.tail]) = i;
      q.tail = i;
    }
  }
  const auto in_words = [](std::size_t bytes) { return concat(bytes, " bytes"); };
  for (std::size_t r = 0; r < ranks; ++r) {
    for (const threads_side::message& receive : sides[r].receives) {
      const auto s = static_cast<std::size_t>(receive.peer);
      queue& q = queues[s * ranks + r];
      const std::size_t message = q.taken++;
      if (q.head == none)
        return threads_difference(batch, receive.peer, static_cast<int>(r), message, "nothing",
                                  in_words(receive.list.bytes));
      const threads_side::message& send = sides[s].sends[q.head];
      if (send.list.bytes != receive.list.bytes)
        return threads_difference(batch, receive.peer, static_cast<int>(r), message, in_words(send.list.bytes),
                                  in_words(receive.list.bytes));
      matched(sides[s], send, sides[r], receive);
      q.head = next[s][q.head];
    }
  }
  for (std::size_t s = 0; s < ranks; ++s) {
    for (std::size_t r = 0; r < ranks; ++r) {
      const queue& q = queues[s * ranks + r];
      if (q.head != none)
        return threads_difference(batch, static_cast<int>(s), static_cast<int>(r), q.taken,
                                  in_words(sides[s].sends[q.head].list.bytes), "nothing");
    }
  }
  return {};
}

/// Cuts a matched batch into its three phases of blocks. Returns the first difference in words, or nothing.
inline std::string plan_work(std::size_t batch, const std::vector<threads_side>& sides, int workers,
                             threads_work& work) {
  std::size_t in_all = 0;
  for (const threads_side& side : sides) {
    for (const auto* list : {&side.before, &side.after}) {
      for (const threads_side::own_copy& c : *list) in_all += c.to.bytes;
    }
    for (const threads_side::message& m : side.receives) in_all += m.list.bytes;
  }
  work.begin(in_all);
  const auto own_copies = [&](std::vector<threads_side::own_copy> threads_side::*list) {
    std::size_t bytes = 0;
    for (const threads_side& side : sides) {
      for (const threads_side::own_copy& c : side.*list) bytes += c.from.bytes;
    }
    work.begin_phase(bytes, workers);
    for (const threads_side& side : sides) {
      for (const threads_side::own_copy& c : side.*list)
        work.add(side.from.begin_of(c.from), side.to.begin_of(c.to), c.from.bytes);
    }
    work.end_phase();
  };
  own_copies(&threads_side::before);
  std::size_t bytes = 0;
  std::vector<threads_segment> messages;
  std::string difference = match_messages(
      batch, sides,
      [&](const threads_side& sender, const threads_side::message& send, const threads_side& receiver,
          const threads_side::message& receive) {
        messages.push_back({sender.from.begin_of(send.list), receiver.to.begin_of(receive.list), send.list.bytes});
        bytes += send.list.bytes;
      });
  work.begin_phase(bytes, workers);
  work.add_all(messages);
  work.end_phase();
  own_copies(&threads_side::after);
  return difference;
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
