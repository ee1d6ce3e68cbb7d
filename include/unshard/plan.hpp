// SPDX-License-Identifier: Apache-2.0
#pragma once  // plan.hpp: handles and a budget in, a list of chunks out. Pure; moves and allocates no data.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unshard/base/sort.hpp>
#include <unshard/communicator.hpp>
#include <unshard/options.hpp>
#include <unshard/packing/balanced.hpp>
#include <unshard/packing/best_fit.hpp>
#include <unshard/packing/packer.hpp>
#include <unshard/packing/spread.hpp>
#include <unshard/parameter.hpp>
#include <unshard/plan/handles.hpp>
#include <unshard/plan/refusals.hpp>
#include <unshard/plan/summary.hpp>  // IWYU pragma: export
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// Some consecutive elements of one parameter, and where they lie in the chunk buffer.
struct planned_piece {
  std::size_t parameter = 0;  ///< index in the caller's range; of the first, if tied
  index_t first = 0;          ///< the first element, in row-major order
  index_t elements = 0;       ///< how many
  std::size_t offset = 0;     ///< bytes from the start of the chunk
  std::size_t bytes = 0;      ///< of its elements
};

class chunk_plan;
template <parameter_range R>
chunk_plan make_plan(R&& handles, const options& o, const capabilities& c = {});

/// A list of chunks, each of pieces. It owns no handle and no shard, and can be replayed over equal layouts. Compact:
/// chunk starts, and the order of the parameters only where it is not the caller's.
class chunk_plan {
 public:
  static constexpr std::uint64_t digest_seed = 0x91a7;  ///< where digest() starts

  std::size_t chunks() const { return summary_.chunks; }  ///< how many
  std::size_t rounds() const { return summary_.rounds; }  ///< how many; a round is voted on as one
  /// Whether every rank holds chunks of its own. Such a plan runs with `unshard::spread` only, any other one without.
  bool spreads() const { return summary_.spread; }
  int ranks() const { return ranks_; }  ///< of the layouts; of the first, without spread; 0 for an empty list
  /// The chunk that `rank` holds in a round; from chunks() on there is nothing in it.
  std::size_t chunk_of(std::size_t round, int rank) const {
    return spreads() ? round * static_cast<std::size_t>(ranks_) + static_cast<std::size_t>(rank) : round;
  }
  /// The rank that holds a chunk, in round chunk / ranks(); -1 without spread, where the run says who holds.
  int holder(std::size_t chunk) const {
    return spreads() && ranks_ > 0 ? static_cast<int>(chunk % static_cast<std::size_t>(ranks_)) : -1;
  }
  /// The rank that holds parameter i, its first element where it is cut in order; -1 without spread.
  int owner(std::size_t i) const {
    if (!spreads()) return -1;
    if (!owners_.empty()) return static_cast<int>(owners_[i]);
    const std::size_t tie = detail::first_not(ties_.size(), [&](std::size_t t) { return ties_[t].first < i; });
    if (tie < ties_.size() && ties_[tie].first == i) i = ties_[tie].second;
    const auto begun = [&](std::size_t c) {
      return starts_[c].parameter < i || (starts_[c].parameter == i && starts_[c].first == 0);
    };
    return holder(detail::first_not(starts_.size(), begun) - 1);
  }
  /// The cost of all that `rank` holds; without spread, of what a rank holds that holds chunks.
  std::uint64_t load(int rank) const { return spreads() ? loads_[static_cast<std::size_t>(rank)] : cost_; }
  /// What it comes to, in a struct that prints.
  const plan_summary& summary() const { return summary_; }
  /// The most bytes that a chunk may have: (budget - staging) / in_flight, rounded down to the alignment; half of
  /// that for engines without regions, whose chunks are staged; a third with spread, where what is sent is staged, too.
  std::size_t capacity() const { return capacity_; }
  const plan_options& made_for() const { return options_; }        ///< what shaped it
  const unshard::capabilities& engine() const { return engine_; }  ///< what it takes the engine to be able to do
  /// Of all layouts, element sizes, groups and indivisible ones, in order, with their ties.
  std::uint64_t digest() const { return digest_; }
  /// Handles that share an earlier one's identity: {index, index of the first}, rising.
  std::span<const detail::tied_pair> ties() const { return {ties_.data(), ties_.size()}; }
  std::size_t parameters() const { return parameters_; }  ///< how many handles it was made from

