// SPDX-License-Identifier: Apache-2.0
#pragma once  // shards/mesh.hpp: layouts over several mesh dimensions.

#include <unshard/base/later.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/index_space.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// One dimension of a device mesh: rank r has coordinate (r / stride) % size on it, and it cuts tensor dimension `dim`.
struct mesh_dim {
  int dim;     ///< of the tensor, from 0
  int size;    ///< how many parts it is cut into
  int stride;  ///< from a rank to the one with the next coordinate
  friend bool operator==(const mesh_dim&, const mesh_dim&) = default;
};

namespace detail {

inline int coordinate_of(const mesh_dim& m, int rank) { return (rank / m.stride) % m.size; }

/// What mesh_shard looks at once, when it is made.
template <class Deferred>
class mesh_checks {
  template <class T>
  using vector = std::vector<later<T, Deferred>>;

 public:
  mesh_checks(const vector<mesh_dim>& mesh, int ranks) : mesh_(mesh), ranks_(ranks) {}

  void check_dims(const extents& shape) const {
    for (const mesh_dim& m : mesh_) {
      if (m.dim < 0 || m.dim >= shape.dims() || m.size < 1 || m.stride < 1)
        throw bad_layout(concat("mesh_shard: mesh dimension {dim ", m.dim, ", size ", m.size, ", stride ", m.stride,
                                "} does not fit shape ", to_text(shape), "; size and stride are at least 1."));
    }
  }
  shared_table<mesh_dim> table() const { return {mesh_.data(), mesh_.size()}; }

  /// Whether the mesh dimensions are digits of the rank, so that every combination of coordinates is some rank's.
  bool nested() const {
    vector<mesh_dim> by_stride(mesh_.begin(), mesh_.end());
    std::erase_if(by_stride, [](const mesh_dim& m) { return m.size == 1; });
    detail::sort(by_stride, [](const mesh_dim& a, const mesh_dim& b) { return a.stride < b.stride; });
    index_t below = 1;
    index_t last = 0;
    for (const mesh_dim& m : by_stride) {
      if (m.stride % below != 0) return false;
      below = checked_mul(m.stride, m.size);
      last += static_cast<index_t>(m.size - 1) * m.stride;
    }
    return last < ranks_;
  }

  void check_every_part_is_held() const {
    index_t parts = 1;
    for (const mesh_dim& m : mesh_) parts = checked_mul(parts, m.size);
    vector<index_t> seen;
    for (int r = 0; r < ranks_; ++r) {
      index_t number = 0;  // the coordinates are its digits
      for (const mesh_dim& m : mesh_) number = number * m.size + coordinate_of(m, r);
      seen.push_back(number);
    }
    const auto held = static_cast<index_t>(distinct(seen));
    if (held != parts)
      throw bad_layout(concat("mesh_shard: its mesh has ", parts, " coordinates, but only ", held,
                              " of them are those of a rank below ", ranks_,
                              ": the other parts would be holes. Check sizes and strides."));
  }

 private:
  const vector<mesh_dim>& mesh_;
  int ranks_;
};

}  // namespace detail

/// FSDP x TP, HSDP: each mesh dimension cuts its tensor dimension into ceil parts, in the order listed; a second cut
/// of one tensor dimension cuts the first's part. Ranks with equal coordinates are replicas. Throws bad_layout where
/// some part would be held by no rank.
class mesh_shard {
 public:
  template <class Deferred = void>  // see base/later.hpp
  mesh_shard(const extents& shape, const std::vector<mesh_dim>& mesh, int ranks) : shape_(shape), ranks_(ranks) {
    detail::check_ranks("mesh_shard", ranks);
    static_cast<void>(shape.elements());
    const detail::mesh_checks<Deferred> given(mesh, ranks);
    given.check_dims(shape);
    mesh_ = given.table();
    nested_ = given.nested();
    if (!nested_) given.check_every_part_is_held();
  }
  const extents& shape() const { return shape_; }
  const extents& space() const { return shape_; }
  int ranks() const { return ranks_; }
  box_list boxes_of(int rank) const { return box_list(box_of(rank)); }
  int replica_of(int rank) const {
    const box mine = box_of(rank);
    if (nested_ && mine.size.elements() > 0) return first_with_coordinates_of(rank);
    for (int r = 0; r < rank; ++r) {
      if (box_of(r) == mine) return r;
    }
    return rank;
  }
  rank_list replicas_of(int rank) const {
    const box mine = box_of(rank);
    if (nested_ && mine.size.elements() > 0) return all_with_coordinates_of(rank);
    std::vector<int> list;
    for (int r = 0; r < ranks_; ++r) {
      if (box_of(r) == mine) list.push_back(r);
    }
    return rank_list(std::move(list));
  }
  rank_list ranks_of(index_t first, index_t count) const {
    std::vector<int> list;
    for (int r = 0; r < ranks_; ++r) {
      const box b = box_of(r);
      if (detail::elements_before(b, shape_, first) < detail::elements_before(b, shape_, first + count))
        list.push_back(r);
    }
    return rank_list(std::move(list));
  }
  std::uint64_t digest() const {
    std::uint64_t d = detail::mix(detail::mix(0x3e54, ranks_), shape_);
    for (const mesh_dim& m : mesh_) d = detail::mix(detail::mix(detail::mix(d, m.dim), m.size), m.stride);
    return d;
  }
  friend bool operator==(const mesh_shard&, const mesh_shard&) = default;

 private:
  box box_of(int rank) const {
    box b = detail::whole(shape_);
    for (const mesh_dim& m : mesh_) {
      const index_t length = b.size[m.dim];
      const index_t each = detail::ceil_div(length, m.size);
      const index_t start = (std::min)(length, detail::coordinate_of(m, rank) * each);
      b.offset[m.dim] += start;
      b.size[m.dim] = (std::min)(length - start, each);
    }
    return b;
  }

  int first_with_coordinates_of(int rank) const {
    int first = 0;
    for (const mesh_dim& m : mesh_) first += detail::coordinate_of(m, rank) * m.stride;
    return first;
  }

  /// Where the mesh dimensions are digits of the rank: the ranks that differ from this one in other digits only.
  rank_list all_with_coordinates_of(int rank) const {
    std::vector<int> list;
    rank_list found(first_with_coordinates_of(rank), 1);
    for (index_t below = 1; below < ranks_;) {  // the value of the next digit
      const mesh_dim* next = nullptr;
      for (const mesh_dim& m : mesh_) {
        if (m.size > 1 && m.stride >= below && (next == nullptr || m.stride < next->stride)) next = &m;
      }
      const index_t free = next == nullptr ? detail::ceil_div(ranks_, below) : next->stride / below;
      if (free > 1 && found.size() == 1) {
        const index_t count = (std::min)(free, (ranks_ - 1 - found[0]) / below + 1);
        found = {found[0], static_cast<int>(count), static_cast<int>(below)};
      } else if (free > 1) {
        list.clear();
        for (index_t digit = 0; digit < free; ++digit) {
          for (int r : found) {
            if (r + digit * below < ranks_) list.push_back(static_cast<int>(r + digit * below));
          }
        }
        found = rank_list(list);
      }
      if (next == nullptr) break;
      below = static_cast<index_t>(next->stride) * next->size;
    }
    return found;
  }

  extents shape_;
  int ranks_;
  bool nested_ = false;
  detail::shared_table<mesh_dim> mesh_;
};

}  // namespace v0
}  // namespace unshard
