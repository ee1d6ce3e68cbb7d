// SPDX-License-Identifier: Apache-2.0
// Plans of spread for real models at real size: how even the ranks are.
#include <unshard/plan.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <string>

#include "../examples/manifest.hpp"
#include "manifest_files.hpp"

using namespace unshard;

namespace {

struct item {
  index_t n;
  std::size_t size;
  std::uint64_t costs;
  std::uint64_t tie;
  int ranks = 0;
  flat_shard layout() const { return {{n}, ranks}; }
  std::size_t element_size() const { return size; }
  std::span<const std::byte> shard() const { throw std::logic_error("make_plan asks for no shard"); }
  std::uint64_t identity() const { return tie; }
  std::uint64_t cost() const { return costs; }
  std::size_t bytes() const { return static_cast<std::size_t>(n) * size; }
};

}  // namespace

namespace {

/// Newton-Schulz on the last two extents, once for each matrix of those before.
std::uint64_t newton_schulz(const extents& shape) {
  std::uint64_t matrices = 1;
  std::uint64_t m = 1;
  std::uint64_t n = 1;
  const int dims = static_cast<int>(shape.dims());
  for (int d = 0; d < dims; ++d) {
    const auto extent = static_cast<std::uint64_t>(shape[d]);
    (d == dims - 1 ? n : d == dims - 2 ? m : matrices) *= extent;
  }
  return matrices * std::max(m, n) * std::min(m, n) * std::min(m, n);
}

}  // namespace

namespace {

/// The busiest rank's share of the mean that no plan of whole units can stay below, so far as is known: a rank whose
/// costs are k times `grain` or more has at least k grains; the ranks have all grains between them.
double least_balance(const std::vector<std::uint64_t>& costs, int ranks) {
  const double mean = std::accumulate(costs.begin(), costs.end(), 0.0) / ranks;
  const auto n = static_cast<std::uint64_t>(ranks);
  double least = 1;
  for (const std::uint64_t grain : costs) {
    if (static_cast<double>(grain) * 20 < mean) continue;
    std::uint64_t grains = 0;
    for (const std::uint64_t cost : costs) grains += cost / grain;
    least = std::max(least, static_cast<double>((grains + n - 1) / n * grain) / mean);
  }
  return least;
}

}  // namespace

TEST_CASE("make_plan: ranks are balanced on real models, by bytes and by Newton-Schulz") {
  const std::vector<std::filesystem::path> files = manifest_files();
  CHECK(files.size() == 10);
  for (const auto& file : files) {
    for (const bool by_bytes : {true, false}) {
      std::vector<item> list;
      for (const auto& e : examples::read_manifest(file.string()))
        list.push_back({.n = e.shape.elements(),
                        .size = e.element_size,
                        .costs = by_bytes ? e.bytes() : newton_schulz(e.shape),
                        .tie = e.tied_to + 1});
      for (const int ranks : {8, 64, 512}) {
        std::size_t largest = 0;
        std::uint64_t dearest = 0;
        std::uint64_t total = 0;
        std::vector<std::uint64_t> costs;
        for (std::size_t i = 0; i < list.size(); ++i) {
          list[i].ranks = ranks;
          largest = std::max(largest, list[i].bytes());
          dearest = std::max(dearest, list[i].costs);
          if (list[i].tie != i + 1) continue;  // tied
          total += list[i].costs;
          costs.push_back(list[i].costs);
        }
        const chunk_plan plan =
            make_plan(list, {.budget = 4 * detail::align_up(largest, 128), .packing = packing::balanced, .on = spread});
        const double mean = static_cast<double>(total) / ranks;
        CAPTURE(file.string());
        CAPTURE(by_bytes);
        CAPTURE(ranks);
        CAPTURE(plan.rounds());
        const bool small = static_cast<double>(dearest) * 3 <= mean;
        const double least = small ? 1.0 : least_balance(costs, ranks);
        CHECK(plan.summary().balance >= least - 0.001);
        CHECK_MESSAGE(plan.summary().balance <= 1.05 * least, plan.summary().balance, " least ", least);
      }
    }
  }
}
