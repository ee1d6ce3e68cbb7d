// SPDX-License-Identifier: Apache-2.0
#pragma once  // packing/spread.hpp: what each rank of a spread plan does, and chunks in order that are alike.

#include <cstddef>
#include <cstdint>
#include <unshard/base/checked.hpp>
#include <unshard/base/later.hpp>
#include <unshard/packing/level_filler.hpp>
#include <unshard/packing/packer.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Chunk c is of rank c % ranks, in round c / ranks. Their costs, and what follows from them.
template <class Deferred = void>
class chunk_costs {
 public:
  explicit chunk_costs(std::size_t ranks) : loads_(ranks, 0) {}

  /// Adds what `count` elements of unit `u` from `first` on cost; count < 0: all of it. Parts of a unit sum up to it.
  void add(std::size_t chunk, const unit& u, const unit_weight& w, index_t first, index_t count) {
    if (chunk >= of_.size()) of_.resize(chunk + 1, 0);
    const bool whole = count < 0 || count == u.elements;
    of_[chunk] +=
        static_cast<double>(w.cost) * (whole ? 1.0 : static_cast<double>(count) / static_cast<double>(u.elements));
    loads_[chunk % loads_.size()] +=
        whole ? w.cost : up_to(w.cost, first + count, u.elements) - up_to(w.cost, first, u.elements);
  }

  /// Of each rank.
  std::vector<later<std::uint64_t, Deferred>> take_loads() { return std::move(loads_); }

  /// The sum over rounds of the busiest rank's, over the mean rank's of all; 1 where nothing costs anything.
  double balance() const {
    const std::size_t ranks = loads_.size();
    double busiest = 0;
    double all = 0;
    double most = 0;  // of the round
    for (std::size_t c = 0; c < of_.size(); ++c) {
      if (c % ranks == 0) busiest += std::exchange(most, 0);
      most = most < of_[c] ? of_[c] : most;
      all += of_[c];
    }
    return all == 0 ? 1.0 : (busiest + most) / (all / static_cast<double>(ranks));
  }

 private:
  static std::uint64_t up_to(std::uint64_t cost, index_t elements, index_t all) {
    if (elements == all) return cost;
    const auto part = static_cast<std::uint64_t>(static_cast<double>(cost) *
                                                 (static_cast<double>(elements) / static_cast<double>(all)));
    return part < cost ? part : cost;
  }

  std::vector<later<double, Deferred>> of_;
  std::vector<later<std::uint64_t, Deferred>> loads_;
};

/// How many chunks of at most `level` bytes the units fill in order; more than `most` are not counted to the end.
template <class Deferred>
std::size_t chunks_at(const std::vector<later<unit, Deferred>>& units, std::size_t alignment, std::size_t level,
                      std::size_t most) {
  level_filler filler(alignment, level, 0);
  for (const unit& u : units) {
    filler.add(u, [](std::size_t, index_t, index_t) {});
    if (filler.chunks() > most) break;
  }
  return filler.chunks();
}

/// The lowest level, a multiple of the alignment, up to which chunks are filled in order without a round more than
/// those filled to the brim need. A lower one never needs fewer chunks, so that it can be bisected.
template <class Deferred>
std::size_t level_of(const packer<Deferred>& packed, std::size_t ranks, std::size_t alignment, std::size_t capacity) {
  const auto& units = packed.units();
  const std::size_t brim = chunks_at<Deferred>(units, alignment, capacity, static_cast<std::size_t>(-1));
  if (brim > most_chunks) return capacity;
  const std::size_t most = (brim + ranks - 1) / ranks * ranks;
  const std::size_t share = most == 0 ? 0 : packed.aligned_bytes() / most;
  std::size_t low = align_up(share > packed.largest_unit() ? share : packed.largest_unit(), alignment);
  std::size_t high = capacity;
  // Some level up to a few times the largest unit over the mean will do: near the mean first.
  for (std::size_t step = alignment; low < high && step < high - low; step *= 2) {
    if (chunks_at<Deferred>(units, alignment, low + step, most) <= most) {
      high = low + step;
      break;
    }
    low += step + alignment;
  }
  while (low < high) {
    const std::size_t middle = low + ((high - low) / 2 & ~(alignment - 1));
    if (chunks_at<Deferred>(units, alignment, middle, most) <= most) {
      high = middle;
    } else {
      low = middle + alignment;
    }
  }
  return high;
}

/// Chunks in order that are all filled up to one level.
template <class Deferred = void>
struct in_order_chunks {
  in_order_chunks(const packer<Deferred>& packed, std::size_t ranks, std::size_t alignment, std::size_t capacity)
      : filler(alignment, level_of(packed, ranks, alignment, capacity)), costs(ranks) {
    for (std::size_t i = 0; i < packed.units().size(); ++i) {
      const unit& u = packed.units()[i];
      filler.add(u, [&](std::size_t chunk, index_t first, index_t count) {
        if (chunk == starts.size()) starts.push_back({u.begin, first});
        costs.add(chunk, u, packed.weights()[i], first, count);
      });
    }
  }

  level_filler filler;
  std::vector<later<cut_point, Deferred>> starts;
  chunk_costs<Deferred> costs;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