  /// Calls visit(const planned_piece&) for every piece of chunk i, in the caller's order, for none from chunks() on;
  /// size(index) gives a parameter's detail::parameter_size.
  template <class Size, class Visit>
  void for_each_piece(std::size_t i, Size size, Visit visit) const {
    std::size_t used = 0;
    const auto place = [&](std::size_t parameter, index_t first, index_t elements, std::size_t element_size) {
      const std::size_t bytes = static_cast<std::size_t>(elements) * element_size;
      visit(planned_piece{parameter, first, elements, used, bytes});
      used += detail::align_up(bytes, options_.alignment);
    };
    if (i >= chunks()) return;
    if (starts_.empty()) {
      for (const detail::packed_piece& p : packed_.chunk(i)) {
        const detail::parameter_size s = size(p.parameter);
        place(p.parameter, p.first, p.elements < 0 ? s.elements : p.elements, s.element_size);
      }
      return;
    }
    const detail::cut_point from = starts_[i];
    const detail::cut_point to = i + 1 < starts_.size() ? starts_[i + 1] : detail::cut_point{parameters_, 0};
    const auto tied_before = [&](std::size_t t) { return ties_[t].first < from.parameter; };
    std::size_t tied = detail::first_not(ties_.size(), tied_before);
    for (std::size_t p = from.parameter; p < to.parameter || (p == to.parameter && to.first > 0); ++p) {
      if (tied < ties_.size() && ties_[tied].first == p) {
        ++tied;
        continue;
      }
      const detail::parameter_size s = size(p);
      const index_t first = p == from.parameter ? from.first : 0;
      const index_t last = p == to.parameter ? to.first : s.elements;
      place(p, first, last - first, s.element_size);
    }
  }

  /// Whether no piece of its parameter, which has `elements`, comes after piece p of chunk i.
  template <class Deferred = void>  // see base/later.hpp
  bool ends_parameter(std::size_t i, const planned_piece& p, index_t elements) const {
    if (!starts_.empty() || p.elements == elements) return p.first + p.elements == elements;
    return packed_.ends(i, p.parameter, p.first);
  }

  /// The pieces of chunk i, as a list; `handles` as given to make_plan.
  template <parameter_range R>
  std::vector<planned_piece> pieces(std::size_t i, R&& handles) const {
    std::vector<planned_piece> list;
    auto at = std::ranges::begin(handles);
    std::size_t index = 0;
    const auto size = [&](std::size_t p) {
      std::ranges::advance(at, static_cast<std::ranges::range_difference_t<R>>(p - index));
      index = p;
      auto&& h = *at;
      return detail::size_of<detail::handle_of<R>>(h);
    };
    for_each_piece(i, size, [&](const planned_piece& p) { list.push_back(p); });
    return list;
  }

 private:
  template <parameter_range R>
  friend chunk_plan make_plan(R&& handles, const options& o, const unshard::capabilities& c);

  template <class Deferred = void>  // see base/later.hpp
  chunk_plan(const options& o, const unshard::capabilities& c) : options_(static_cast<plan_options>(o)), engine_(c) {
    summary_.spread = o.on.spreads();
  }

  /// Puts what `packer` took into chunks; gives how many that takes, where that is more than detail::most_chunks.
  template <class Deferred>
  std::size_t pack(detail::packer<Deferred>& packer) {
    const std::span<const detail::tied_pair> tied = ties();
    const auto ranks = static_cast<std::size_t>(ranks_);
    std::size_t chunks = packer.chunks();
    summary_.largest = packer.fullest();
    if (!spreads()) {
      starts_ = packer.take_starts();
    } else if (ranks > 0 && options_.packing == packing::in_order) {
      detail::in_order_chunks<Deferred> made(packer, ranks, options_.alignment, capacity_);
      chunks = made.filler.chunks();
      summary_.largest = made.filler.fullest();
      starts_ = std::move(made.starts);
      share(made.costs);
    } else if (ranks > 0) {
      auto made = detail::balance(packer, parameters_, ranks, options_.alignment, capacity_, tied);
      chunks = made.count;
      packed_ = std::move(made.chunks);
      summary_.largest = packed_.fullest();
      owners_ = std::move(made.owners);
      share(made.costs);
    }
    if (options_.packing == packing::best_fit && chunks <= detail::most_chunks) {
      packed_ =
          detail::best_fit<Deferred>(packer.units(), chunks == 0 ? 0 : chunks - 1, capacity_, options_.alignment, tied);
      if (packed_.size() > 0) {
        starts_.clear();
        chunks = packed_.size();
        summary_.largest = packed_.fullest();
      }
    }
    return summary_.chunks = chunks;
  }

  template <class Costs>
  void share(Costs& costs) {
    summary_.balance = costs.balance();
    loads_ = costs.take_loads();
  }

  /// What follows from the chunks.
  template <class Deferred = void>
  void summarise(std::size_t aligned_bytes, std::size_t copies) {
    plan_summary& s = summary_;
    const auto wide = static_cast<std::size_t>(spreads() && ranks_ > 0 ? ranks_ : 1);
    s.rounds = s.chunks / wide + (s.chunks % wide != 0 ? 1 : 0);
    const std::size_t used = (std::min)(static_cast<std::size_t>(options_.in_flight), s.rounds);  // buffers
    if (spreads() && s.rounds == 0) s.rounds = 1;                                                 // of nothing
    s.peak = used * (copies / static_cast<std::size_t>(options_.in_flight)) *
                 detail::align_up(s.largest, options_.alignment) +
             engine_.staging;
    if (capacity_ == 0 || s.chunks == 0) return;
    s.lower_bound = aligned_bytes / capacity_ + (aligned_bytes % capacity_ != 0 ? 1 : 0);
    s.utilisation = static_cast<double>(s.bytes) / (static_cast<double>(s.chunks) * static_cast<double>(capacity_));
  }

