// SPDX-License-Identifier: Apache-2.0
// The most common mistake: a parameter is larger than the budget and may not be cut. The error names the parameter, the
// smallest budget that works and the alternative, before any byte has moved. This is initialise.cpp without its `.cut`.
//
// prints: make_plan: parameter 0 "w" needs 4000000 bytes (3.8 MiB) whole; the budget is 1048576 (1.0 MiB).
// prints:   Set .budget to at least 4000000, or .cut = unshard::cut::oversized.

#include <cstdio>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>

int main() {
  try {
    unshard::run_ranks(4, [](unshard::threads_communicator& comm) {
      std::vector<std::byte> shard(1'000'000);
      unshard::parameter_view w{"w", unshard::flat_shard{{1000, 1000}, 4}, sizeof(float), shard};
      for (auto& chunk : unshard::chunks(std::span(&w, 1), comm, unshard::overwrite, {.budget = 1 * unshard::MiB}))
        for (auto piece : chunk)
          for (float& x : piece.as<float>()) x = 0.02F;
    });
  } catch (const unshard::budget_too_small& e) {
    std::printf("%s\n", e.what());
  }
}
