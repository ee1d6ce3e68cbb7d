// SPDX-License-Identifier: Apache-2.0
#pragma once  // side.hpp: one rank's side of a benchmark: its shards and handles, a buffer, and what their bytes must
              // be.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <unshard/unshard.hpp>
#include <utility>
#include <vector>

#include "cases.hpp"
#include "floor.hpp"

namespace bench {

struct page_aligned {
  void operator()(std::byte* p) const { std::free(p); }
};
using block = std::unique_ptr<std::byte[], page_aligned>;

/// Bytes whose pages are there.
inline block touched(std::size_t bytes) {
  bytes = std::max<std::size_t>((bytes + 4095) / 4096 * 4096, 4096);
  block b(static_cast<std::byte*>(std::aligned_alloc(4096, bytes)));
  std::memset(b.get(), 0, bytes);
  return b;
}

/// Elements, bit by bit, of a chunk at a multiple of their size: `invert` turns what was gathered into what is written.
class pattern {
 public:
  pattern(std::size_t chunk, std::uint32_t invert) : chunk_(static_cast<std::uint32_t>(chunk) * 77), invert_(invert) {}
  std::uint32_t operator()(std::size_t offset) const {
    return (static_cast<std::uint32_t>(offset / element) * 0x9e3779b1U + chunk_) ^ invert_;
  }
  void fill(std::byte* at, std::size_t offset, std::size_t bytes) const {
    for (std::size_t i = 0; i < bytes; i += element) {
      const std::uint32_t value = (*this)(offset + i);
      std::memcpy(at + i, &value, element);
    }
  }
  /// How many bytes belong to elements that are something else.
  std::size_t wrong(const std::byte* at, std::size_t offset, std::size_t bytes) const {
    std::size_t count = 0;
    for (std::size_t i = 0; i < bytes; i += element) {
      std::uint32_t value = 0;
      std::memcpy(&value, at + i, element);
      count += value != (*this)(offset + i) ? element : 0;
    }
    return count;
  }

 private:
  std::uint32_t chunk_, invert_;
};

class side {
 public:
  side(const std::vector<unshard::any_layout>& layouts, int rank, const unshard::options& o) : o_(o), rank_(rank) {
    const std::vector<std::size_t> at = places(layouts, rank, element);
    shards_ = touched(at.back());
    for (std::size_t p = 0; p < layouts.size(); ++p) {
      std::size_t bytes = 0;
      for (const unshard::box& b : layouts[p].boxes_of(rank))
        bytes += static_cast<std::size_t>(b.size.elements()) * element;
      handles_.emplace_back("", layouts[p], element, std::span(shards_.get() + at[p], bytes));
    }
  }

  const std::vector<unshard::parameter_view>& handles() const { return handles_; }
  std::byte* shards() const { return shards_.get(); }
  std::byte* buffer() const { return buffer_.get(); }
  std::size_t peak() const { return memory_ == nullptr ? 0 : memory_->peak(); }

  /// A buffer that is there before the first range, so that ranges ask the system for no memory.
  void keep_buffer(std::size_t bytes) {
    if (o_.on.holds(rank_)) buffer_ = touched(bytes);
    memory_ = std::make_unique<fixed>(unshard::fixed_memory({buffer_.get(), bytes}));
  }

  /// This rank's share of one range over all of it; body(chunk) on the ranks that hold.
  template <class A, class Comm, class Memory, class Body>
  void pass(Comm& comm, A access, const unshard::options& o, Memory& memory, Body body) {
    for (auto& chunk : unshard::chunks(handles_, comm, access, o, memory)) {
      if (o.on.holds(rank_)) body(chunk);
    }
  }
  template <class A, class Comm, class Body>
  void pass(Comm& comm, A access, const unshard::options& o, Body body) {
    pass(comm, access, o, *memory_, body);
  }
  template <class A, class Comm>
  void pass(Comm& comm, A access) {
    pass(comm, access, o_, [](auto&) {});
  }

  /// The shards as `wrong` wants to find them.
  void fill(const std::vector<std::vector<part>>& parts, std::uint32_t invert = 0) {
    for (std::size_t c = 0; c < parts.size(); ++c) {
      for (const part& p : parts[c])
        if (p.rank == rank_) pattern(c, invert).fill(shards_.get() + p.at, p.offset, p.bytes);
    }
  }
  std::size_t wrong_shards(const std::vector<std::vector<part>>& parts, std::uint32_t invert) const {
    std::size_t count = 0;
    for (std::size_t c = 0; c < parts.size(); ++c) {
      for (const part& p : parts[c])
        if (p.rank == rank_) count += pattern(c, invert).wrong(shards_.get() + p.at, p.offset, p.bytes);
    }
    return count;
  }
  /// How many bytes of a chunk, at `at`, are wrong; where it is to be written, every byte is changed.
  template <class A>
  std::size_t wrong_chunk(A, std::byte* at, std::size_t c, const std::vector<part>& parts) const {
    std::size_t count = 0;
    for (const part& p : parts) {
      if (p.rank != p.first) continue;
      if constexpr (A::gathers) count += pattern(c, 0).wrong(at + p.offset, p.offset, p.bytes);
      if constexpr (A::writes) pattern(c, ~0U).fill(at + p.offset, p.offset, p.bytes);
    }
    return count;
  }

  /// One more pass, checked: how many bytes are not what they should be, in the chunks or, after, in the shards.
  template <class A, class Comm, class Memory>
  std::size_t wrong(Comm& comm, A access, Memory& memory, const std::vector<std::vector<part>>& parts) {
    std::size_t count = 0, c = 0;
    fill(parts);
    pass(comm, access, o_, memory, [&](auto& chunk) {
      auto* const at = const_cast<std::byte*>((*chunk.begin()).bytes().data());  // written under A::writes only
      count += wrong_chunk(access, at, c, parts[c]);
      ++c;
    });
    return count + wrong_shards(parts, A::writes ? ~0U : 0U);
  }
  template <class A, class Comm>
  std::size_t wrong(Comm& comm, A access, const std::vector<std::vector<part>>& parts) {
    return wrong(comm, access, *memory_, parts);
  }

 private:
  using fixed = unshard::counted_memory<unshard::fixed_memory>;
  unshard::options o_;
  int rank_;
  block shards_, buffer_;
  std::vector<unshard::parameter_view> handles_;
  std::unique_ptr<fixed> memory_;
};

}  // namespace bench
