// SPDX-License-Identifier: Apache-2.0
#pragma once  // shards/basic.hpp: layouts that cut once or not at all: flat, one dimension, ragged, owned, replicated.

#include <unshard/base/later.hpp>
#include <unshard/index_space.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// ZeRO-3, FSDP1: the flat value, ceil(elements / ranks) to each rank, the last ones short or empty; the padding of
/// their shards may be there or not. Throws bad_layout, size_overflow.
class flat_shard {
 public:
  flat_shard(const extents& shape, int ranks) : shape_(shape), elements_(shape.elements()), ranks_(ranks) {
    detail::check_ranks("flat_shard", ranks);
    each_ = detail::ceil_div(elements_, ranks);
  }
  const extents& shape() const { return shape_; }
  extents space() const { return {elements_}; }
  int ranks() const { return ranks_; }
  box_list boxes_of(int rank) const {
    const index_t first = start(rank);
    return box_list(box{{first}, {start(rank + 1) - first}});
  }
  int replica_of(int rank) const { return each_ == 0 ? 0 : (std::min)(rank, holders()); }
  rank_list replicas_of(int rank) const {
    return rank < holders() ? rank_list(rank, 1) : rank_list(holders(), ranks_ - holders());
  }
  rank_list ranks_of(index_t first, index_t count) const {
    if (count <= 0) return {};
    const auto from = static_cast<int>(first / each_);
    return {from, static_cast<int>((first + count - 1) / each_) - from + 1};
  }
  std::uint64_t digest() const { return detail::mix(detail::mix(0xf1a7, ranks_), shape_); }
  friend bool operator==(const flat_shard&, const flat_shard&) = default;

 private:
  index_t start(int rank) const {
    return each_ == 0 || rank >= elements_ / each_ + 1 ? elements_ : (std::min)(elements_, rank * each_);
  }
  int holders() const { return each_ == 0 ? 0 : static_cast<int>(detail::ceil_div(elements_, each_)); }

  extents shape_;
  index_t elements_;
  index_t each_;
  int ranks_;
};

/// How dim_shard cuts a dimension.
enum class split {
  ceil,      ///< ceil(n / ranks) each, late ranks short or empty: torch.chunk, DTensor's Shard(dim)
  balanced,  ///< n / ranks each, the first n % ranks get one more
};

namespace detail {

/// One dimension of `size` cut into `parts`: part i is [start(i), start(i + 1)).
struct cut_dimension {
  index_t size;
  int parts;
  unshard::split how;

  index_t start(int part) const {
    if (how == split::balanced) return part * (size / parts) + std::min<index_t>(part, size % parts);
    const index_t each = ceil_div(size, parts);
    return each == 0 || part > size / each ? size : part * each;
  }
  int owner(index_t at) const {
    if (how == split::ceil) return static_cast<int>(at / ceil_div(size, parts));
    const index_t each = size / parts;
    const index_t longer = size % parts;
    return static_cast<int>(at < longer * (each + 1) ? at / (each + 1) : longer + (at - longer * (each + 1)) / each);
  }
  int holders() const {
    if (size == 0) return 0;
    return owner(size - 1) + 1;
  }
};

inline void check_dim(std::string_view who, const extents& shape, int dim) {
  if (dim < 0 || dim >= shape.dims())
    throw bad_layout(concat(who, ": dimension ", dim, " of shape ", to_text(shape), " does not exist."));
}

}  // namespace detail

/// FSDP2 / DTensor Shard(dim), tensor parallelism: one dimension is cut. Throws bad_layout, size_overflow.
class dim_shard {
 public:
  dim_shard(const extents& shape, int dim, int ranks, unshard::split split = unshard::split::ceil)
      : shape_(shape), dim_(dim), ranks_(ranks), split_(split) {
    detail::check_ranks("dim_shard", ranks);
    detail::check_dim("dim_shard", shape, dim);
    static_cast<void>(shape.elements());
  }
  const extents& shape() const { return shape_; }
  const extents& space() const { return shape_; }
  int ranks() const { return ranks_; }
  box_list boxes_of(int rank) const {
    box b = detail::whole(shape_);
    b.offset[dim_] = cut().start(rank);
    b.size[dim_] = cut().start(rank + 1) - b.offset[dim_];
    return box_list(b);
  }
  int replica_of(int rank) const { return (std::min)(rank, cut().holders()); }
  rank_list replicas_of(int rank) const {
    const int holders = cut().holders();
    return rank < holders ? rank_list(rank, 1) : rank_list(holders, ranks_ - holders);
  }
  rank_list ranks_of(index_t first, index_t count) const {
    if (count <= 0) return {};
    index_t inner = 1;
    for (int d = dim_ + 1; d < shape_.dims(); ++d) inner *= shape_[d];
    const index_t from = first / inner;
    const index_t to = (first + count - 1) / inner;
    const int holders = cut().holders();
    if (to - from >= shape_[dim_]) return {0, holders};
    const int a = cut().owner(from % shape_[dim_]);
    const int b = cut().owner(to % shape_[dim_]);
    if (from / shape_[dim_] == to / shape_[dim_]) return {a, b - a + 1};
    std::vector<int> list;  // the interval goes over the edge of the dimension: the first ranks and the last
    for (int r = 0; r < holders; ++r) {
      if (r <= b || r >= a) list.push_back(r);
    }
    return rank_list(std::move(list));
  }
  std::uint64_t digest() const {
    return detail::mix(detail::mix(detail::mix(detail::mix(0xd153, ranks_), dim_), static_cast<int>(split_)), shape_);
  }
  friend bool operator==(const dim_shard&, const dim_shard&) = default;

