// SPDX-License-Identifier: Apache-2.0
#pragma once  // readable.hpp: byte counts for people, and counts of things.

#include <cstddef>
#include <cstdio>
#include <string>

namespace examples {

/// "5.1 MiB", "495 MiB", "0": three digits, for people.
inline std::string readable(double bytes) {
  constexpr const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1023.5 && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  if (bytes == 0) return "0";
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
  return text;
}
inline std::string readable(std::size_t bytes) { return readable(static_cast<double>(bytes)); }

/// "1 rank", "3 ranks".
inline std::string number_of(std::size_t count, const char* what, const char* several = "s") {
  return std::to_string(count) + ' ' + what + (count == 1 ? "" : several);
}

}  // namespace examples
