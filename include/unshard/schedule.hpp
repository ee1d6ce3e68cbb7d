// SPDX-License-Identifier: Apache-2.0
#pragma once  // schedule.hpp: the pieces of a chunk and their layouts in, this rank's transfers out. Moves nothing.

#include <cstddef>
#include <cstdint>
#include <span>
#include <unshard/base/plain_vector.hpp>
#include <unshard/communicator.hpp>
#include <unshard/plan.hpp>
#include <unshard/schedule/messages.hpp>
#include <unshard/schedule/strided.hpp>
#include <unshard/schedule/transfer.hpp>
#include <utility>

namespace unshard {
inline namespace v0 {

namespace detail {

template <class Batch>
class batch_filler;

/// A collective of the engine, in place of the messages of one piece.
struct collective {
  transfer_kind kind;
  int root;
  std::size_t piece;
  std::size_t offset;  // of the piece in the chunk
  std::size_t bytes;   // of one rank; of the whole piece for a broadcast
};

/// Which of some replicas sends to the one that holds the chunk: they take turns, by parameter.
inline int in_turn(const rank_list& group, std::size_t parameter) {
  return group[static_cast<int>(parameter % static_cast<std::size_t>(group.size()))];
}

/// Where every rank receives: which of so many replicas, in rank order, sends to `receiver`. Each serves an equal share
/// of the ranks, those at its own place in their order.
constexpr int near_replica(int replicas, int receiver, int ranks) {
  return static_cast<int>(index_t{receiver} * replicas / ranks);
}

}  // namespace detail

/// This rank's part in moving one round: the chunk that a root or every rank holds, or, under spread, one chunk on each
/// rank. Filled by `add`, piece by piece, the same pieces on every rank; `finish` then groups the runs into messages
/// and batches: at most one message for each pair of ranks (for engines without regions that send to a set of
/// replicas alike, one for each such set). Over all ranks the sends match the receives, and every byte of every piece
/// is written exactly once.
class schedule {
 public:
  /// Engines' collectives are used for even shards of at least this many bytes a rank.
  static constexpr std::size_t collective_least = std::size_t{64} << 10;

  /// `shifts`: the most cyclic shifts between ranks that share staging; 0: all of them.
  schedule(movement direction, int rank, int ranks, residency on, const capabilities& c, const collectives& can = {},
           std::size_t shifts = 0)
      : movement_(direction),
        rank_(rank),
        ranks_(ranks),
        on_(on),
        engine_(c),
        can_(can),
        shifts_(shifts),
        moved_(rank, ranks, c) {}

  /// The next piece of the chunk. Throws what the layout throws.
  template <shard_layout L>
  void add(const planned_piece& p, const L& layout) {
    add(p, layout, on_.root());
  }
  /// The same of the chunk that `holder` holds, of a spread round.
  template <shard_layout L>
  void add(const planned_piece& p, const L& layout, int holder) {
    const std::size_t number = pieces_++;
    if (holder != holder_) chunk_bytes_ = 0;
    holder_ = holder;
    chunk_bytes_ += p.bytes;
    largest_ = (std::max)(largest_, chunk_bytes_);
    if (p.elements == 0) return;
    const part whole{p, layout.space(), p.bytes / static_cast<std::size_t>(p.elements),
                     static_cast<std::uint32_t>(number)};
    if (!on_.spreads() && add_collective(whole, layout)) return;
    if (movement_ == movement::gather) {
      on_.all() ? gather_everywhere(whole, layout) : gather_to_holder(whole, layout);
    } else {
      write_back(whole, layout);
    }
  }

  /// Groups and cuts. Call once for all pieces, after the last.
  void finish() {
    moved_.finish(
        {(std::max<std::size_t>)(1, keys_.size()), largest_, collective_operations(collectives_.size()), shifts_});
  }

  /// Empty again, with the room that it had: for the next round.
  void clear() {
    pieces_ = chunk_bytes_ = largest_ = 0;
    holder_ = no_holder;
    keys_.clear();
    collectives_.clear();
    moved_.clear();
  }

  std::size_t batches() const { return moved_.batches(); }  ///< the same on every rank
  std::size_t chunk_bytes() const { return largest_; }      ///< of the values in the (largest) chunk
  const detail::plain_vector<scheduled_run>& runs() const { return moved_.runs(); }  ///< all of this rank
  /// Calls visit(const detail::strided_block&) for every block of the chunk that a run takes, in the run's order; for
  /// runs that this rank has in its chunk.
  template <class Visit>
  void for_each_block(const scheduled_run& r, Visit visit) const {
    for_each_block(r, r.from.base == run_end::chunk ? r.from : r.to, visit);
  }
  /// The same for one end of the run, wherever it lies.
  template <class Visit>
  void for_each_block(const scheduled_run& r, const run_end& e, Visit visit) const {
    if (e.blocks == 0)
      return visit(detail::strided_block{static_cast<index_t>(e.at), {static_cast<index_t>(r.bytes)}, {index_t{1}}});
    for (const detail::strided_block& b : moved_.blocks_of(e)) visit(b);
  }

  /// Calls visit(const scheduled_transfer&) for every message of this rank, its own copies and collectives.
  template <class Visit>
  void for_each_transfer(Visit visit) const {
    for (const detail::message& m : moved_.list())
      visit(scheduled_transfer{m.kind, m.peer, m.bytes, moved_.batch_of(m, 0), moved_.runs_of(m)});
    if (!moved_.copies().empty()) {
      std::size_t bytes = 0;
      for (std::uint32_t r : moved_.copies()) bytes += runs()[r].bytes;
      visit(scheduled_transfer{transfer_kind::copy, rank_, bytes, 0, moved_.copies()});
    }
    for (const detail::collective& c : collectives_) visit(scheduled_transfer{c.kind, c.root, c.bytes, 0, {}});
  }

 private:
  template <class Batch>
  friend class detail::batch_filler;

  static constexpr int no_holder = -3;

  struct part {
    const planned_piece& piece;
    extents space;
    std::size_t element_size;
    std::uint32_t number;
  };

  bool holds() const { return on_.all() || holder_ == rank_; }
  /// Without regions a message is packed once for all its receivers, so all of them get all of it.
  bool packs_for_all() const { return !engine_.regions && !on_.spreads(); }

  /// What a rank that holds the chunk does with a part of the piece that others hold.
  enum class arrival {
    none,     // this rank has it, or nobody sends it
    kept,     // it comes, and goes into the chunk
    dropped,  // it comes with a message that is packed for all, though this rank has it
  };
  arrival arrival_of(const rank_list& group, int from) const {
    if (!group.contains(rank_)) return arrival::kept;
    const bool comes_for_others = on_.all() && packs_for_all() && group.size() < ranks_;
    return comes_for_others && from != rank_ ? arrival::dropped : arrival::none;
  }

  /// Calls use(run) for every run of `rank` in the piece: its end in the shard is here where that is this rank, its end
  /// in the chunk where `in_chunk`. Returns the elements.
  template <class L, class Use>
  index_t for_each_run(const part& p, const L& layout, int rank, bool in_chunk, Use use) {
    index_t found = 0;
    const auto esize = static_cast<index_t>(p.element_size);
    const index_t end = p.piece.first + p.piece.elements;
    const index_t start = static_cast<index_t>(p.piece.offset) - p.piece.first * esize;  // of the value, in the chunk
    const auto take = [&](const run_end& there, const run_end& here, index_t elements) {
      const bool gathers = movement_ == movement::gather;
      use(moved_.add({gathers ? there : here, gathers ? here : there, static_cast<std::size_t>(elements * esize)}));
      found += elements;
    };
    const auto of_box = [&](const box& b, index_t stored, index_t) {
      const index_t interval = detail::interval_start(b, p.space);
      const auto before = [&](index_t element) {
        if (interval < 0) return detail::elements_before(b, p.space, element);
        return (std::min)((std::max)(element - interval, index_t{0}), b.size.elements());
      };
      const index_t from = before(p.piece.first);
      const index_t to = before(end);
      if (from >= to) return;
      run_end there, here;  // in the shard, in the chunk
      if (rank == rank_) there = {p.number, 0, static_cast<std::size_t>((stored + from) * esize)};
      if (in_chunk && interval >= 0) {
        here = {run_end::chunk, 0, static_cast<std::size_t>(start + (interval + from) * esize)};
      } else if (in_chunk) {
        here = cut(run_end::chunk, detail::bytes_of_box(b, p.space, p.element_size), start, from * esize, to * esize);
      }
      take(there, here, to - from);
    };
    const auto of_part = [&](const shard_part& b) {
      const index_t from = detail::elements_before(b, p.space, p.piece.first);
      const index_t to = detail::elements_before(b, p.space, end);
      if (from >= to) return;
      const detail::part_sides sides = detail::sides_of(b, p.space, p.element_size);
      run_end there, here;
      if (rank == rank_) there = cut(p.number, sides.in_shard, 0, from * esize, to * esize);
      if (in_chunk) here = cut(run_end::chunk, sides.in_space, start, from * esize, to * esize);
      take(there, here, to - from);
    };
    detail::for_each_part(layout, rank, p.piece.first, p.piece.elements, detail::part_visit{of_box, of_part});
    return found;
  }
  /// Bytes [from, to) of the order of a block that lies `start` bytes behind `base`.
  run_end cut(std::uint32_t base, const detail::strided_block& whole, index_t start, index_t from, index_t to) {
    if (whole.size.dims() == 1) return {base, 0, static_cast<std::size_t>(start + whole.offset + from)};
    auto& blocks = moved_.blocks();
    run_end out{base, 0, blocks.size()};
    const auto put = [&](detail::strided_block block) {
      block.offset += start;
      blocks.push_back(block);
    };
    detail::cut_block(whole, from, to, put);
    out.blocks = static_cast<std::uint32_t>(blocks.size() - out.at);
    return out;
  }
  template <class L>
  index_t copy_own(const part& p, const L& layout) {
    return for_each_run(p, layout, rank_, true, [&](std::uint32_t r) { moved_.copy(r); });
  }

  template <class L>
  void gather_to_holder(const part& p, const L& layout) {
    if (holds()) {
      if (copy_own(p, layout) < p.piece.elements) receive_parts(p, layout);
      return;
    }
    if (!holds_some(p, layout)) return;
    const rank_list group = replicas(p, layout, rank_);
    if (group.contains(holder_) || source(p, group, holder_) != rank_) return;
    for_each_run(p, layout, rank_, false, [&](std::uint32_t r) { moved_.send(holder_, 0, r); });
  }

  template <class L>
  void gather_everywhere(const part& p, const L& layout) {
    const auto first = static_cast<std::uint32_t>(runs().size());
    const index_t own = copy_own(p, layout);
    const auto last = static_cast<std::uint32_t>(runs().size());
    if (own > 0) {
      const rank_list group = replicas(p, layout, rank_);
      if (group.size() < ranks_) {
        for (int peer = 0; peer < ranks_; ++peer) {
          if (peer == rank_ || source(p, group, peer) != rank_) continue;
          if (group.contains(peer) && !packs_for_all()) continue;
          for (std::uint32_t r = first; r < last; ++r) moved_.send(peer, 0, r);
        }
      }
    }
    if (own < p.piece.elements || packs_for_all()) receive_parts(p, layout);
  }

  /// What this rank, which holds the chunk, gets from the others: each set of replicas' part from one of them.
  template <class L>
  void receive_parts(const part& p, const L& layout) {
    for (int holder : detail::ranks_of(layout, p.piece.first, p.piece.elements)) {
      if (detail::replica_of(layout, holder) != holder) continue;
      const rank_list group = replicas(p, layout, holder);
      const int from = source(p, group, rank_);
      const arrival how = arrival_of(group, from);
      if (how == arrival::none) continue;
      // Where this rank has the part itself, the first of the group may be this rank: but no end of it is here.
      for_each_run(p, layout, holder, how == arrival::kept, [&](std::uint32_t r) { moved_.recv(from, 0, r); });
    }
  }

  template <class L>
  void write_back(const part& p, const L& layout) {
    if (holds()) copy_own(p, layout);
    if (on_.all()) return;
    const bool count_keys = packs_for_all() && engine_.max_operations > 0;  // every rank cuts the same batches
    if (!holds()) {
      if (holds_some(p, layout)) {
        const std::uint32_t key = key_of(p, layout, rank_);
        for_each_run(p, layout, rank_, false, [&](std::uint32_t r) { moved_.recv(holder_, key, r); });
      }
      if (!count_keys) return;
    }
    for (int owner : detail::ranks_of(layout, p.piece.first, p.piece.elements)) {
      const std::uint32_t key = key_of(p, layout, owner);
      if (!holds() || owner == rank_) continue;
      for_each_run(p, layout, owner, true, [&](std::uint32_t r) { moved_.send(owner, key, r); });
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
  /// Which of some replicas sends to `receiver`. To one holder they take turns, by parameter. Where every rank
  /// receives, each serves the ranks near its own, so that many replicas share the work; but for engines without
  /// regions, for which a part is packed once for all.
  int source(const part& p, const rank_list& group, int receiver) const {
    if (on_.all() && !packs_for_all()) return group[detail::near_replica(group.size(), receiver, ranks_)];
    return detail::in_turn(group, p.piece.parameter);
  }
  /// A small number for the receivers of what `owner` holds, which are packed for together; else 0. Both ends number
  /// the sets as they come up.
  template <class L>
  std::uint32_t key_of(const part& p, const L& layout, int owner) {
    if (!packs_for_all()) return 0;
    const rank_list group = replicas(p, layout, owner);
    std::uint64_t digest = detail::mix(0x9e7, group.size());
    for (int r : group) digest = detail::mix(digest, r);
    std::size_t key = 0;
    while (key < keys_.size() && keys_[key] != digest) ++key;
    if (key == keys_.size()) keys_.push_back(digest);
    return static_cast<std::uint32_t>(key);
  }

  /// Most operations of so many collectives on one rank: an engine may make a gather or scatter of a message a peer.
  std::size_t collective_operations(std::size_t count) const {
    return count * (on_.all() ? 1 : static_cast<std::size_t>(ranks_) - 1);
  }

  /// Whether the engine's limits leave room for one more collective, of `bytes` in all. Half of a batch's operations
  /// are left to messages.
  bool has_room(std::size_t bytes) const {
    const auto n = static_cast<std::size_t>(ranks_);
    const std::size_t most = engine_.max_operations / 2;
    const bool few = collectives_.size() < n &&
                     (most == 0 || (2 * n <= most && collective_operations(collectives_.size() + 1) <= most));
    return few && (engine_.max_bytes == 0 || bytes <= engine_.max_bytes);
  }

  /// A collective instead of messages, where the engine has one and every rank decides so.
  template <class L>
  bool add_collective(const part& p, const L& layout) {
    const std::size_t each = p.piece.bytes / static_cast<std::size_t>(ranks_);
    if (ranks_ == 1 || each < collective_least || !has_room(p.piece.bytes)) return false;
    const index_t elements = extents(layout.shape()).elements();
    if (p.piece.elements != elements) return false;
    const bool gathers = movement_ == movement::gather;
    const auto [kind, able] = !gathers    ? std::pair(transfer_kind::scatter, !on_.all() && can_.scatter)
                              : on_.all() ? std::pair(transfer_kind::all_gather, can_.all_gather)
                                          : std::pair(transfer_kind::gather, can_.gather);
    if (able && elements % ranks_ == 0 && is_even(p, layout)) {
      collectives_.push_back({kind, on_.root(), p.number, p.piece.offset, each});
      return true;
    }
    if (!gathers || !on_.all() || !can_.broadcast) return false;
    const auto holders = detail::ranks_of(layout, 0, elements);
    const auto from = std::begin(holders);
    if (std::next(from) != std::end(holders)) return false;
    const int owner = *from;
    if (rank_ == owner) copy_own(p, layout);
    collectives_.push_back({transfer_kind::broadcast, owner, p.number, p.piece.offset, p.piece.bytes});
    return true;
  }

  /// Whether rank r holds exactly the r-th of equal intervals.
  template <class L>
  bool is_even(const part& p, const L& layout) const {
    const index_t each = p.piece.elements / ranks_;
    for (int r = 0; r < ranks_; ++r) {
      index_t found = 0;
      index_t held = 0;
      int boxes = 0;
      detail::for_each_part(layout, r, p.piece.first, p.piece.elements,
                            detail::part_visit{[&](const box& b, index_t, index_t) {
                                                 found += detail::elements_before(b, p.space, (r + 1) * each) -
                                                          detail::elements_before(b, p.space, r * each);
                                                 held += b.size.elements();
                                                 ++boxes;
                                               },
                                               [&](const shard_part&) { boxes = 2; }});  // maybe with gaps
      if (boxes != 1 || found != each || held != each) return false;
    }
    return true;
  }

  movement movement_;
  int rank_;
  int ranks_;
  residency on_;
  capabilities engine_;
  collectives can_;
  std::size_t shifts_;
  int holder_ = no_holder;  // of the pieces that come
  std::size_t pieces_ = 0;
  std::size_t chunk_bytes_ = 0;  // of the holder's chunk, so far
  std::size_t largest_ = 0;      // of any holder's
  detail::plain_vector<std::uint64_t> keys_;
  detail::plain_vector<detail::collective> collectives_;
  detail::messages moved_;
};

}  // namespace v0
}  // namespace unshard
