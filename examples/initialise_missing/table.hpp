#pragma once  // table.hpp: the three ways side by side, and what it comes to.

#include <cstddef>
#include <cstdio>
#include <span>

#include "../observers/readable.hpp"
#include "ways.hpp"

namespace examples {

inline void print_table(std::span<const measured> ways) {
  std::printf("\n%-26s %12s %12s %12s %10s %12s  %s\n", "", "peak, root", "peak, others", "process", "time", "moved",
              "bits");
  for (const measured& m : ways) {
    std::printf("%-26s %12s %12s %12s %8.2f s %12s  %s\n", m.name.c_str(), readable(m.root_peak).c_str(),
                readable(m.others_peak).c_str(), m.process_peak == 0 ? "-" : readable(m.process_peak).c_str(),
                m.seconds, readable(m.moved).c_str(), m.agrees ? "agree" : "DIFFER");
  }
}

/// The last lines: the chunks against the budget, and against the first way where that ran.
inline void print_verdict(const measured& chunks, const measured* everything, std::size_t budget) {
  std::printf("\nchunks: root's peak %s of a budget of %s, others %s", readable(chunks.root_peak).c_str(),
              readable(budget).c_str(), readable(chunks.others_peak).c_str());
  if (everything != nullptr && chunks.root_peak > 0)
    std::printf("; 1/%.1f of the one gather's, and %.1f times as fast",
                static_cast<double>(everything->root_peak) / static_cast<double>(chunks.root_peak),
                everything->seconds / chunks.seconds);
  std::printf("\n");
}

}  // namespace examples
