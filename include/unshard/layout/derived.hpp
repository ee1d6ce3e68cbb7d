// SPDX-License-Identifier: Apache-2.0
#pragma once  // layout/derived.hpp: what a layout leaves out, made up once and kept.

#include <cstdint>
#include <unshard/base/sort.hpp>
#include <unshard/layout/concept.hpp>
#include <unshard/layout/on_ranks.hpp>
#include <unshard/shards.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Layouts of at most one box a rank.
template <class L>
inline constexpr bool one_box = false;
template <>
inline constexpr bool one_box<flat_shard> = true;
template <>
inline constexpr bool one_box<dim_shard> = true;
template <>
inline constexpr bool one_box<ragged_shard> = true;
template <>
inline constexpr bool one_box<mesh_shard> = true;
template <>
inline constexpr bool one_box<owned> = true;
template <>
inline constexpr bool one_box<replicated> = true;
template <class L>
inline constexpr bool one_box<on_ranks<L>> = one_box<L>;

/// Layouts that leave nothing out.
template <class L>
concept tells_all = (shows_parts<L> || one_box<L>)&&requires(const L& l) {
  l.digest();
  l.replica_of(0);
  l.replicas_of(0);
  l.ranks_of(index_t{}, index_t{});
};

/// A layout with what it leaves out. It looks at every rank's boxes once, when first asked for more than one rank's,
/// and keeps 20 bytes a rank; of the ranks whose parts are asked for it keeps the boxes by where they start, so that an
/// interval is found without a look at all of them: 32 bytes a box, and 16 for each dimension. For one thread at a
/// time.
template <shard_layout L>
class derived_layout {
 public:
  explicit derived_layout(const L& l) : layout_(l), shape_(l.shape()), space_(l.space()), ranks_(l.ranks()) {}

  const L& layout() const { return layout_; }
  const extents& shape() const { return shape_; }
  const extents& space() const { return space_; }
  int ranks() const { return ranks_; }
  decltype(auto) boxes_of(int rank) const { return layout_.boxes_of(rank); }

  std::uint64_t digest() const {
    if constexpr (requires { layout_.digest(); }) {
      return layout_.digest();
    } else {
      return look(), digest_;
    }
  }
  int replica_of(int rank) const {
    if constexpr (requires { layout_.replica_of(rank); }) {
      return layout_.replica_of(rank);
    } else {
      return look(), replica_[place(rank)];
    }
  }
  rank_list replicas_of(int rank) const {
    if constexpr (requires { layout_.replicas_of(rank); }) {
      return layout_.replicas_of(rank);
    } else {
      std::vector<int> list;
      const int same = replica_of(rank);
      for (int r = same; r < ranks_; ++r) {
        if (replica_of(r) == same) list.push_back(r);
      }
      return rank_list(std::move(list));
    }
  }
  rank_list ranks_of(index_t first, index_t count) const {
    if constexpr (requires { layout_.ranks_of(first, count); }) {
      return layout_.ranks_of(first, count);
    } else {
      look();
      std::vector<int> list;
      for (int r = 0; r < ranks_; ++r) {
        const index_t* hull = hulls_.data() + 2 * place(r);
        if (hull[0] < first + count && hull[1] > first && detail::held_of(*this, r, first, count) > 0)
          list.push_back(r);
      }
      return rank_list(std::move(list));
    }
  }
  template <class Visit>
  void for_each_part(int rank, index_t first, index_t count, const Visit& visit) const {
    if constexpr (shows_parts<L>) {
      layout_.for_each_part(rank, first, count, visit);
    } else {
      const std::vector<index_t>& list = sorted(rank);
      const std::size_t width = entry_size();
      const std::size_t boxes = list.size() / width;
      const auto dims = static_cast<std::size_t>(space_.dims());
      std::size_t i = first_not(boxes, [&](std::size_t at) { return list[at * width + 1] <= first; });
      for (; i < boxes && list[i * width] < first + count; ++i) {
        const index_t* entry = list.data() + i * width;
        visit(box{extents(std::span(entry + 4, dims)), extents(std::span(entry + 4 + dims, dims))}, entry[2], entry[3]);
      }
    }
  }
  friend bool operator==(const derived_layout& a, const derived_layout& b) { return a.layout_ == b.layout_; }

