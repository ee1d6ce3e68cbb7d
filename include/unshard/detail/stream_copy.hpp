#pragma once  // stream_copy.hpp: copies around the caches, for more bytes than a cache holds until they are read.

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace unshard {
inline namespace v0 {
namespace detail {

/// As memcpy, but the target's lines are neither read first nor left in the caches; elsewhere than on x86 it is memcpy.
/// Whoever tells another thread that the bytes are there calls stream_fence() before.
inline void stream_copy(std::byte* to, const std::byte* from, std::size_t bytes) {
#if defined(__SSE2__)
  constexpr std::size_t line = 64;
  const std::size_t to_line = (line - reinterpret_cast<std::uintptr_t>(to) % line) % line;
  if (bytes >= to_line + line) {
    std::memcpy(to, from, to_line);
    std::size_t at = to_line;
    for (; bytes - at >= line; at += line) {
      const auto* in = reinterpret_cast<const __m128i*>(from + at);
      auto* out = reinterpret_cast<__m128i*>(to + at);
      const __m128i a = _mm_loadu_si128(in);
      const __m128i b = _mm_loadu_si128(in + 1);
      const __m128i c = _mm_loadu_si128(in + 2);
      const __m128i d = _mm_loadu_si128(in + 3);
      _mm_stream_si128(out, a);
      _mm_stream_si128(out + 1, b);
      _mm_stream_si128(out + 2, c);
      _mm_stream_si128(out + 3, d);
    }
    to += at;
    from += at;
    bytes -= at;
  }
#endif
  std::memcpy(to, from, bytes);
}

/// Orders what stream_copy wrote before all that this thread writes later.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
