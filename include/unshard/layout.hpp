// SPDX-License-Identifier: Apache-2.0
#pragma once  // layout.hpp: which rank holds which part of a tensor. Index arithmetic only.

#include <concepts>
#include <iterator>
#include <new>
#include <unshard/layout/basic.hpp>        // IWYU pragma: export
#include <unshard/layout/boxes.hpp>        // IWYU pragma: export
#include <unshard/layout/index_space.hpp>  // IWYU pragma: export
#include <unshard/layout/mesh.hpp>         // IWYU pragma: export
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
/// Optional, and all ready-made ones have them: l.digest(), equal on all ranks for equal layouts (without it the boxes
/// of all ranks are hashed); l.replica_of(rank), the first rank with the same boxes; l.replicas_of(rank), all of them;
/// l.ranks_of(first, count), the ranks that hold some of a row-major interval. Without them every rank is asked.
/// Not checkable here: boxes that differ are disjoint and together cover the space; empty ones may lie anywhere.
template <class L>
concept shard_layout = std::equality_comparable<L> && requires(const L& l, int rank) {
  { l.shape() } -> std::convertible_to<extents>;
  { l.space() } -> std::convertible_to<extents>;
  { l.ranks() } -> std::convertible_to<int>;
  { *std::begin(l.boxes_of(rank)) } -> std::convertible_to<box>;
};

static_assert(shard_layout<flat_shard> && shard_layout<dim_shard> && shard_layout<ragged_shard> && shard_layout<owned>);
static_assert(shard_layout<replicated> && shard_layout<mesh_shard> && shard_layout<box_shard>);
static_assert(shard_layout<on_ranks<flat_shard>>);

namespace detail {

/// One of the ready-made layouts: a variant without <variant>, whose every function is the held one's.
class one_layout {
  enum class kind : unsigned char { flat, dim, ragged, mesh, owned, replicated, boxes };

  template <class F>
  decltype(auto) visit(F f) const {
    switch (kind_) {
      case kind::flat:
        return f(flat_);
      case kind::dim:
        return f(dim_);
      case kind::ragged:
        return f(ragged_);
      case kind::mesh:
        return f(mesh_);
      case kind::owned:
        return f(owned_);
      case kind::replicated:
        return f(replicated_);
      case kind::boxes:
        break;
    }
    return f(boxes_);
  }

 public:
  explicit one_layout(const flat_shard& l) noexcept : flat_(l), kind_(kind::flat) {}
  explicit one_layout(const dim_shard& l) noexcept : dim_(l), kind_(kind::dim) {}
  explicit one_layout(const ragged_shard& l) noexcept : ragged_(l), kind_(kind::ragged) {}
  explicit one_layout(const mesh_shard& l) noexcept : mesh_(l), kind_(kind::mesh) {}
  explicit one_layout(const owned& l) noexcept : owned_(l), kind_(kind::owned) {}
  explicit one_layout(const replicated& l) noexcept : replicated_(l), kind_(kind::replicated) {}
  explicit one_layout(const box_shard& l) noexcept : boxes_(l), kind_(kind::boxes) {}
  one_layout(const one_layout& other) noexcept : kind_(other.kind_) {
    other.visit([&]<class L>(const L& l) { new (static_cast<void*>(&flat_)) L(l); });
  }
  one_layout& operator=(const one_layout& other) noexcept {
    if (this != &other) {
      this->~one_layout();
      new (static_cast<void*>(this)) one_layout(other);
    }
    return *this;
  }
  ~one_layout() {
    visit([]<class L>(const L& l) { l.~L(); });
  }

  const extents& shape() const {
    return visit([](const auto& l) -> const extents& { return l.shape(); });
  }
  extents space() const {
    return visit([](const auto& l) -> extents { return l.space(); });
  }
  int ranks() const {
    return visit([](const auto& l) { return l.ranks(); });
  }
  box_list boxes_of(int rank) const {
    return visit([=](const auto& l) { return l.boxes_of(rank); });
  }
  int replica_of(int rank) const {
    return visit([=](const auto& l) { return l.replica_of(rank); });
  }
  rank_list replicas_of(int rank) const {
    return visit([=](const auto& l) { return l.replicas_of(rank); });
  }
  rank_list ranks_of(index_t first, index_t count) const {
    return visit([=](const auto& l) { return l.ranks_of(first, count); });
  }
  std::uint64_t digest() const {
    return visit([](const auto& l) { return l.digest(); });
  }
  friend bool operator==(const one_layout& a, const one_layout& b) {
    const void* held = &b.flat_;
    return a.kind_ == b.kind_ && a.visit([=]<class L>(const L& l) { return l == *static_cast<const L*>(held); });
  }

 private:
  union {
    flat_shard flat_;
    dim_shard dim_;
    ragged_shard ragged_;
    mesh_shard mesh_;
    unshard::owned owned_;
    unshard::replicated replicated_;
    box_shard boxes_;
  };
  kind kind_;
};

}  // namespace detail

/// Any of the ready-made layouts, converted implicitly, for models that mix them; also over on_ranks of one of them.
/// A value; copies share what tables there are.
class any_layout {
 public:
  template <class L>
  requires std::constructible_from<detail::one_layout, const L&> &&(!std::same_as<L, detail::one_layout>)
      any_layout(const L& l)  // NOLINT(google-explicit-constructor): the conversion is the purpose
      : held_(detail::one_layout(l), 0, 1, l.ranks()) {}
  template <class L>
  requires std::convertible_to<const L&, any_layout> any_layout(
      const on_ranks<L>& l)  // NOLINT(google-explicit-constructor)
      : any_layout(l.layout(), l) {}

  const extents& shape() const { return held_.shape(); }
  extents space() const { return held_.space(); }
  int ranks() const { return held_.ranks(); }
  box_list boxes_of(int rank) const { return held_.boxes_of(rank); }
  int replica_of(int rank) const { return held_.replica_of(rank); }
  rank_list replicas_of(int rank) const { return held_.replicas_of(rank); }
  rank_list ranks_of(index_t first, index_t count) const { return held_.ranks_of(first, count); }
  std::uint64_t digest() const { return held_.digest(); }
  friend bool operator==(const any_layout&, const any_layout&) = default;

 private:
  template <class L>
  any_layout(const any_layout& inner, const on_ranks<L>& l)
      : held_(inner.held_.layout(), l.first() + inner.held_.first() * l.stride(), inner.held_.stride() * l.stride(),
              l.ranks()) {}

  on_ranks<detail::one_layout> held_;  // a layout on every rank is one from 0 on, one every 1
};
static_assert(shard_layout<any_layout>);

namespace detail {

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
    while (r < rank && !same_boxes(l, r, rank)) ++r;
    return r;
  }
}

/// How many elements of [first, first + count) `rank` holds.
template <shard_layout L>
index_t held_of(const L& l, int rank, index_t first, index_t count) {
  const extents space = l.space();
  index_t held = 0;
  for (const box& b : l.boxes_of(rank))
    held += elements_before(b, space, first + count) - elements_before(b, space, first);
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
      if (held_of(l, r, first, count) > 0) list.push_back(r);
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
