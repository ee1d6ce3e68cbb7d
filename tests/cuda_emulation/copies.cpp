// SPDX-License-Identifier: Apache-2.0
// copies.cpp: pairing of regions and the two copiers, against a plain loop. Over the test double of CUDA, no GPU.

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <unshard/comm/nccl.hpp>
#include <unshard/cuda/copy_boxes.hpp>
#include <unshard/cuda/memory.hpp>

#include "ranks.hpp"

namespace {

using namespace ranks;
using unshard::const_region;
using unshard::extents;
using unshard::region;

/// Lists of random regions within `room` bytes, with equal totals; what lies between their bytes stays.
class some_lists {
 public:
  some_lists(std::uint64_t seed, std::byte* source, std::byte* target, std::size_t bytes) : bits_(seed) {
    cut(source, target, bytes, roll(0, 3) == 0);
  }
  std::vector<const_region> from;
  std::vector<region> to;

 private:
  index_t roll(index_t a, index_t b) { return std::uniform_int_distribution<index_t>(a, b)(bits_); }

  /// One region of some shape at `at`, and how far it reaches.
  region shape(std::byte* at, index_t& reach) {
    const int dims = static_cast<int>(roll(1, 5));
    const index_t unit = index_t{1} << roll(0, 5);
    index_t size[extents::max_dims];
    index_t stride[extents::max_dims];
    index_t step = 1;
    for (int d = dims - 1; d >= 0; --d) {
      size[d] = d == dims - 1 ? unit * roll(1, 5) : roll(1, 4);
      stride[d] = step;
      step = size[d] * step + (roll(0, 2) == 0 ? 0 : unit * roll(0, 3));
    }
    reach = step;
    const auto n = static_cast<std::size_t>(dims);
    return {at, extents(std::span<const index_t>(size, n)), extents(std::span<const index_t>(stride, n))};
  }

  void cut(std::byte* source, std::byte* target, std::size_t bytes, bool alike) {
    std::size_t total = 0;
    index_t reach = 0;
    std::byte* at = target;
    for (int i = static_cast<int>(roll(1, 4)); i > 0; --i) {
      const region r = shape(at, reach);
      if (at + reach > target + bytes) break;
      to.push_back(r);
      total += unshard::bytes_of(r);
      at += reach;
    }
    if (alike) {  // the same shapes, elsewhere
      for (const region& r : to) from.push_back({source + (r.base - target), r.size, r.stride});
      return;
    }
    std::size_t left = total;
    at = source;
    while (left > 0) {
      const region r = shape(at, reach);
      if (unshard::bytes_of(r) <= left && at + reach <= source + bytes / 2) {
        from.push_back(r);
        left -= unshard::bytes_of(r);
        at += reach;
      } else {
        from.push_back(crun(at, left));
        left = 0;
      }
    }
  }
  std::mt19937_64 bits_;
};

constexpr std::size_t room = 1 << 16;

template <class Copy>
void against_loop(std::uint64_t seeds, Copy copy) {
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    CAPTURE(seed);
    ranks::stream s;
    ranks::buffer source(2 * room), target(room), wanted(room);
    std::mt19937_64 bits(seed);
    for (std::size_t i = 0; i < 2 * room; ++i) source.data()[i] = static_cast<std::byte>(bits());
    std::memset(target.data(), 0xEE, room);
    std::memset(wanted.data(), 0xEE, room);
    const some_lists at(seed, source.data(), target.data(), room);
    const some_lists model(seed, source.data(), wanted.data(), room);
    unshard::copy_regions(model.from, model.to);
    unshard::detail::paired_regions pairs;
    pairs.add(at.from, at.to);
    CHECK(unshard::bytes_of(std::span<const region>(pairs.to)) == unshard::bytes_of(std::span<const region>(at.to)));
    copy(pairs, s.get());
    cudaStreamSynchronize(s.get());
    CHECK(std::memcmp(target.data(), wanted.data(), room) == 0);
  }
}

TEST_CASE("paired_regions: pairs have one shape and copy what the lists do") {
  against_loop(150, [](const unshard::detail::paired_regions& pairs, cudaStream_t) {
    for (std::size_t i = 0; i < pairs.from.size(); ++i) {
      CHECK(pairs.from[i].size == pairs.to[i].size);
      unshard::copy_regions({&pairs.from[i], 1}, {&pairs.to[i], 1});
    }
  });
}

