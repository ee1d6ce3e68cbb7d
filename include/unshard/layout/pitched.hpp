// SPDX-License-Identifier: Apache-2.0
#pragma once  // layout/pitched.hpp: a shard whose rows lie further apart than they are long.

#include <concepts>
#include <cstdint>
#include <unshard/layout/concept.hpp>
#include <utility>

namespace unshard {
inline namespace v0 {

/// `layout` in an array of leading extents: ScaLAPACK's LLD, PETSc's LDA, a padded View. What this rank holds, of its
/// space, lies in a row-major array of these extents, from its start; the first extent matters only where there are
/// several boxes, each of which then has such an array of its own, one after another. The gaps are neither read nor
/// written. Extents are this rank's own matter, and may differ between ranks; whether a layout is pitched may not.
/// Throws bad_layout where the number of extents is not that of the space; extents that are shorter than what a rank
/// holds are bad_layout when its shard is looked at.
template <shard_layout L>
class pitched {
 public:
  pitched(L layout, const extents& leading_extents) : layout_(std::move(layout)), leading_(leading_extents) {
    const extents space = layout_.space();
    if (leading_.dims() != space.dims())
      throw bad_layout(detail::concat("pitched: leading extents ", detail::to_text(leading_), " for the space ",
                                      detail::to_text(space), ": give one for each dimension."));
  }
  const L& layout() const { return layout_; }
  /// How far apart the rows lie, for each dimension, as given.
  const extents& leading_extents() const { return leading_; }

  decltype(auto) shape() const { return layout_.shape(); }
  decltype(auto) space() const { return layout_.space(); }
  int ranks() const { return layout_.ranks(); }
  decltype(auto) boxes_of(int rank) const { return layout_.boxes_of(rank); }
  template <class Visit>
  void for_each_part(int rank, index_t first, index_t count, const Visit& visit) const {
    const auto place = [&](shard_part p, index_t number) {
      p.array = leading_;
      p.number = number;
      p.first = number == 0 ? 0 : detail::checked_mul(number, leading_.elements());
      visit(p);
    };
    detail::for_each_part(
        layout_, rank, first, count,
        detail::part_visit{[&](const box& b, index_t, index_t number) {
                             extents ones = b.size;
                             for (int d = 0; d < ones.dims(); ++d) ones[d] = 1;
                             place({b.offset, b.size, ones, b.size, b.size, detail::whole(b.size).offset}, number);
                           },
                           [&](const shard_part& p) { place(p, p.number); }});
  }

  // What the inner layout leaves out, this one does, too.
  int replica_of(int rank) const requires requires(const L& l) { l.replica_of(0); }
  { return layout_.replica_of(rank); }
  rank_list replicas_of(int rank) const requires requires(const L& l) { l.replicas_of(0); }
  { return layout_.replicas_of(rank); }
  rank_list ranks_of(index_t first, index_t count) const requires requires(const L& l) { l.ranks_of(first, count); }
  { return layout_.ranks_of(first, count); }
  std::uint64_t digest() const { return detail::mix(0x917c, detail::digest_of(layout_)); }
  friend bool operator==(const pitched&, const pitched&) = default;

 private:
  L layout_;
  extents leading_;
};

}  // namespace v0
}  // namespace unshard
