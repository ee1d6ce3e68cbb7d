// SPDX-License-Identifier: Apache-2.0
#pragma once  // packing/balanced.hpp: one owner for every unit, the ranks' loads as equal as can be found.

#include <cstddef>
#include <cstdint>
#include <span>
#include <unshard/base/later.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/packing/level_filler.hpp>
#include <unshard/packing/owner_lists.hpp>
#include <unshard/packing/packed_chunks.hpp>
#include <unshard/packing/packer.hpp>
#include <unshard/packing/spread.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The rank with the least load, of those the one with the least bytes, of those the first: a heap.
template <class Deferred = void>
class idlest_rank {
 public:
  explicit idlest_rank(std::size_t ranks) : heap_(ranks) {
    for (std::size_t r = 0; r < ranks; ++r) heap_[r].rank = r;
  }
  std::size_t give(const unit_weight& w) {
    entry e = heap_[0];
    const std::size_t rank = e.rank;
    e.load += w.cost;
    e.bytes += w.bytes;
    // It mostly belongs near the bottom: the hole goes all the way down, and it up from there.
    std::size_t at = 0;
    for (std::size_t child = 1; child < heap_.size(); child = 2 * at + 1) {
      if (child + 1 < heap_.size()) child += heap_[child + 1] < heap_[child] ? std::size_t{1} : 0;
      heap_[at] = heap_[child];
      at = child;
    }
    for (; at > 0 && e < heap_[(at - 1) / 2]; at = (at - 1) / 2) heap_[at] = heap_[(at - 1) / 2];
    heap_[at] = e;
    return rank;
  }

 private:
  struct entry {
    std::uint64_t load = 0;
    std::size_t bytes = 0;
    std::size_t rank = 0;
    friend bool operator<(const entry& a, const entry& b) {
      if (a.load != b.load) return a.load < b.load;
      return a.bytes != b.bytes ? a.bytes < b.bytes : a.rank < b.rank;
    }
  };
  std::vector<later<entry, Deferred>> heap_;
};

/// What came of it.
template <class Deferred = void>
struct balanced_chunks {
  explicit balanced_chunks(std::size_t ranks) : costs(ranks) {}

  packed_chunks<Deferred> chunks;                      // none where there would be more than most_chunks
  std::size_t count = 0;                               // how many there are, or would be
  std::vector<later<std::uint32_t, Deferred>> owners;  // of each parameter
  chunk_costs<Deferred> costs;
};

/// Gives every unit to an owner: in falling cost, of equal cost in falling bytes, to the rank of least load. Owners
/// depend on costs, bytes and ranks only. An owner packs its units in falling cost, so that rounds are alike.
template <class Deferred>
balanced_chunks<Deferred> balance(const packer<Deferred>& packed, std::size_t parameters, std::size_t ranks,
                                  std::size_t alignment, std::size_t capacity, std::span<const tied_pair> ties) {
  struct weighed {
    std::uint64_t cost;
    std::size_t bytes;
    std::size_t unit;
  };
  const auto& units = packed.units();
  std::vector<weighed> order(units.size());
  for (std::size_t i = 0; i < units.size(); ++i) order[i] = {packed.weights()[i].cost, packed.weights()[i].bytes, i};
  detail::sort(
      order, [](const weighed& a, const weighed& b) { return a.cost != b.cost ? a.cost > b.cost : a.bytes > b.bytes; });

  struct part {
    std::size_t unit;
    std::size_t chunk;
    index_t first;
    index_t count;
  };
  balanced_chunks<Deferred> out(ranks);
  out.owners.resize(parameters);
  idlest_rank<Deferred> idlest(ranks);
  std::vector<later<std::size_t, Deferred>> given(units.size());
  std::vector<later<std::uint32_t, Deferred>> to(units.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    const unit& u = units[given[i] = order[i].unit];
    to[i] = static_cast<std::uint32_t>(idlest.give({order[i].cost, order[i].bytes}));
    for (std::size_t p = u.begin; p < u.end; ++p) out.owners[p] = to[i];
  }
  for (const tied_pair& t : ties) out.owners[t.first] = out.owners[t.second];

  const owner_lists<Deferred> lists(packed, given, to, ranks);
  const std::size_t rounds = lists.rounds(alignment, capacity);
  out.count = rounds * ranks;
  if (rounds > most_chunks / ranks) return out;

  std::vector<later<std::size_t, Deferred>> whole_in(units.size());
  std::vector<part> cuts;
  lists.pack(rounds, alignment, capacity,
             [&](std::size_t owner, std::size_t i, std::size_t round, index_t first, index_t count) {
               const std::size_t chunk = round * ranks + owner;
               if (count < 0)
                 whole_in[i] = chunk;
               else
                 cuts.push_back({i, chunk, first, count});
               out.costs.add(chunk, units[i], packed.weights()[i], first, count);
             });
  detail::sort(cuts, [](const part& a, const part& b) { return a.unit < b.unit; });
  std::vector<later<packed_item, Deferred>> items;
  std::vector<later<std::size_t, Deferred>> chunk_of;
  items.reserve(units.size() + cuts.size());
  chunk_of.reserve(units.size() + cuts.size());
  out.count = 0;
  const auto put = [&](const packed_item& item, std::size_t chunk) {
    items.push_back(item);
    chunk_of.push_back(chunk);
    out.count = out.count < chunk + 1 ? chunk + 1 : out.count;
  };
  auto at = cuts.begin();
  for (std::size_t i = 0; i < units.size(); ++i) {
    const unit& u = units[i];
    if (at == cuts.end() || at->unit != i) put({.begin = u.begin, .end = u.end, .bytes = u.bytes}, whole_in[i]);
    for (; at != cuts.end() && at->unit == i; ++at)
      put({u.begin, u.end, static_cast<std::size_t>(at->count) * u.element_size, at->first, at->count}, at->chunk);
  }
  out.chunks = packed_chunks<Deferred>(items, chunk_of, out.count, alignment, ties);
  return out;
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