 private:
  static std::size_t place(int rank) { return static_cast<std::size_t>(rank); }
  /// Of one box: where it starts, the largest end up to here, elements and boxes stored before, offset, size.
  std::size_t entry_size() const { return 4 + 2 * static_cast<std::size_t>(space_.dims()); }

  void look() const {
    if (!replica_.empty()) return;
    std::uint64_t d = mix(mix(mix(0x05e4, ranks_), shape_), space_);
    std::vector<std::pair<std::uint64_t, int>> by_boxes;
    std::size_t kept = 0;
    for (int r = 0; r < ranks_; ++r) {
      d = mix(d, r);
      std::uint64_t own = 0;
      index_t hull[2] = {0, 0};
      const auto& boxes = layout_.boxes_of(r);
      std::size_t count = 0;
      for (const box& b : boxes) {
        d = mix(d, b);
        own = mix(own, b);
        ++count;
        if (b.size.elements() == 0) continue;
        const auto [from, to] = hull_of(b);
        if (hull[1] == 0 || from < hull[0]) hull[0] = from;
        hull[1] = (std::max)(hull[1], to);
      }
      hulls_.insert(hulls_.end(), hull, hull + 2);
      by_boxes.emplace_back(own, r);
      kept += count;
      if constexpr (!shows_parts<L>) {
        if (kept <= few) keep(r, boxes);
      }
    }
    digest_ = d;
    detail::sort(by_boxes, [](const auto& a, const auto& b) { return a.first < b.first; });  // then by rank
    replica_.resize(by_boxes.size());
    for (std::size_t i = 0; i < by_boxes.size(); ++i) {
      const bool same = i > 0 && by_boxes[i].first == by_boxes[i - 1].first;
      replica_[place(by_boxes[i].second)] = same ? replica_[place(by_boxes[i - 1].second)] : by_boxes[i].second;
    }
  }

  std::pair<index_t, index_t> hull_of(const box& b) const {
    index_t from = 0, last = 0;
    for (int d = 0; d < space_.dims(); ++d) {
      from = from * space_[d] + b.offset[d];
      last = last * space_[d] + b.offset[d] + b.size[d] - 1;
    }
    return {from, last + 1};
  }

  template <class Boxes>
  const std::vector<index_t>& keep(int rank, const Boxes& boxes) const {
    struct place_of {
      index_t from;
      std::size_t at;
    };
    std::vector<index_t> list;
    std::vector<place_of> order;
    index_t stored = 0, number = 0;
    for (const box& b : boxes) {
      if (b.size.elements() > 0) {
        const auto [from, to] = hull_of(b);
        order.push_back({from, list.size()});
        list.insert(list.end(), {from, to, stored, number});
        for (int d = 0; d < space_.dims(); ++d) list.push_back(b.offset[d]);
        for (int d = 0; d < space_.dims(); ++d) list.push_back(b.size[d]);
        stored += b.size.elements();
      }
      ++number;
    }
    detail::sort(order, [](const place_of& a, const place_of& b) { return a.from < b.from; });
    std::vector<index_t> sorted;
    sorted.reserve(list.size());
    index_t end = 0;
    for (const place_of& o : order) {
      const auto entry = list.begin() + static_cast<std::ptrdiff_t>(o.at);
      end = (std::max)(end, entry[1]);
      entry[1] = end;
      sorted.insert(sorted.end(), entry, entry + static_cast<std::ptrdiff_t>(entry_size()));
    }
    if (sorted_.empty()) sorted_.resize(static_cast<std::size_t>(ranks_));
    kept_.resize(static_cast<std::size_t>(ranks_));
    kept_[place(rank)] = true;
    return sorted_[place(rank)] = std::move(sorted);
  }
  const std::vector<index_t>& sorted(int rank) const {
    if constexpr (!requires { layout_.digest(); }) look();  // it will be asked for anyway
    if (!kept_.empty() && kept_[place(rank)]) return sorted_[place(rank)];
    return keep(rank, layout_.boxes_of(rank));
  }

  static constexpr std::size_t few = 4096;  // boxes of all ranks that are kept in the first look already

  L layout_;
  extents shape_;
  extents space_;
  int ranks_;
  mutable std::uint64_t digest_ = 0;
  mutable std::vector<int> replica_;
  mutable std::vector<index_t> hulls_;
  mutable std::vector<std::vector<index_t>> sorted_;
  mutable std::vector<bool> kept_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
