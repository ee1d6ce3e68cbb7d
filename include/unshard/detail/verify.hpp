#pragma once  // verify.hpp: what .verify does with chunk memory, and the address sanitizer's view of it.

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

/// The paint of byte `at`: of the word it is in.
constexpr std::uint64_t paint_word(std::size_t word) {
  return (word + 1) * 0x9e3779b97f4a7c15ULL | 0x0101010101010101ULL;
}

/// Paints `bytes` bytes. One pass of writes over the chunk.
inline void paint(std::byte* p, std::size_t bytes) {
  if (bytes == 0) return;  // p may be null
  std::size_t word = 0;
  for (; (word + 1) * 8 <= bytes; ++word) {
    const std::uint64_t value = paint_word(word);
    std::memcpy(p + word * 8, &value, 8);
  }
  const std::uint64_t value = paint_word(word);
  std::memcpy(p + word * 8, &value, bytes - word * 8);
}

/// Whether bytes [from, from + bytes) of a painted buffer are still paint. Stops at the first that is not.
inline bool is_paint(const std::byte* buffer, std::size_t from, std::size_t bytes) {
  for (std::size_t at = from; at < from + bytes; ++at) {
    const std::uint64_t value = paint_word(at / 8);
    std::byte expected;
    std::memcpy(&expected, reinterpret_cast<const std::byte*>(&value) + at % 8, 1);
    if (buffer[at] != expected) return false;
  }
  return true;
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
