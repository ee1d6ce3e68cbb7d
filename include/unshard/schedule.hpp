#pragma once  // schedule.hpp: the pieces of a chunk and their layouts in, this rank's transfers out. Moves nothing.

#include <cstddef>
#include <cstdint>
#include <span>
#include <unshard/base/later.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/communicator.hpp>
#include <unshard/plan.hpp>
#include <unshard/schedule/strided.hpp>
#include <unshard/schedule/transfer.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

namespace detail {

template <class Batch>
class batch_filler;

/// Where every rank receives: which of so many replicas, in rank order, sends to `receiver`. Each serves an equal share
/// of the ranks, those at its own place in their order.
constexpr int near_replica(int replicas, int receiver, int ranks) {
  return static_cast<int>(index_t{receiver} * replicas / ranks);
}

}  // namespace detail

/// This rank's part in moving one chunk. Filled by `add`, piece by piece, the same pieces on every rank; `finish` then
/// groups the runs: at most one message for each pair of ranks (for engines without regions, one for each set of
/// replicas that share it), and cuts them into batches at the same transfers on both ends.
/// Over all ranks the sends match the receives, and every byte of every piece is written exactly once.
template <class Deferred>
class basic_schedule {
  template <class T>
  using vector = std::vector<detail::later<T, Deferred>>;

 public:
  /// Engines' collectives are used for even shards of at least this many bytes a rank.
  static constexpr std::size_t collective_least = std::size_t{64} << 10;

  basic_schedule(movement direction, int rank, int ranks, residency on, const capabilities& c,
                 const collectives& can = {})
      : movement_(direction), rank_(rank), ranks_(ranks), on_(on), engine_(c), can_(can) {}

  /// The next piece of the chunk. Throws what the layout throws.
  template <shard_layout L>
  void add(const planned_piece& p, const L& layout) {
    const std::size_t number = pieces_++;
    chunk_bytes_ += p.bytes;
    if (p.elements == 0) return;
    const part whole{p, layout.space(), p.bytes / static_cast<std::size_t>(p.elements), number};
    if (add_collective(whole, layout)) return;
    if (movement_ == movement::gather) {
      on_.all() ? gather_everywhere(whole, layout) : gather_to_root(whole, layout);
    } else {
      write_back(whole, layout);
    }
  }

  /// Groups and cuts. Call once for all pieces, after the last.
  void finish() {
    const std::size_t keys = std::max<std::size_t>(1, keys_.size());
    const std::size_t parts = engine_.max_bytes == 0 ? 0 : chunk_bytes_ / engine_.max_bytes + 1;
    const std::size_t a_pair = keys + parts;  // most messages between two ranks
    const auto n = static_cast<std::size_t>(ranks_);
    if (engine_.max_operations == 0 || 2 * n * a_pair + collectives_.size() <= engine_.max_operations) {
      batches_ = 1;
    } else if (2 * a_pair <= engine_.max_operations) {
      rounds_a_batch_ = engine_.max_operations / (2 * a_pair);
      batches_ = (n + rounds_a_batch_ - 1) / rounds_a_batch_;
    } else {
      messages_a_batch_ = engine_.max_operations / 2;
      batches_ = n * ((a_pair + messages_a_batch_ - 1) / messages_a_batch_);
    }
    group(sends_, transfer_kind::send);
    group(recvs_, transfer_kind::recv);
  }

  /// Empty again, with the room that it had: for the next chunk.
  void clear() {
    pieces_ = chunk_bytes_ = rounds_a_batch_ = messages_a_batch_ = 0;
    batches_ = 1;
    const auto empty = [](auto&... lists) { (lists.clear(), ...); };
    empty(runs_, blocks_, copies_, sends_, recvs_, keys_, order_, messages_, collectives_);
  }

  std::size_t batches() const { return batches_; }             ///< the same on every rank
  std::size_t chunk_bytes() const { return chunk_bytes_; }     ///< of the buffer that holds the chunk
  const vector<scheduled_run>& runs() const { return runs_; }  ///< all of this rank
  /// Calls visit(const detail::strided_block&) for every block of the chunk that a run takes, in the run's order; for
  /// runs that this rank has in its chunk.
  template <class Visit>
  void for_each_block(const scheduled_run& r, Visit visit) const {
    if (r.blocks == 0)
      return visit(
          detail::strided_block{static_cast<index_t>(r.chunk_offset), {static_cast<index_t>(r.bytes)}, {index_t{1}}});
    for (std::size_t b = 0; b < r.blocks; ++b) visit(blocks_[r.first_block + b]);
  }

