// SPDX-License-Identifier: Apache-2.0
#pragma once  // units.hpp: amounts as people write them on a command line: bytes, bytes a second, seconds.

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

#include "printable.hpp"

namespace examples {

/// Text that is no amount. what() repeats it and shows what would be one.
class bad_amount : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

/// "1.5 GiB" in its parts.
struct amount {
  std::uint64_t whole;
  double part;  // in [0, 1)
  std::string_view unit;
  double value() const { return static_cast<double>(whole) + part; }
};

/// False where the text does not begin with a number: no sign, no exponent, no more than 2^63 - 1.
inline bool split(std::string_view text, amount& out) {
  const char* const end = text.data() + text.size();
  auto [at, failure] = std::from_chars(text.data(), end, out.whole);
  if (failure != std::errc{} || out.whole > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return false;
  out.part = 0;
  if (at != end && *at == '.') {
    double digit = 0.1;
    for (++at; at != end && *at >= '0' && *at <= '9'; ++at, digit /= 10) out.part += (*at - '0') * digit;
  }
  while (at != end && *at == ' ') ++at;
  out.unit = std::string_view(at, static_cast<std::size_t>(end - at));
  return true;
}

/// "GiB", "gib", "G" and "Gi": 2^30; "GB": 10^9; "", "B": 1; 0 for what is no unit.
inline double bytes_of_unit(std::string_view unit) {
  std::string low;
  for (char c : unit) low += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (low.empty() || low == "b") return 1;
  const std::size_t power = std::string_view("kmgtp").find(low[0]);
  const std::string_view rest = std::string_view(low).substr(1);
  if (power == std::string_view::npos) return 0;
  if (rest == "b") return std::pow(1000.0, static_cast<double>(power + 1));
  return rest.empty() || rest == "i" || rest == "ib" ? std::pow(1024.0, static_cast<double>(power + 1)) : 0;
}

[[noreturn]] inline void no_amount(std::string_view text, const char* help) {
  throw bad_amount(in_quotes(text, 60) + ": " + help);
}

}  // namespace detail

/// Bytes: "2147483648", "64M" and "64MiB" (2^20 each, as GNU tools have it), "1.5GiB", "20GB" (20,000,000,000); upper
/// or lower case. Throws bad_amount, also for less than 0 and for more than 2^63 - 1.
inline std::size_t parse_bytes(std::string_view text) {
  constexpr const char* help = "write bytes as 2147483648, 64M, 512MiB or 1.5GiB; 20GB is 20,000,000,000.";
  detail::amount a{};
  if (!detail::split(text, a)) detail::no_amount(text, help);
  const double unit = detail::bytes_of_unit(a.unit);
  if (unit == 0 || (unit == 1 && a.part > 0)) detail::no_amount(text, help);
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const auto size = static_cast<std::uint64_t>(unit);
  const auto rest = static_cast<std::uint64_t>(a.part * unit + 0.5);
  if (a.whole > (most - rest) / size) detail::no_amount(text, "more than 2^63 - 1 bytes.");
  return static_cast<std::size_t>(a.whole * size + rest);
}

/// Bytes a second: "50GB/s", "25 GiB/s"; with a small b, or as "Gbit/s", bits: "400Gb/s". Throws bad_amount.
inline double parse_rate(std::string_view text) {
  constexpr const char* help = "write a bandwidth as 50GB/s, or 400Gb/s for bits.";
  detail::amount a{};
  if (!detail::split(text, a) || !a.unit.ends_with("/s")) detail::no_amount(text, help);
  std::string_view unit = a.unit.substr(0, a.unit.size() - 2);
  const bool word = unit.ends_with("bit");
  if (word) unit.remove_suffix(2);
  const bool bits = word || (unit.ends_with('b') && !unit.ends_with("ib"));
  const double rate = a.value() * detail::bytes_of_unit(unit) / (bits ? 8 : 1);
  if (rate <= 0) detail::no_amount(text, help);
  return rate;
}

/// Seconds: "10us", "1.5ms", "300ns", "2s". Throws bad_amount.
inline double parse_seconds(std::string_view text) {
  detail::amount a{};
  double unit = 0;
  if (detail::split(text, a))
    unit = a.unit == "s" ? 1 : a.unit == "ms" ? 1e-3 : a.unit == "us" ? 1e-6 : a.unit == "ns" ? 1e-9 : 0;
  if (unit == 0) detail::no_amount(text, "write a time as 10us, 1.5ms or 2s.");
  return a.value() * unit;
}

}  // namespace examples
