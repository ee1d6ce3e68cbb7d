// SPDX-License-Identifier: Apache-2.0
// Makes an int8 copy of a sharded model, tensor by tensor: each needs its largest value first, so each comes whole. The
// model is only read; handles over const shards will do.
//
// prints: layers.0: 40000 bytes became 10004, largest error 0.39 % of the largest value
// prints: layers.1: 80000 bytes became 20004, largest error 0.39 % of the largest value
// prints: in 2 chunks of at most 80000 bytes

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace {

struct quantised {
  float scale = 0;
  std::vector<std::int8_t> values;
};

quantised quantise(std::span<const float> whole) {
  quantised q;
  for (const float x : whole) q.scale = std::max(q.scale, std::abs(x) / 127);
  for (const float x : whole) q.values.push_back(static_cast<std::int8_t>(std::lround(x / q.scale)));
  return q;
}

double worst_error(std::span<const float> whole, const quantised& q) {
  float worst = 0;
  for (std::size_t i = 0; i < whole.size(); ++i)
    worst = std::max(worst, std::abs(whole[i] - q.scale * static_cast<float>(q.values[i])));
  return worst / (127 * q.scale);
}

}  // namespace

int main() {
  constexpr int ranks = 4;
  std::atomic<std::size_t> chunks{0};
  unshard::run_ranks(ranks, [&](unshard::threads_communicator& comm) {
    std::vector<float> first(100 * 100 / ranks, 0.5F * static_cast<float>(comm.rank() + 1));  // rows, as FSDP2 cuts
    std::vector<float> second(200 * 100 / ranks);
    for (std::size_t i = 0; i < second.size(); ++i) second[i] = std::sin(static_cast<float>(i));
    unshard::parameter_view model[] = {
        {"layers.0", unshard::dim_shard{{100, 100}, 0, ranks}, sizeof(float), std::as_writable_bytes(std::span(first))},
        {"layers.1", unshard::dim_shard{{200, 100}, 0, ranks}, sizeof(float),
         std::as_writable_bytes(std::span(second))}};

    for (auto& chunk : unshard::chunks(model, comm, unshard::read, {.budget = 80'000})) {
      for (auto piece : chunk) {  // on rank 0
        const auto whole = piece.as<float>();
        const quantised small = quantise(whole);
        std::printf("%s: %zu bytes became %zu, largest error %.2f %% of the largest value\n",
                    std::string(piece.name()).c_str(), whole.size_bytes(), small.values.size() + sizeof small.scale,
                    100 * worst_error(whole, small));
      }
      if (comm.rank() == 0) ++chunks;
    }
  });
  std::printf("in %zu chunks of at most 80000 bytes\n", chunks.load());
}
