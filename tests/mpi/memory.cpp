// SPDX-License-Identifier: Apache-2.0
// What processes hold, not only what our buffers do: by how much each one's resident set rises over a whole range.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <unshard/unshard.hpp>

#include "world.hpp"

namespace {

using namespace unshard;

/// A line of /proc/self/status, in bytes; 0 where there is none.
std::size_t status(const char* key) {
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  char line[256];
  unsigned long kib = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, key, std::strlen(key)) == 0) std::sscanf(line + std::strlen(key), ": %lu", &kib);
  }
  std::fclose(file);
  return std::size_t{kib} * 1024;
}

bool reset_peak() {
  std::FILE* file = std::fopen("/proc/self/clear_refs", "w");
  if (file == nullptr) return false;
  const bool done = std::fputs("5", file) >= 0;
  return std::fclose(file) == 0 && done;
}

}  // namespace

TEST_CASE(
    "mpi_communicator: overwrite of 512 MiB in 16 MiB chunks grows the root by 1.1 budgets, the others by 4 MiB") {
  const int ranks = world::size();
  constexpr std::size_t model = 512 * MiB, budget = 16 * MiB, count = 64;
  const auto each = static_cast<index_t>(model / count / sizeof(float));
  std::vector<std::vector<float>> shards;
  std::vector<parameter_view> handles;
  for (std::size_t i = 0; i < count; ++i) {
    const flat_shard layout({each}, ranks);
    shards.emplace_back(static_cast<std::size_t>(layout.boxes_of(world::rank()).begin()->size.elements()), 1.0F);
    handles.emplace_back("", layout, sizeof(float), std::as_writable_bytes(std::span(shards.back())));
  }
  world::barrier();
  const bool known = reset_peak() && status("VmRSS") > 0;
  const std::size_t before = status("VmRSS");
  {
    mpi_communicator comm(MPI_COMM_WORLD);
    for (auto& chunk : chunks(handles, comm, overwrite, {.budget = budget, .timeout_ms = world::patient_ms})) {
      for (auto piece : chunk) {
        for (float& x : piece.as<float>()) x = 2.0F;
      }
    }
  }
  const std::size_t peak = status("VmHWM");
  const std::size_t rise = peak > before ? peak - before : 0;
  std::vector<std::size_t> rises(world::index(ranks));
  MPI_Gather(&rise, sizeof rise, MPI_BYTE, rises.data(), sizeof rise, MPI_BYTE, 0, MPI_COMM_WORLD);
  for (int r = 0; world::rank() == 0 && r < ranks; ++r)
    std::printf("rank %d of %d: resident set +%.2f MiB\n", r, ranks,
                static_cast<double>(rises[world::index(r)]) / static_cast<double>(MiB));
  for (const auto& shard : shards) CHECK(std::count(shard.begin(), shard.end(), 2.0F) == std::ssize(shard));
  if (!known) return;
  CHECK(rise <= (world::rank() == 0 ? budget + budget / 10 : 0) + 4 * MiB);
}
