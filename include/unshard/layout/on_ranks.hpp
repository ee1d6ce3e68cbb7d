// SPDX-License-Identifier: Apache-2.0
#pragma once  // layout/on_ranks.hpp: a layout on some ranks only.

#include <concepts>
#include <type_traits>
#include <unshard/layout/concept.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

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
    using boxes = std::remove_cvref_t<decltype(layout_.boxes_of(0))>;
    if constexpr (std::same_as<boxes, box_list> || std::same_as<boxes, std::vector<box>>) {
      return member(rank) ? layout_.boxes_of(inner(rank)) : boxes{};
    } else {
      std::vector<box> list;
      if (member(rank)) {
        for (const box& b : layout_.boxes_of(inner(rank))) list.push_back(b);
      }
      return list;
    }
  }

  // What the inner layout leaves out, this one does, too.
  int replica_of(int rank) const requires requires(const L& l) { l.replica_of(0); }
  {
    if (member(rank)) return outer(layout_.replica_of(inner(rank)));
    int r = 0;  // the first that takes no part
    while (member(r)) ++r;
    return r;
  }
  rank_list replicas_of(int rank) const requires requires(const L& l) { l.replicas_of(0); }
  {
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
  rank_list ranks_of(index_t first, index_t count) const requires requires(const L& l) { l.ranks_of(first, count); }
  {
    if (everyone()) return layout_.ranks_of(first, count);
    std::vector<int> list;
    for (int r : layout_.ranks_of(first, count)) list.push_back(outer(r));
    return rank_list(std::move(list));
  }
  template <class Visit>
  void for_each_part(int rank, index_t first, index_t count, const Visit& visit) const requires detail::shows_parts<L> {
    if (member(rank)) layout_.for_each_part(inner(rank), first, count, visit);
  }
  std::uint64_t digest() const requires requires(const L& l) { l.digest(); }
  {
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
