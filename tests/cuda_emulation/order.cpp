// SPDX-License-Identifier: Apache-2.0
// order.cpp [first seed] [seeds]: does what needs every event and every wait of the NCCL engine, over the test double,
// and checks the bytes. Exits 1 on wrong ones. mutants.py builds it from copies with one of them taken out.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <unshard/comm/nccl.hpp>
#include <unshard/cuda/copy_boxes.hpp>
#include <unshard/cuda/memory.hpp>

#include "ranks.hpp"

namespace {

using unshard::nccl_communicator;
using namespace ranks;

std::atomic<int> wrong{0};

void check(bool good, const char* what) {
  if (good) return;
  if (++wrong <= 20) std::fprintf(stderr, "wrong: %s\n", what);
}

/// Every rank fills a strided box, packs it, sends it on in a ring, and spreads what comes; the caller's stream
/// produces before and consumes after, and nobody blocks. Two batches are under way at once.
template <class Copier>
void ring(nccl_communicator<Copier>& comm, cudaStream_t stream, unsigned seed) {
  constexpr std::size_t rows = 16;
  constexpr std::size_t row = 48;
  constexpr std::size_t pitch = 80;
  constexpr std::size_t bytes = rows * row;
  const int next = (comm.rank() + 1) % comm.size();
  const int last = (comm.rank() + comm.size() - 1) % comm.size();
  buffer shard(rows * pitch, stream);
  buffer chunk(rows * pitch, stream);
  buffer out(2 * bytes, stream);
  buffer in(2 * bytes, stream);
  buffer seen(2 * rows * pitch);
  const auto box = [&](std::byte* at) {
    return unshard::region{at, unshard::extents{index_t{rows}, index_t{row}}, unshard::extents{index_t{pitch}, 1}};
  };
  for (unsigned step = 0; step < 3; ++step) {
    const auto mine = static_cast<unsigned>(comm.rank()) + seed + step;
    const auto theirs = static_cast<unsigned>(last) + seed + step;
    fill(stream, shard.data(), shard.size(), mine);
    auto first = comm.open_batch();
    const unshard::const_region from = box(shard.data());
    const unshard::region packed = run(out.data(), bytes);
    first.copy_before({&from, 1}, {&packed, 1});
    send(first, out.data(), bytes, next);
    recv(first, in.data(), bytes, last);
    const unshard::const_region came = crun(in.data(), bytes);
    const unshard::region spread = box(chunk.data());
    first.copy_after({&came, 1}, {&spread, 1});
    auto one = comm.launch(std::move(first));
    auto second = comm.open_batch();  // what the first brought goes on once more
    const unshard::region again = run(out.data() + bytes, bytes);
    const unshard::const_region brought = box(chunk.data());
    second.copy_before({&brought, 1}, {&again, 1});
    send(second, out.data() + bytes, bytes, next);
    recv(second, in.data() + bytes, bytes, last);
    auto two = comm.launch(std::move(second));
    one.wait(20'000);
    cudaMemcpyAsync(seen.data(), chunk.data(), rows * pitch, cudaMemcpyDefault, stream);
    two.wait(20'000);
    cudaMemcpyAsync(seen.data() + rows * pitch, in.data() + bytes, bytes, cudaMemcpyDefault, stream);
    fill(stream, shard.data(), shard.size(), 99);  // only after the batches have read it
    fill(stream, chunk.data(), chunk.size(), 98);
    fill(stream, out.data(), out.size(), 97);
    fill(stream, in.data(), in.size(), 96);
    cudaStreamSynchronize(stream);
    bool good = true;
    for (std::size_t i = 0; i < rows; ++i)
      good = good && filled(seen.data() + i * pitch, row, theirs + static_cast<unsigned>(i * pitch * 7));
    check(good, "ring, first batch");
    const auto before = static_cast<unsigned>((last + comm.size() - 1) % comm.size()) + seed + step;
    good = true;
    for (std::size_t i = 0; i < rows; ++i)
      good = good && filled(seen.data() + rows * pitch + i * row, row, before + static_cast<unsigned>(i * pitch * 7));
    check(good, "ring, second batch");
  }
}

/// Into pinned memory, read by the host as soon as wait returns, and written again at once.
template <class Copier>
void to_host(nccl_communicator<Copier>& comm, cudaStream_t stream, unsigned seed) {
  constexpr std::size_t bytes = 3000;
  const auto n = static_cast<std::size_t>(comm.size());
  buffer shard(bytes, stream);
  buffer staging(n * bytes);
  buffer all(n * bytes);
  for (unsigned step = 0; step < 2; ++step) {
    fill(stream, shard.data(), bytes, seed + step + static_cast<unsigned>(comm.rank()));
    auto b = comm.open_batch();
    b.gather(shard.data(), comm.rank() == 0 ? staging.data() : nullptr, bytes, 0);
    if (comm.rank() == 0) {
      const unshard::const_region from = crun(staging.data(), n * bytes);
      const unshard::region to = run(all.data(), n * bytes);
      b.copy_after({&from, 1}, {&to, 1});
    }
    comm.launch(std::move(b)).wait(20'000);
    if (comm.rank() != 0) continue;
    for (std::size_t r = 0; r < n; ++r)
      check(filled(all.data() + r * bytes, bytes, seed + step + static_cast<unsigned>(r)), "gather into pinned memory");
    std::fill(all.data(), all.data() + n * bytes, std::byte{1});
    std::fill(staging.data(), staging.data() + n * bytes, std::byte{2});
  }
}

template <class Comm>
void words(Comm& comm, unsigned seed) {
  for (unsigned step = 0; step < 3; ++step) {
    std::byte mine[16];
    std::vector<std::byte> all(16 * static_cast<std::size_t>(comm.size()));
    for (std::byte& b : mine) b = static_cast<std::byte>(seed + step + static_cast<unsigned>(comm.rank()));
    comm.exchange(mine, all, 20'000);
    for (std::size_t i = 0; i < all.size(); ++i)
      check(all[i] == static_cast<std::byte>(seed + step + i / 16), "exchange");
  }
}

/// Memory of NCCL's that goes back while the caller's stream still uses it.
template <class Comm>
void registered(Comm& comm, cudaStream_t stream, unsigned seed) {
  unshard::nccl_memory<Comm> memory(comm);
  buffer seen(4096);
  auto* p = static_cast<std::byte*>(memory.allocate(4096, 128));
  fill(stream, p, 4096, seed);
  cudaMemcpyAsync(seen.data(), p, 4096, cudaMemcpyDefault, stream);
  memory.deallocate(p, 4096, 128);
  cudaStreamSynchronize(stream);
  check(filled(seen.data(), 4096, seed), "nccl_memory went back too early");
}

/// Gives up while a batch waits for a peer that does not come: after abort nothing touches the caller's memory.
void give_up(cudaStream_t stream, const ncclUniqueId& id, int n, int rank, std::atomic<int>& through) {
  constexpr std::size_t bytes = 1 << 16;
  buffer in(bytes), out(bytes, stream), spare(bytes);
  {
    nccl_communicator<> comm(id, n, rank, stream, {.timeout_ms = 20'000});
    for (int step = 0; step < 2; ++step) {  // in the second rank 0 does not come
      auto b = comm.open_batch();
      const unshard::const_region from = crun(in.data(), bytes);
      const unshard::region to = run(spare.data(), bytes);
      for (int r = 0; r < n; ++r) {
        if (r == rank) continue;
        const std::size_t part = 1000;
        send(b, out.data() + static_cast<std::size_t>(r) * part, part, r);
        recv(b, in.data() + static_cast<std::size_t>(r) * part, part, r);
      }
      b.copy_after({&from, 1}, {&to, 1});
      if (step == 1 && rank == 0) break;
      auto done = comm.launch(std::move(b));
      if (step == 0) done.wait(20'000);
      if (step == 1) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    }
    ++through;
    while (through < n) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    comm.abort("the test gives up");
    std::fill(spare.data(), spare.data() + bytes, std::byte{3});
    std::fill(in.data(), in.data() + bytes, std::byte{4});
  }
  bool good = true;
  for (std::size_t i = 0; i < bytes; ++i)
    good = good && spare.data()[i] == std::byte{3} && in.data()[i] == std::byte{4};
  check(good, "memory was touched after abort");
}

/// Leaves with a word on the wire, so that its buffers outlive the copies.
void round(unsigned seed, int n) {
  const ncclUniqueId id = new_id();
  const ncclUniqueId other = new_id();
  meeting hosts(n);
  std::atomic<int> through{0};
  const auto thrown = run_all(n, [&](int rank) {
    const ranks::stream s;
    auto way = hosts.of(rank);
    ncclComm_t own = parent(id, n, rank);
    {
      nccl_communicator<> comm(own, s.get(), {.timeout_ms = 20'000});
      ring(comm, s.get(), seed);
      words(comm, seed);
      to_host(comm, s.get(), seed);
      registered(comm, s.get(), seed);
    }
    {
      nccl_communicator<unshard::cuda::thrust_copier> comm(unshard::borrowed, own, s.get(), {.exchange = way});
      ring(comm, s.get(), seed);
      words(comm, seed);
      to_host(comm, s.get(), seed);
    }
    ncclCommFinalize(own);
    ncclCommDestroy(own);
    give_up(s.get(), other, n, rank, through);
  });
  for (const auto& t : thrown) {
    try {
      if (t) std::rethrow_exception(t);
    } catch (const std::exception& e) {
      check(false, e.what());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto first = static_cast<unsigned>(argc > 1 ? std::atoi(argv[1]) : 1);
  const auto seeds = static_cast<unsigned>(argc > 2 ? std::atoi(argv[2]) : 5);
  for (unsigned seed = first; seed < first + seeds && wrong == 0; ++seed) {
    cuda_emulation::seed(seed);
    round(seed, seed % 2 == 0 ? 2 : 3);
    for (const std::string& v : cuda_emulation::violations()) check(false, v.c_str());
    const std::string left = cuda_emulation::leaks();
    check(left.empty(), left.c_str());
    if (wrong != 0) std::fprintf(stderr, "seed %u\n", seed);
  }
  if (wrong == 0) std::printf("%u seeds from %u on: the bytes are right (test double, no GPU)\n", seeds, first);
  return wrong == 0 ? 0 : 1;
}
