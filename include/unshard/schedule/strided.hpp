// SPDX-License-Identifier: Apache-2.0
#pragma once  // schedule/strided.hpp: an interval of a row-major order, as strided blocks of bytes.

#include <cstddef>
#include <span>
#include <unshard/layout.hpp>
#include <utility>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Bytes at `offset` from some base; the innermost dimension counts single bytes.
struct strided_block {
  index_t offset = 0;
  extents size;
  extents stride;
};

/// The same bytes in the same order with as few dimensions as there can be, at least one.
inline strided_block merged(const strided_block& b) {
  index_t size[extents::max_dims];
  index_t stride[extents::max_dims];
  int n = 0;  // from the innermost outwards
  for (int d = b.size.dims() - 1; d >= 0; --d) {
    if (n > 0 && b.size[d] == 1) continue;
    if (n > 0 && b.stride[d] == size[n - 1] * stride[n - 1]) {
      size[n - 1] *= b.size[d];
    } else {
      size[n] = b.size[d];
      stride[n++] = b.stride[d];
    }
  }
  strided_block out;
  out.offset = b.offset;
  index_t outward[extents::max_dims] = {};
  for (int d = 0; d < n; ++d) outward[d] = size[n - 1 - d];
  out.size = extents(std::span<const index_t>(outward, static_cast<std::size_t>(n)));
  for (int d = 0; d < n; ++d) outward[d] = stride[n - 1 - d];
  out.stride = extents(std::span<const index_t>(outward, static_cast<std::size_t>(n)));
  return out;
}

/// Calls put(strided_block) for bytes [from, to) of b's own row-major order, in order: at most 2 * dims - 1 blocks.
template <class Put>
void cut_block(const strided_block& b, index_t from, index_t to, Put& put, int d = 0) {
  if (from >= to) return;
  const int dims = b.size.dims();
  index_t inner = 1;
  for (int e = d + 1; e < dims; ++e) inner *= b.size[e];
  const auto row = [&](index_t r) {
    strided_block below = b;
    below.offset += r * b.stride[d];
    return below;
  };
  index_t r = from / inner;
  if (d + 1 < dims && from % inner != 0) {
    const index_t stop = to < (r + 1) * inner ? to : (r + 1) * inner;
    cut_block(row(r), from - r * inner, stop - r * inner, put, d + 1);
    from = stop;
    ++r;
  }
  const index_t rows = from < to ? (to - from) / inner : 0;
  if (rows > 0) {
    index_t size[extents::max_dims];
    index_t stride[extents::max_dims];
    const int left = dims - d;
    for (int e = 0; e < left; ++e) {
      size[e] = e == 0 ? rows : b.size[d + e];
      stride[e] = b.stride[d + e];
    }
    const auto n = static_cast<std::size_t>(left);
    put(merged({b.offset + r * b.stride[d], extents(std::span<const index_t>(size, n)),
                extents(std::span<const index_t>(stride, n))}));
    from += rows * inner;
    r += rows;
  }
  if (from < to) cut_block(row(r), 0, to - from, put, d + 1);
}

/// Box `b` of the row-major order of `space`, in bytes from the start of that order.
inline strided_block bytes_of_box(const box& b, const extents& space, std::size_t element_size) {
  const auto bytes = static_cast<index_t>(element_size);
  const int dims = space.dims();
  if (dims == 0) return {0, {bytes}, {index_t{1}}};
  strided_block out{0, b.size, b.size};
  index_t stride = bytes;
  for (int d = dims - 1; d >= 0; --d) {
    out.offset += b.offset[d] * stride;
    out.stride[d] = stride;
    stride *= space[d];
  }
  out.size[dims - 1] *= bytes;
  out.stride[dims - 1] = 1;
  return merged(out);
}

/// Both sides of a part, in bytes: in the row-major order of `space`, and in the shard. Two orders of equal bytes.
struct part_sides {
  strided_block in_space;
  strided_block in_shard;
};
inline part_sides sides_of(const shard_part& p, const extents& space, std::size_t element_size) {
  constexpr int most = 2 * extents::max_dims + 1;
  const auto bytes = static_cast<index_t>(element_size);
  index_t size[most], there[most], here[most];  // from the innermost outwards
  size[0] = bytes;
  there[0] = here[0] = 1;
  int n = 1;
  part_sides out{{0, {}, {}}, {p.first * bytes, {}, {}}};
  index_t stride = bytes;
  index_t pitch = bytes;
  for (int d = space.dims() - 1; d >= 0; --d) {
    out.in_space.offset += p.offset[d] * stride;
    out.in_shard.offset += p.at[d] * pitch;
    size[n] = p.block[d];
    there[n] = stride;
    here[n++] = pitch;
    size[n] = p.count[d];
    there[n] = p.step[d] * stride;
    here[n++] = p.block[d] * pitch;
    stride *= space[d];
    pitch *= p.array[d];
  }
  const auto fill = [&](strided_block& b, const index_t* strides) {
    index_t sizes[most], merged[most];
    int m = 0;
    for (int i = 0; i < n; ++i) {
      if (i > 0 && size[i] == 1) continue;
      if (m > 0 && strides[i] == sizes[m - 1] * merged[m - 1]) {
        sizes[m - 1] *= size[i];
      } else {
        sizes[m] = size[i];
        merged[m++] = strides[i];
      }
    }
    if (m > extents::max_dims)
      throw bad_layout(concat("unshard: a part of ", m, " dimensions of blocks; at most 8 are supported."));
    for (int i = 0; i < m / 2; ++i) {
      std::swap(sizes[i], sizes[m - 1 - i]);
      std::swap(merged[i], merged[m - 1 - i]);
    }
    b.size = extents(std::span<const index_t>(sizes, static_cast<std::size_t>(m)));
    b.stride = extents(std::span<const index_t>(merged, static_cast<std::size_t>(m)));
  };
  fill(out.in_space, there);
  fill(out.in_shard, here);
  return out;
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
