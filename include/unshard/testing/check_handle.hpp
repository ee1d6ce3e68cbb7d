// SPDX-License-Identifier: Apache-2.0
#pragma once  // testing/check_handle.hpp: what the concepts shard_layout and parameter_handle can't say, checked on a
              // value.

#include <algorithm>
#include <cstddef>
#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unshard/layout.hpp>
#include <unshard/parameter.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// Something that a type does and must not, or the other way round.
struct finding {
  std::string check;  ///< which promise; the same text every time, made for comparing
  std::string what;   ///< what was found, where
  friend bool operator==(const finding&, const finding&) = default;
};

/// Whether one of them is about this check.
inline bool found(const std::vector<finding>& findings, std::string_view check) {
  return std::any_of(findings.begin(), findings.end(), [&](const finding& f) { return f.check == check; });
}

namespace detail {

/// Runs `body`; what it throws is a finding.
template <class F>
void guarded(std::vector<finding>& out, std::string_view check, F body) {
  try {
    body();
  } catch (const std::exception& e) {
    out.push_back({std::string(check), concat("threw: ", e.what())});
  } catch (...) {
    out.push_back({std::string(check), "threw something that is no std::exception"});
  }
}

struct placed_box {
  box where;
  int rank;
};

inline bool overlap(const box& a, const box& b) {
  for (int d = 0; d < a.offset.dims(); ++d) {
    if (a.offset[d] >= b.offset[d] + b.size[d] || b.offset[d] >= a.offset[d] + a.size[d]) return false;
  }
  return true;
}

/// Every element once: boxes of different holders are disjoint, and together as large as the space.
template <class L>
void check_cover(const L& l, const extents& space, std::vector<finding>& out) {
  std::vector<placed_box> boxes;
  index_t sum = 0;
  for (int r = 0; r < l.ranks(); ++r) {
    int same = 0;
    while (same < r && !detail::same_boxes(l, same, r)) ++same;
    if (same < r) continue;  // a replica
    for (const box& b : l.boxes_of(r)) {
      if (b.size.elements() == 0) continue;
      boxes.push_back({b, r});
      sum = checked_add(sum, b.size.elements());
    }
  }
  // By the first offset, so that only neighbours along the first dimension are compared.
  std::sort(boxes.begin(), boxes.end(), [&](const placed_box& a, const placed_box& b) {
    return space.dims() > 0 && a.where.offset[0] < b.where.offset[0];
  });
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const box& a = boxes[i].where;
    for (std::size_t j = i + 1; j < boxes.size(); ++j) {
      const box& b = boxes[j].where;
      if (space.dims() > 0 && b.offset[0] >= a.offset[0] + a.size[0]) break;
      if (!overlap(a, b)) continue;
      out.push_back({"layout: boxes are disjoint", concat("rank ", boxes[i].rank, " has ", to_text(a), ", rank ",
                                                          boxes[j].rank, " has ", to_text(b))});
      return;
    }
  }
  if (sum < space.elements())
    out.push_back({"layout: boxes leave no hole", concat("they hold ", sum, " elements of ", space.elements())});
}

template <class L>
void check_optional(const L& l, std::vector<finding>& out) {
  for (int r = 0; r < l.ranks(); ++r) {
    std::vector<int> same;
    for (int p = 0; p < l.ranks(); ++p) {
      if (detail::same_boxes(l, p, r)) same.push_back(p);
    }
    if constexpr (requires { l.replica_of(r); }) {
      if (l.replica_of(r) != same.front())
        out.push_back({"layout: replica_of is the first rank with the same boxes",
                       concat("of rank ", r, ": ", l.replica_of(r), ", found ", same.front())});
    }
    if constexpr (requires { l.replicas_of(r); }) {
      std::vector<int> told;
      for (int p : l.replicas_of(r)) told.push_back(p);
      if (told != same && detail::held_of(l, r, 0, l.space().elements()) > 0)
        out.push_back({"layout: replicas_of is all ranks with the same boxes",
                       concat("of rank ", r, ": ", told.size(), " of them, found ", same.size())});
    }
  }
  if constexpr (requires { l.ranks_of(index_t{}, index_t{}); }) {
    const index_t n = l.space().elements();
    const index_t step = std::max<index_t>(1, n / 7);
    for (index_t first = 0; first < n; first += step) {
      for (index_t count : {index_t{1}, step, n - first}) {
        if (count > n - first) continue;
        std::vector<int> held;
        for (int r = 0; r < l.ranks(); ++r) {
          if (detail::held_of(l, r, first, count) > 0) held.push_back(r);
        }
        std::vector<int> told;
        for (int r : l.ranks_of(first, count)) told.push_back(r);
        if (told == held) continue;
        out.push_back({"layout: ranks_of is the ranks that hold some of the interval",
                       concat('[', first, ", ", first + count, "): ", told.size(), " ranks, found ", held.size())});
        return;
      }
    }
  }
}

}  // namespace detail

