// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/chunk_maker.hpp: one chunk of a plan as this rank needs it: pieces, schedules, filled batches.

#include <cstddef>
#include <cstdint>
#include <span>
#include <unshard/base/plain_vector.hpp>
#include <unshard/gather/buffers.hpp>
#include <unshard/gather/listed.hpp>
#include <unshard/gather/piece.hpp>
#include <unshard/gather/verify.hpp>
#include <unshard/schedule.hpp>
#include <unshard/schedule/fill.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// A piece and its chunk.
struct round_piece {
  planned_piece piece;
  std::size_t chunk;
};

/// A block of the chunk that other ranks hold, too, and what its checksum counts.
struct replicated_block {
  strided_block block;
  std::uint64_t weight;
};

/// What is known of a round between its preparation and its commit.
template <class C, class A>
struct prepared_chunk {
  using byte = std::conditional_t<A::writes, std::byte, const std::byte>;

  std::size_t number = all_rounds;
  bool gathered = false;
  basic_chunk<byte> chunk;
  plain_vector<round_piece> pieces;  // of the whole round
  std::size_t round_bytes = 0;
  plain_vector<std::byte*> shards;
  std::vector<batch_of<C>> gather, write_back;
  plain_vector<replicated_block> replicated;
};

/// Makes them, and looks at them again when the body has ended.
template <class R, class C, class A, class M>
class chunk_maker {
 public:
  chunk_maker(listed_parameters<R, A>& listed, C& comm, const slot_buffers<M>& buffers)
      : listed_(listed), comm_(comm), buffers_(buffers) {}

  /// Lists, schedules and batches of round i: whatever may throw on this rank alone. `shifts`: see schedule.
  void make(prepared_chunk<C, A>& s, std::size_t i, std::size_t slot, const chunk_plan& plan, const run_options& o,
            std::size_t shifts) {
    const bool spread = plan.spreads();
    const bool sums_replicas = is_host_memory<M> && o.verify && o.on.all();
    s.round_bytes = 0;
    s.gather.clear();
    s.write_back.clear();
    s.pieces.clear();
    s.shards.clear();
    s.replicated.clear();
    s.number = i;
    s.gathered = !A::gathers;
    using fill = chunk_filler<typename prepared_chunk<C, A>::byte>;
    fill::start(s.chunk, i);
    schedule& in = empty_schedule(in_, movement::gather, o.on, shifts);
    schedule& out = empty_schedule(out_, movement::write_back, o.on, shifts);
    for_each_in_round(
        plan, i, [&](std::size_t p) { return listed_.size_at(p); },
        [&](const planned_piece& p, std::size_t chunk, int holder) {
          const bool here = spread ? holder == comm_.rank() : o.on.holds(comm_.rank());
          if (!spread) holder = o.on.root();
          auto&& h = listed_.handles[p.parameter];
          const auto& given = traits_of<handle>::layout(h);
          const auto& layout = listed_.known(given);
          s.pieces.push_back({p, chunk});
          s.round_bytes += p.bytes;
          s.shards.push_back(const_cast<std::byte*>(
              std::span<typename prepared_chunk<C, A>::byte>(traits_of<handle>::shard(h)).data()));
          if (here || !spread) fill::count(s.chunk, p);
          if (here)
            fill::add(s.chunk, p, detail::name_of<handle>(h), layout.shape(),
                      static_cast<std::size_t>(traits_of<handle>::element_size(h)), buffers_.chunk(slot));
          if constexpr (A::gathers) in.add(p, layout, holder);
          if constexpr (A::writes) {
            const std::size_t before = out.runs().size();
            out.add(p, layout, holder);
            if (sums_replicas) weigh_replicas(s, p, layout, out, before);
          }
        });
    fill::finish(s.chunk);
    std::byte* const chunk = o.on.holds(comm_.rank()) ? buffers_.chunk(slot) : nullptr;
    const chunk_memory where{chunk, buffers_.staging(slot), {s.shards.data(), s.shards.size()}};
    if constexpr (A::gathers) fill_batches(in, where, s.gather);
    if constexpr (A::writes) fill_batches(out, where, s.write_back);
  }

