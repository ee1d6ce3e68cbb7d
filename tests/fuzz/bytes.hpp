// SPDX-License-Identifier: Apache-2.0
#pragma once  // bytes.hpp: numbers out of a fuzzer's input, in order; zeros once it is used up.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

class fuzz_bytes {
 public:
  fuzz_bytes(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

  bool empty() const { return at_ == end_; }
  std::uint8_t byte() { return at_ == end_ ? std::uint8_t{0} : *at_++; }
  /// In [from, to]; one byte of input for a narrow range, more for a wide one.
  std::int64_t number(std::int64_t from, std::int64_t to) {
    const auto width = static_cast<std::uint64_t>(to) - static_cast<std::uint64_t>(from);
    std::uint64_t value = byte();
    for (std::uint64_t reach = 255; reach < width && !empty(); reach = reach << 8 | 255) value = value << 8 | byte();
    return width == UINT64_MAX ? static_cast<std::int64_t>(value)
                               : static_cast<std::int64_t>(static_cast<std::uint64_t>(from) + value % (width + 1));
  }
  /// Small most of the time, anything up to `most` at others.
  std::int64_t size(std::int64_t most) {
    const std::uint8_t kind = byte();
    if (kind < 200) return number(0, most < 40 ? most : 40);
    return kind < 240 ? number(0, most < 100'000 ? most : 100'000) : number(0, most);
  }

 private:
  const std::uint8_t* at_;
  const std::uint8_t* end_;
};

/// Stops the fuzzer with a message.
inline void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what.c_str());
  std::abort();
}
