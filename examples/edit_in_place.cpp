// SPDX-License-Identifier: Apache-2.0
// Edits a sharded weight in place: merges a low-rank update, w += b a, as one does with an adapter before serving. The
// weight passes through a buffer of 64 KiB, a few rows at a time; nobody ever holds all of it, and the root alone holds
// what it edits.
//
// prints: merged 512 x 256 in 8 chunks; every element is as expected

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

int main() {
  constexpr unshard::index_t rows = 512;
  constexpr unshard::index_t columns = 256;
  constexpr int ranks = 4;
  const auto b = [](unshard::index_t row) { return static_cast<float>(row % 7); };  // rank one, for brevity
  const auto a = [](unshard::index_t column) { return static_cast<float>(column % 5); };

  std::atomic<std::size_t> chunks{0};
  std::atomic<bool> right{true};
  unshard::run_ranks(ranks, [&](unshard::threads_communicator& comm) {
    std::vector<float> shard(rows / ranks * columns, 1.0F);  // rows, as FSDP2 cuts
    unshard::parameter_view weights[] = {
        {"w", unshard::dim_shard{{rows, columns}, 0, ranks}, sizeof(float), std::as_writable_bytes(std::span(shard))}};

    const unshard::options options{.budget = 64 * unshard::KiB, .cut = unshard::cut::oversized};
    for (auto& chunk : unshard::chunks(weights, comm, unshard::read_write, options)) {
      for (auto piece : chunk) {
        ++chunks;
        unshard::index_t i = piece.first();  // a piece says which elements of the whole it holds
        for (float& w : piece.as<float>()) {
          w += b(i / columns) * a(i % columns);
          ++i;
        }
      }
    }

    unshard::index_t i = comm.rank() * rows / ranks * columns;
    for (const float w : shard) {
      if (w != 1.0F + b(i / columns) * a(i % columns)) right = false;
      ++i;
    }
  });
  std::printf("merged %d x %d in %zu chunks; every element is %s\n", static_cast<int>(rows), static_cast<int>(columns),
              chunks.load(), right ? "as expected" : "WRONG");
}