  /// Calls visit(const scheduled_transfer&) for every message of this rank, its own copies and collectives.
  template <class Visit>
  void for_each_transfer(Visit visit) const {
    for (const message& m : messages_)
      visit(scheduled_transfer{m.kind, m.peer, m.bytes, m.batch, std::span(order_).subspan(m.first, m.count)});
    if (!copies_.empty()) {
      std::size_t bytes = 0;
      for (std::uint32_t r : copies_) bytes += runs_[r].bytes;
      visit(scheduled_transfer{transfer_kind::copy, rank_, bytes, 0, copies_});
    }
    for (const collective& c : collectives_) visit(scheduled_transfer{c.kind, c.root, c.bytes, 0, {}});
  }

 private:
  template <class Batch>
  friend class detail::batch_filler;

  struct part {
    const planned_piece& piece;
    extents space;
    std::size_t element_size;
    std::size_t number;
  };
  struct entry {
    int peer;
    std::uint32_t key;
    std::uint32_t run;
  };
  struct message {
    transfer_kind kind;
    int peer;
    std::uint32_t key;
    std::size_t first, count;  // in order_
    std::size_t bytes;
    std::size_t ordinal;  // among the messages of this pair, parts counted
    std::size_t batch;
  };
  struct collective {
    transfer_kind kind;
    int root;
    std::size_t piece;
    std::size_t offset;  // of the piece in the chunk
    std::size_t bytes;   // of one rank; of the whole piece for a broadcast
  };

  bool holds() const { return on_.holds(rank_); }
  /// Without regions a message is packed once for all its receivers, so all of them get all of it.
  bool shares_messages() const { return !engine_.regions; }

  /// Calls use(run) for every run of `rank` in the piece; `in_shard` and `in_chunk` say which side is this rank's.
  template <class L, class Use>
  index_t for_each_run(const part& p, const L& layout, int rank, bool in_shard, bool in_chunk, Use use) {
    index_t found = 0, stored = 0;  // elements of the piece; of the boxes before
    const auto esize = static_cast<index_t>(p.element_size);
    for (const box& b : layout.boxes_of(rank)) {
      const index_t held = b.size.elements();
      if (held == 0) continue;  // such a box may lie anywhere
      const index_t interval = detail::interval_start(b, p.space);
      const auto before = [&](index_t element) {
        if (interval < 0) return detail::elements_before(b, p.space, element);
        return (std::min)((std::max)(element - interval, index_t{0}), held);
      };
      const index_t from = before(p.piece.first);
      const index_t to = before(p.piece.first + p.piece.elements);
      if (from < to) {
        scheduled_run run{.piece = p.number, .bytes = static_cast<std::size_t>((to - from) * esize)};
        if (in_shard) run.shard_offset = static_cast<std::size_t>((stored + from) * esize);
        if (in_chunk && interval >= 0) {
          run.chunk_offset = p.piece.offset + static_cast<std::size_t>((interval + from - p.piece.first) * esize);
        } else if (in_chunk) {
          run.first_block = static_cast<std::uint32_t>(blocks_.size());
          const index_t start = static_cast<index_t>(p.piece.offset) - p.piece.first * esize;
          const auto put = [&](detail::strided_block block) {
            block.offset += start;
            blocks_.push_back(block);
          };
          detail::cut_block(detail::bytes_of_box(b, p.space, p.element_size), from * esize, to * esize, put);
          run.blocks = static_cast<std::uint32_t>(blocks_.size()) - run.first_block;
        }
        found += to - from;
        runs_.push_back(run);
        use(static_cast<std::uint32_t>(runs_.size() - 1));
      }
      stored += held;
    }
    return found;
  }

  template <class L>
  void gather_to_root(const part& p, const L& layout) {
    if (holds()) {
      const index_t own = for_each_run(p, layout, rank_, true, true, [&](std::uint32_t r) { copies_.push_back(r); });
      if (own < p.piece.elements) receive_parts(p, layout);
      return;
    }
    if (!holds_some(p, layout)) return;
    const rank_list group = replicas(p, layout, rank_);
    if (group.contains(on_.root()) || source(p, group, on_.root()) != rank_) return;
    for_each_run(p, layout, rank_, true, false, [&](std::uint32_t r) { sends_.push_back({on_.root(), 0, r}); });
  }

  template <class L>
  void gather_everywhere(const part& p, const L& layout) {
    const std::size_t first = runs_.size();
    const index_t own = for_each_run(p, layout, rank_, true, true, [&](std::uint32_t r) { copies_.push_back(r); });
    const std::size_t last = runs_.size();
    if (own > 0) {
      const rank_list group = replicas(p, layout, rank_);
      if (group.size() < ranks_) {
        for (int peer = 0; peer < ranks_; ++peer) {
          if (peer == rank_ || source(p, group, peer) != rank_) continue;
          if (group.contains(peer) && !shares_messages()) continue;
          for (std::size_t r = first; r < last; ++r) sends_.push_back({peer, 0, static_cast<std::uint32_t>(r)});
        }
      }
    }
    if (own < p.piece.elements || shares_messages()) receive_parts(p, layout);
  }

