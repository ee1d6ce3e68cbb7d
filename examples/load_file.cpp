// SPDX-License-Identifier: Apache-2.0
// Loads a file into a sharded model. Rank 0 reads each byte once, straight into the chunk that it holds; the end of the
// chunk sends every rank its part. Nobody ever holds the file, or the model.
//
// prints: loaded 200000 bytes in 13 chunks; every shard is as expected

#include <atomic>
#include <cstdio>
#include <fstream>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

int main() {
  constexpr unshard::index_t elements = 50'000;
  constexpr int ranks = 4;
  const char* path = "values.bin";
  {
    std::ofstream file(path, std::ios::binary);  // what a checkpoint would be: value i is i
    for (unshard::index_t i = 0; i < elements; ++i) {
      const auto value = static_cast<float>(i);
      file.write(reinterpret_cast<const char*>(&value), sizeof value);
    }
  }

  std::atomic<std::size_t> chunks{0};
  std::atomic<std::size_t> bytes{0};
  std::atomic<bool> right{true};
  unshard::run_ranks(ranks, [&](unshard::threads_communicator& comm) {
    std::vector<float> shard(elements / ranks);  // as ZeRO-3 cuts
    unshard::parameter_view weights[] = {
        {"w", unshard::flat_shard{{500, 100}, ranks}, sizeof(float), std::as_writable_bytes(std::span(shard))}};

    std::ifstream file;
    file.exceptions(std::ios::failbit | std::ios::badbit);  // a short file on rank 0 is peer_failed on the others
    if (comm.rank() == 0) file.open(path, std::ios::binary);
    const unshard::options options{.budget = 16 * unshard::KiB, .cut = unshard::cut::oversized};
    for (auto& chunk : unshard::chunks(weights, comm, unshard::overwrite, options)) {
      for (auto piece : chunk) {
        file.seekg(piece.first() * static_cast<std::streamoff>(sizeof(float)));  // where this piece lies in the file
        file.read(reinterpret_cast<char*>(piece.bytes().data()), static_cast<std::streamsize>(piece.bytes().size()));
        ++chunks;
        bytes += piece.bytes().size();
      }
    }

    unshard::index_t i = comm.rank() * elements / ranks;
    for (const float w : shard) {
      if (w != static_cast<float>(i)) right = false;
      ++i;
    }
  });
  std::remove(path);
  std::printf("loaded %zu bytes in %zu chunks; every shard is %s\n", bytes.load(), chunks.load(),
              right ? "as expected" : "WRONG");
}
