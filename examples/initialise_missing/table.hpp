// SPDX-License-Identifier: Apache-2.0
#pragma once  // table.hpp: the three ways side by side, and what it comes to.

#include <cstddef>
#include <cstdio>
#include <span>
#include <string>

#include "../observers/readable.hpp"
#include "ways.hpp"

namespace examples {

inline void print_table(std::span<const measured> ways) {
  std::printf("\n%-24s %9s %9s %9s\n", "", "peak:", "peak:", "peak:");
  std::printf("%-24s %9s %9s %9s %8s %9s  %s\n", "", "root", "others", "process", "time", "moved", "bits");
  for (const measured& m : ways) {
    std::printf("%-24s %9s %9s %9s %6.2f s %9s  %s\n", m.name.c_str(), readable(m.root_peak).c_str(),
                readable(m.others_peak).c_str(), m.process_peak == 0 ? "-" : readable(m.process_peak).c_str(),
                m.seconds, readable(m.moved).c_str(), m.agrees ? "agree" : "DIFFER");
  }
}

/// "2.5 times slower": what `ours` seconds are beside `theirs`.
inline std::string speed(double ours, double theirs) {
  const double ratio = ours > theirs ? ours / theirs : theirs / ours;
  char text[40];
  std::snprintf(text, sizeof text, "%.1f times %s", ratio, ours > theirs ? "slower" : "faster");
  return ratio < 1.05 ? "as fast" : text;
}

/// The last lines: the chunks against the budget, and against the first way where that ran.
inline void print_verdict(const measured& chunks, const measured* everything, std::size_t budget) {
  std::printf("\nchunks: a peak of %s on the root, within the budget of %s; others %s\n",
              readable(chunks.root_peak).c_str(), readable(budget).c_str(), readable(chunks.others_peak).c_str());
  if (everything != nullptr && chunks.root_peak > 0)
    std::printf("against one gather: 1/%.1f of the memory, and %s\n",
                static_cast<double>(everything->root_peak) / static_cast<double>(chunks.root_peak),
                speed(chunks.seconds, everything->seconds).c_str());
}

}  // namespace examples