  plan_options options_;
  unshard::capabilities engine_;
  std::size_t capacity_ = 0;
  std::size_t parameters_ = 0;
  int ranks_ = 0;
  std::uint64_t cost_ = 0;  // of all
  std::uint64_t digest_ = digest_seed;
  plan_summary summary_;
  std::vector<detail::tied_pair> ties_;
  std::vector<detail::cut_point> starts_;  // in order: where each chunk starts
  detail::packed_chunks<> packed_;         // balanced; best_fit, where that is fewer
  std::vector<std::uint32_t> owners_;      // balanced: of each parameter
  std::vector<std::uint64_t> loads_;       // with spread: of each rank
};

/// Plans: which pieces of which parameters share a chunk, so that no chunk exceeds its part of the budget, and with
/// spread which rank holds it. Asks for no shard. The same on every rank for equal handles, options and capabilities.
/// Throws bad_options, budget_too_small, bad_layout (an element of 0 bytes, ties of different size; with spread,
/// layouts for different numbers of ranks), size_overflow.
template <parameter_range R>
chunk_plan make_plan(R&& handles, const options& o, const capabilities& c) {
  using handle = detail::handle_of<R>;
  using traits = detail::traits_of<handle>;
  detail::check_options(o, c);
  const bool spreads = o.on.spreads();
  const bool in_order = o.packing == packing::in_order;
  chunk_plan plan(o, c);
  const std::size_t copies = detail::copies_of_a_chunk(o, c);
  plan.capacity_ = o.budget < c.staging ? 0 : (o.budget - c.staging) / copies & ~(o.alignment - 1);

  detail::packer<> packer(o.alignment, plan.capacity_, o.cut, !spreads, spreads || !in_order);
  detail::known_layouts<detail::layout_of<handle>> known;
  detail::identities<> identities;
  std::size_t index = 0;
  std::size_t bytes = 0;
  for (auto&& h : handles) {
    detail::expect_more<R>(h);
    const auto called = [&] { return detail::called(index, detail::name_of<handle>(h)); };
    const auto& layout = traits::layout(h);
    const extents& shape = layout.shape();  // of the layout, or of what it converts to
    const index_t elements = shape.elements();
    const auto element_size = static_cast<std::size_t>(traits::element_size(h));
    if (element_size == 0)
      throw bad_layout(
          detail::concat("make_plan: parameter ", called(), " has elements of 0 bytes; at least 1 is needed."));
    if (index == 0) plan.ranks_ = static_cast<int>(layout.ranks());
    if (spreads) detail::check_ranks(plan.ranks_, static_cast<int>(layout.ranks()), called);
    const auto size = detail::to_size(detail::checked_mul(elements, static_cast<index_t>(element_size)));
    plan.digest_ = detail::mix(detail::mix(plan.digest_, detail::digest_of(known(layout))),
                               static_cast<std::uint64_t>(element_size));
    plan.digest_ = detail::with_bounds<handle>(plan.digest_, h);
    const auto [first, first_size] = identities.first_of(detail::identity_of<handle>(h), index, size);
    if (first != index) {
      if (first_size != size)
        throw bad_layout(detail::concat("make_plan: parameter ", called(), " has ", size, " bytes, and parameter ",
                                        first, ", with which it shares an identity, ", first_size, '.'));
      plan.ties_.push_back({index, first});
      plan.digest_ = detail::mix(plan.digest_, static_cast<std::uint64_t>(first));
    } else {
      bytes = detail::to_size(detail::checked_add(static_cast<index_t>(bytes), static_cast<index_t>(size)));
      const std::uint64_t cost = detail::cost_of<handle>(h, size);
      plan.cost_ = detail::sum_of_costs(plan.cost_, cost, called);
      packer.add({index, elements, element_size, size, cost}, detail::group_of<handle>(h),
                 detail::indivisible_of<handle>(h));
    }
    ++index;
  }
  plan.parameters_ = index;
  packer.finish();
  detail::check_capacity(packer, o, c, plan.capacity_, [&](std::size_t i) {
    auto&& h = *std::ranges::next(std::ranges::begin(handles), static_cast<std::ranges::range_difference_t<R>>(i));
    return detail::called(i, detail::name_of<handle>(h));
  });

  detail::check_chunks(plan.pack(packer), o, plan.capacity_);
  plan.summary_.bytes = bytes;
  plan.summarise(packer.aligned_bytes(), copies);
  return plan;
}

/// The same for what the engine can do now: the plan to replay over `comm`.
template <parameter_range R, communicator C>
chunk_plan make_plan(R&& handles, const options& o, const C& comm) {
  return unshard::make_plan(std::forward<R>(handles), o, unshard::capabilities_of(comm));
}

}  // namespace v0
}  // namespace unshard
