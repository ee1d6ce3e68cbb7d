// SPDX-License-Identifier: Apache-2.0
#pragma once  // printable.hpp: text from a file or a command line, made fit for a terminal, a message or an SVG.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace examples {
namespace detail {

struct code_point {
  std::uint32_t value;
  std::size_t bytes;  // 0: the text does not begin with valid UTF-8
};

inline code_point first_of(std::string_view text) {
  const auto byte = [&](std::size_t i) -> std::uint32_t { return static_cast<unsigned char>(text[i]); };
  const std::uint32_t lead = byte(0);
  const std::size_t bytes = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4 || bytes > text.size()) return {lead, 0};
  constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  std::uint32_t value = bytes == 1 ? lead : lead & (0x7fU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {lead, 0};
    value = value << 6 | (byte(i) & 0x3f);
  }
  const bool surrogate = value >= 0xd800 && value < 0xe000;
  if (value < least[bytes] || value > 0x10ffff || surrogate) return {lead, 0};
  return {value, bytes};
}

/// What a terminal acts on or what XML forbids: controls, marks that turn the direction of text, non-characters.
inline bool is_control(std::uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c < 0x2010) || (c >= 0x2028 && c < 0x202f) ||
         (c >= 0x2060 && c < 0x2070) || c == 0xfeff || (c & 0xfffe) == 0xfffe || (c >= 0xfdd0 && c < 0xfdf0);
}

}  // namespace detail

/// The text with control characters and invalid UTF-8 as \x1b, byte by byte. Where more than `most` bytes come out, the
/// middle is left out: names differ at their ends.
inline std::string printable(std::string_view text, std::size_t most = 200) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  std::string marks;  // out[i] begins a character where marks[i] is 1
  while (!text.empty()) {
    const detail::code_point c = detail::first_of(text);
    const std::size_t bytes = c.bytes == 0 ? 1 : c.bytes;
    if (c.bytes > 0 && !detail::is_control(c.value)) {
      out += text.substr(0, bytes);
    } else {
      for (char b : text.substr(0, bytes)) {
        const auto value = static_cast<unsigned char>(b);
        out += {'\\', 'x', digits[value >> 4], digits[value & 15]};
      }
    }
    marks.resize(out.size(), 0);
    marks[out.size() - (c.bytes > 0 && !detail::is_control(c.value) ? bytes : 4 * bytes)] = 1;
    text.remove_prefix(bytes);
  }
  if (out.size() <= most || most < 8) return out;
  std::size_t head = (most - 3) / 5;
  std::size_t tail = out.size() - (most - 3 - head);
  while (marks[head] == 0) --head;
  while (tail < out.size() && marks[tail] == 0) ++tail;
  return out.substr(0, head) + "..." + out.substr(tail);
}

/// The same in quotes.
inline std::string in_quotes(std::string_view text, std::size_t most = 200) {
  std::string out = "\"";
  out += printable(text, most);
  return out += '"';
}

}  // namespace examples
