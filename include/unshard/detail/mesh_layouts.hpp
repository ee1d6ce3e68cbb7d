#pragma once  // mesh_layouts.hpp: layouts over several mesh dimensions, of several boxes a rank, or on some ranks only.

#include <algorithm>
#include <unshard/detail/index_space.hpp>
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

/// FSDP x TP, HSDP: each mesh dimension cuts its tensor dimension into ceil parts, in the order listed; a second cut
/// of one tensor dimension cuts the first's part. Ranks with equal coordinates are replicas. Throws bad_layout where
/// some part would be held by no rank.
class mesh_shard {
 public:
  mesh_shard(const extents& shape, std::vector<mesh_dim> mesh, int ranks) : shape_(shape), ranks_(ranks) {
    detail::check_ranks("mesh_shard", ranks);
    static_cast<void>(shape.elements());
    for (const mesh_dim& m : mesh) {
      if (m.dim < 0 || m.dim >= shape.dims() || m.size < 1 || m.stride < 1)
        throw bad_layout(detail::concat("mesh_shard: mesh dimension {dim ", m.dim, ", size ", m.size, ", stride ",
                                        m.stride, "} does not fit shape ", detail::to_text(shape),
                                        "; size and stride are at least 1."));
    }
    mesh_ = detail::shared_table<mesh_dim>(std::move(mesh));
    nested_ = nested();
    if (!nested_) check_every_part_is_held();
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
    for (const mesh_dim& m : mesh_.values()) d = detail::mix(detail::mix(detail::mix(d, m.dim), m.size), m.stride);
    return d;
  }
  friend bool operator==(const mesh_shard&, const mesh_shard&) = default;

 private:
  static int coordinate(const mesh_dim& m, int rank) { return (rank / m.stride) % m.size; }

  box box_of(int rank) const {
    box b = detail::whole(shape_);
    for (const mesh_dim& m : mesh_.values()) {
      const index_t length = b.size[m.dim];
      const index_t each = detail::ceil_div(length, m.size);
      const index_t start = std::min(length, coordinate(m, rank) * each);
      b.offset[m.dim] += start;
      b.size[m.dim] = std::min(length - start, each);
    }
    return b;
  }

  int first_with_coordinates_of(int rank) const {
    int first = 0;
    for (const mesh_dim& m : mesh_.values()) first += coordinate(m, rank) * m.stride;
    return first;
  }

