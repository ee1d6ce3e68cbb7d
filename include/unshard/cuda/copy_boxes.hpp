// SPDX-License-Identifier: Apache-2.0
#pragma once  // cuda/copy_boxes.hpp: strided copies by Thrust, all of a batch in one launch. Needs nvcc for a GPU.

#include <cuda_runtime_api.h>
#include <thrust/execution_policy.h>
#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

inline void check_copy(cudaError_t code, std::string_view call) {
  if (code == cudaSuccess) return;
  throw device_failed(concat("thrust_copier: ", call, " failed: ", cudaGetErrorName(code), ", ",
                             cudaGetErrorString(code), ". Errors of earlier work on the device appear here, too."));
}

/// Rows, outermost dimension first, of the pairs that are no single run. Sizes and strides in words of the pair.
struct copy_shape {
  std::int64_t size[extents::max_dims];
  std::int64_t to[extents::max_dims];
  std::int64_t from[extents::max_dims];
  int dims;
};

/// A pair of regions. A word is the longest of 16, 8, 4, 2, 1 bytes that divides all its addresses, rows and strides.
struct copy_pair {
  std::byte* to;
  const std::byte* from;
  std::int64_t words;
  std::int32_t shape;  // -1: one run
  std::int32_t word;   // bytes
};

struct alignas(16) copy_word16 {
  std::uint64_t part[2];
};

/// What one lane does of it all. Tiles of `lanes` x `steps` words follow one another, pair after pair; neighbouring
/// lanes take neighbouring words, and a lane reads all its words before it writes the first.
struct copy_lane {
  static constexpr int lanes = 32;
  static constexpr int steps = 8;
  static constexpr std::int64_t tile = lanes * steps;  // words

  const std::int64_t* tiles;  // how many come before each pair, and one number more: all of them
  const copy_pair* pairs;
  const copy_shape* shapes;
  std::int64_t count;

  __host__ __device__ void operator()(std::int64_t i) const {
    const std::int64_t t = i / lanes;
    std::int64_t low = 0;  // tiles[low] <= t < tiles[high]
    for (std::int64_t high = count; high - low > 1;) {
      const std::int64_t middle = low + (high - low) / 2;
      if (tiles[middle] <= t) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const copy_pair p = pairs[low];
    const std::int64_t first = (t - tiles[low]) * tile + i % lanes;
    switch (p.word) {
      case 16:
        return move<copy_word16>(p, first);
      case 8:
        return move<std::uint64_t>(p, first);
      case 4:
        return move<std::uint32_t>(p, first);
      case 2:
        return move<std::uint16_t>(p, first);
      default:
        return move<std::uint8_t>(p, first);
    }
  }

 private:
  template <class Word>
  __host__ __device__ void move(const copy_pair& p, std::int64_t first) const {
    Word words[steps];
    std::int64_t to[steps];
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int k = 0; k < steps; ++k) {
      const std::int64_t w = first + k * lanes;
      if (w >= p.words) continue;
      std::int64_t from = w;
      to[k] = w;
      if (p.shape >= 0) place(shapes[p.shape], w, from, to[k]);
      load(words[k], p.from + from * static_cast<std::int64_t>(sizeof(Word)));
    }
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int k = 0; k < steps; ++k) {
      if (first + k * lanes < p.words) store(p.to + to[k] * static_cast<std::int64_t>(sizeof(Word)), words[k]);
    }
  }

  /// Where word `w` of a pair lies on its two sides.
  __host__ __device__ static void place(const copy_shape& s, std::int64_t w, std::int64_t& from, std::int64_t& to) {
    from = to = 0;
    for (int d = s.dims - 1; d > 0; --d) {
      const std::int64_t next = quotient(w, s.size[d]);
      const std::int64_t at = w - next * s.size[d];
      from += at * s.from[d];
      to += at * s.to[d];
      w = next;
    }
    from += w * s.from[0];
    to += w * s.to[0];
  }
  /// a / b; a division of 64 bits costs a GPU several times one of 32.
  __host__ __device__ static std::int64_t quotient(std::int64_t a, std::int64_t b) {
    if (((a | b) >> 32) != 0) return a / b;
    return static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);
  }

  template <class Word>
  __host__ __device__ static void load(Word& word, const std::byte* from) {
#if defined(__CUDA_ARCH__)
    word = *reinterpret_cast<const Word*>(from);
#else
    std::memcpy(&word, from, sizeof word);  // the same without aliasing
#endif
  }
  template <class Word>
  __host__ __device__ static void store(std::byte* to, const Word& word) {
#if defined(__CUDA_ARCH__)
    *reinterpret_cast<Word*>(to) = word;
#else
    std::memcpy(to, &word, sizeof word);
#endif
  }
};

