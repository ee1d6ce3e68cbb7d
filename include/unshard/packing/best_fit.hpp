// SPDX-License-Identifier: Apache-2.0
#pragma once  // packing/best_fit.hpp: items of some bytes into as few chunks as it can: first fit, largest first.

#include <bit>
#include <cstddef>
#include <span>
#include <unshard/base/checked.hpp>
#include <unshard/base/later.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/layout.hpp>
#include <unshard/packing/level_filler.hpp>
#include <unshard/packing/packed_chunks.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The first of some bins that has room: a tree of maxima over them.
template <class Deferred = void>
class first_fit_tree {
 public:
  first_fit_tree(std::size_t bins, std::size_t room) : leaves_(std::bit_ceil(bins)), room_(2 * leaves_, 0) {
    for (std::size_t bin = 0; bin < bins; ++bin) room_[leaves_ + bin] = room;
    for (std::size_t node = leaves_ - 1; node > 0; --node)
      room_[node] = (std::max)(room_[2 * node], room_[2 * node + 1]);
  }
  /// Whether some bin has that much.
  bool has(std::size_t size) const { return room_[1] >= size; }
  std::size_t find(std::size_t size) const {
    std::size_t node = 1;
    while (node < leaves_) node = 2 * node + (room_[2 * node] < size ? 1 : 0);
    return node - leaves_;
  }
  std::size_t room(std::size_t bin) const { return room_[leaves_ + bin]; }
  void set(std::size_t bin, std::size_t room) {
    std::size_t node = leaves_ + bin;
    room_[node] = room;
    while (node > 1) {
      node /= 2;
      const std::size_t most = (std::max)(room_[2 * node], room_[2 * node + 1]);
      if (std::exchange(room_[node], most) == most) return;
    }
  }

 private:
  std::size_t leaves_;
  std::vector<later<std::size_t, Deferred>> room_;
};

/// Items of at most `capacity` into at most `chunks`, the largest first, each into the first chunk that has room; none
/// where that takes more chunks. Units that are cut are pieces as large as a chunk, and a tail.
template <class Deferred>
packed_chunks<Deferred> best_fit(const std::vector<later<unit, Deferred>>& units, std::size_t chunks,
                                 std::size_t capacity, std::size_t alignment, std::span<const tied_pair> ties) {
  if (chunks == 0) return {};
  std::vector<later<packed_item, Deferred>> items;
  items.reserve(units.size());
  for (const unit& u : units) {
    if (!u.cut) {
      items.push_back({.begin = u.begin, .end = u.end, .bytes = u.bytes});
      continue;
    }
    const auto most = static_cast<index_t>(capacity / u.element_size);
    for (index_t first = 0; first < u.elements;) {
      const index_t count = (std::min)(most, u.elements - first);
      items.push_back({u.begin, u.end, static_cast<std::size_t>(count) * u.element_size, first, count});
      first += count;
    }
  }
  struct sized {
    std::size_t size;
    std::size_t item;
  };
  std::vector<sized> by_size(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) by_size[i] = {align_up(items[i].bytes, alignment), i};
  detail::sort(by_size, [](const sized& a, const sized& b) { return a.size > b.size; });  // equal ones stay in order

  first_fit_tree<Deferred> tree(chunks, capacity);
  std::vector<later<std::size_t, Deferred>> chunk_of(items.size());
  std::size_t used = 0;
  for (std::size_t i = 0; i < by_size.size();) {
    const std::size_t size = by_size[i].size;
    if (!tree.has(size)) return {};
    const std::size_t chunk = tree.find(size);
    std::size_t room = tree.room(chunk);
    do {  // a run of equal ones
      chunk_of[by_size[i++].item] = chunk;
      room -= size;
    } while (i < by_size.size() && by_size[i].size == size && room >= size);
    tree.set(chunk, room);
    used = (std::max)(used, chunk + 1);
  }
  return {items, chunk_of, used, alignment, ties};
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