TEST_CASE("paired_regions: a strided region against a run is one pair, however many rows it has") {
  std::byte* const at = nullptr;
  unshard::detail::paired_regions pairs;
  const const_region box(at, extents{index_t{1000}, index_t{64}}, extents{index_t{128}, index_t{1}});
  const region packed = run(at, 64'000);
  pairs.add({&box, 1}, {&packed, 1});
  REQUIRE(pairs.from.size() == 1);
  CHECK(pairs.to[0].stride == extents{index_t{64}, index_t{1}});
}

TEST_CASE("memcpy_copier: copies what a plain loop does, on random regions") {
  unshard::cuda::memcpy_copier copier;
  against_loop(150, [&](const auto& pairs, cudaStream_t s) { copier.copy(pairs.from, pairs.to, s); });
}

TEST_CASE("thrust_copier: copies what a plain loop does, on random regions (Thrust's host back end)") {
  against_loop(150, [&](const auto& pairs, cudaStream_t s) {
    unshard::cuda::thrust_copier copier;
    copier.copy(pairs.from, pairs.to, s);
    cudaStreamSynchronize(s);
  });
}

TEST_CASE("thrust_copier: many calls under way keep their tables apart") {
  cuda_emulation::seed(7);
  {
    ranks::stream s;
    ranks::buffer source(room), target(room);
    unshard::cuda::thrust_copier copier;
    for (int round = 0; round < 3; ++round) {
      fill(s.get(), source.data(), room, static_cast<unsigned>(round));
      for (std::size_t i = 0; i < 16; ++i) {
        const const_region from = crun(source.data() + i * 4096, 4096);
        const region to = run(target.data() + i * 4096, 4096);
        copier.copy({&from, 1}, {&to, 1}, s.get());
      }
      cudaStreamSynchronize(s.get());
      CHECK(filled(target.data(), room, static_cast<unsigned>(round)));
    }
  }
  cuda_emulation::seed(0);
  CHECK(cuda_emulation::leaks() == "");
}

TEST_CASE("cuda_memory, pinned_memory: what they hand out can be used, and goes back in the stream's order") {
  {
    ranks::stream s;
    ranks::buffer seen(1000);
    unshard::cuda_memory device(s.get());
    auto* p = static_cast<std::byte*>(device.allocate(1000, 128));
    fill(s.get(), p, 1000, 5);
    cudaMemcpyAsync(seen.data(), p, 1000, cudaMemcpyDefault, s.get());
    device.deallocate(p, 1000, 128);
    cudaStreamSynchronize(s.get());
    CHECK(filled(seen.data(), 1000, 5));
    CHECK_THROWS_AS(device.allocate(1000, 512), unshard::bad_options);
    unshard::pinned_memory pinned;
    void* q = pinned.allocate(1000, 128);
    CHECK(unshard::detail::kind_of(q) == unshard::detail::memory_kind::pinned);
    pinned.deallocate(q, 1000, 128);
    cuda_emulation::fail_call(1);
    CHECK_THROWS_AS(device.allocate(1000, 128), unshard::out_of_memory);
  }
  CHECK(cuda_emulation::leaks() == "");
}

/// Something that a cudaStream_t converts to, as cuda::stream_ref and rmm::cuda_stream_view are.
struct stream_view {
  stream_view(cudaStream_t s) : stream(s) {}  // NOLINT(google-explicit-constructor)
  cudaStream_t stream;
};
struct counts {
  int out = 0;
  void* give() {
    ++out;
    return this;
  }
};
struct stream_first : counts {
  void* allocate(stream_view, std::size_t, std::size_t) { return give(); }
  void deallocate(stream_view, void*, std::size_t, std::size_t) noexcept { --out; }
};
struct stream_last : counts {
  void* allocate_async(std::size_t, std::size_t, stream_view) { return give(); }
  void deallocate_async(void*, std::size_t, std::size_t, stream_view) { --out; }
};
struct no_alignment : counts {
  void* allocate(std::size_t, stream_view) { return give(); }
  void deallocate(void*, std::size_t, stream_view) { --out; }
};

TEST_CASE_TEMPLATE("stream_memory: any of the three shapes of resource serves", R, stream_first, stream_last,
                   no_alignment) {
  static_assert(unshard::memory_resource<unshard::stream_memory<R>>);
  R resource;
  unshard::stream_memory<R> memory(&resource, nullptr);
  void* p = memory.allocate(100, 128);
  CHECK(resource.out == 1);
  memory.deallocate(p, 100, 128);
  CHECK(resource.out == 0);
}

}  // namespace
