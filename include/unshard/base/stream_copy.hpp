// SPDX-License-Identifier: Apache-2.0
#pragma once  // base/stream_copy.hpp: copies around the caches, for more bytes than a cache holds until they are read.

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define UNSHARD_DETAIL_STREAMS
#endif

namespace unshard {
inline namespace v0 {
namespace detail {

/// Bytes of a rank's copy from which on it goes around the caches: its peers copy as much at the same time, and what
/// was written first is gone from the caches that they share by the end.
inline constexpr std::size_t copy_streams_from = std::size_t{1} << 23;

#if defined(UNSHARD_DETAIL_STREAMS)
/// One vector register. Not <emmintrin.h>, which all of the core would include.
typedef long long stream_word __attribute__((__vector_size__(16), __may_alias__));  // NOLINT(modernize-use-using)

inline stream_word stream_load(const std::byte* from) {
  stream_word value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline void stream_store(std::byte* to, stream_word value) {
#if defined(__clang__)
  __builtin_nontemporal_store(value, reinterpret_cast<stream_word*>(to));
#else
  __builtin_ia32_movntdq(reinterpret_cast<stream_word*>(to), value);
#endif
}
#endif

/// As memcpy, but the target's lines are neither read first nor left in the caches; elsewhere than on x86-64 it is
/// memcpy. On aarch64 by argument, measured nowhere: STNP is a hint only, and cores there see that whole lines are
/// written and stop reading them first. Not on i386 either: whether it has the stores may differ between units of one
/// program. Whoever tells another thread that the bytes are there calls stream_fence() before.
inline void stream_copy(std::byte* to, const std::byte* from, std::size_t bytes) {
#if defined(UNSHARD_DETAIL_STREAMS)
  constexpr std::size_t line = 64;
  const std::size_t to_line = (line - reinterpret_cast<std::uintptr_t>(to) % line) % line;
  if (bytes >= to_line + line) {
    std::memcpy(to, from, to_line);
    std::size_t at = to_line;
    for (; bytes - at >= line; at += line) {
      const stream_word a = stream_load(from + at);
      const stream_word b = stream_load(from + at + 16);
      const stream_word c = stream_load(from + at + 32);
      const stream_word d = stream_load(from + at + 48);
      stream_store(to + at, a);
      stream_store(to + at + 16, b);
      stream_store(to + at + 32, c);
      stream_store(to + at + 48, d);
    }
    to += at;
    from += at;
    bytes -= at;
  }
#endif
  std::memcpy(to, from, bytes);
}

/// A run of a copy: stream_copy where the whole copy is long enough to stream, else memcpy.
inline void copy_run(std::byte* to, const std::byte* from, std::size_t bytes, bool streams) {
  if (streams) return stream_copy(to, from, bytes);
  std::memcpy(to, from, bytes);
}

/// Orders what stream_copy wrote before all that this thread writes later.
/// The stores that go around the caches are not ordered by a release, such as the unlocking of a mutex by which another
/// thread learns of them: only this fence does that. What memcpy wrote needs no fence on any processor: a release is
/// enough.
inline void stream_fence() {
#if defined(UNSHARD_DETAIL_STREAMS)
  __builtin_ia32_sfence();
#endif
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard

#undef UNSHARD_DETAIL_STREAMS