/// What a layout must do that the concept can't say. Empty: nothing was found. Asks every rank for its boxes.
template <shard_layout L>
std::vector<finding> check_layout(const L& l) {
  std::vector<finding> out;
  detail::guarded(out, "layout: its functions don't throw", [&] {
    const extents shape = l.shape();
    const extents space = l.space();
    if (l.ranks() < 1) out.push_back({"layout: at least one rank", detail::concat(static_cast<int>(l.ranks()))});
    if (shape.elements() != space.elements())
      out.push_back({"layout: space and shape have equally many elements",
                     detail::concat(detail::to_text(space), ", ", detail::to_text(shape))});
    const L copy = l;
    if (!(copy == l)) out.push_back({"layout: a copy is equal", "it is not"});
    if (detail::digest_of(copy) != detail::digest_of(l))
      out.push_back({"layout: equal layouts have equal digests", "a copy's differs"});

    const std::size_t before = out.size();
    for (int r = 0; r < l.ranks(); ++r) {
      if (!detail::same_boxes(copy, r, r)) out.push_back({"layout: boxes_of answers the same twice", ""});
      for (const box& b : l.boxes_of(r)) {
        bool inside = b.offset.dims() == space.dims() && b.size.dims() == space.dims();
        for (int d = 0; inside && d < space.dims(); ++d)
          inside = b.offset[d] >= 0 && b.size[d] >= 0 &&
                   (b.size[d] == 0 || (b.offset[d] < space[d] && b.size[d] <= space[d] - b.offset[d]));
        if (!inside && !(b.size.dims() == space.dims() && b.size.elements() == 0))
          out.push_back({"layout: boxes are inside the space",
                         detail::concat("rank ", r, ": ", detail::to_text(b), " in ", detail::to_text(space))});
      }
    }
    if (out.size() != before) return;  // the rest counts on boxes that are somewhere
    detail::check_cover(l, space, out);
    detail::check_optional(l, out);
  });
  return out;
}

/// What a parameter's traits must do that the concept can't say, and its layout. Empty: nothing was found. It reads no
/// byte of the shard, writes none and calls no after_write. `rank` is this rank; without it (-1) the shard only has to
/// be long enough for the rank with the least.
template <class P>
requires parameter_handle<std::remove_reference_t<P>> std::vector<finding> check_handle(P&& handle, int rank = -1) {
  using traits = detail::traits_of<std::remove_reference_t<P>>;
  std::vector<finding> out;
  detail::guarded(out, "handle: its functions don't throw", [&] {
    const auto& layout = traits::layout(handle);
    const auto& again = traits::layout(handle);
    if (!(layout == again)) out.push_back({"handle: layout answers the same twice", "it does not"});
    for (finding& f : check_layout(layout)) out.push_back(std::move(f));

    const auto element = static_cast<std::size_t>(traits::element_size(handle));
    if (element == 0) out.push_back({"handle: element_size is at least 1", "it is 0"});
    if (element != static_cast<std::size_t>(traits::element_size(handle)))
      out.push_back({"handle: element_size answers the same twice", "it does not"});

    const std::span<const std::byte> bytes = traits::shard(handle);
    const std::span<const std::byte> bytes_again = traits::shard(handle);
    if (bytes.data() != bytes_again.data() || bytes.size() != bytes_again.size())
      out.push_back({"handle: shard is the same bytes every time", "another address or length"});
    if (rank >= layout.ranks())
      out.push_back({"handle: the layout knows this rank", detail::concat(rank, " of ", layout.ranks())});
    index_t least = -1;
    for (int r = 0; r < layout.ranks(); ++r) {
      if (rank >= 0 && r != rank) continue;
      const index_t reach = detail::reach_of(layout, r);
      if (least < 0 || reach < least) least = reach;
    }
    const auto needed =
        detail::to_size(detail::checked_mul((std::max)(least, index_t{0}), static_cast<index_t>(element)));
    if (bytes.size() < needed)
      out.push_back({"handle: the shard holds its boxes",
                     detail::concat(bytes.size(), " bytes; the layout gives ", rank < 0 ? "every" : "this", " rank ",
                                    rank < 0 ? "at least " : "", needed)});
    if constexpr (writable_parameter<std::remove_reference_t<P>>) {
      const std::span<std::byte> writable = traits::shard(handle);
      if (writable.data() != bytes.data() || writable.size() != bytes.size())
        out.push_back({"handle: what is read is what is written", "two addresses or lengths"});
    }
    if (detail::name_of(handle) != detail::name_of(handle) ||
        detail::identity_of(handle) != detail::identity_of(handle) ||
        detail::group_of(handle) != detail::group_of(handle) ||
        detail::indivisible_of(handle) != detail::indivisible_of(handle))
      out.push_back({"handle: name, identity, group and indivisible answer the same twice", "one does not"});
  });
  return out;
}

}  // namespace v0
}  // namespace unshard
