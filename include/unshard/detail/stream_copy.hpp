#pragma once  // stream_copy.hpp: copies around the caches, for more bytes than a cache holds until they are read.

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__) && defined(__GNUC__)
#define UNSHARD_DETAIL_STREAMS
#endif

namespace unshard {
inline namespace v0 {
namespace detail {

/// Bytes of a rank's copy from which on it goes around the caches: its peers copy as much at the same time, and what
/// was written first is gone from the caches that they share by the end.
inline constexpr std::size_t streams_from = std::size_t{1} << 23;

#if defined(UNSHARD_DETAIL_STREAMS)
/// One vector register. Not <emmintrin.h>, which all of the core would include.
using stream_word [[gnu::vector_size(16), gnu::may_alias]] = long long;

inline void stream_store(std::byte* to, stream_word value) {
#if defined(__clang__)
  __builtin_nontemporal_store(value, reinterpret_cast<stream_word*>(to));
#else
  __builtin_ia32_movntdq(reinterpret_cast<stream_word*>(to), value);
#endif
}
#endif

/// As memcpy, but the target's lines are neither read first nor left in the caches; elsewhere than on x86 it is memcpy.
/// Whoever tells another thread that the bytes are there calls stream_fence() before.
inline void stream_copy(std::byte* to, const std::byte* from, std::size_t bytes) {
#if defined(UNSHARD_DETAIL_STREAMS)
  constexpr std::size_t line = 64;
  constexpr std::size_t words = line / sizeof(stream_word);
  const std::size_t to_line = (line - reinterpret_cast<std::uintptr_t>(to) % line) % line;
  if (bytes >= to_line + line) {
    std::memcpy(to, from, to_line);
    std::size_t at = to_line;
    for (; bytes - at >= line; at += line) {
      stream_word value[words];
      std::memcpy(value, from + at, line);
      for (std::size_t i = 0; i < words; ++i) stream_store(to + at + i * sizeof(stream_word), value[i]);
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
#if defined(UNSHARD_DETAIL_STREAMS)
  __builtin_ia32_sfence();
#endif
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard

#undef UNSHARD_DETAIL_STREAMS
