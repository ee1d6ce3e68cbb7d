// SPDX-License-Identifier: Apache-2.0
#pragma once  // layout/concept.hpp: what a layout is, and what is made up where it tells no more than it must.

#include <concepts>
#include <iterator>
#include <unshard/index_space.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// Who holds which part of one tensor.
///   l.shape()          the tensor's extents
///   l.space()          the index space that is cut: the shape, or {elements} for layouts of the flat value
///   l.ranks()          how many ranks there are
///   l.boxes_of(rank)   a small range of boxes in that space, in the order in which the rank's shard stores them,
///                      each in row-major order; the range may point into l
///   ==                 equal layouts hold equal parts
/// Optional, and all ready-made ones have them:
///   l.digest()         std::uint64_t, equal on all ranks for equal layouts; else the boxes of all ranks are hashed
///   l.replica_of(rank)        the first rank with the same boxes
///   l.replicas_of(rank)       a rank_list of all of them, for a rank that holds something
///   l.ranks_of(first, count)  a rank_list of those that hold some of a row-major interval of the space
///   l.for_each_part(rank, first, count, visit)
///                      calls visit(const box&, index_t stored, index_t number) for each box of the rank, with how many
///                      elements and boxes its shard stores before, or visit(const shard_part&); for at least what
///                      meets the row-major interval, in one order on every rank. Without it all boxes are looked at
/// What is left out is made up once a range, from one look at every rank's boxes.
/// Not checkable here: boxes that differ are disjoint and together cover the space; empty ones may lie anywhere.
template <class L>
concept shard_layout = std::equality_comparable<L> && requires(const L& l, int rank) {
  { l.shape() } -> std::convertible_to<extents>;
  { l.space() } -> std::convertible_to<extents>;
  { l.ranks() } -> std::convertible_to<int>;
  { *std::begin(l.boxes_of(rank)) } -> std::convertible_to<box>;
};

namespace detail {

/// Whatever a part is shown as.
template <class OfBox, class OfPart>
struct part_visit {
  OfBox of_box;
  OfPart of_part;
  void operator()(const box& b, index_t stored, index_t number) const { of_box(b, stored, number); }
  void operator()(const shard_part& p) const { of_part(p); }
};
template <class OfBox, class OfPart>
part_visit(OfBox, OfPart) -> part_visit<OfBox, OfPart>;

struct any_visit {  // for the concept below
  void operator()(const box&, index_t, index_t) const {}
  void operator()(const shard_part&) const {}
};
template <class L>
concept shows_parts = requires(const L& l, any_visit visit) {
  l.for_each_part(0, index_t{}, index_t{}, visit);
};

/// The parts of a rank that meet [first, first + count), and maybe others; each has elements.
template <shard_layout L, class Visit>
void for_each_part(const L& l, int rank, index_t first, index_t count, const Visit& visit) {
  if constexpr (shows_parts<L>) {
    l.for_each_part(rank, first, count, visit);
  } else {
    index_t stored = 0;
    index_t number = 0;
    for (const box& b : l.boxes_of(rank)) {
      const index_t held = b.size.elements();
      if (held > 0) visit(b, stored, number);
      stored += held;
      ++number;
    }
  }
}

/// How many elements the shard of a rank reaches over: gaps between the rows of an array counted, but those after its
/// last element. Throws bad_layout where rows are longer than the array's.
template <shard_layout L>
index_t reach_of(const L& l, int rank) {
  index_t reach = 0;
  for_each_part(l, rank, 0, extents(l.space()).elements(),
                part_visit{[&](const box& b, index_t stored, index_t) {
                             reach = (std::max)(reach, checked_add(stored, b.size.elements()));
                           },
                           [&](const shard_part& p) {
                             index_t last = 0;
                             for (int d = 0; d < p.array.dims(); ++d) {
                               const index_t end = p.at[d] + p.block[d] * p.count[d];
                               if (d > 0 && end > p.array[d])
                                 throw bad_layout(
                                     concat("layout: rank ", rank, " holds ", end, " elements along dimension ", d,
                                            ", more than its leading extents ", to_text(p.array), " have room for."));
                               last = checked_add(checked_mul(last, p.array[d]), end - 1);
                             }
                             reach = (std::max)(reach, checked_add(checked_add(p.first, last), 1));
                           }});
  return reach;
}

// What a layout of the user's own leaves out, made up from its boxes by asking every rank.

template <shard_layout L>
std::uint64_t digest_of(const L& l) {
  if constexpr (requires { l.digest(); }) {
    return l.digest();
  } else {
    std::uint64_t d = mix(mix(mix(0x05e4, static_cast<int>(l.ranks())), extents(l.shape())), extents(l.space()));
    for (int r = 0; r < l.ranks(); ++r) {
      d = mix(d, r);
      for (const box& b : l.boxes_of(r)) d = mix(d, b);
    }
    return d;
  }
}

template <shard_layout L>
bool same_boxes(const L& l, int a, int b) {
  const auto& left = l.boxes_of(a);
  const auto& right = l.boxes_of(b);
  auto l_at = std::begin(left);
  auto r_at = std::begin(right);
  for (; l_at != std::end(left) && r_at != std::end(right); ++l_at, ++r_at) {
    if (!(*l_at == *r_at)) return false;
  }
  return l_at == std::end(left) && r_at == std::end(right);
}

template <shard_layout L>
int replica_of(const L& l, int rank) {
  if constexpr (requires { l.replica_of(rank); }) {
    return l.replica_of(rank);
  } else {
    int r = 0;
    while (r < rank && !detail::same_boxes(l, r, rank)) ++r;
    return r;
  }
}

/// How many elements of [first, first + count) `rank` holds.
template <shard_layout L>
index_t held_of(const L& l, int rank, index_t first, index_t count) {
  const extents space = l.space();
  index_t held = 0;
  const auto add = [&](const auto& part, auto...) {
    held += detail::elements_before(part, space, first + count) - detail::elements_before(part, space, first);
  };
  for_each_part(l, rank, first, count, part_visit{add, add});
  return held;
}

/// The ranks that hold some of a row-major interval.
template <shard_layout L>
auto ranks_of(const L& l, index_t first, index_t count) {
  if constexpr (requires { l.ranks_of(first, count); }) {
    return l.ranks_of(first, count);
  } else {
    std::vector<int> list;
    for (int r = 0; r < l.ranks(); ++r) {
      if (detail::held_of(l, r, first, count) > 0) list.push_back(r);
    }
    return rank_list(std::move(list));
  }
}

/// The ranks with the same boxes as `rank`, which holds some of [first, first + count); itself among them.
template <shard_layout L>
rank_list replicas_of(const L& l, int rank, index_t first, index_t count) {
  if constexpr (requires { l.replicas_of(rank); }) {
    return l.replicas_of(rank);
  } else {
    std::vector<int> list;
    const int same = detail::replica_of(l, rank);
    for (int r : detail::ranks_of(l, first, count)) {
      if (detail::replica_of(l, r) == same) list.push_back(r);
    }
    return rank_list(std::move(list));
  }
}

}  // namespace detail

}  // namespace v0
}  // namespace unshard
