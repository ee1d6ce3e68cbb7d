// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/verify.hpp: what .verify does with chunk memory.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The paint of the word at `offset` of a buffer. No byte of it is 0.
constexpr std::uint64_t paint_word(std::size_t offset) {
  return (offset + 1) * 0x9e3779b97f4a7c15ULL | 0x0101010101010101ULL;
}

inline constexpr std::size_t least_painted = 16;  // bytes of a piece: two words, so that no value is paint by chance

/// Whether f(offset) holds for every word that is painted of bytes [from, from + bytes) of a buffer; stops at the first
/// where it doesn't. They are the last word and some 64 before it, evenly spread: whoever writes a longer run than a
/// 64th of the piece meets one, and however long a piece is, to paint it costs next to nothing.
template <class F>
constexpr bool all_painted(std::size_t from, std::size_t bytes, F f) {
  const std::size_t last = from + bytes - 8;
  const std::size_t step = bytes < 1024 ? 8 : bytes / 64;
  for (std::size_t at = from; at + 8 <= last; at += step) {
    if (!f(at)) return false;
  }
  return f(last);
}

/// Paints a piece.
inline void paint(std::byte* buffer, std::size_t from, std::size_t bytes) {
  if (bytes < least_painted) return;
  all_painted(from, bytes, [&](std::size_t at) {
    const std::uint64_t value = paint_word(at);
    std::memcpy(buffer + at, &value, 8);
    return true;
  });
}

/// Whether a piece that was painted has all its paint still.
inline bool is_paint(const std::byte* buffer, std::size_t from, std::size_t bytes) {
  if (bytes < least_painted) return false;
  return all_painted(from, bytes, [&](std::size_t at) {
    std::uint64_t value = 0;
    std::memcpy(&value, buffer + at, 8);
    return value == paint_word(at);
  });
}

/// Folds bytes into a checksum; equal runs of equal bytes give equal sums. One pass of reads.
inline std::uint64_t checksum(std::uint64_t seed, const std::byte* p, std::size_t bytes) {
  const auto fold = [&](std::uint64_t value) { seed = std::rotl(seed ^ value, 27) * 0x9fb21c651e98df25ULL + 1; };
  for (; bytes >= 8; p += 8, bytes -= 8) {
    std::uint64_t value = 0;
    std::memcpy(&value, p, 8);
    fold(value);
  }
  std::uint64_t value = bytes;
  if (bytes > 0) std::memcpy(&value, p, bytes);
  fold(value);
  return seed;
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
