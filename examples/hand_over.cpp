// SPDX-License-Identifier: Apache-2.0
// Hands the weights of a training group to an inference group, step after step. Four trainers hold them as ZeRO-3 does,
// two inference ranks as tensor parallelism does. The two plans are made once and replayed every step; no rank ever
// holds more than a chunk. One communicator spans all six ranks, a second one the two of inference.
//
// prints: step 1: 5 chunks handed over, inference has the trainers' weights
// prints: step 2: 5 chunks handed over, inference has the trainers' weights
// prints: step 3: 5 chunks handed over, inference has the trainers' weights

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <optional>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace {

constexpr int trainers = 4;
constexpr int inference = 2;
constexpr int everyone = trainers + inference;
constexpr unshard::index_t rows = 96;
constexpr unshard::index_t columns = 40;
constexpr int layers = 5;

// The weights of one rank, in its group's layout; `layout` is the one that the communicator at hand knows it by.
struct weights {
  template <class Layout>
  weights(const Layout& layout, int rank) {
    for (int i = 0; i < layers; ++i) {
      unshard::index_t held = 0;
      for (const unshard::box& b : layout.boxes_of(rank)) held += b.size.elements();
      shards.emplace_back(static_cast<std::size_t>(held));
      views.emplace_back("layer", layout, sizeof(float), std::as_writable_bytes(std::span(shards.back())));
    }
  }
  std::vector<std::vector<float>> shards;
  std::vector<unshard::parameter_view> views;
};

}  // namespace

int main() {
  const unshard::options options{.budget = rows * columns * sizeof(float)};
  const unshard::run_options hand{.on = unshard::root(trainers)};
  const unshard::run_options take{.on = unshard::root(0)};  // the same rank, in its own group
  unshard::threads_group inference_group(inference);

  unshard::run_ranks(everyone, [&](unshard::threads_communicator& all) {
    const bool trains = all.rank() < trainers;
    // To the trainers' layout, inference ranks hold nothing: ranks 0 to 3 of the six.
    weights mine(unshard::on_ranks{unshard::flat_shard{{rows, columns}, trainers}, 0, 1, everyone}, all.rank());
    const auto plan = unshard::make_plan(mine.views, options, all);

    std::optional<unshard::threads_communicator> group;
    std::optional<weights> theirs;
    std::optional<unshard::chunk_plan> load;
    if (!trains) {
      const int rank = all.rank() - trainers;
      group = inference_group.communicator(rank);
      theirs.emplace(unshard::dim_shard{{rows, columns}, 1, inference}, rank);
      load = unshard::make_plan(theirs->views, options, *group);
    }

    for (int step = 1; step <= 3; ++step) {
      if (trains) {
        for (auto& shard : mine.shards) std::fill(shard.begin(), shard.end(), static_cast<float>(step));  // "training"
      }
      std::size_t chunks = 0;
      for (auto& chunk : unshard::chunks(plan, mine.views, all, unshard::read, hand)) {
        ++chunks;
        if (trains) continue;
        // Both plans have the same chunks, for the same sizes and budget; this scope is collective over inference.
        unshard::gather_scope into(*load, chunk.number(), theirs->views, *group, unshard::overwrite, take);
        auto from = chunk.begin();
        for (auto piece : into) {
          const auto values = (*from).bytes();
          std::memcpy(piece.bytes().data(), values.data(), values.size());
          ++from;
        }
        into.commit();
      }
      if (!trains) {
        bool right = true;
        for (const auto& shard : theirs->shards)
          right =
              right && std::all_of(shard.begin(), shard.end(), [&](float w) { return w == static_cast<float>(step); });
        if (group->rank() == 0 || !right)
          std::printf("step %d: %zu chunks handed over, inference has %s\n", step, chunks,
                      right ? "the trainers' weights" : "SOMETHING ELSE");
      }
    }
  });
}
