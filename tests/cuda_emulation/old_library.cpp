// SPDX-License-Identifier: Apache-2.0
// old_library.cpp: built with the headers that are here, run with a library that lacks what NCCL 2.27 and 2.28 added.
// Two ranks read even shards on a root, which takes gathers, and ask for windows. Exits 0 where all was right.

#include <cstdio>
#include <unshard/comm/nccl.hpp>
#include <unshard/cuda/memory.hpp>
#include <unshard/unshard.hpp>

#include "ranks.hpp"

int main() {
  using namespace ranks;
  cuda_emulation::set_version(NCCL_VERSION(2, 18, 5));
  const ncclUniqueId id = new_id();
  const auto thrown = run_all(2, [&](int rank) {
    ranks::stream s;
    unshard::nccl_communicator<> comm(id, 2, rank, s.get(), {.timeout_ms = 10'000});
    constexpr std::size_t bytes = std::size_t{128} << 10;
    unshard::nccl_memory own(comm, unshard::registration::windows), memory(comm, unshard::registration::windows);
    unshard::nccl_memory on_root(comm, unshard::registration::buffers);  // windows take every rank
    auto* shard = static_cast<std::byte*>(own.allocate(bytes, 128));
    fill(s.get(), shard, bytes, static_cast<unsigned>(rank));
    const std::vector<unshard::parameter_view> list{
        {"w", unshard::flat_shard({2 * static_cast<index_t>(bytes)}, 2), 1, {shard, bytes}}};
    for (auto& chunk : unshard::chunks(list, comm, unshard::read_write,
                                       {.budget = 4 * unshard::MiB, .on = unshard::every_rank}, memory))
      static_cast<void>(chunk);
    for (auto& chunk : unshard::chunks(list, comm, unshard::read_write, {.budget = 4 * unshard::MiB}, on_root))
      static_cast<void>(chunk);
    own.deallocate(shard, bytes, 128);
  });
  int failed = 0;
  for (const auto& t : thrown) {
    try {
      if (t) std::rethrow_exception(t);
    } catch (const std::exception& e) {
      std::printf("%s\n", e.what());
      failed = 1;
    }
  }
  for (const std::string& v : cuda_emulation::violations()) {
    std::printf("%s\n", v.c_str());
    failed = 1;
  }
  const std::string left = cuda_emulation::leaks();
  if (!left.empty()) std::printf("not destroyed: %s\n", left.c_str());
  return left.empty() ? failed : 1;
}
