// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/threads/kept_regions.hpp: lists of regions as the threads engine keeps and walks them.

#include <algorithm>
#include <cstddef>
#include <span>
#include <unshard/communicator.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Contiguous bytes of a list; or a strided block of it, `block` among the blocks that are kept beside the runs.
template <class Region>
struct kept_run {
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  decltype(Region::base) base = nullptr;
  std::size_t bytes = 0;
  std::size_t block = none;
};

/// From `skip` bytes into the first run of a kept list on.
template <class Region>
struct kept_position {
  std::span<const kept_run<Region>> runs;
  const Region* blocks = nullptr;
  std::size_t skip = 0;

  void advance(std::size_t bytes) {
    skip += bytes;
    std::size_t at = 0;
    for (; at < runs.size() && skip >= runs[at].bytes; ++at) skip -= runs[at].bytes;
    runs = runs.subspan(at);
  }
};

/// Which runs are one list's.
struct kept_list {
  std::size_t first = 0;
  std::size_t count = 0;
  std::size_t bytes = 0;
};

/// Lists of regions, kept small: most regions are contiguous, and a batch may have tens of thousands.
template <class Region>
class kept_regions {
 public:
  /// Neighbours that touch become one run, dimensions without gaps between them one dimension.
  kept_list keep(std::span<const Region> list) {
    kept_list out{runs_.size(), 0, 0};
    for (const Region& r : list) {
      const std::size_t bytes = bytes_of(r);
      out.bytes += bytes;
      if (bytes == 0) continue;
      index_t size[extents::max_dims + 1] = {1};  // innermost first
      index_t stride[extents::max_dims + 1] = {1};
      std::size_t inner = 0;
      for (int d = r.size.dims(); d-- > 0;) {
        if (r.size[d] == 1) continue;
        if (r.stride[d] != stride[inner] * size[inner]) {
          ++inner;
          size[inner] = r.size[d];
          stride[inner] = r.stride[d];
        } else {
          size[inner] *= r.size[d];
        }
      }
      if (inner == 0) {
        kept_run<Region>* const last = runs_.size() > out.first ? &runs_.back() : nullptr;
        if (last != nullptr && last->block == kept_run<Region>::none && last->base + last->bytes == r.base)
          last->bytes += bytes;
        else
          runs_.push_back({r.base, bytes, kept_run<Region>::none});
      } else {
        std::reverse(size, size + inner + 1);
        std::reverse(stride, stride + inner + 1);
        runs_.push_back({r.base, bytes, blocks_.size()});
        blocks_.push_back({r.base, extents(std::span<const index_t>(size, inner + 1)),
                           extents(std::span<const index_t>(stride, inner + 1))});
      }
    }
    out.count = runs_.size() - out.first;
    return out;
  }
  kept_position<Region> begin_of(const kept_list& list) const {
    return {std::span(runs_).subspan(list.first, list.count), blocks_.data()};
  }
  void clear() {
    runs_.clear();
    blocks_.clear();
  }

 private:
  std::vector<kept_run<Region>> runs_;
  std::vector<Region> blocks_;
};

/// Walks a kept list: rows(n) rows of n <= run() bytes each, stride(n) apart, start at data(); advance(k, n) goes on
/// behind k of them. There must be a byte where it starts.
template <class Region>
class kept_cursor {
 public:
  explicit kept_cursor(const kept_position<Region>& p) : at_(p) { enter(at_.skip); }

  auto* data() const { return data_; }
  std::size_t run() const { return run_; }
  std::size_t rows(std::size_t length) const {
    if (length < run_) return run_ / length;
    return run_ == length_ ? rows_ : 1;  // the rest of a row is alone
  }
  index_t stride(std::size_t length) const { return length == run_ ? stride_ : static_cast<index_t>(length); }

  void advance(std::size_t count, std::size_t length) {
    if (length < run_) {
      data_ += count * length;
      run_ -= count * length;
      if (run_ > 0) return;
      data_ -= length_;  // on with whole rows
      count = 1;
    } else {
      data_ -= length_ - run_;
    }
    rows_ -= count;
    if (rows_ == 0) return next_plane();
    data_ += static_cast<index_t>(count) * stride_;
    run_ = length_;
  }

 private:
  /// To `skip` bytes into the first run.
  void enter(std::size_t skip) {
    const kept_run<Region>& r = at_.runs.front();
    block_ = r.block == kept_run<Region>::none ? nullptr : at_.blocks + r.block;
    if (block_ == nullptr) {
      data_ = r.base + skip;
      run_ = length_ = r.bytes - skip;
      rows_ = 1;
      return;
    }
    const extents& size = block_->size;
    const int inner = size.dims() - 1;  // at least 1
    auto rest = static_cast<index_t>(skip);
    const index_t in_row = rest % size[inner];
    rest /= size[inner];
    const index_t row = rest % size[inner - 1];
    rest /= size[inner - 1];
    plane_ = r.base;
    for (int d = inner - 2; d >= 0; --d) {
      index_[d] = rest % size[d];
      rest /= size[d];
      plane_ += index_[d] * block_->stride[d];
    }
    stride_ = block_->stride[inner - 1];
    data_ = plane_ + row * stride_ + in_row;
    length_ = static_cast<std::size_t>(size[inner]);
    run_ = static_cast<std::size_t>(size[inner] - in_row);
    rows_ = static_cast<std::size_t>(size[inner - 1] - row);
  }
  void next_plane() {
    if (block_ != nullptr) {
      const extents& size = block_->size;
      const int inner = size.dims() - 1;
      for (int d = inner - 2; d >= 0; --d) {
        plane_ += block_->stride[d];
        if (++index_[d] < size[d]) {
          data_ = plane_;
          run_ = length_;
          rows_ = static_cast<std::size_t>(size[inner - 1]);
          return;
        }
        plane_ -= index_[d] * block_->stride[d];
        index_[d] = 0;
      }
    }
    at_.runs = at_.runs.subspan(1);
    if (!at_.runs.empty()) enter(0);
  }

  kept_position<Region> at_;
  decltype(Region::base) data_ = nullptr;
  std::size_t run_ = 0;            // bytes left of the row
  std::size_t length_ = 0;         // of a whole row
  std::size_t rows_ = 0;           // left of the plane, this one too
  index_t stride_ = 0;             // between rows
  const Region* block_ = nullptr;  // of more than one row; its two inner dimensions are a plane
  decltype(Region::base) plane_ = nullptr;
  index_t index_[extents::max_dims] = {};
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
