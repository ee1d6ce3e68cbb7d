// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/nccl/memcpy_copier.hpp: strided copies by the CUDA runtime's own memcpy calls; a host compiler
              // will do.

#include <cuda_runtime_api.h>

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>

namespace unshard {
inline namespace v0 {

/// Packs and unpacks on a stream: copies from[i] to to[i], regions of equal sizes, all of a batch in one call.
/// cuda::memcpy_copier and cuda::thrust_copier are models. Optional: `static constexpr bool pageable = true`, where it
/// also copies host memory that the device can't reach.
template <class C>
concept nccl_copier = std::movable<C> &&
    requires(C& c, std::span<const const_region> from, std::span<const region> to, cudaStream_t stream) {
  c.copy(from, to, stream);
};

namespace detail {

/// Throws device_failed with CUDA's own words where `code`, which `call` returned, is an error.
inline void check_cuda(cudaError_t code, std::string_view call) {
  if (code == cudaSuccess) return;
  throw device_failed(concat("unshard: ", call, " failed: ", cudaGetErrorName(code), ", ", cudaGetErrorString(code),
                             ". Errors of earlier work on the device appear here, too."));
}

}  // namespace detail

namespace cuda {

/// The default copier: a call of cudaMemcpyAsync, cudaMemcpy2DAsync or cudaMemcpy3DAsync for each pair of regions,
/// more where a region has over three dimensions. Right for few, large regions and for memory that the device can't
/// reach (pageable host memory, where CUDA may block the host); thrust_copier is for many small ones.
class memcpy_copier {
 public:
  static constexpr bool pageable = true;  ///< also copies host memory that is not pinned

  /// Enqueues all copies on `stream`. from[i] and to[i] have equal sizes, at least a byte and one dimension each.
  void copy(std::span<const const_region> from, std::span<const region> to, cudaStream_t stream) {
    for (std::size_t i = 0; i < from.size(); ++i) copy(from[i].base, from[i], to[i].base, to[i], 0, stream);
  }

 private:
  static void copy(const std::byte* source, const const_region& from, std::byte* target, const region& to, int d,
                   cudaStream_t stream) {
    const int left = from.size.dims() - d;
    const auto bytes = [](index_t n) { return static_cast<std::size_t>(n); };
    const std::size_t row = bytes(from.size[from.size.dims() - 1]);
    if (left == 1) {
      detail::check_cuda(cudaMemcpyAsync(target, source, row, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
    } else if (left == 2 && pitch(from, d, row) && pitch(to, d, row)) {
      detail::check_cuda(cudaMemcpy2DAsync(target, bytes(to.stride[d]), source, bytes(from.stride[d]), row,
                                           bytes(from.size[d]), cudaMemcpyDefault, stream),
                         "cudaMemcpy2DAsync");
    } else if (left == 3 && slices(from, d, row) && slices(to, d, row)) {
      cudaMemcpy3DParms all = {};
      all.srcPtr = {const_cast<std::byte*>(source), bytes(from.stride[d + 1]), row,
                    bytes(from.stride[d] / from.stride[d + 1])};
      all.dstPtr = {target, bytes(to.stride[d + 1]), row, bytes(to.stride[d] / to.stride[d + 1])};
      all.extent = {row, bytes(from.size[d + 1]), bytes(from.size[d])};
      all.kind = cudaMemcpyDefault;
      detail::check_cuda(cudaMemcpy3DAsync(&all, stream), "cudaMemcpy3DAsync");
    } else {
      for (index_t i = 0; i < from.size[d]; ++i)
        copy(source + i * from.stride[d], from, target + i * to.stride[d], to, d + 1, stream);
    }
  }

  /// Whether dimension d steps by something that CUDA takes as a pitch.
  static bool pitch(const const_region& r, int d, std::size_t row) {
    return r.stride[d] >= static_cast<index_t>(row) && r.stride[d] <= 0x7fffffff;
  }
  /// Whether dimensions d and d + 1 are slices of whole pitches.
  static bool slices(const const_region& r, int d, std::size_t row) {
    return pitch(r, d + 1, row) && r.stride[d] % r.stride[d + 1] == 0 && r.stride[d] / r.stride[d + 1] >= r.size[d + 1];
  }
};

static_assert(nccl_copier<memcpy_copier>);

}  // namespace cuda
}  // namespace v0
}  // namespace unshard
