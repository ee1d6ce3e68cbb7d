// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/nccl/paired_regions.hpp: a copy between two lists of regions, as pairs of one shape that an engine
              // can copy.

#include <cstddef>
#include <span>
#include <type_traits>
#include <unshard/communicator.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// A region with as few dimensions as there can be, at least one, outermost first.
template <class Byte>
struct plain_block {
  Byte* base = nullptr;
  int dims = 0;
  index_t size[extents::max_dims] = {};
  index_t stride[extents::max_dims] = {};

  index_t bytes() const {
    index_t n = 1;
    for (int d = 0; d < dims; ++d) n *= size[d];
    return n;
  }
  bool contiguous() const { return dims == 1; }

  /// Adds a dimension inside the others, merged with the last one where they are one run.
  void append(index_t n, index_t step) {
    if (dims > 0 && n == 1) return;
    if (dims > 0 && size[dims - 1] == 1) --dims;
    if (dims > 0 && stride[dims - 1] == n * step) {
      size[dims - 1] *= n;
      stride[dims - 1] = step;
    } else {
      size[dims] = n;
      stride[dims++] = step;
    }
  }

  template <class Region>
  static plain_block of(const Region& r) {
    plain_block out;
    out.base = r.base;
    for (int d = 0; d < r.size.dims(); ++d) out.append(r.size[d], r.stride[d]);
    return out.finish();
  }

  /// The longest block of at most `limit` (>= 1) bytes that starts `position` bytes into this one.
  plain_block part(index_t position, index_t limit) const {
    int d = dims - 1;
    index_t inner = 1;  // bytes in one step of dimension d
    for (; d > 0 && limit >= inner * size[d] && position % (inner * size[d]) == 0; --d) inner *= size[d];
    plain_block out;
    out.base = base;
    index_t rest = position;
    for (int e = dims - 1; e >= 0; --e) {
      out.base += rest % size[e] * stride[e];
      rest /= size[e];
    }
    const index_t left = size[d] - position / inner % size[d];
    out.append(left < limit / inner ? left : limit / inner, stride[d]);
    for (int e = d + 1; e < dims; ++e) out.append(size[e], stride[e]);
    return out.finish();
  }

 private:
  /// The innermost dimension counts single bytes, whatever was merged away.
  plain_block finish() {
    if (dims > 0 && size[dims - 1] == 1) --dims;
    if (dims == 0 || stride[dims - 1] != 1) size[dims] = stride[dims] = 1, ++dims;
    return *this;
  }
};

/// Copies to do: from[i] and to[i] have equal sizes and as few dimensions as there can be.
struct paired_regions {
  std::vector<const_region> from;
  std::vector<region> to;

  bool empty() const { return from.empty(); }
  void clear() {
    from.clear();
    to.clear();
  }

  /// Adds a copy between lists that differ in shape, not in length. Where one side is a contiguous run, as it is in
  /// all that schedules make, a region of the other side becomes one pair, however many rows it has.
  void add(std::span<const const_region> sources, std::span<const region> targets) {
    walk<const const_region> f(sources);
    walk<const region> t(targets);
    while (!f.done() && !t.done()) {
      const index_t most = f.left() < t.left() ? f.left() : t.left();
      auto source = f.block.part(f.position, most);
      auto target = t.block.part(t.position, most);
      if (source.contiguous()) {
        target = t.block.part(t.position, source.bytes());
        take_shape(source, target);
      } else if (target.contiguous()) {
        source = f.block.part(f.position, target.bytes());
        take_shape(target, source);
      } else if (!same_shape(source, target)) {  // two strided ones: run by run
        const index_t a = source.size[source.dims - 1];
        const index_t b = target.size[target.dims - 1];
        source = f.block.part(f.position, a < b ? a : b);
        target = t.block.part(t.position, source.bytes());
        source = f.block.part(f.position, target.bytes());
        take_shape(source, target);
      }
      push(source, target);
      f.advance(target.bytes());
      t.advance(target.bytes());
    }
  }

 private:
  template <class Region>
  struct walk {
    using byte = std::remove_pointer_t<decltype(Region::base)>;
    explicit walk(std::span<Region> regions) : list(regions) { enter(); }
    bool done() const { return at == list.size(); }
    index_t left() const { return block.bytes() - position; }
    void advance(index_t bytes) {
      position += bytes;
      if (left() == 0) {
        ++at;
        enter();
      }
    }
    void enter() {
      while (at < list.size() && bytes_of(list[at]) == 0) ++at;
      if (at < list.size()) block = plain_block<byte>::of(list[at]);
      position = 0;
    }
    std::span<Region> list;
    std::size_t at = 0;
    plain_block<byte> block;
    index_t position = 0;
  };

  /// Lays `shape`'s sizes over the contiguous block.
  template <class A, class B>
  static void take_shape(A& contiguous, const B& shape) {
    contiguous.dims = shape.dims;
    index_t step = 1;
    for (int d = shape.dims - 1; d >= 0; --d) {
      contiguous.size[d] = shape.size[d];
      contiguous.stride[d] = step;
      step *= shape.size[d];
    }
  }
  template <class A, class B>
  static bool same_shape(const A& a, const B& b) {
    if (a.dims != b.dims) return false;
    for (int d = 0; d < a.dims; ++d)
      if (a.size[d] != b.size[d]) return false;
    return true;
  }
  void push(const plain_block<const std::byte>& source, const plain_block<std::byte>& target) {
    const auto n = static_cast<std::size_t>(source.dims);
    const extents size(std::span<const index_t>(source.size, n));
    from.push_back({source.base, size, extents(std::span<const index_t>(source.stride, n))});
    to.push_back({target.base, size, extents(std::span<const index_t>(target.stride, n))});
  }
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