/// Lists of pairs as copy_lane reads them, in one block: tile numbers, pairs, shapes. Equal shapes are kept once.
class copy_table {
 public:
  copy_table(std::span<const const_region> from, std::span<const region> to) {
    pairs_.reserve(from.size());
    tiles_.reserve(from.size() + 1);
    std::int64_t before = 0;
    for (std::size_t i = 0; i < from.size(); ++i) {
      add(from[i], to[i]);
      tiles_.push_back(before);
      before += (pairs_.back().words + copy_lane::tile - 1) / copy_lane::tile;
    }
    tiles_.push_back(before);
  }

  std::size_t bytes() const { return tiles_bytes() + pairs_bytes() + shapes_.size() * sizeof(copy_shape); }
  std::int64_t lanes() const { return tiles_.back() * copy_lane::lanes; }

  void write(std::byte* at) const {
    std::memcpy(at, tiles_.data(), tiles_bytes());
    std::memcpy(at + tiles_bytes(), pairs_.data(), pairs_bytes());
    if (!shapes_.empty())
      std::memcpy(at + tiles_bytes() + pairs_bytes(), shapes_.data(), shapes_.size() * sizeof(copy_shape));
  }
  /// The lane over what was written, as the device sees it at `at`.
  copy_lane lane(const std::byte* at) const {
    return {reinterpret_cast<const std::int64_t*>(at), reinterpret_cast<const copy_pair*>(at + tiles_bytes()),
            reinterpret_cast<const copy_shape*>(at + tiles_bytes() + pairs_bytes()),
            static_cast<std::int64_t>(pairs_.size())};
  }

 private:
  std::size_t tiles_bytes() const { return tiles_.size() * sizeof(std::int64_t); }
  std::size_t pairs_bytes() const { return pairs_.size() * sizeof(copy_pair); }

  void add(const const_region& from, const region& to) {
    const int dims = from.size.dims();
    const int inner = dims - 1;
    std::uint64_t all = reinterpret_cast<std::uintptr_t>(from.base) | reinterpret_cast<std::uintptr_t>(to.base) |
                        static_cast<std::uint64_t>(from.size[inner]) | 16;
    for (int d = 0; d < inner; ++d)
      all |= static_cast<std::uint64_t>(from.stride[d]) | static_cast<std::uint64_t>(to.stride[d]);
    const auto word = static_cast<std::int64_t>(all & (~all + 1));  // the lowest bit that any of them has
    std::int32_t shape = -1;
    if (dims > 1) {
      copy_shape s = {};
      s.dims = dims;
      for (int d = 0; d < dims; ++d) {
        s.size[d] = d == inner ? from.size[d] / word : from.size[d];
        s.from[d] = d == inner ? 1 : from.stride[d] / word;
        s.to[d] = d == inner ? 1 : to.stride[d] / word;
      }
      // Neighbours are mostly cut alike.
      if (shapes_.empty() || std::memcmp(&shapes_.back(), &s, sizeof s) != 0) shapes_.push_back(s);
      shape = static_cast<std::int32_t>(shapes_.size() - 1);
    }
    pairs_.push_back({to.base, from.base, from.size.elements() / word, shape, static_cast<std::int32_t>(word)});
  }

  std::vector<std::int64_t> tiles_;
  std::vector<copy_pair> pairs_;
  std::vector<copy_shape> shapes_;
};

