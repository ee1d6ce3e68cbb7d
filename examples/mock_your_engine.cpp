// SPDX-License-Identifier: Apache-2.0
// Tests an engine without its hardware: the mock wraps any communicator, counts what goes through it, and breaks it on
// purpose. Here the threads engine; first a clean run, then one run for every operation at which rank 1 can fail.
//
// prints: clean: 4 chunks, rank 1 sent 4 times and received 4 times, 1024 bytes each way
// prints: rank 1 failed at each of its operations in turn: all came back, and nobody hung

#include <atomic>
#include <cstdio>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/testing/mock.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace {

constexpr int ranks = 4;

// Adds one to every element of four tensors, through a mock; returns rank 1's counts.
unshard::mock_counts add_one(unshard::mock_world& world) {
  unshard::run_ranks(ranks, [&](unshard::threads_communicator& engine) {
    unshard::mock_communicator comm(engine, world);
    std::vector<std::vector<float>> shards(4, std::vector<float>(64));
    std::vector<unshard::parameter_view> tensors;
    for (auto& s : shards)
      tensors.emplace_back("t", unshard::flat_shard{{256}, ranks}, sizeof(float), std::as_writable_bytes(std::span(s)));
    for (auto& chunk : unshard::chunks(tensors, comm, unshard::read_write, {.budget = 1024, .timeout_ms = 1000})) {
      for (auto piece : chunk) {
        for (float& x : piece.as<float>()) x += 1;
      }
    }
  });
  return world.counts(1);
}

}  // namespace

int main() {
  unshard::mock_world clean(ranks);
  const unshard::mock_counts counts = add_one(clean);
  std::printf("clean: 4 chunks, rank 1 sent %zu times and received %zu times, %zu bytes each way\n", counts.sends,
              counts.receives, counts.bytes_sent);

  bool hung = false;
  std::size_t told = 0;
  for (std::size_t operation = 0; operation < counts.operations; ++operation) {
    unshard::mock_world world(ranks);
    world.inject({.kind = unshard::fault_kind::fail_before, .rank = 1, .operation = operation});
    try {
      add_one(world);
    } catch (const unshard::error&) {
      ++told;  // by whichever rank came first; none is left waiting
    }
    hung = hung || world.hung();
  }
  std::printf("rank 1 failed at each of its operations in turn: %s, and %s\n",
              told == counts.operations ? "all came back" : "SOME WENT UNNOTICED", hung ? "SOME HUNG" : "nobody hung");
}
