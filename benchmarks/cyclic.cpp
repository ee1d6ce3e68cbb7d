// SPDX-License-Identifier: Apache-2.0
// Block-cyclic matrices over threads: time a chunk of cyclic_shard, of box_shard and of a layout of four functions with
// the same boxes, each beside flat_shard on the same matrix, runs alternating.
//   bench_cyclic [N] [BLOCK] [ROWS] [COLUMNS] [RUNS]: N x N floats over a grid of ranks; 4096 64 2 2 5.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace {

struct four_functions {
  unshard::cyclic_shard held;
  unshard::extents shape() const { return held.shape(); }
  unshard::extents space() const { return held.space(); }
  int ranks() const { return held.ranks(); }
  unshard::cyclic_boxes boxes_of(int rank) const { return held.boxes_of(rank); }
  friend bool operator==(const four_functions&, const four_functions&) = default;
};

template <class L>
struct matrix {
  L where;
  std::vector<float> part;
  const L& layout() const { return where; }
  std::size_t element_size() const { return sizeof(float); }
  std::span<std::byte> shard() { return std::as_writable_bytes(std::span(part)); }
};

/// Microseconds a chunk, there and back through a root; the values are checked.
template <class L>
double run(const L& layout, std::size_t budget) {
  double us = 0;
  unshard::run_ranks(layout.ranks(), [&](unshard::threads_communicator& comm) {
    const auto held = unshard::detail::held_of(layout, comm.rank(), 0, layout.space().elements());
    std::vector<matrix<L>> model{{layout, std::vector<float>(static_cast<std::size_t>(held), 1.0F)}};
    const unshard::options o{.budget = budget, .cut = unshard::cut::oversized};
    const auto plan = unshard::make_plan(model, o, comm);
    const auto start = std::chrono::steady_clock::now();
    for (auto& chunk : unshard::chunks(plan, model, comm, unshard::read_write, unshard::run_options(o))) {
      for (auto piece : chunk) {
        for (float& v : piece.template as<float>()) v += 1.0F;
      }
    }
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    if (std::count(model[0].part.begin(), model[0].part.end(), 2.0F) != held) std::printf("# wrong values\n");
    if (comm.rank() == 0) us = took.count() / static_cast<double>(plan.chunks());
  });
  return us;
}

double median(std::vector<double> list) {
  std::sort(list.begin(), list.end());
  return list[list.size() / 2];
}

template <class L>
void compare(const char* name, const L& layout, std::size_t budget, int runs) {
  const unshard::flat_shard flat(layout.shape(), layout.ranks());
  std::vector<double> mine, floor;
  for (int i = 0; i <= runs; ++i) {
    const double a = run(layout, budget);
    const double b = run(flat, budget);
    if (i > 0) mine.push_back(a), floor.push_back(b);  // the first warms up
  }
  std::printf("%-16s %10.1f %10.1f %7.2f\n", name, median(mine), median(floor), median(mine) / median(floor));
}

}  // namespace

int main(int argc, char** argv) {
  const auto number = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
  const int n = number(1, 4096), block = number(2, 64), rows = number(3, 2), columns = number(4, 2);
  const int ranks = rows * columns;
  const unshard::cyclic_shard cyclic({n, n}, {{0, block, rows, columns}, {1, block, columns, 1}}, ranks);
  std::vector<std::vector<unshard::box>> boxes;
  std::size_t count = 0;
  for (int r = 0; r < ranks; ++r) {
    const auto list = cyclic.boxes_of(r);
    boxes.emplace_back(list.begin(), list.end());
    count += list.size();
  }
  const std::size_t budget = static_cast<std::size_t>(n) * static_cast<std::size_t>(n) * sizeof(float) / 8;
  std::printf("# %d x %d floats, blocks of %d, %d x %d ranks, %zu boxes, budget %zu, medians of %d\n", n, n, block,
              rows, columns, count, budget, number(5, 5));
  std::printf("#               us/chunk       flat   ratio\n");
  compare("cyclic_shard", cyclic, budget, number(5, 5));
  compare("four functions", four_functions{cyclic}, budget, number(5, 5));
  compare("box_shard", unshard::box_shard({n, n}, boxes), budget, number(5, 5));
}
