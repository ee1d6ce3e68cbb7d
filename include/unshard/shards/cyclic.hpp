// SPDX-License-Identifier: Apache-2.0
#pragma once  // shards/cyclic.hpp: block-cyclic over a grid of ranks, in closed form.

#include <cstdint>
#include <unshard/base/later.hpp>
#include <unshard/index_space.hpp>
#include <unshard/shards/mesh.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// One dimension of a grid of ranks: rank r has coordinate (r / stride) % size on it. Blocks of tensor dimension `dim`,
/// each `block` long, go round the coordinates, the first to coordinate 0.
struct cyclic_dim {
  int dim;        ///< of the tensor, from 0
  index_t block;  ///< elements along it; ScaLAPACK's MB or NB, 1 for Elemental
  int size;       ///< how many coordinates
  int stride;     ///< from a rank to the one with the next coordinate
  friend bool operator==(const cyclic_dim&, const cyclic_dim&) = default;
};

namespace detail {

/// What one rank has of one dimension: every `parts`-th block, from number `at` on.
struct cyclic_cut {
  index_t length = 0;  // of the dimension
  index_t block = 1;
  index_t parts = 1;
  index_t at = 0;

  index_t whole_blocks() const {
    const index_t all = length / block;
    return all / parts + (at < all % parts ? 1 : 0);
  }
  /// The shorter block at the end of the dimension, if this rank has it.
  index_t tail() const { return at == length / block % parts ? length % block : 0; }
  index_t held() const { return whole_blocks() * block + tail(); }
  index_t blocks() const { return whole_blocks() + (tail() > 0 ? 1 : 0); }
  index_t start_of(index_t number) const { return (number * parts + at) * block; }
};

}  // namespace detail

/// A rank's boxes of a cyclic_shard, worked out as they are asked for.
class cyclic_boxes {
 public:
  class iterator {
   public:
    using value_type = box;
    using difference_type = std::ptrdiff_t;
    iterator() = default;
    iterator(const cyclic_boxes* list, index_t at) : list_(list), at_(at) {}
    box operator*() const { return list_->box_at(at_); }
    iterator& operator++() { return ++at_, *this; }
    iterator operator++(int) { return {list_, at_++}; }
    friend bool operator==(const iterator&, const iterator&) = default;

   private:
    const cyclic_boxes* list_ = nullptr;
    index_t at_ = 0;
  };
  iterator begin() const { return {this, 0}; }
  iterator end() const { return {this, size_}; }
  std::size_t size() const { return static_cast<std::size_t>(size_); }

 private:
  friend class cyclic_shard;
  cyclic_boxes(const detail::cyclic_cut* cuts, int dims) : dims_(dims) {
    for (int d = 0; d < dims; ++d) {
      cuts_[d] = cuts[d];
      if (cuts[d].blocks() > 1) along_ = d;
    }
    // Row after row of the shard: before the last dimension that has several blocks, every index is a row of its own.
    size_ = dims == 0 ? 1 : cuts[along_].blocks();
    for (int d = 0; d < dims; ++d) {
      if (d < along_) size_ *= cuts[d].held();
      if (cuts[d].held() == 0) size_ = 0;
    }
  }
  box box_at(index_t i) const {
    box b{extents(std::span<const index_t>(zeros, static_cast<std::size_t>(dims_))), {}};
    b.size = b.offset;
    for (int d = dims_ - 1; d >= 0; --d) {
      const detail::cyclic_cut& c = cuts_[d];
      const index_t count = d == along_ ? c.blocks() : d < along_ ? c.held() : 1;
      const index_t number = i % count;
      i /= count;
      if (d < along_) {
        b.offset[d] = c.start_of(number / c.block) + number % c.block;
        b.size[d] = 1;
      } else {
        b.offset[d] = c.start_of(number);
        b.size[d] = number < c.whole_blocks() ? c.block : c.tail();
      }
    }
    return b;
  }

  static constexpr index_t zeros[extents::max_dims] = {};
  detail::cyclic_cut cuts_[extents::max_dims];
  int dims_;
  int along_ = 0;
  index_t size_ = 0;
};

