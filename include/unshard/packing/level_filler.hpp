// SPDX-License-Identifier: Apache-2.0
#pragma once  // packing/level_filler.hpp: what stays together, and chunks filled with it one after another.

#include <cstddef>
#include <cstdint>
#include <unshard/base/checked.hpp>
#include <unshard/layout.hpp>

namespace unshard {
inline namespace v0 {
namespace detail {

/// No plan has more chunks: sixteen million, a quarter of a gigabyte of their starts. Only a budget in the wrong unit
/// asks for more.
inline constexpr std::size_t most_chunks = std::size_t{1} << 24;

/// The start of a chunk in the caller's order: an element of a parameter.
struct cut_point {
  std::size_t parameter;
  index_t first;
};

/// Parameters [begin, end) that stay together, tied ones among them left out.
struct unit {
  std::size_t begin = 0;
  std::size_t end = 0;
  index_t elements = 0;
  std::size_t element_size = 0;
  std::size_t aligned = 0;  // bytes with alignment
  std::size_t bytes = 0;    // without that of the last
  bool whole = true;        // never to be cut
  bool cut = false;         // to be cut, at the edges of chunks
};

/// Fills chunks one after another, each with at most `level` bytes, a multiple of the alignment.
class level_filler {
 public:
  /// Pieces are listed up to chunk number `listed`; where there are more chunks, those behind are only counted.
  level_filler(std::size_t alignment, std::size_t level, std::size_t listed = most_chunks)
      : alignment_(alignment), level_(level), listed_(listed) {}

  /// Calls piece(chunk, first, count) for each piece of a unit that fits: count < 0 says all of it.
  template <class Piece>
  void add(const unit& u, Piece piece) {
    if (chunks_ == 0) chunks_ = 1;
    if (u.cut && u.aligned > level_ - used_) {
      add_cut(u, piece);
      return;
    }
    if (u.aligned > level_ - used_) next_chunk();
    take(u.aligned, u.bytes);
    piece(chunks_ - 1, index_t{0}, index_t{-1});
  }

  std::size_t chunks() const { return chunks_; }
  /// Bytes of the fullest chunk, without the alignment that follows its last piece.
  std::size_t fullest() const { return fullest_ > end_ ? fullest_ : end_; }

 private:
  template <class Piece>
  void add_cut(const unit& u, Piece piece) {
    const std::size_t most = level_ / u.element_size;
    for (auto left = static_cast<std::size_t>(u.elements); left > 0;) {
      const std::size_t room = (level_ - used_) / u.element_size;
      if (room == 0) {
        next_chunk();
      } else if (used_ == 0 && chunks_ + (left - 1) / most > listed_) {
        count_full(left, most, u.element_size);
        return;
      } else {
        const std::size_t count = left < room ? left : room;
        take(align_up(count * u.element_size, alignment_), count * u.element_size);
        piece(chunks_ - 1, u.elements - static_cast<index_t>(left), static_cast<index_t>(count));
        left -= count;
      }
    }
  }

  /// Counts the chunks that `left` elements need, from an empty one on: `most` in each but the last.
  void count_full(std::size_t left, std::size_t most, std::size_t element_size) {
    const std::size_t full = (left - 1) / most;
    if (full > 0) {
      take(align_up(most * element_size, alignment_), most * element_size);
      chunks_ += full - 1;
      next_chunk();
    }
    left -= full * most;
    take(align_up(left * element_size, alignment_), left * element_size);
  }

  void take(std::size_t aligned, std::size_t bytes) {
    if (bytes > 0) end_ = used_ + bytes;
    used_ += aligned;
  }

  void next_chunk() {
    fullest_ = fullest();
    ++chunks_;
    used_ = 0;
    end_ = 0;
  }

  std::size_t alignment_;
  std::size_t level_;
  std::size_t listed_;
  std::size_t chunks_ = 0;
  std::size_t used_ = 0;  // aligned bytes of the chunk in hand
  std::size_t end_ = 0;   // its last used byte
  std::size_t fullest_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
