// SPDX-License-Identifier: Apache-2.0
#pragma once  // base/text.hpp: the words of messages, without <format>: numbers, byte counts, quoted names.

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace unshard {
inline namespace v0 {
namespace detail {

inline void append(std::string& out, std::string_view text) { out += text; }
inline void append(std::string& out, char c) { out += c; }
template <std::integral Integer>
void append(std::string& out, Integer value) {
  out += std::to_string(value);
}

/// All parts one after another, as one string.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::string out;
  (append(out, parts), ...);
  return out;
}

/// "2147483648 (2.0 GiB)", with " bytes" for `noun` "2147483648 bytes (2.0 GiB)"; below one KiB just the number and it.
inline std::string in_bytes(std::uint64_t bytes, std::string_view noun = {}) {
  constexpr std::string_view units[] = {"", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int unit = 0;
  std::uint64_t whole = bytes;
  std::uint64_t rest = 0;
  while (whole >= 1024 && unit < 6) {
    rest = whole % 1024;
    whole /= 1024;
    ++unit;
  }
  if (unit == 0) return concat(bytes, noun);
  return concat(bytes, noun, " (", whole, '.', rest * 10 / 1024, ' ', units[unit], ')');
}

/// At most `most` bytes of a text (at least 8): what is too much is cut out of its middle, as ends tell names apart.
inline std::string shortened(std::string_view text, std::size_t most) {
  if (text.size() <= most) return std::string(text);
  const std::size_t head = (most - 3) / 2;
  return concat(text.substr(0, head), "...", text.substr(text.size() - (most - 3 - head)));
}

/// A message without the "[rank 1 of 2]" at its end, where another one takes it in and says its own.
inline std::string_view without_rank(std::string_view message) {
  const std::size_t tag = message.rfind(" [rank ");
  const bool last = tag != std::string_view::npos && message.find(']', tag) + 1 == message.size();
  return last ? message.substr(0, tag) : message;
}

/// `3 "layers.0.w"`, or just `3` where there is no name: how messages call a parameter.
inline std::string called(std::size_t index, std::string_view name) {
  return name.empty() ? std::to_string(index) : concat(index, " \"", name, '"');
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
