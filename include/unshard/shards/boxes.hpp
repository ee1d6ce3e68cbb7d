// SPDX-License-Identifier: Apache-2.0
#pragma once  // shards/boxes.hpp: a layout of any boxes, several a rank.

#include <unshard/base/later.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/index_space.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Where a box of a rank is in the row-major order, and in its shard.
struct ordered_box {
  index_t from;    // its first element
  index_t to;      // the largest end of this one and those before it in the list
  index_t stored;  // elements of the shard before it
  index_t number;  // among the rank's boxes
  friend bool operator==(const ordered_box&, const ordered_box&) = default;
};

/// What box_shard looks at once, when it is made.
template <class Deferred>
class box_checks {
  template <class T>
  using vector = std::vector<later<T, Deferred>>;

 public:
  box_checks(const extents& shape, const vector<std::vector<box>>& boxes) : shape_(shape), boxes_(boxes) {
    check_ranks("box_shard", static_cast<int>(boxes.size()));
    find_replicas();
    check();
  }

  /// All boxes, rank by rank; where each rank's start, and the end; for each rank the first one with the same boxes.
  void tables(shared_table<box>& all, shared_table<int>& starts, shared_table<int>& replicas,
              shared_table<ordered_box>& order) const {
    vector<box> list;
    vector<int> from{0};
    vector<ordered_box> sorted;
    vector<ordered_box> of_all;
    for (const auto& of_rank : boxes_) {
      list.insert(list.end(), of_rank.begin(), of_rank.end());
      from.push_back(static_cast<int>(list.size()));
      sorted.clear();
      index_t stored = 0;
      for (const box& b : of_rank) {
        sorted.push_back({0, 0, stored, static_cast<index_t>(sorted.size())});
        stored += b.size.elements();
        if (b.size.elements() == 0) continue;
        for (int d = 0; d < shape_.dims(); ++d) {
          sorted.back().from = sorted.back().from * shape_[d] + b.offset[d];
          sorted.back().to = sorted.back().to * shape_[d] + b.offset[d] + b.size[d] - 1;
        }
        ++sorted.back().to;
      }
      detail::sort(sorted, [](const ordered_box& a, const ordered_box& b) { return a.from < b.from; });
      for (std::size_t i = 1; i < sorted.size(); ++i) sorted[i].to = (std::max)(sorted[i].to, sorted[i - 1].to);
      of_all.insert(of_all.end(), sorted.begin(), sorted.end());
    }
    order = shared_table<ordered_box>(of_all.data(), of_all.size());
    all = shared_table<box>(list.data(), list.size());
    starts = shared_table<int>(from.data(), from.size());
    replicas = shared_table<int>(replicas_.data(), replicas_.size());
  }

 private:
  struct placed {
    const box* what;
    int rank;
  };
  static std::size_t place(int rank) { return static_cast<std::size_t>(rank); }
  template <class List>
  static bool same(const List& a, const List& b) {
    return a.size() == b.size() && equal(a.data(), b.data(), a.size());
  }

  /// For each rank the first one with the same boxes.
  void find_replicas() {
    vector<std::pair<std::uint64_t, int>> by_digest;
    for (int r = 0; r < static_cast<int>(boxes_.size()); ++r) {
      std::uint64_t d = 0;
      for (const box& b : boxes_[place(r)]) d = mix(d, b);
      by_digest.emplace_back(d, r);
    }
    detail::sort(by_digest, [](const auto& a, const auto& b) { return a.first < b.first; });  // then by rank
    replicas_.resize(boxes_.size());
    for (std::size_t i = 0; i < by_digest.size(); ++i) {
      const auto [digest, rank] = by_digest[i];
      replicas_[place(rank)] = rank;
      for (std::size_t j = i; j-- > 0 && by_digest[j].first == digest;) {
        const int earlier = replicas_[place(by_digest[j].second)];
        if (same(boxes_[place(earlier)], boxes_[place(rank)])) {
          replicas_[place(rank)] = earlier;
          break;
        }
      }
    }
  }