  /// Where the mesh dimensions are digits of the rank: the ranks that differ from this one in other digits only.
  rank_list all_with_coordinates_of(int rank) const {
    std::vector<int> list;
    rank_list found(first_with_coordinates_of(rank), 1);
    for (index_t below = 1; below < ranks_;) {  // the value of the next digit
      const mesh_dim* next = nullptr;
      for (const mesh_dim& m : mesh_.values()) {
        if (m.size > 1 && m.stride >= below && (next == nullptr || m.stride < next->stride)) next = &m;
      }
      const index_t free = next == nullptr ? detail::ceil_div(ranks_, below) : next->stride / below;
      if (free > 1 && found.size() == 1) {
        const index_t count = std::min(free, (ranks_ - 1 - found[0]) / below + 1);
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

  /// Whether the mesh dimensions are digits of the rank, so that every combination of coordinates is some rank's.
  bool nested() const {
    std::vector<mesh_dim> by_stride(mesh_.values().begin(), mesh_.values().end());
    std::erase_if(by_stride, [](const mesh_dim& m) { return m.size == 1; });
    std::sort(by_stride.begin(), by_stride.end(),
              [](const mesh_dim& a, const mesh_dim& b) { return a.stride < b.stride; });
    index_t below = 1;
    index_t last = 0;
    for (const mesh_dim& m : by_stride) {
      if (m.stride % below != 0) return false;
      below = detail::checked_mul(m.stride, m.size);
      last += static_cast<index_t>(m.size - 1) * m.stride;
    }
    return last < ranks_;
  }

  void check_every_part_is_held() const {
    index_t parts = 1;
    for (const mesh_dim& m : mesh_.values()) parts = detail::checked_mul(parts, m.size);
    std::vector<index_t> seen;
    for (int r = 0; r < ranks_; ++r) {
      index_t number = 0;  // the coordinates are its digits
      for (const mesh_dim& m : mesh_.values()) number = number * m.size + coordinate(m, r);
      seen.push_back(number);
    }
    std::sort(seen.begin(), seen.end());
    const auto held = static_cast<index_t>(std::unique(seen.begin(), seen.end()) - seen.begin());
    if (held != parts)
      throw bad_layout(detail::concat("mesh_shard: its mesh has ", parts, " coordinates, but only ", held,
                                      " of them are those of a rank below ", ranks_,
                                      ": the other parts would be holes. Check sizes and strides."));
  }

  extents shape_;
  int ranks_;
  bool nested_ = false;
  detail::shared_table<mesh_dim> mesh_;
};

/// Anything else: a list of boxes for each rank, in the order in which its shard stores them. Checked once, when made:
/// throws bad_layout naming the first box out of range, the first two that overlap, or a hole. Ranks with equal lists
/// are replicas.
class box_shard {
 public:
  box_shard(const extents& shape, const std::vector<std::vector<box>>& boxes) : shape_(shape) {
    detail::check_ranks("box_shard", static_cast<int>(boxes.size()));
    std::vector<box> all;
    std::vector<int> starts{0};
    for (const std::vector<box>& list : boxes) {
      all.insert(all.end(), list.begin(), list.end());
      starts.push_back(static_cast<int>(all.size()));
    }
    boxes_ = detail::shared_table<box>(std::move(all));
    starts_ = detail::shared_table<int>(std::move(starts));
    find_replicas();
    check();
  }
  const extents& shape() const { return shape_; }
  const extents& space() const { return shape_; }
  int ranks() const { return static_cast<int>(starts_.values().size()) - 1; }
  box_list boxes_of(int rank) const { return box_list(kept(rank)); }
  int replica_of(int rank) const { return replicas_.values()[static_cast<std::size_t>(rank)]; }
  rank_list replicas_of(int rank) const {
    std::vector<int> list;
    for (int r = 0; r < ranks(); ++r) {
      if (replica_of(r) == replica_of(rank)) list.push_back(r);
    }
    return rank_list(std::move(list));
  }
  rank_list ranks_of(index_t first, index_t count) const {
    std::vector<int> list;
    for (int r = 0; r < ranks(); ++r) {
      if (std::ranges::any_of(kept(r), [&](const box& b) {
            return detail::elements_before(b, shape_, first) < detail::elements_before(b, shape_, first + count);
          }))
        list.push_back(r);
    }
    return rank_list(std::move(list));
  }
  std::uint64_t digest() const {
    std::uint64_t d = detail::mix(0xb0c5, shape_);
    for (int start : starts_.values()) d = detail::mix(d, start);
    for (const box& b : boxes_.values()) d = detail::mix(d, b);
    return d;
  }
  friend bool operator==(const box_shard&, const box_shard&) = default;

 private:
  struct placed {
    const box* what;
    int rank;
  };

  std::span<const box> kept(int rank) const {
    const auto from = static_cast<std::size_t>(starts_.values()[static_cast<std::size_t>(rank)]);
    const auto to = static_cast<std::size_t>(starts_.values()[static_cast<std::size_t>(rank) + 1]);
    return boxes_.values().subspan(from, to - from);
  }

  void find_replicas() {
    std::vector<std::pair<std::uint64_t, int>> by_digest;
    for (int r = 0; r < ranks(); ++r) {
      std::uint64_t d = 0;
      for (const box& b : kept(r)) d = detail::mix(d, b);
      by_digest.emplace_back(d, r);
    }
    std::sort(by_digest.begin(), by_digest.end());
    std::vector<int> first_same(by_digest.size());
    for (std::size_t i = 0; i < by_digest.size(); ++i) {
      const auto [digest, rank] = by_digest[i];
      first_same[static_cast<std::size_t>(rank)] = rank;
      for (std::size_t j = i; j-- > 0 && by_digest[j].first == digest;) {
        const int earlier = first_same[static_cast<std::size_t>(by_digest[j].second)];
        if (detail::equal(kept(earlier), kept(rank))) {
          first_same[static_cast<std::size_t>(rank)] = earlier;
          break;
        }
      }
    }
    replicas_ = detail::shared_table<int>(std::move(first_same));
  }

  void check() const {
    std::vector<placed> parts;
    index_t covered = 0;
    for (int r = 0; r < ranks(); ++r) {
      for (const box& b : kept(r)) {
        if (!inside(b))
          throw bad_layout(detail::concat("box_shard: rank ", r, "'s box ", detail::to_text(b),
                                          " is out of range of shape ", detail::to_text(shape_), '.'));
        if (replica_of(r) != r || b.size.elements() == 0) continue;
        parts.push_back({&b, r});
        covered = detail::checked_add(covered, b.size.elements());
      }
    }
    check_overlaps(parts);
    if (covered != shape_.elements()) throw_hole(parts);
  }

  bool inside(const box& b) const {
    if (b.offset.dims() != shape_.dims() || b.size.dims() != shape_.dims()) return false;
    for (int d = 0; d < shape_.dims(); ++d) {
      if (b.offset[d] > shape_[d] || b.size[d] > shape_[d] - b.offset[d]) return false;
    }
    return true;
  }

  /// Sorts along the dimension that tells most boxes apart, so that only neighbours in it are compared.
  void check_overlaps(std::vector<placed>& parts) const {
    int along = 0;
    std::size_t most = 0;
    for (int d = 0; d < shape_.dims(); ++d) {
      std::vector<index_t> starts;
      starts.reserve(parts.size());
      for (const placed& p : parts) starts.push_back(p.what->offset[d]);
      std::sort(starts.begin(), starts.end());
      const auto distinct = static_cast<std::size_t>(std::unique(starts.begin(), starts.end()) - starts.begin());
      if (distinct > most) {
        most = distinct;
        along = d;
      }
    }
    std::stable_sort(parts.begin(), parts.end(), [&](const placed& a, const placed& b) {
      return shape_.dims() > 0 && a.what->offset[along] < b.what->offset[along];
    });
    for (std::size_t i = 0; i < parts.size(); ++i) {
      for (std::size_t j = i + 1; j < parts.size(); ++j) {
        const box& a = *parts[i].what;
        const box& b = *parts[j].what;
        if (shape_.dims() > 0 && b.offset[along] >= a.offset[along] + a.size[along]) break;
        if (overlap(a, b))
          throw bad_layout(detail::concat("box_shard: rank ", parts[i].rank, "'s box ", detail::to_text(a),
                                          " and rank ", parts[j].rank, "'s box ", detail::to_text(b),
                                          " overlap. Replicas must list all the same boxes."));
      }
    }
  }

  bool overlap(const box& a, const box& b) const {
    for (int d = 0; d < shape_.dims(); ++d) {
      if (a.offset[d] >= b.offset[d] + b.size[d] || b.offset[d] >= a.offset[d] + a.size[d]) return false;
    }
    return true;
  }

  /// Narrows a box down, one dimension after another, to the first slab that its boxes do not fill.
  [[noreturn]] void throw_hole(std::vector<placed> parts) const {
    extents at = shape_;
    for (int d = 0; d < shape_.dims(); ++d) {
      index_t rest = 1;
      for (int e = d + 1; e < shape_.dims(); ++e) rest *= shape_[e];
      std::vector<index_t> edges{0, shape_[d]};
      for (const placed& p : parts) edges.insert(edges.end(), {p.what->offset[d], p.what->offset[d] + p.what->size[d]});
      std::sort(edges.begin(), edges.end());
      at[d] = 0;
      for (index_t edge : edges) {
        if (edge == shape_[d]) break;
        index_t filled = 0;
        for (const placed& p : parts) {
          if (p.what->offset[d] <= edge && edge < p.what->offset[d] + p.what->size[d]) {
            index_t area = 1;
            for (int e = d + 1; e < shape_.dims(); ++e) area *= p.what->size[e];
            filled += area;
          }
        }
        at[d] = edge;
        if (filled < rest) break;
      }
      std::erase_if(parts, [&](const placed& p) {
        return at[d] < p.what->offset[d] || at[d] >= p.what->offset[d] + p.what->size[d];
      });
    }
    throw bad_layout(detail::concat("box_shard: no rank holds element ", detail::to_text(at), " of shape ",
                                    detail::to_text(shape_), ": a hole."));
  }

  extents shape_;
  detail::shared_table<box> boxes_;
  detail::shared_table<int> starts_;
  detail::shared_table<int> replicas_;
};

/// Expert or pipeline parallel: rank i of `layout` is rank first + i * stride of `ranks`; the others hold nothing.
/// Throws bad_layout.
template <class L>
class on_ranks {
 public:
  on_ranks(L layout, int first, int stride, int ranks)
      : layout_(std::move(layout)), members_(layout_.ranks()), first_(first), stride_(stride), ranks_(ranks) {
    const index_t last = first + static_cast<index_t>(members_ - 1) * stride;
    if (first < 0 || stride < 1 || last >= ranks)
      throw bad_layout(detail::concat("on_ranks: ", members_, " ranks from ", first, " on, one every ", stride,
                                      ", do not fit into ", ranks, " ranks."));
  }
  const L& layout() const { return layout_; }
  int first() const { return first_; }    ///< the rank that is rank 0 of layout()
  int stride() const { return stride_; }  ///< from there to its rank 1

  decltype(auto) shape() const { return layout_.shape(); }
  decltype(auto) space() const { return layout_.space(); }
  int ranks() const { return ranks_; }
  /// The inner layout's boxes on the ranks that take part, none on the others.
  auto boxes_of(int rank) const {
    using boxes = decltype(layout_.boxes_of(0));
    return member(rank) ? layout_.boxes_of(inner(rank)) : boxes{};
  }
  int replica_of(int rank) const {
    if (member(rank)) return outer(layout_.replica_of(inner(rank)));
    int r = 0;  // the first that takes no part
    while (member(r)) ++r;
    return r;
  }
  rank_list replicas_of(int rank) const {
    if (everyone()) return layout_.replicas_of(rank);
    std::vector<int> list;
    if (member(rank)) {
      for (int r : layout_.replicas_of(inner(rank))) list.push_back(outer(r));
    } else {
      for (int r = 0; r < ranks_; ++r) {
        if (!member(r)) list.push_back(r);
      }
    }
    return rank_list(std::move(list));
  }
  rank_list ranks_of(index_t first, index_t count) const {
    if (everyone()) return layout_.ranks_of(first, count);
    std::vector<int> list;
    for (int r : layout_.ranks_of(first, count)) list.push_back(outer(r));
    return rank_list(std::move(list));
  }
  std::uint64_t digest() const {
    if (everyone()) return layout_.digest();
    return detail::mix(detail::mix(detail::mix(layout_.digest(), first_), stride_), ranks_);
  }
  friend bool operator==(const on_ranks&, const on_ranks&) = default;

 private:
  bool everyone() const { return members_ == ranks_; }
  bool member(int rank) const {
    return rank >= first_ && (rank - first_) % stride_ == 0 && (rank - first_) / stride_ < members_;
  }
  int inner(int rank) const { return (rank - first_) / stride_; }
  int outer(int rank) const { return first_ + rank * stride_; }

  L layout_;
  int members_;  // the ranks of layout_
  int first_;
  int stride_;
  int ranks_;
};

}  // namespace v0
}  // namespace unshard
