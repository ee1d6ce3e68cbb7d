// SPDX-License-Identifier: Apache-2.0
// nccl.cu [ranks]: the NCCL engine on one GPU: the conformance kit, whole ranges checked, and how much time a range of
// large chunks takes over the same NCCL calls. Several ranks on one GPU need NCCL 2.30 and
// NCCL_MULTI_RANK_GPU_ENABLE=1. `nccl.cu 1 quick` leaves the figures out, for compute-sanitizer. Exits 1 on findings or
// wrong bytes.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <unshard/comm/nccl.hpp>
#include <unshard/comm/threads.hpp>
#include <unshard/cuda/copy_boxes.hpp>
#include <unshard/cuda/memory.hpp>
#include <unshard/testing/conformance.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "pinned_new.hpp"

namespace {

using unshard::index_t;

std::atomic<int> failures{0};

void must(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  std::printf("%s: %s\n", call, cudaGetErrorString(code));
  std::exit(1);
}
ncclUniqueId new_id() {
  ncclUniqueId id;
  if (ncclGetUniqueId(&id) != ncclSuccess) std::exit(1);
  return id;
}

struct stream {
  stream() { must(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  stream(const stream&) = delete;
  ~stream() { cudaStreamDestroy(handle); }
  cudaStream_t handle;
};

/// f(rank, comm, stream) on n threads, whose hosts talk through the threads engine or through NCCL.
template <class Copier, class F>
void on_ranks(int n, bool words, F f) {
  const ncclUniqueId id = new_id();
  unshard::threads_group hosts(n);
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r)
    threads.emplace_back([&, r] {
      try {
        const stream s;
        auto host = hosts.communicator(r);
        unshard::nccl_options options{.timeout_ms = 20'000};
        if (!words) options.exchange = host;
        unshard::nccl_communicator<Copier> comm(id, n, r, s.handle, options);
        f(r, comm, s.handle);
        cudaStreamSynchronize(s.handle);
      } catch (const std::exception& e) {
        std::printf("rank %d: %s\n", r, e.what());
        ++failures;
      }
    });
  for (std::thread& t : threads) t.join();
}

template <class Copier>
void kit(const char* name, int most) {
  pinned::turn(true);
  std::vector<unshard::finding> found;
  if (most == 1) {
    const stream s;
    found = unshard::check_communicator(
        [&] { return unshard::nccl_communicator<Copier>(new_id(), 1, 0, s.handle, {.timeout_ms = 20'000}); });
  } else {
    found = unshard::check_communicator(
        [](int n, auto f) { on_ranks<Copier>(n, false, [&](int, auto& comm, cudaStream_t) { f(comm); }); });
  }
  pinned::turn(false);
  for (const unshard::finding& f : found) std::printf("kit, %s: %s: %s\n", name, f.check.c_str(), f.what.c_str());
  failures += static_cast<int>(found.size());
  std::printf("conformance kit, %s, %s: %zu findings\n", name, most == 1 ? "1 rank" : "1 to 5 ranks", found.size());
}

/// Flat and strided shards, written by the root or by all, read back whole.
template <class Copier, class Memory>
void ranges(const char* name, int n, bool everywhere) {
  std::atomic<int> wrong{0};
  on_ranks<Copier>(n, true, [&](int rank, auto& comm, cudaStream_t s) {
    const unshard::extents shape{index_t{96}, index_t{1000}};
    const std::vector<unshard::any_layout> layouts{unshard::flat_shard(shape, n), unshard::dim_shard(shape, 1, n),
                                                   unshard::dim_shard(shape, 0, n), unshard::replicated(shape, n)};
    std::vector<std::byte*> shards(layouts.size());
    std::vector<unshard::parameter_view> list;
    for (std::size_t i = 0; i < layouts.size(); ++i) {
      must(cudaMalloc(&shards[i], 400'000), "cudaMalloc");
      list.emplace_back("p", layouts[i], 4, std::span(shards[i], 400'000));
    }
    unshard::options o{.budget = 3'000'000};
    if (everywhere) o.on = unshard::every_rank;
    auto memory = [&] {
      if constexpr (std::is_same_v<Memory, unshard::pinned_memory>)
        return Memory();
      else
        return Memory(s);
    }();
    std::vector<float> value(96'000), back(96'000);
    for (int round = 0; round < 3; ++round) {
      for (auto& chunk : unshard::chunks(list, comm, unshard::overwrite, o, memory))
        for (auto piece : chunk) {
          for (std::size_t i = 0; i < value.size(); ++i)
            value[i] = static_cast<float>(i + piece.index() * 7 + static_cast<std::size_t>(round));
          cudaMemcpyAsync(piece.bytes().data(), value.data(), piece.bytes().size(), cudaMemcpyDefault, s);
          cudaStreamSynchronize(s);  // `value` is used again
        }
      for (auto& chunk : unshard::chunks(list, comm, unshard::read, o, memory))
        for (auto piece : chunk) {
          cudaMemcpyAsync(back.data(), piece.bytes().data(), piece.bytes().size(), cudaMemcpyDefault, s);
          cudaStreamSynchronize(s);
          for (std::size_t i = 0; i < back.size(); ++i)
            wrong += back[i] != static_cast<float>(i + piece.index() * 7 + static_cast<std::size_t>(round));
        }
    }
    static_cast<void>(rank);
    for (std::byte* p : shards) cudaFree(p);
  });
  failures += wrong == 0 ? 0 : 1;
  std::printf("ranges, %s, %d ranks, %s: %d wrong\n", name, n, everywhere ? "every rank" : "root", wrong.load());
}

/// 20 chunks of 256 MiB to every rank over the same all-gathers in a loop; and an exchange.
void figures(int n, int in_flight) {
  constexpr std::size_t chunk = std::size_t{256} << 20;
  constexpr int count = 20;
  const std::size_t each = chunk / static_cast<std::size_t>(n);
  const ncclUniqueId bare_id = new_id();
  on_ranks<unshard::cuda::memcpy_copier>(n, true, [&](int rank, auto& comm, cudaStream_t s) {
    std::byte* shard;
    std::byte* buffer;
    must(cudaMalloc(&shard, each * count), "cudaMalloc");
    must(cudaMalloc(&buffer, 2 * chunk), "cudaMalloc");
    std::vector<unshard::parameter_view> list;
    for (int i = 0; i < count; ++i)
      list.emplace_back("p", unshard::flat_shard({static_cast<index_t>(chunk)}, n), 1,
                        std::span(shard + static_cast<std::size_t>(i) * each, each));
    ncclComm_t bare;
    if (ncclCommInitRank(&bare, n, bare_id, rank) != ncclSuccess) throw std::runtime_error("ncclCommInitRank");
    unshard::cuda_memory memory(s);
    const unshard::options o{.budget = 2 * chunk * static_cast<std::size_t>(in_flight) + (1 << 20),
                             .in_flight = in_flight,
                             .on = unshard::every_rank};
    cudaEvent_t start, stop;
    cudaEventCreate(&start);
    cudaEventCreate(&stop);
    std::vector<float> mine, floor;
    for (int run = 0; run < 12; ++run) {
      float ms = 0;
      cudaEventRecord(start, s);
      for (auto& c : unshard::chunks(list, comm, unshard::read, o, memory)) static_cast<void>(c.size());
      cudaEventRecord(stop, s);
      must(cudaEventSynchronize(stop), "cudaEventSynchronize");
      cudaEventElapsedTime(&ms, start, stop);
      if (run >= 2) mine.push_back(ms);
      cudaEventRecord(start, s);
      for (int i = 0; i < count; ++i)
        ncclAllGather(shard + static_cast<std::size_t>(i) * each, buffer + static_cast<std::size_t>(i % 2) * chunk,
                      each, ncclInt8, bare, s);
      cudaEventRecord(stop, s);
      must(cudaEventSynchronize(stop), "cudaEventSynchronize");
      cudaEventElapsedTime(&ms, start, stop);
      if (run >= 2) floor.push_back(ms);
    }
    std::sort(mine.begin(), mine.end());
    std::sort(floor.begin(), floor.end());
    const auto before = std::chrono::steady_clock::now();
    std::byte word[16] = {};
    std::vector<std::byte> all(16 * static_cast<std::size_t>(n));
    for (int i = 0; i < 200; ++i) comm.exchange(word, all, 10'000);
    const std::chrono::duration<double, std::micro> exchange = std::chrono::steady_clock::now() - before;
    if (rank == 0)
      std::printf("%6d %9d %10.3f %10.3f %7.3f %s exchange %.1f us\n", n, in_flight, mine[5], floor[5],
                  mine[5] / floor[5], n > 1 && in_flight == 2 ? "(goal 1.05)" : "(reported) ", exchange.count() / 200);
    if (n > 1 && in_flight == 2 && rank == 0 && mine[5] / floor[5] > 1.05) ++failures;
    ncclCommDestroy(bare);
    cudaFree(shard);
    cudaFree(buffer);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const int n = argc > 1 ? std::atoi(argv[1]) : 1;
  const bool quick = argc > 2;
  int version = 0;
  ncclGetVersion(&version);
  void* arena = nullptr;
  must(cudaHostAlloc(&arena, pinned::room, cudaHostAllocDefault), "cudaHostAlloc");
  pinned::give(arena);
  std::printf("# NCCL %d, %d rank(s) on one GPU\n", version, n);
  kit<unshard::cuda::memcpy_copier>("memcpy_copier", n);
  kit<unshard::cuda::thrust_copier>("thrust_copier", n);
  for (const bool everywhere : {false, true}) {
    ranges<unshard::cuda::memcpy_copier, unshard::cuda_memory>("memcpy_copier, device", n, everywhere);
    ranges<unshard::cuda::thrust_copier, unshard::cuda_memory>("thrust_copier, device", n, everywhere);
    ranges<unshard::cuda::memcpy_copier, unshard::pinned_memory>("memcpy_copier, pinned", n, everywhere);
  }
  if (!quick) {
    std::printf("#%5s %9s %10s %10s %7s   20 chunks of 256 MiB, device time, medians of 10\n", "ranks", "in flight",
                "(ms)", "bare (ms)", "ratio");
    figures(n, 1);
    figures(n, 2);
  }
  return failures == 0 ? 0 : 1;
}
