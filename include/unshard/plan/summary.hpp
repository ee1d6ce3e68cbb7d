// SPDX-License-Identifier: Apache-2.0
#pragma once  // plan/summary.hpp: what a plan comes to, as numbers and as text.

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>
#include <unshard/base/text.hpp>

namespace unshard {
inline namespace v0 {

/// What a plan comes to. Prints as a table.
struct plan_summary {
  std::size_t chunks = 0;       ///< how many, with spread up to the last that has a piece
  std::size_t bytes = 0;        ///< of all values, tied ones once; no alignment
  std::size_t largest = 0;      ///< bytes of the fullest chunk, alignment between pieces included
  std::size_t peak = 0;         ///< bytes: the most that any rank holds, buffers, staging and alignment all in
  std::size_t lower_bound = 0;  ///< chunks: ceil(aligned bytes / capacity); no plan of whole chunks has fewer
  double utilisation = 0;       ///< bytes / (chunks * capacity)
  std::size_t rounds = 0;       ///< how many: with spread one chunk on each rank, else one chunk
  bool spread = false;          ///< whether every rank holds chunks of its own
  /// The sum over rounds of the busiest rank's cost, over the mean rank's of all rounds: since a round ends when its
  /// busiest rank does, how many times the work of a perfect share the plan takes. 1 where there is no spread.
  double balance = 1;
};

namespace detail {
/// "1.035": three decimals, of a number >= 0 that is no larger than a plan's balance can be.
inline std::string in_thousandths(double number) {
  const auto thousandths = static_cast<std::uint64_t>(number * 1000 + 0.5);
  const std::string decimals = concat(thousandths % 1000 + 1000);
  return concat(thousandths / 1000, '.', std::string_view(decimals).substr(1));
}
}  // namespace detail

/// The summary as lines of text; rounds and balance of a spread plan only.
inline std::string to_string(const plan_summary& s) {
  return detail::concat(
      "chunks       ", s.chunks, " (lower bound ", s.lower_bound, ")\n",
      s.spread ? detail::concat("rounds       ", s.rounds, "\n") : std::string(), "values       ",
      detail::in_bytes(s.bytes, " bytes"), "\nlargest      ", detail::in_bytes(s.largest, " bytes"), "\npeak         ",
      detail::in_bytes(s.peak, " bytes"), " a rank\nutilisation  ", static_cast<std::size_t>(s.utilisation * 100 + 0.5),
      " %\n", s.spread ? detail::concat("balance      ", detail::in_thousandths(s.balance), "\n") : std::string());
}
template <class Char, class Traits>
std::basic_ostream<Char, Traits>& operator<<(std::basic_ostream<Char, Traits>& out, const plan_summary& s) {
  return out << to_string(s).c_str();
}

}  // namespace v0
}  // namespace unshard