/// Runs lane(0) ... lane(n - 1) on the stream: one Thrust call, on whatever Thrust's device back end is. Where that is
/// the host, a host function of the stream makes the call: for tests, and for memory that the host can touch.
inline void run_lanes(const copy_lane& lane, std::int64_t n, cudaStream_t stream) {
#if THRUST_DEVICE_SYSTEM == THRUST_DEVICE_SYSTEM_CUDA
  thrust::for_each_n(thrust::cuda::par_nosync.on(stream), thrust::counting_iterator<std::int64_t>(0), n, lane);
  check_copy(cudaGetLastError(), "thrust::for_each_n");
#else
  struct call {
    copy_lane lane;
    std::int64_t n;
  };
  const auto run = [](void* p) {
    const std::unique_ptr<call> c(static_cast<call*>(p));
    thrust::for_each_n(thrust::device, thrust::counting_iterator<std::int64_t>(0), c->n, c->lane);
  };
  auto c = std::make_unique<call>(call{lane, n});
  check_copy(cudaLaunchHostFunc(stream, run, c.get()), "cudaLaunchHostFunc");
  static_cast<void>(c.release());  // the host function's now
#endif
}

}  // namespace detail

namespace cuda {

/// Copies all regions of a batch in one launch, for nccl_communicator<cuda::thrust_copier>. It holds tables of about
/// 40 bytes for each pair of regions, twice, pinned and on the device, for as many calls as are under way: not data,
/// and not in the budget. The memory it copies is device memory or pinned. Not used from two threads at once.
class thrust_copier {
 public:
  thrust_copier() = default;
  thrust_copier(thrust_copier&&) = default;
  thrust_copier& operator=(thrust_copier&&) = default;

  /// Enqueues all copies on `stream`. from[i] and to[i] have equal sizes, at least a byte and one dimension each.
  void copy(std::span<const const_region> from, std::span<const region> to, cudaStream_t stream) {
    if (from.empty()) return;
    const detail::copy_table table(from, to);
    slot& s = free_slot(table.bytes(), stream);
    table.write(s.host);
    s.in_use = true;
    detail::check_copy(cudaMemcpyAsync(s.device, s.host, table.bytes(), cudaMemcpyDefault, stream), "cudaMemcpyAsync");
    detail::run_lanes(table.lane(s.device), table.lanes(), stream);
    detail::check_copy(cudaEventRecord(s.read, stream), "cudaEventRecord");
  }

 private:
  /// A table on its way: the host's and the device's copy may be written again once `read` has passed.
  struct slot {
    std::byte* host = nullptr;
    std::byte* device = nullptr;
    std::size_t bytes = 0;
    cudaEvent_t read = nullptr;
    cudaStream_t stream = nullptr;
    bool in_use = false;

    slot() = default;
    slot(const slot&) = delete;
    slot& operator=(const slot&) = delete;
    ~slot() {
      if (in_use && cudaEventQuery(read) != cudaSuccess) return;  // abandoned: a copy may still read it
      if (device != nullptr) static_cast<void>(cudaFreeAsync(device, stream));
      if (host != nullptr) static_cast<void>(cudaFreeHost(host));
      if (read != nullptr) static_cast<void>(cudaEventDestroy(read));
    }
  };

  slot& free_slot(std::size_t bytes, cudaStream_t stream) {
    for (const auto& s : slots_) {
      if (s->bytes < bytes || s->stream != stream) continue;
      if (!s->in_use || cudaEventQuery(s->read) == cudaSuccess) return *s;
    }
    slots_.push_back(std::make_unique<slot>());
    slot& s = *slots_.back();
    std::size_t room = 4096;
    while (room < bytes) room *= 2;
    s.stream = stream;
    void* p = nullptr;
    detail::check_copy(cudaEventCreateWithFlags(&s.read, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    detail::check_copy(cudaHostAlloc(&p, room, cudaHostAllocDefault), "cudaHostAlloc");
    s.host = static_cast<std::byte*>(p);
    detail::check_copy(cudaMallocAsync(&p, room, stream), "cudaMallocAsync");
    s.device = static_cast<std::byte*>(p);
    s.bytes = room;
    return s;
  }

  std::vector<std::unique_ptr<slot>> slots_;
};

}  // namespace cuda
}  // namespace v0
}  // namespace unshard