/// ScaLAPACK, Elemental, HPL: blocks go round a grid of ranks, in each dimension that is listed. A rank's shard is one
/// array of what it holds, in row-major order: of a column-major matrix list the dimensions the other way round. No
/// table of boxes: a rank has at most 2^dims sets of equal blocks. Ranks with equal coordinates are replicas. Throws
/// bad_layout: a dimension that does not exist or is listed twice, a block or size below 1, a part that no rank holds,
/// more than 8 dimensions with those that are dealt in blocks counted twice.
class cyclic_shard {
 public:
  template <class Deferred = void>  // see base/later.hpp
  cyclic_shard(const extents& shape, const std::vector<cyclic_dim>& grid, int ranks) : shape_(shape), ranks_(ranks) {
    const detail::later<std::vector<cyclic_dim>, Deferred>& dims = grid;
    detail::check_ranks("cyclic_shard", ranks);
    static_cast<void>(shape.elements());
    detail::later<std::vector<mesh_dim>, Deferred> mesh;
    bool seen[extents::max_dims] = {};
    for (const cyclic_dim& g : dims) {
      if (g.dim < 0 || g.dim >= shape.dims() || seen[g.dim] || g.block < 1 || g.size < 1 || g.stride < 1)
        throw bad_layout(detail::concat("cyclic_shard: {dim ", g.dim, ", block ", g.block, ", size ", g.size,
                                        ", stride ", g.stride, "} does not fit shape ", detail::to_text(shape),
                                        "; a dimension is listed once; block, size and stride are at least 1."));
      seen[g.dim] = true;
      mesh.push_back({g.dim, g.size, g.stride});
    }
    if (static_cast<std::size_t>(shape.dims()) + dims.size() > extents::max_dims)
      throw bad_layout(detail::concat("cyclic_shard: ", shape.dims(), " dimensions, ", dims.size(),
                                      " of them in blocks; at most 8 of both together are supported."));
    const detail::mesh_checks<Deferred> given(mesh, ranks);
    if (!given.nested()) given.check_every_part_is_held();
    grid_ = detail::shared_table<cyclic_dim>(dims.data(), dims.size());
  }
  const extents& shape() const { return shape_; }
  const extents& space() const { return shape_; }
  int ranks() const { return ranks_; }
  cyclic_boxes boxes_of(int rank) const {
    detail::cyclic_cut cuts[extents::max_dims];
    cut(rank, cuts);
    return {cuts, shape_.dims()};
  }
  int replica_of(int rank) const {
    for (int r = 0; r < rank; ++r) {
      if (same(r, rank)) return r;
    }
    return rank;
  }
  rank_list replicas_of(int rank) const {
    std::vector<int> list;
    for (int r = 0; r < ranks_; ++r) {
      if (same(r, rank)) list.push_back(r);
    }
    return rank_list(std::move(list));
  }
  rank_list ranks_of(index_t first, index_t count) const {
    std::vector<int> list;
    for (int r = 0; r < ranks_; ++r) {
      bool some = false;
      for_each_part(r, first, count, [&](const shard_part& p) {
        some = some || detail::elements_before(p, shape_, first) < detail::elements_before(p, shape_, first + count);
      });
      if (some) list.push_back(r);
    }
    return rank_list(std::move(list));
  }
  /// Whole blocks and the shorter one at the end, in each dimension: at most 2^dims parts.
  template <class Visit>
  void for_each_part(int rank, index_t, index_t, const Visit& visit) const {
    detail::cyclic_cut cuts[extents::max_dims];
    cut(rank, cuts);
    const int dims = shape_.dims();
    for (unsigned tails = 0; tails < 1U << dims; ++tails) {  // bit d: the tail of dimension d
      shard_part p{shape_, shape_, shape_, shape_, shape_, shape_};
      bool none = false;
      for (int d = 0; d < dims; ++d) {
        const detail::cyclic_cut& c = cuts[d];
        const bool tail = (tails >> d & 1U) != 0;
        p.count[d] = tail ? 1 : c.whole_blocks();
        p.block[d] = tail ? c.tail() : c.block;
        p.step[d] = c.block * c.parts;
        p.offset[d] = c.start_of(tail ? c.whole_blocks() : 0);
        p.at[d] = tail ? c.whole_blocks() * c.block : 0;
        p.array[d] = c.held();
        none = none || p.count[d] * p.block[d] == 0;
      }
      if (!none) visit(p);
    }
  }
  std::uint64_t digest() const {
    std::uint64_t d = detail::mix(detail::mix(0xc7c11c, ranks_), shape_);
    for (const cyclic_dim& g : grid_)
      d = detail::mix(detail::mix(detail::mix(detail::mix(d, g.dim), g.block), g.size), g.stride);
    return d;
  }
  friend bool operator==(const cyclic_shard&, const cyclic_shard&) = default;

 private:
  static int coordinate(const cyclic_dim& g, int rank) { return (rank / g.stride) % g.size; }
  void cut(int rank, detail::cyclic_cut* cuts) const {
    for (int d = 0; d < shape_.dims(); ++d) cuts[d] = {shape_[d], (std::max)(shape_[d], index_t{1}), 1, 0};
    for (const cyclic_dim& g : grid_) {
      if (g.size > 1)
        cuts[g.dim] = {shape_[g.dim], (std::min)(g.block, (std::max)(shape_[g.dim], index_t{1})), g.size,
                       coordinate(g, rank)};
    }
  }
  bool empty(int rank) const {
    detail::cyclic_cut cuts[extents::max_dims];
    cut(rank, cuts);
    for (int d = 0; d < shape_.dims(); ++d) {
      if (cuts[d].held() == 0) return true;
    }
    return false;
  }
  bool same(int a, int b) const {
    bool equal = true;
    for (const cyclic_dim& g : grid_) equal = equal && coordinate(g, a) == coordinate(g, b);
    return equal || (empty(a) && empty(b));
  }

  extents shape_;
  int ranks_;
  detail::shared_table<cyclic_dim> grid_;
};

}  // namespace v0
}  // namespace unshard
