// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/verify.hpp: what .verify does with chunk memory, and the address sanitizer's view of it.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#define UNSHARD_DETAIL_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNSHARD_DETAIL_ASAN
#endif
#endif
#if defined(UNSHARD_DETAIL_ASAN)
#include <sanitizer/asan_interface.h>
#endif

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
  std::memcpy(&value, p, bytes);
  fold(value);
  return seed;
}

/// Says to the address sanitizer, where there is one, that nobody may touch these bytes, or that they are in use again.
inline void poison([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(UNSHARD_DETAIL_ASAN)
  __asan_poison_memory_region(p, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(UNSHARD_DETAIL_ASAN)
  __asan_unpoison_memory_region(p, bytes);
#endif
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard

#undef UNSHARD_DETAIL_ASAN