 private:
  detail::cut_dimension cut() const { return {shape_[dim_], ranks_, split_}; }

  extents shape_;
  int dim_;
  int ranks_;
  unshard::split split_;
};

/// Megatron's distributed optimizer, veScale's RaggedShard: rank r holds [offsets[r], offsets[r + 1]) of the flat
/// value. `offsets` has ranks + 1 entries, from 0 to the number of elements, not falling. Throws bad_layout.
class ragged_shard {
 public:
  template <class Deferred = void>  // see base/later.hpp
  ragged_shard(const extents& shape, const std::vector<index_t>& offsets) : shape_(shape), elements_(shape.elements()) {
    const detail::later<std::vector<index_t>, Deferred>& cuts = offsets;
    if (cuts.size() < 2) throw bad_layout("ragged_shard: offsets are ranks + 1 cuts; at least 2 are needed.");
    if (cuts.front() != 0 || cuts.back() != elements_)
      throw bad_layout(detail::concat("ragged_shard: offsets go from ", cuts.front(), " to ", cuts.back(),
                                      "; from 0 to ", elements_, " elements is needed."));
    for (std::size_t r = 0; r + 1 < cuts.size(); ++r) {
      if (cuts[r] > cuts[r + 1])
        throw bad_layout(detail::concat("ragged_shard: offset ", r + 1, " is ", cuts[r + 1], ", below the one before, ",
                                        cuts[r], '.'));
    }
    offsets_ = detail::shared_table<index_t>(cuts.data(), cuts.size());
  }
  const extents& shape() const { return shape_; }
  extents space() const { return {elements_}; }
  int ranks() const { return static_cast<int>(offsets_.size()) - 1; }
  box_list boxes_of(int rank) const { return box_list(box{{at(rank)}, {at(rank + 1) - at(rank)}}); }
  int replica_of(int rank) const {
    if (at(rank) != at(rank + 1)) return rank;
    return first_from(at(rank));
  }
  rank_list replicas_of(int rank) const {
    const int first = replica_of(rank);
    int last = rank;
    while (at(rank) == at(rank + 1) && last + 1 < ranks() && at(last + 2) == at(rank)) ++last;
    return {first, last - first + 1};
  }
  rank_list ranks_of(index_t first, index_t count) const {
    if (count <= 0) return {};
    std::vector<int> list;
    for (int r = first_from(first + 1) - 1; r < ranks() && at(r) < first + count; ++r) {
      if (at(r) < at(r + 1)) list.push_back(r);
    }
    return rank_list(std::move(list));
  }
  std::uint64_t digest() const {
    std::uint64_t d = detail::mix(0x4a66ed, shape_);
    for (index_t offset : offsets_) d = detail::mix(d, offset);
    return d;
  }
  friend bool operator==(const ragged_shard&, const ragged_shard&) = default;

 private:
  index_t at(int i) const { return offsets_[i]; }
  /// The first offset that is at least `least`.
  int first_from(index_t least) const {
    return static_cast<int>(detail::first_not(offsets_.size(), [&](std::size_t i) { return offsets_[i] < least; }));
  }

  extents shape_;
  index_t elements_;
  detail::shared_table<index_t> offsets_;
};

/// One rank holds all of it, the others nothing: one expert, one rank. Throws bad_layout, size_overflow.
class owned {
 public:
  owned(const extents& shape, int owner, int ranks) : shape_(shape), owner_(owner), ranks_(ranks) {
    detail::check_ranks("owned", ranks);
    static_cast<void>(shape.elements());
    if (owner < 0 || owner >= ranks)
      throw bad_layout(detail::concat("owned: owner ", owner, " of ", ranks, " ranks does not exist."));
  }
  const extents& shape() const { return shape_; }
  const extents& space() const { return shape_; }
  int ranks() const { return ranks_; }
  box_list boxes_of(int rank) const { return rank == owner_ ? box_list(detail::whole(shape_)) : box_list(); }
  int replica_of(int rank) const { return rank == owner_ ? rank : first_other(); }
  rank_list replicas_of(int rank) const {
    if (rank == owner_) return {owner_, 1};
    std::vector<int> others;
    for (int r = 0; r < ranks_; ++r) {
      if (r != owner_) others.push_back(r);
    }
    return rank_list(std::move(others));
  }
  rank_list ranks_of(index_t, index_t count) const { return {owner_, count > 0 ? 1 : 0}; }
  std::uint64_t digest() const { return detail::mix(detail::mix(detail::mix(0x03e4, ranks_), owner_), shape_); }
  friend bool operator==(const owned&, const owned&) = default;

 private:
  int first_other() const { return owner_ == 0 ? 1 : 0; }

  extents shape_;
  int owner_;
  int ranks_;
};

/// Every rank holds all of it: norms and biases. Throws bad_layout, size_overflow.
class replicated {
 public:
  replicated(const extents& shape, int ranks) : shape_(shape), ranks_(ranks) {
    detail::check_ranks("replicated", ranks);
    static_cast<void>(shape.elements());
  }
  const extents& shape() const { return shape_; }
  const extents& space() const { return shape_; }
  int ranks() const { return ranks_; }
  box_list boxes_of(int) const { return box_list(detail::whole(shape_)); }
  int replica_of(int) const { return 0; }
  rank_list replicas_of(int) const { return {0, ranks_}; }
  rank_list ranks_of(index_t, index_t count) const { return {0, count > 0 ? ranks_ : 0}; }
  std::uint64_t digest() const { return detail::mix(detail::mix(0x4e91, ranks_), shape_); }
  friend bool operator==(const replicated&, const replicated&) = default;

 private:
  extents shape_;
  int ranks_;
};

}  // namespace v0
}  // namespace unshard
