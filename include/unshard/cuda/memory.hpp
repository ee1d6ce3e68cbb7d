// SPDX-License-Identifier: Apache-2.0
#pragma once  // cuda/memory.hpp: chunk buffers on a device, in pinned host memory, or from a CUDA resource of yours.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string_view>
#include <unshard/memory.hpp>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Throws out_of_memory with CUDA's own words where `code`, which `call` returned, is an error.
inline void check_memory(cudaError_t code, std::string_view call, std::size_t bytes) {
  if (code == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // else the next call of somebody else would report it
  throw out_of_memory(concat("unshard: ", call, " of ", in_bytes(bytes, " bytes"), " failed: ", cudaGetErrorName(code),
                             ", ", cudaGetErrorString(code), ". Lower .budget."),
                      bytes);
}

/// CUDA aligns what it allocates to this much.
inline constexpr std::size_t cuda_alignment = 256;
inline void check_alignment(std::size_t alignment, std::string_view who) {
  if (alignment > cuda_alignment)
    throw bad_options(concat(who, ": aligns to ", cuda_alignment, " bytes; ", alignment,
                             " were asked for. Lower "
                             ".alignment."));
}

}  // namespace detail

/// Device memory, allocated and freed in the order of a stream: give it the stream that the communicator has, so that
/// nothing is used again before every batch that touched it. From the current device's own pool, or from the
/// caller's. Throws out_of_memory; an alignment over 256 is bad_options.
class cuda_memory {
 public:
  static constexpr bool host = false;

  explicit cuda_memory(cudaStream_t stream, cudaMemPool_t pool = nullptr) : stream_(stream), pool_(pool) {}

  void* allocate(std::size_t bytes, std::size_t alignment) {
    detail::check_alignment(alignment, "cuda_memory");
    void* p = nullptr;
    if (pool_ == nullptr) {
      detail::check_memory(cudaMallocAsync(&p, bytes, stream_), "cudaMallocAsync", bytes);
    } else {
      detail::check_memory(cudaMallocFromPoolAsync(&p, bytes, pool_, stream_), "cudaMallocFromPoolAsync", bytes);
    }
    return p;
  }
  void deallocate(void* p, std::size_t, std::size_t) noexcept { static_cast<void>(cudaFreeAsync(p, stream_)); }

 private:
  cudaStream_t stream_;
  cudaMemPool_t pool_;
};
static_assert(memory_resource<cuda_memory>);

/// Host memory that devices reach: a chunk in it is gathered past device memory, and every wait for a batch blocks
/// the host. Throws out_of_memory; an alignment over 256 is bad_options.
class pinned_memory {
 public:
  void* allocate(std::size_t bytes, std::size_t alignment) {
    detail::check_alignment(alignment, "pinned_memory");
    void* p = nullptr;
    detail::check_memory(cudaHostAlloc(&p, bytes, cudaHostAllocDefault), "cudaHostAlloc", bytes);
    return p;
  }
  void deallocate(void* p, std::size_t, std::size_t) noexcept { static_cast<void>(cudaFreeHost(p)); }
};
static_assert(memory_resource<pinned_memory>);

/// Device memory from a resource of the caller's, which outlives it: one of cuda::mr, of RMM, or whatever has, with a
/// stream that converts from cudaStream_t, one of
///   allocate(stream, bytes, alignment)         deallocate(stream, p, bytes, alignment)
///   allocate_async(bytes, alignment, stream)   deallocate_async(p, bytes, alignment, stream)
///   allocate(bytes, stream)                    deallocate(p, bytes, stream)
/// As with cuda_memory, the stream is the communicator's. Throws what the resource throws.
template <class Resource>
class stream_memory {
 public:
  static constexpr bool host = false;

  stream_memory(Resource* resource, cudaStream_t stream) : resource_(resource), stream_(stream) {}

  void* allocate(std::size_t bytes, std::size_t alignment) {
    if constexpr (requires(Resource & r, void* p) { r.deallocate(stream_, p, bytes, alignment); }) {
      return resource_->allocate(stream_, bytes, alignment);
    } else if constexpr (requires(Resource & r) { r.allocate_async(bytes, alignment, stream_); }) {
      return resource_->allocate_async(bytes, alignment, stream_);
    } else {
      detail::check_alignment(alignment, "stream_memory");
      return resource_->allocate(bytes, stream_);
    }
  }
  void deallocate(void* p, std::size_t bytes, std::size_t alignment) noexcept {
    if constexpr (requires(Resource & r) { r.deallocate(stream_, p, bytes, alignment); }) {
      resource_->deallocate(stream_, p, bytes, alignment);
    } else if constexpr (requires(Resource & r) { r.allocate_async(bytes, alignment, stream_); }) {
      resource_->deallocate_async(p, bytes, alignment, stream_);
    } else {
      resource_->deallocate(p, bytes, stream_);
    }
  }

 private:
  Resource* resource_;
  cudaStream_t stream_;
};

}  // namespace v0
}  // namespace unshard
