// SPDX-License-Identifier: Apache-2.0
#pragma once  // packing/owner_lists.hpp: the units of each owner, and rounds in which all owners do about as much.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <unshard/base/later.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/packing/level_filler.hpp>
#include <unshard/packing/packer.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The units of each owner, in the order in which they were given to it: one list, that of owner 0 first.
template <class Deferred = void>
class owner_lists {
  template <class T>
  using vector = std::vector<later<T, Deferred>>;

 public:
  /// Unit order[i] is of owner owner_of[i], of `owners`.
  owner_lists(const packer<Deferred>& packed, const vector<std::size_t>& order, const vector<std::uint32_t>& owner_of,
              std::size_t owners)
      : units_(packed.units()), ends_(owners + 1, 0), list_(order.size()), upto_(order.size() + 1, 0) {
    for (const std::uint32_t o : owner_of) ++ends_[o + 1];
    for (std::size_t o = 0; o < owners; ++o) ends_[o + 1] += ends_[o];
    vector<std::size_t> at(ends_.begin(), ends_.end() - 1);
    for (std::size_t i = 0; i < order.size(); ++i) list_[at[owner_of[i]]++] = order[i];
    for (std::size_t i = 0; i < list_.size(); ++i) upto_[i + 1] = upto_[i] + packed.weights()[list_[i]].cost;
  }

  /// How many chunks the fullest list takes, filled to the brim.
  std::size_t rounds(std::size_t alignment, std::size_t capacity) const {
    std::size_t most = 0;
    for (std::size_t o = 0; o + 1 < ends_.size(); ++o) {
      level_filler filler(alignment, capacity, 0);
      for (std::size_t i = ends_[o]; i < ends_[o + 1]; ++i) filler.add(units_[list_[i]], [](auto...) {});
      most = most < filler.chunks() ? filler.chunks() : most;
    }
    return most;
  }

  /// Calls piece(owner, unit, round, first, count) for every piece, in `rounds` rounds, count < 0 for all of a unit. A
  /// list with cut units is filled to the brim; the others go on to the same cost in each round: about as far as the
  /// first of them to fill its chunk, and at least as far as what is left of any needs.
  template <class Piece>
  void pack(std::size_t rounds, std::size_t alignment, std::size_t capacity, Piece piece) const {
    vector<hand> hands;
    for (std::size_t o = 0; o + 1 < ends_.size(); ++o) {
      if (!has_cut(o)) {
        hands.push_back({o, ends_[o], ends_[o], ends_[o]});
        continue;
      }
      level_filler filler(alignment, capacity, rounds);
      for (std::size_t i = ends_[o]; i < ends_[o + 1]; ++i)
        filler.add(units_[list_[i]],
                   [&](std::size_t chunk, index_t first, index_t count) { piece(o, list_[i], chunk, first, count); });
    }
    const vector<std::uint32_t> needs = chunks_from(capacity);
    for (std::size_t round = 0; round < rounds; ++round) {
      look_ahead(hands, needs, rounds - round - 1, capacity);
      const std::uint64_t level = best_level(hands, most_looks / rounds);
      for (hand& h : hands) {
        for (const std::size_t to = goes_to(h, level); h.at < to; ++h.at)
          piece(h.owner, list_[h.at], round, index_t{0}, index_t{-1});
      }
    }
  }

 private:
  /// Where an owner is in its list; the least and the most that it may have done at the end of a round.
  struct hand {
    std::size_t owner;
    std::size_t at;
    std::size_t least;
    std::size_t most;
  };

  bool has_cut(std::size_t owner) const {
    for (std::size_t i = ends_[owner]; i < ends_[owner + 1]; ++i) {
      if (units_[list_[i]].cut) return true;
    }
    return false;
  }

  /// The cost of an owner's units before position `to`.
  std::uint64_t done(const hand& h, std::size_t to) const { return upto_[to] - upto_[ends_[h.owner]]; }

  /// How many chunks the units from each position on take, to the end of its owner's list.
  vector<std::uint32_t> chunks_from(std::size_t capacity) const {
    vector<std::uint32_t> needs(list_.size(), 0);
    for (std::size_t o = 0; o + 1 < ends_.size(); ++o) {
      std::size_t used = 0;
      std::uint32_t chunks = 1;
      for (std::size_t i = ends_[o + 1]; i-- > ends_[o];) {
        const std::size_t size = units_[list_[i]].aligned;
        if (size > capacity - used) ++chunks, used = 0;
        used += size < capacity ? size : capacity;  // a cut one, of a list that is packed otherwise
        needs[i] = chunks;
      }
    }
    return needs;
  }

  /// Sets the least and the most that each may have done at the end of this round, with so many `left` after it.
  void look_ahead(vector<hand>& hands, const vector<std::uint32_t>& needs, std::size_t left,
                  std::size_t capacity) const {
    for (hand& h : hands) {
      const std::size_t end = ends_[h.owner + 1];
      h.least = h.most = h.at;
      while (h.least < end && needs[h.least] > left) ++h.least;
      for (std::size_t room = capacity; h.most < end && units_[list_[h.most]].aligned <= room; ++h.most)
        room -= units_[list_[h.most]].aligned;
    }
  }

  /// Where an owner ends the round if all go on to a cost of `level`.
  std::size_t goes_to(const hand& h, std::uint64_t level) const {
    return h.least + first_not(h.most - h.least, [&](std::size_t i) { return done(h, h.least + i + 1) <= level; });
  }

  /// What a round up to `level` costs, and at least the rest after it: those of the busiest.
  std::uint64_t price(const vector<hand>& hands, std::uint64_t level) const {
    std::uint64_t busiest = 0;
    std::uint64_t rest = 0;
    for (const hand& h : hands) {
      const std::size_t to = goes_to(h, level);
      const std::uint64_t now = done(h, to) - done(h, h.at);
      const std::uint64_t later = done(h, ends_[h.owner + 1]) - done(h, to);
      busiest = busiest < now ? now : busiest;
      rest = rest < later ? later : rest;
    }
    return busiest + rest;
  }

  /// The level with the least price. The first that is looked at is where the first owner fills its chunk, or what is
  /// needed if that is more; then where others do, then a unit before that, for at most so many looks at owners.
  std::uint64_t best_level(const vector<hand>& hands, std::size_t looks) const {
    std::uint64_t needed = 0;
    std::uint64_t reached = (std::numeric_limits<std::uint64_t>::max)();
    for (const hand& h : hands) {
      if (done(h, h.least) > needed) needed = done(h, h.least);
      if (h.most < ends_[h.owner + 1] && done(h, h.most) < reached) reached = done(h, h.most);
    }
    std::uint64_t best = needed > reached ? needed : reached;
    if (hands.empty() || hands.size() >= looks) return best;
    std::uint64_t least = price(hands, best);
    std::size_t left = looks / hands.size();
    bool more = true;
    for (std::size_t back = 0; more && left > 0; ++back) {
      more = false;
      for (const hand& h : hands) {
        if (h.most - h.least < back || left == 0) continue;
        more = true;
        --left;
        const std::uint64_t level = done(h, h.most - back);
        const std::uint64_t found = price(hands, level);
        if (found < least || (found == least && level > best)) least = found, best = level;
      }
    }
    return best;
  }

  static constexpr std::size_t most_looks = std::size_t{1} << 20;  // a tenth of a second, over all rounds

  const vector<unit>& units_;
  vector<std::size_t> ends_;    // owner o has list_[ends_[o]] up to list_[ends_[o + 1]]
  vector<std::size_t> list_;    // units
  vector<std::uint64_t> upto_;  // the cost of all before a position
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