  void check() const {
    vector<placed> parts;
    index_t covered = 0;
    for (int r = 0; r < static_cast<int>(boxes_.size()); ++r) {
      for (const box& b : boxes_[place(r)]) {
        const bool empty = b.size.dims() == shape_.dims() && b.size.elements() == 0;  // may lie anywhere
        if (!empty && !inside(b))
          throw bad_layout(
              concat("box_shard: rank ", r, "'s box ", to_text(b), " is out of range of shape ", to_text(shape_), '.'));
        if (empty || replicas_[place(r)] != r) continue;
        parts.push_back({&b, r});
        covered = checked_add(covered, b.size.elements());
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
  void check_overlaps(vector<placed>& parts) const {
    int along = 0;
    std::size_t most = 0;
    for (int d = 0; d < shape_.dims(); ++d) {
      vector<index_t> starts;
      starts.reserve(parts.size());
      for (const placed& p : parts) starts.push_back(p.what->offset[d]);
      const std::size_t different = distinct(starts);
      if (different > most) {
        most = different;
        along = d;
      }
    }
    detail::sort(parts, [&](const placed& a, const placed& b) {
      return shape_.dims() > 0 && a.what->offset[along] < b.what->offset[along];
    });
    for (std::size_t i = 0; i < parts.size(); ++i) {
      for (std::size_t j = i + 1; j < parts.size(); ++j) {
        const box& a = *parts[i].what;
        const box& b = *parts[j].what;
        if (shape_.dims() > 0 && b.offset[along] >= a.offset[along] + a.size[along]) break;
        if (overlap(a, b))
          throw bad_layout(concat("box_shard: rank ", parts[i].rank, "'s box ", to_text(a), " and rank ", parts[j].rank,
                                  "'s box ", to_text(b), " overlap. Replicas must list all the same boxes."));
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
  [[noreturn]] void throw_hole(vector<placed> parts) const {
    extents at = shape_;
    for (int d = 0; d < shape_.dims(); ++d) {
      index_t rest = 1;
      for (int e = d + 1; e < shape_.dims(); ++e) rest *= shape_[e];
      vector<index_t> edges{0, shape_[d]};
      for (const placed& p : parts) edges.insert(edges.end(), {p.what->offset[d], p.what->offset[d] + p.what->size[d]});
      detail::sort(edges, [](index_t a, index_t b) { return a < b; });
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
    throw bad_layout(
        concat("box_shard: no rank holds element ", to_text(at), " of shape ", to_text(shape_), ": a hole."));
  }

  const extents& shape_;
  const vector<std::vector<box>>& boxes_;
  vector<int> replicas_;
};

}  // namespace detail

/// Anything else: a list of boxes for each rank, in the order in which its shard stores them. Checked once, when made:
/// throws bad_layout naming the first box out of range, the first two that overlap, or a hole. Ranks with equal lists
/// are replicas.
class box_shard {
 public:
  template <class Deferred = void>  // see base/later.hpp
  box_shard(const extents& shape, const std::vector<std::vector<box>>& boxes) : shape_(shape) {
    detail::box_checks<Deferred>(shape, boxes).tables(boxes_, starts_, replicas_, order_);
  }
  const extents& shape() const { return shape_; }
  const extents& space() const { return shape_; }
  int ranks() const { return static_cast<int>(starts_.size()) - 1; }
  box_list boxes_of(int rank) const { return kept(rank); }
  int replica_of(int rank) const { return replicas_[rank]; }
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
      bool some = false;
      for_each_part(r, first, count, [&](const box& b, index_t, index_t) {
        some = some || detail::elements_before(b, shape_, first) < detail::elements_before(b, shape_, first + count);
      });
      if (some) list.push_back(r);
    }
    return rank_list(std::move(list));
  }
  /// By where they start in the row-major order: a search, then those that may meet the interval.
  template <class Visit>
  void for_each_part(int rank, index_t first, index_t count, const Visit& visit) const {
    const box* boxes = boxes_.begin() + starts_[rank];
    const detail::ordered_box* order = order_.begin() + starts_[rank];
    const auto all = static_cast<std::size_t>(starts_[rank + 1] - starts_[rank]);
    for (std::size_t i = detail::first_not(all, [&](std::size_t at) { return order[at].to <= first; });
         i < all && order[i].from < first + count; ++i) {
      const box& b = boxes[order[i].number];
      if (b.size.elements() > 0) visit(b, order[i].stored, order[i].number);
    }
  }
  std::uint64_t digest() const {
    std::uint64_t d = detail::mix(0xb0c5, shape_);
    for (int start : starts_) d = detail::mix(d, start);
    for (const box& b : boxes_) d = detail::mix(d, b);
    return d;
  }
  friend bool operator==(const box_shard&, const box_shard&) = default;

 private:
  box_list kept(int rank) const {
    return {boxes_.begin() + starts_[rank], static_cast<std::size_t>(starts_[rank + 1] - starts_[rank])};
  }

  extents shape_;
  detail::shared_table<box> boxes_;
  detail::shared_table<int> starts_;
  detail::shared_table<int> replicas_;
  detail::shared_table<detail::ordered_box> order_;  // each rank's boxes by where they start
};

}  // namespace v0
}  // namespace unshard
