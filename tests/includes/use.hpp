// SPDX-License-Identifier: Apache-2.0
#pragma once  // A use of the library that instantiates most of it: for tests of includes and of ways to install.

#include <cstddef>
#include <span>
#include <vector>

// Two ranks add one to every element of a value that they hold in shards; did it arrive?
inline bool use() {
  constexpr int ranks = 2;
  bool right[ranks] = {};
  unshard::run_ranks(ranks, [&right](auto& comm) {
    std::vector<float> shard(3, static_cast<float>(comm.rank()));
    std::vector<unshard::parameter_view> parameters;
    parameters.emplace_back("w", unshard::flat_shard{{2, 3}, ranks}, sizeof(float),
                            std::as_writable_bytes(std::span{shard}));
    for (auto& chunk : unshard::chunks(parameters, comm, unshard::read_write, {.budget = unshard::KiB})) {
      for (auto piece : chunk) {
        for (float& x : piece.template as<float>()) x += 1;
      }
    }
    right[comm.rank()] = shard == std::vector<float>(3, static_cast<float>(comm.rank() + 1));
  });
  return right[0] && right[1];
}
