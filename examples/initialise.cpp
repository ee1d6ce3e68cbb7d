// SPDX-License-Identifier: Apache-2.0
// The smallest program: each of four ranks holds a quarter of one value. Rank 0 fills the whole value through a buffer
// of 1 MiB, and every rank's shard receives its part. The README and the home page show this program and its output.
//
// prints: w: 262144 elements from      0 on
// prints: w: 262144 elements from 262144 on
// prints: w: 262144 elements from 524288 on
// prints: w: 213568 elements from 786432 on

#include <cstdio>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
int main() {
  unshard::run_ranks(4, [](unshard::threads_communicator& comm) {  // or MPI, NCCL, your own
    std::vector<std::byte> shard(1'000'000);                       // this rank's quarter
    unshard::parameter_view w{"w", unshard::flat_shard{{1000, 1000}, 4}, sizeof(float), shard};
    const unshard::options options{.budget = 1 * unshard::MiB, .cut = unshard::cut::oversized};
    for (auto& chunk : unshard::chunks(std::span(&w, 1), comm, unshard::overwrite, options))
      for (auto piece : chunk) {  // on rank 0; the other ranks hold nothing
        for (float& x : piece.as<float>()) x = 0.02F;
        std::printf("w: %6td elements from %6td on\n", piece.elements(), piece.first());
      }
  });
}