  /// What this rank, which holds the chunk, gets from the others: each set of replicas' part from one of them.
  template <class L>
  void receive_parts(const part& p, const L& layout) {
    for (int holder : detail::ranks_of(layout, p.piece.first, p.piece.elements)) {
      if (detail::replica_of(layout, holder) != holder) continue;
      const rank_list group = replicas(p, layout, holder);
      const int from = source(p, group, rank_);
      const bool mine = group.contains(rank_);
      if (mine && (on_.root() == rank_ || !shares_messages() || from == rank_ || group.size() == ranks_)) continue;
      for_each_run(p, layout, holder, false, !mine, [&](std::uint32_t r) {
        runs_[r].discarded = mine;
        recvs_.push_back({from, 0, r});
      });
    }
  }

  template <class L>
  void write_back(const part& p, const L& layout) {
    if (holds()) for_each_run(p, layout, rank_, true, true, [&](std::uint32_t r) { copies_.push_back(r); });
    if (on_.all()) return;
    const bool count_keys = shares_messages() && engine_.max_operations > 0;  // every rank cuts the same batches
    if (!holds()) {
      if (holds_some(p, layout)) {
        const std::uint32_t key = key_of(p, layout, rank_);
        for_each_run(p, layout, rank_, true, false, [&](std::uint32_t r) { recvs_.push_back({on_.root(), key, r}); });
      }
      if (!count_keys) return;
    }
    for (int holder : detail::ranks_of(layout, p.piece.first, p.piece.elements)) {
      const std::uint32_t key = key_of(p, layout, holder);
      if (!holds() || holder == rank_) continue;
      for_each_run(p, layout, holder, false, true, [&](std::uint32_t r) { sends_.push_back({holder, key, r}); });
    }
  }

  template <class L>
  bool holds_some(const part& p, const L& layout) const {
    return detail::held_of(layout, rank_, p.piece.first, p.piece.elements) > 0;
  }
  template <class L>
  static rank_list replicas(const part& p, const L& layout, int rank) {
    return detail::replicas_of(layout, rank, p.piece.first, p.piece.elements);
  }
  /// Which of some replicas sends to `receiver`. To a root they take turns, by parameter. Where every rank receives,
  /// each serves the ranks near its own, so that many replicas share the work; but for engines without regions, for
  /// which a part is packed once for all.
  int source(const part& p, const rank_list& group, int receiver) const {
    if (on_.all() && !shares_messages()) return group[detail::near_replica(group.size(), receiver, ranks_)];
    return group[static_cast<int>(p.piece.parameter % static_cast<std::size_t>(group.size()))];
  }
  /// A small number for the receivers of what `holder` holds; 0 where messages are not shared.
  template <class L>
  std::uint32_t key_of(const part& p, const L& layout, int holder) {
    if (!shares_messages()) return 0;
    const rank_list group = replicas(p, layout, holder);
    std::uint64_t digest = detail::mix(0x9e7, group.size());
    for (int r : group) digest = detail::mix(digest, r);
    std::size_t key = 0;
    while (key < keys_.size() && keys_[key] != digest) ++key;
    if (key == keys_.size()) keys_.push_back(digest);
    return static_cast<std::uint32_t>(key);
  }

  /// A collective instead of messages, where the engine has one and every rank decides so.
  template <class L>
  bool add_collective(const part& p, const L& layout) {
    const auto n = static_cast<std::size_t>(ranks_);
    const std::size_t each = p.piece.bytes / n;
    if (ranks_ == 1 || collectives_.size() >= n || each < collective_least || engine_.max_operations == 1) return false;
    if (engine_.max_operations != 0 && 4 * n > engine_.max_operations) return false;
    if (engine_.max_bytes != 0 && p.piece.bytes > engine_.max_bytes) return false;
    const bool gathers = movement_ == movement::gather;
    const bool even = gathers ? (on_.all() ? can_.all_gather : can_.gather) : (!on_.all() && can_.scatter);
    const index_t elements = extents(layout.shape()).elements();
    if (p.piece.elements != elements) return false;
    if (even && elements % ranks_ == 0 && is_even(p, layout)) {
      const transfer_kind kind = !gathers    ? transfer_kind::scatter
                                 : on_.all() ? transfer_kind::all_gather
                                             : transfer_kind::gather;
      collectives_.push_back({kind, on_.root(), p.number, p.piece.offset, each});
      return true;
    }
    if (gathers && on_.all() && can_.broadcast) {
      const auto holders = detail::ranks_of(layout, 0, elements);
      const auto from = std::begin(holders);
      if (std::next(from) != std::end(holders)) return false;
      const int owner = *from;
      if (rank_ == owner) for_each_run(p, layout, rank_, true, true, [&](std::uint32_t r) { copies_.push_back(r); });
      collectives_.push_back({transfer_kind::broadcast, owner, p.number, p.piece.offset, p.piece.bytes});
      return true;
    }
    return false;
  }

