// SPDX-License-Identifier: Apache-2.0
#pragma once  // cases.hpp: what the benchmarks gather, over threads and over processes: sizes, layouts, accesses.

#include <cstddef>
#include <string>
#include <unshard/unshard.hpp>
#include <utility>
#include <vector>

namespace bench {

constexpr std::size_t element = sizeof(float);

/// Parameters of equal size, `bytes` in all.
inline std::vector<unshard::any_layout> equal_parts(std::size_t bytes, std::size_t params, int ranks) {
  const auto elements = static_cast<unshard::index_t>(bytes / element / params);
  return std::vector<unshard::any_layout>(params, unshard::flat_shard({elements}, ranks));
}

/// 20,000 parameters of 4 to 64 KiB.
inline std::vector<unshard::any_layout> small_parts(int ranks) {
  std::vector<unshard::any_layout> many;
  for (int i = 0; i < 20'000; ++i) many.emplace_back(unshard::flat_shard({1024 * (1 + i % 16)}, ranks));
  return many;
}
constexpr std::size_t small_bytes = std::size_t{20'000} / 16 * 136 * 4096;  // of all of them

/// One matrix of `bytes`, 32 Mi elements and fewer, as each kind of framework would cut it.
inline std::vector<std::pair<std::string, unshard::any_layout>> layouts_of(std::size_t bytes, int n) {
  using namespace unshard;
  const auto rows = static_cast<index_t>(bytes / element / 4096);
  const extents shape{rows, 4096};
  const index_t elements = shape.elements();
  std::vector<index_t> offsets{0};  // rank r has r + 1 parts of n (n + 1) / 2
  for (int r = 0; r < n; ++r) offsets.push_back(elements / (n * (n + 1) / 2) * ((r + 1) * (r + 2) / 2));
  offsets.back() = elements;
  std::vector<std::vector<box>> strips(static_cast<std::size_t>(n));  // four strips a rank, in turn
  for (int s = 0; s < 4 * n; ++s) {
    const index_t from = rows * s / (4 * n), to = rows * (s + 1) / (4 * n);
    strips[static_cast<std::size_t>(s % n)].push_back({{from, 0}, {to - from, 4096}});
  }
  std::vector<std::pair<std::string, any_layout>> all{
      {"flat", flat_shard(shape, n)},           {"dim 0", dim_shard(shape, 0, n)}, {"dim 1", dim_shard(shape, 1, n)},
      {"ragged", ragged_shard(shape, offsets)}, {"owned", owned(shape, n - 1, n)}, {"replicated", replicated(shape, n)},
      {"boxes", box_shard(shape, strips)}};
  if (n % 2 == 0) {
    all.emplace_back("mesh", mesh_shard(shape, {{0, n / 2, 2}, {1, 2, 1}}, n));
    all.emplace_back("hsdp", mesh_shard(shape, {{0, n / 2, 1}}, n));
    all.emplace_back("on half", on_ranks(flat_shard(shape, n / 2), 0, 2, n));
  }
  return all;
}

template <class F>
void for_each_access(F f) {
  f(unshard::read);
  f(unshard::read_write);
  f(unshard::overwrite);
}

/// f(what, layout, access, residency) for each layout, residency and access.
template <class F>
void for_each_case(std::size_t bytes, int ranks, F f) {
  for (const auto& named : layouts_of(bytes, ranks)) {
    for (const unshard::residency on : {unshard::root(0), unshard::every_rank}) {
      for_each_access([&](auto access) {
        f(named.first + " " + std::string(access.name) + (on.all() ? " everywhere" : " root"), named.second, access,
          on);
      });
    }
  }
}

}  // namespace bench
