// SPDX-License-Identifier: Apache-2.0
#pragma once  // floor.hpp: what a gather over threads is held against: the same copies by plain threads.

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstring>
#include <set>
#include <thread>
#include <unshard/unshard.hpp>
#include <utility>
#include <vector>

namespace bench {

/// Bytes [offset, offset + bytes) of a chunk are those of a rank's shards from `at` on; see `places`.
struct part {
  std::size_t at;
  std::size_t offset;
  std::size_t bytes;
  int rank;   ///< whose shard
  int first;  ///< the first rank with the same boxes: its replicas' parts differ in `rank` only
};

/// Where each parameter's shard begins in a rank's memory, on 64 bytes; the last one is where all end.
inline std::vector<std::size_t> places(const std::vector<unshard::any_layout>& layouts, int rank, std::size_t size) {
  std::vector<std::size_t> at{0};
  for (const unshard::any_layout& l : layouts) {
    std::size_t bytes = 0;
    for (const unshard::box& b : l.boxes_of(rank)) bytes += static_cast<std::size_t>(b.size.elements()) * size;
    at.push_back(at.back() + (bytes + 63) / 64 * 64);
  }
  return at;
}

/// Calls visit(first element, elements) for each contiguous run of a box, in the order of the shard.
template <class Visit>
void for_each_run(const unshard::extents& space, const unshard::box& b, Visit visit) {
  if (b.size.elements() == 0) return;
  int inner = space.dims();  // dimensions from here on are whole
  unshard::index_t run = 1;
  while (inner > 0) {
    --inner;
    run *= b.size[inner];
    if (b.size[inner] != space[inner]) break;
  }
  const unshard::index_t rows = b.size.elements() / run;
  for (unshard::index_t row = 0; row < rows; ++row) {
    unshard::index_t first = 0, rest = row, stride = 1;
    for (int d = space.dims() - 1; d >= 0; --d) {
      const unshard::index_t at = d >= inner ? 0 : rest % b.size[d];
      if (d < inner) rest /= b.size[d];
      first += (b.offset[d] + at) * stride;
      stride *= space[d];
    }
    visit(first, run);
  }
}

/// All parts of all chunks: parts[chunk]. Elements of `size` bytes, none of them cut by ties; shards lie as `places`
/// says.
template <class Handles>
std::vector<std::vector<part>> parts_of(const unshard::chunk_plan& plan, const Handles& handles,
                                        const std::vector<unshard::any_layout>& layouts, std::size_t size) {
  std::vector<std::vector<std::size_t>> at;
  for (int rank = 0; rank < layouts.front().ranks(); ++rank) at.push_back(places(layouts, rank, size));
  std::vector<std::vector<part>> all(plan.chunks());
  for (std::size_t c = 0; c < plan.chunks(); ++c) {
    for (const unshard::planned_piece& piece : plan.pieces(c, handles)) {
      const auto& layout = layouts[piece.parameter];
      for (int rank = 0; rank < layout.ranks(); ++rank) {
        std::size_t shard = at[static_cast<std::size_t>(rank)][piece.parameter];
        for (const unshard::box& b : layout.boxes_of(rank)) {
          for_each_run(layout.space(), b, [&](unshard::index_t first, unshard::index_t count) {
            const unshard::index_t from = std::max(first, piece.first);
            const unshard::index_t to = std::min(first + count, piece.first + piece.elements);
            if (from < to)
              all[c].push_back({shard + static_cast<std::size_t>(from - first) * size,
                                piece.offset + static_cast<std::size_t>(from - piece.first) * size,
                                static_cast<std::size_t>(to - from) * size, rank, layout.replica_of(rank)});
            shard += static_cast<std::size_t>(count) * size;
          });
        }
      }
    }
  }
  return all;
}

/// What fills a holder's buffer: its own parts, else those of the first replica.
inline std::vector<part> sources_of(const std::vector<part>& parts, int holder) {
  std::set<std::pair<int, std::size_t>> own;  // {first replica, offset} of what the holder has itself
  for (const part& p : parts) {
    if (p.rank == holder) own.emplace(p.first, p.offset);
  }
  std::vector<part> list;
  for (const part& p : parts) {
    if (p.rank == holder || (p.rank == p.first && !own.contains({p.first, p.offset}))) list.push_back(p);
  }
  return list;
}

struct copy {
  std::byte* to;
  const std::byte* from;
  std::size_t bytes;
};

/// The copies that fill the buffers of the ranks that hold; all ranks' shards and buffers are this process's.
inline std::vector<copy> gather_copies(const std::vector<part>& parts, const std::vector<std::byte*>& shards,
                                       const std::vector<std::byte*>& buffers) {
  std::vector<copy> list;
  for (std::size_t holder = 0; holder < buffers.size(); ++holder) {
    if (buffers[holder] == nullptr) continue;
    for (const part& p : sources_of(parts, static_cast<int>(holder)))
      list.push_back({buffers[holder] + p.offset, shards[static_cast<std::size_t>(p.rank)] + p.at, p.bytes});
  }
  return list;
}

/// The copies back: into every replica, from the rank's own buffer where it holds one.
inline std::vector<copy> write_copies(const std::vector<part>& parts, const std::vector<std::byte*>& shards,
                                      const std::vector<std::byte*>& buffers) {
  std::vector<copy> list;
  std::byte* root = *std::find_if(buffers.begin(), buffers.end(), [](std::byte* b) { return b != nullptr; });
  for (const part& p : parts) {
    std::byte* own = buffers[static_cast<std::size_t>(p.rank)];
    list.push_back(
        {shards[static_cast<std::size_t>(p.rank)] + p.at, (own == nullptr ? root : own) + p.offset, p.bytes});
  }
  return list;
}

/// Threads that wait, then copy lists one after the other, each list split evenly among them.
class copiers {
 public:
  copiers(std::size_t threads, const std::vector<std::vector<copy>>& lists)
      : start_(static_cast<std::ptrdiff_t>(threads) + 1), each_(static_cast<std::ptrdiff_t>(threads)) {
    for (std::size_t t = 0; t < threads; ++t) {
      std::vector<std::vector<copy>> mine;
      for (const auto& list : lists) mine.push_back(share(list, t, threads));
      pool_.emplace_back([this, mine = std::move(mine)] {
        for (;;) {
          start_.arrive_and_wait();
          if (stop_) return;
          for (const auto& list : mine) {
            for (const copy& c : list) std::memcpy(c.to, c.from, c.bytes);
            each_.arrive_and_wait();
          }
          start_.arrive_and_wait();
        }
      });
    }
  }
  copiers(const copiers&) = delete;
  copiers& operator=(const copiers&) = delete;
  ~copiers() {
    stop_ = true;
    start_.arrive_and_wait();
    for (auto& t : pool_) t.join();
  }
  void run() {
    start_.arrive_and_wait();
    start_.arrive_and_wait();
  }

 private:
  static std::vector<copy> share(const std::vector<copy>& list, std::size_t t, std::size_t threads) {
    std::size_t total = 0;
    for (const copy& c : list) total += c.bytes;
    const std::size_t from = total / threads * t;
    const std::size_t to = t + 1 == threads ? total : total / threads * (t + 1);
    std::vector<copy> mine;
    std::size_t at = 0;
    for (const copy& c : list) {
      const std::size_t first = std::max(at, from), last = std::min(at + c.bytes, to);
      if (first < last) mine.push_back({c.to + (first - at), c.from + (first - at), last - first});
      at += c.bytes;
    }
    return mine;
  }
  std::barrier<> start_, each_;
  bool stop_ = false;
  std::vector<std::thread> pool_;
};

}  // namespace bench