  /// Whether rank r holds exactly the r-th of equal intervals.
  template <class L>
  bool is_even(const part& p, const L& layout) const {
    const index_t each = p.piece.elements / ranks_;
    for (int r = 0; r < ranks_; ++r) {
      index_t found = 0;
      index_t stored = 0;
      int boxes = 0;
      for (const box& b : layout.boxes_of(r)) {
        found += detail::elements_before(b, p.space, (r + 1) * each) - detail::elements_before(b, p.space, r * each);
        stored += b.size.elements();
        ++boxes;
      }
      if (boxes != 1 || found != each || stored != each) return false;
    }
    return true;
  }

  std::size_t batch_of(int peer, bool sends, std::size_t ordinal) const {
    if (batches_ == 1) return 0;
    const auto round = static_cast<std::size_t>((sends ? peer - rank_ + ranks_ : rank_ - peer + ranks_) % ranks_);
    if (rounds_a_batch_ != 0) return round / rounds_a_batch_;
    return round * (batches_ / static_cast<std::size_t>(ranks_)) + ordinal / messages_a_batch_;
  }
  std::size_t parts_of(std::size_t bytes) const {
    return engine_.max_bytes == 0 ? 1 : (bytes + engine_.max_bytes - 1) / engine_.max_bytes;
  }

  /// Entries in piece order become messages: by peer, then by key.
  void group(vector<entry>& sorted, transfer_kind kind) {
    std::size_t in_order = 1;
    while (in_order < sorted.size() && sorted[in_order - 1].peer <= sorted[in_order].peer) ++in_order;
    if (in_order < sorted.size()) {  // else, as on most ranks, all are with the root
      vector<std::size_t> start(static_cast<std::size_t>(ranks_) + 1, 0);
      for (const entry& e : sorted) ++start[static_cast<std::size_t>(e.peer) + 1];
      for (std::size_t r = 1; r < start.size(); ++r) start[r] += start[r - 1];
      spare_.resize(sorted.size());
      for (const entry& e : sorted) spare_[start[static_cast<std::size_t>(e.peer)]++] = e;
      sorted.swap(spare_);
    }
    if (keys_.size() > 1) {
      detail::sort(sorted,
                   [](const entry& a, const entry& b) { return a.peer != b.peer ? a.peer < b.peer : a.key < b.key; });
    }
    // Both ends number the sets of receivers as they come up, so the order of a pair's messages agrees.
    for (std::size_t i = 0; i < sorted.size();) {
      const entry head = sorted[i];
      message m{kind, head.peer, head.key, order_.size(), 0, 0, 0, 0};
      if (!messages_.empty() && messages_.back().kind == kind && messages_.back().peer == head.peer)
        m.ordinal = messages_.back().ordinal + parts_of(messages_.back().bytes);
      for (; i < sorted.size() && sorted[i].peer == head.peer && sorted[i].key == head.key; ++i) {
        order_.push_back(sorted[i].run);
        m.bytes += runs_[sorted[i].run].bytes;
        ++m.count;
      }
      m.batch = batch_of(m.peer, kind == transfer_kind::send, m.ordinal);
      messages_.push_back(m);
    }
  }

  movement movement_;
  int rank_;
  int ranks_;
  residency on_;
  capabilities engine_;
  collectives can_;
  std::size_t pieces_ = 0;
  std::size_t chunk_bytes_ = 0;
  std::size_t batches_ = 1;
  std::size_t rounds_a_batch_ = 0;
  std::size_t messages_a_batch_ = 0;
  vector<scheduled_run> runs_;
  vector<detail::strided_block> blocks_;
  vector<std::uint32_t> copies_;
  vector<entry> sends_;
  vector<entry> recvs_;
  vector<entry> spare_;
  vector<std::uint64_t> keys_;
  vector<std::uint32_t> order_;
  vector<message> messages_;
  vector<collective> collectives_;
};
using schedule = basic_schedule<void>;  ///< the one there is; a template only so that who uses none pays for none

}  // namespace v0
}  // namespace unshard
