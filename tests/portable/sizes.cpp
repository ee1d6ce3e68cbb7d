// SPDX-License-Identifier: Apache-2.0
// A size over what std::size_t holds is size_overflow, never a wrapped number; 64 bits hold all of these. A program of
// its own, as it is built for other processors.
#include <cstdio>
#include <limits>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>

#include "../includes/use.hpp"

namespace {
constexpr bool narrow = std::numeric_limits<std::size_t>::digits < 64;

/// Whether `parameters` of 2^rows x 2^columns floats are refused exactly where they do not fit, and else counted right.
bool right(int parameters, int rows, int columns) {
  const int bits = rows + columns + 2;
  std::vector<unshard::parameter_view> list;
  for (int i = 0; i < parameters; ++i)
    list.emplace_back("w", unshard::flat_shard{{1 << rows, 1 << columns}, 2}, 4, std::span<std::byte>());
  const unshard::index_t bytes = (unshard::index_t{1} << bits) * parameters;
  const bool fits = !narrow || bytes <= unshard::index_t{0xffffffff};
  try {
    const auto plan = unshard::make_plan(list, {.budget = 1 << 20, .cut = unshard::cut::anywhere});
    return fits && static_cast<unshard::index_t>(plan.summary().bytes) == bytes;
  } catch (const unshard::size_overflow&) {
    return !fits;
  }
}
}  // namespace

int main() {
  const bool product = right(1, 20, 12);  // 16 GiB in one: 0 in 32 bits
  const bool sum = right(3, 17, 12);      // 2 GiB each, 6 GiB together
  const bool below = right(1, 17, 12);    // 2 GiB: fits everywhere
  const bool gathered = use();
  std::printf("product %d, sum %d, below %d, gathered %d\n", product, sum, below, gathered);
  return product && sum && below && gathered ? 0 : 1;
}