  /// Before the body, where it is to fill every element.
  void paint_pieces(const prepared_chunk<C, A>& s, std::size_t slot) const {
    std::byte* buffer = buffers_.chunk(slot);
    for (const auto& p : s.chunk) paint(buffer, offset_in(buffer, p), p.bytes().size());
  }

  /// Throws unwritten_piece where the body left a piece as it found it; returns the weighted sum of the parts that
  /// other ranks hold, too.
  std::uint64_t check(const prepared_chunk<C, A>& s, std::size_t slot) const {
    std::uint64_t sum = 0;
    const std::byte* buffer = buffers_.chunk(slot);
    if constexpr (!A::gathers) {
      for (const auto& p : s.chunk) {
        if (is_paint(buffer, offset_in(buffer, p), p.bytes().size()))
          throw unwritten_piece(concat("unshard: under overwrite the body left parameter ", called(p.index(), p.name()),
                                       ", elements ", p.first(), " to ", p.first() + p.elements(),
                                       ", as it found it. Fill every element, or use read_write. [rank ", comm_.rank(),
                                       " of ", comm_.size(), ']'),
                                p.index());
      }
    }
    for (const auto& [block, weight] : s.replicated) {
      std::uint64_t c = 0;
      const const_region one{buffer + block.offset, block.size, block.stride};
      for (region_cursor<const_region> at(std::span(&one, 1)); !at.done(); at.advance(at.run()))
        c = checksum(c, at.data(), at.run());
      sum += weight * c;
    }
    return sum;
  }

 private:
  using handle = typename listed_parameters<R, A>::handle;

  template <class Piece>
  static std::size_t offset_in(const std::byte* buffer, const Piece& p) {
    return p.bytes().empty() ? 0 : static_cast<std::size_t>(p.bytes().data() - buffer);
  }

  schedule& empty_schedule(std::vector<schedule>& kept, movement way, residency on, std::size_t shifts) {
    if (kept.empty())
      kept.emplace_back(way, comm_.rank(), comm_.size(), on, unshard::capabilities_of(comm_),
                        collectives_of<batch_of<C>>(), shifts);
    kept.front().clear();
    return kept.front();
  }

  void fill_batches(schedule& sched, const chunk_memory& where, std::vector<batch_of<C>>& out) {
    sched.finish();
    filler_.start(sched, where);
    for (std::size_t b = 0; b < sched.batches(); ++b) {
      out.push_back(comm_.open_batch());
      filler_.fill(out.back(), b);
    }
  }

  /// Weights over the replicas of a part sum to zero, so that equal checksums do, too.
  template <class L>
  void weigh_replicas(prepared_chunk<C, A>& s, const planned_piece& p, const L& layout, const schedule& out,
                      std::size_t before) {
    if (out.runs().size() == before) return;
    const rank_list group = detail::replicas_of(layout, comm_.rank(), p.first, p.elements);
    if (group.size() < 2) return;
    std::uint64_t weight = 0;
    for (int j = 1; j < group.size(); ++j) {
      const std::uint64_t w = mix(mix(static_cast<std::uint64_t>(s.pieces.size()), p.first), j) | 1;
      if (group[j] == comm_.rank()) weight = w;
      if (group[0] == comm_.rank()) weight -= w;
    }
    for (std::size_t r = before; r < out.runs().size(); ++r)
      out.for_each_block(out.runs()[r], [&](const strided_block& b) { s.replicated.push_back({b, weight}); });
  }

  listed_parameters<R, A>& listed_;
  C& comm_;
  const slot_buffers<M>& buffers_;
  std::vector<schedule> in_, out_;  // one each, of the last chunk that was made, for its room; none before
  batch_filler<batch_of<C>> filler_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
