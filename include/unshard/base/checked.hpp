// SPDX-License-Identifier: Apache-2.0
#pragma once  // base/checked.hpp: 64-bit products and sums that throw size_overflow instead of wrapping.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <unshard/error.hpp>

namespace unshard {
inline namespace v0 {
namespace detail {

// Apart from the sums and products, which are to be inlined.
template <std::integral Integer>
[[noreturn]] void throw_overflow(Integer a, std::string_view sign, Integer b) {
  throw size_overflow(
      concat("unshard: ", a, sign, b, " exceeds 2^63 - 1, the most that a size may be; check the shape"));
}

/// a * b for values >= 0; over 2^63 - 1 is size_overflow.
constexpr std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
#if defined(__GNUC__)
  if (__builtin_mul_overflow(a, b, &product)) throw_overflow(a, " x ", b);
#else
  if (a != 0 && b > (std::numeric_limits<std::int64_t>::max)() / a) throw_overflow(a, " x ", b);
  product = a * b;
#endif
  return product;
}

/// a + b for values >= 0; over 2^63 - 1 is size_overflow.
constexpr std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  if (b > (std::numeric_limits<std::int64_t>::max)() - a) throw_overflow(a, " + ", b);
  return a + b;
}

/// A count of bytes or elements, >= 0, as std::size_t; size_overflow where that is shorter than 64 bits and too short.
constexpr std::size_t to_size(std::int64_t count) {
  if constexpr (sizeof(std::size_t) < sizeof count) {
    constexpr auto most = static_cast<std::int64_t>((std::numeric_limits<std::size_t>::max)());
    if (count > most)
      throw size_overflow(concat("unshard: a size of ", count, " exceeds ", most,
                                 ", the most that std::size_t holds on this target; check the shape"));
  }
  return static_cast<std::size_t>(count);
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

/// `bytes` rounded up to `alignment`, a power of two; over 2^63 - 1 is size_overflow.
constexpr std::size_t align_up(std::size_t bytes, std::size_t alignment) {
  constexpr auto most = static_cast<std::size_t>((std::numeric_limits<std::int64_t>::max)());
  if (bytes > most - (alignment - 1)) throw_overflow(bytes, " aligned to ", alignment);
  return (bytes + (alignment - 1)) & ~(alignment - 1);
}

/// Folds `value` into `seed`, one word of a digest: a bijection in each argument, so that digests which differ in one
/// word only never collide. Not for hostile input.
constexpr std::uint64_t mix(std::uint64_t seed, std::uint64_t value) {
  const std::uint64_t z = (seed ^ value) * 0x9fb21c651e98df25ULL + 0x9e3779b97f4a7c15ULL;
  return z ^ (z >> 32);
}

constexpr std::uint64_t mix(std::uint64_t seed, std::int64_t value) {
  return mix(seed, static_cast<std::uint64_t>(value));
}
constexpr std::uint64_t mix(std::uint64_t seed, int value) { return mix(seed, static_cast<std::int64_t>(value)); }

}  // namespace detail
}  // namespace v0
}  // namespace unshard
