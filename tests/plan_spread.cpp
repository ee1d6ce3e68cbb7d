// SPDX-License-Identifier: Apache-2.0
// Plans of spread: which rank holds what, in which round, and how even it is; beside a naive oracle.
#include <unshard/plan.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <tuple>

#include "oracle.hpp"

using namespace unshard;

namespace {

struct item {
  index_t n = 0;
  std::size_t size = 4;
  std::uint64_t costs = 0;
  std::uint64_t group_ = 0;
  std::uint64_t identity_ = 0;
  bool whole = false;
  int ranks = 4;
  flat_shard layout() const { return {{n}, ranks}; }
  std::size_t element_size() const { return size; }
  std::span<const std::byte> shard() const { throw std::logic_error("make_plan asks for no shard"); }
  std::uint64_t group() const { return group_; }
  std::uint64_t identity() const { return identity_; }
  bool indivisible() const { return whole; }
  std::uint64_t cost() const { return costs; }
  std::size_t bytes() const { return static_cast<std::size_t>(n) * size; }
};
using model = std::vector<item>;

/// Parameters that stay together, by the words of the documentation: neighbours of one group, ties left out.
struct naive_unit {
  std::vector<std::size_t> members;
  std::uint64_t cost = 0;
  std::size_t bytes = 0;
  std::size_t aligned = 0;
  bool grouped = false;
};

std::vector<naive_unit> units_of(const model& list, std::size_t alignment) {
  std::vector<naive_unit> units;
  std::uint64_t last = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const item& p = list[i];
    const bool tied = p.identity_ != 0 && std::any_of(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(i),
                                                      [&](const item& o) { return o.identity_ == p.identity_; });
    if (tied) continue;
    if (p.group_ == 0 || p.group_ != last) units.push_back({});
    last = p.group_;
    naive_unit& u = units.back();
    u.members.push_back(i);
    u.cost += p.costs;
    u.bytes += p.bytes();
    u.aligned += detail::align_up(p.bytes(), alignment);
    u.grouped = p.group_ != 0;
  }
  return units;
}

std::size_t first_tied(const model& list, std::size_t i) {
  if (list[i].identity_ == 0) return i;
  std::size_t first = 0;
  while (list[first].identity_ != list[i].identity_) ++first;
  return first;
}

/// Owner of each parameter, by looking at all ranks for every unit.
std::vector<int> naive_owners(const model& list, int ranks) {
  std::vector<naive_unit> units = units_of(list, 1);
  std::stable_sort(units.begin(), units.end(), [](const naive_unit& a, const naive_unit& b) {
    return std::tuple(b.cost, b.bytes) < std::tuple(a.cost, a.bytes);
  });
  std::vector<std::tuple<std::uint64_t, std::size_t, int>> state;
  for (int r = 0; r < ranks; ++r) state.emplace_back(0, 0, r);
  std::vector<int> owner(list.size(), -1);
  for (const naive_unit& u : units) {
    auto& [load, bytes, rank] = *std::min_element(state.begin(), state.end());
    for (const std::size_t m : u.members) owner[m] = rank;
    load += u.cost;
    bytes += u.bytes;
  }
  for (std::size_t i = 0; i < list.size(); ++i) owner[i] = owner[first_tied(list, i)];
  return owner;
}

/// Chunks that a greedy loop in order needs; units over `capacity` are cut where they may be. 0: a unit does not fit.
std::size_t naive_chunks(const model& list, std::size_t level, std::size_t capacity, const options& o) {
  std::size_t chunks = 0;
  std::size_t used = 0;
  for (const naive_unit& u : units_of(list, o.alignment)) {
    if (chunks == 0) chunks = 1;
    const item& p = list[u.members[0]];
    const bool cuts =
        !u.grouped && !p.whole && (o.cut == cut::anywhere || (o.cut == cut::oversized && u.aligned > capacity));
    if (u.aligned <= level - used) {
      used += u.aligned;
    } else if (!cuts) {
      if (u.aligned > level) return 0;
      ++chunks, used = u.aligned;
    } else {
      for (index_t left = p.n; left > 0;) {
        const index_t fit = std::min(left, static_cast<index_t>((level - used) / p.size));
        if (fit == 0 && used == 0) return 0;
        if (fit == 0) {
          ++chunks, used = 0;
          continue;
        }
        used += detail::align_up(static_cast<std::size_t>(fit) * p.size, o.alignment);
        left -= fit;
      }
    }
  }
  return chunks;
}

model random_model(oracle::dice& roll, int ranks) {
  model list(static_cast<std::size_t>(roll(0, 40)));
  std::uint64_t group = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (roll.chance(20)) group = static_cast<std::uint64_t>(roll(0, 2));
    list[i] = {.n = roll.chance(10) ? 0 : roll(1, 500),
               .size = static_cast<std::size_t>(roll.of<index_t>({1, 2, 3, 4, 8, 34})),
               .costs = static_cast<std::uint64_t>(roll.chance(30) ? roll(0, 2) : roll(0, 100'000)),
               .group_ = group,
               .whole = roll.chance(10),
               .ranks = ranks};
    if (i > 0 && roll.chance(10)) {  // tied to an earlier one
      const auto to = static_cast<std::size_t>(roll(0, static_cast<index_t>(i) - 1));
      list[to].identity_ = list[to].identity_ == 0 ? to + 1 : list[to].identity_;
      list[i].n = list[to].n, list[i].size = list[to].size, list[i].identity_ = list[to].identity_;
    }
  }
  return list;
}

/// Gives the least budget where `o`'s is less.
void raise_budget(const model& list, options& o, const capabilities& engine) {
  try {
    static_cast<void>(make_plan(list, o, engine));
  } catch (const budget_too_small& e) {
    o.budget = e.least;
  }
}

/// Every element once, in chunks within the capacity; holders, owners, loads, rounds and balance say what is there.
void check(const model& list, const chunk_plan& plan, const options& o, int ranks) {
  REQUIRE(plan.spreads());
  const auto n = static_cast<std::size_t>(ranks);
  std::vector<std::vector<std::pair<index_t, index_t>>> parts(list.size());
  std::vector<double> loads(n, 0);
  std::vector<bool> ended(list.size(), false);
  double busiest = 0;
  double all = 0;
  std::size_t largest = 0;
  std::size_t last = 0;
  for (std::size_t round = 0; round < plan.rounds(); ++round) {
    double most = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const std::size_t chunk = plan.chunk_of(round, rank);
      if (!list.empty()) REQUIRE(plan.holder(chunk) == rank);
      double cost = 0;
      std::size_t used = 0;
      std::size_t before = 0;
      for (const planned_piece& p : plan.pieces(chunk, list)) {
        REQUIRE(p.offset % o.alignment == 0);
        REQUIRE(p.offset >= used);
        REQUIRE(p.parameter >= before);
        before = p.parameter;
        if (p.bytes > 0) used = p.offset + p.bytes;
        parts[p.parameter].emplace_back(p.first, p.elements);
        const item& i = list[p.parameter];
        cost += i.n == 0 ? static_cast<double>(i.costs)
                         : static_cast<double>(i.costs) * static_cast<double>(p.elements) / static_cast<double>(i.n);
        if (o.packing == packing::balanced || p.first == 0) REQUIRE(plan.owner(p.parameter) == rank);
        REQUIRE(!ended[p.parameter]);
        ended[p.parameter] = plan.ends_parameter(chunk, p, i.n);
        last = chunk + 1;
      }
      REQUIRE(used <= plan.capacity());
      largest = std::max(largest, used);
      loads[static_cast<std::size_t>(rank)] += cost;
      most = std::max(most, cost);
      all += cost;
    }
    busiest += most;
  }
  CHECK(plan.summary().chunks == last);
  CHECK(plan.summary().largest == largest);
  const double balance = all == 0 ? 1 : busiest / (all / ranks);
  CHECK(plan.summary().balance == doctest::Approx(balance));
  for (int rank = 0; rank < ranks && !list.empty(); ++rank)
    CHECK(std::abs(static_cast<double>(plan.load(rank)) - loads[static_cast<std::size_t>(rank)]) <=
          static_cast<double>(plan.chunks()));
  for (std::size_t i = 0; i < list.size(); ++i) {
    REQUIRE(plan.owner(i) == plan.owner(first_tied(list, i)));
    if (first_tied(list, i) != i) continue;
    std::sort(parts[i].begin(), parts[i].end());
    index_t at = 0;
    for (const auto& [first, count] : parts[i]) {
      REQUIRE(first == at);
      at += count;
    }
    REQUIRE(at == list[i].n);
    REQUIRE(ended[i]);
  }
}

}  // namespace

TEST_CASE("make_plan: balanced owners are those of a naive loop, for every budget, alignment and cut") {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    const int ranks = static_cast<int>(roll(1, 9));
    const model list = random_model(roll, ranks);
    const std::vector<int> expected = naive_owners(list, ranks);
    for (int budgets = 0; budgets < 3; ++budgets) {
      options o{.budget = static_cast<std::size_t>(roll(1, 20'000)),
                .packing = packing::balanced,
                .cut = roll.chance(50) ? cut::oversized : cut::never,
                .alignment = std::size_t{1} << roll(0, 8),
                .in_flight = static_cast<int>(roll(1, 3)),
                .on = spread};
      const capabilities engine{.regions = roll.chance(70), .staging = static_cast<std::size_t>(roll(0, 100))};
      raise_budget(list, o, engine);
      const chunk_plan plan = make_plan(list, o, engine);
      CHECK(plan.summary().peak <= std::max(o.budget, engine.staging));
      check(list, plan, o, ranks);
      for (std::size_t i = 0; i < list.size(); ++i) REQUIRE(plan.owner(i) == expected[i]);
    }
  }
}

TEST_CASE("make_plan: spread in order fills chunks to the lowest level that costs no round") {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    const int ranks = static_cast<int>(roll(1, 9));
    const model list = random_model(roll, ranks);
    options o{.budget = static_cast<std::size_t>(roll(1, 20'000)),
              .cut = static_cast<cut>(roll(0, 2)),
              .alignment = std::size_t{1} << roll(0, 8),
              .on = spread};
    raise_budget(list, o, {});
    const chunk_plan plan = make_plan(list, o);
    check(list, plan, o, ranks);
    const auto rounds_at = [&](std::size_t level) {
      const std::size_t chunks = naive_chunks(list, level, plan.capacity(), o);
      return chunks == 0 ? std::numeric_limits<std::size_t>::max()
                         : (chunks + static_cast<std::size_t>(ranks) - 1) / static_cast<std::size_t>(ranks);
    };
    if (list.empty()) {
      CHECK(plan.rounds() == 1);
      continue;
    }
    CHECK(plan.rounds() == rounds_at(plan.capacity()));
    const std::size_t level = detail::align_up(plan.summary().largest, o.alignment);
    CHECK(rounds_at(level) == plan.rounds());
    if (level > 0) CHECK(rounds_at(level - o.alignment) > plan.rounds());
  }
}

TEST_CASE("make_plan: a round of root and every_rank is one chunk, which the run says who holds") {
  const model list{{.n = 64, .costs = 5}, {.n = 64, .costs = 7}};
  for (const residency on : {root(0), every_rank}) {
    const chunk_plan plan = make_plan(list, {.budget = 256, .on = on});
    CHECK(!plan.spreads());
    CHECK(plan.rounds() == 2);
    CHECK(plan.chunk_of(1, 3) == 1);
    CHECK(plan.holder(1) == -1);
    CHECK(plan.owner(1) == -1);
    CHECK(plan.load(0) == 12);
    CHECK(plan.summary().balance == 1);
    CHECK(to_string(plan.summary()).find("balance") == std::string::npos);
  }
}

TEST_CASE("make_plan: spread of nothing is one round of nothing") {
  const model none;
  for (const packing how : {packing::in_order, packing::balanced}) {
    const chunk_plan plan = make_plan(none, {.budget = 1, .packing = how, .on = spread});
    CHECK(plan.rounds() == 1);
    CHECK(plan.chunks() == 0);
    CHECK(plan.holder(0) == -1);
    CHECK(plan.summary().peak == 0);
    CHECK(plan.pieces(0, none).empty());
  }
}

TEST_CASE("make_plan: an owner packs in falling cost, so that rounds are alike") {
  // In the caller's order a rank would do 1 then 9, the other 9 then 1: two rounds of 9.
  const model list{{.n = 64, .costs = 1, .ranks = 2},
                   {.n = 64, .costs = 9, .ranks = 2},
                   {.n = 64, .costs = 9, .ranks = 2},
                   {.n = 64, .costs = 1, .ranks = 2}};
  const chunk_plan plan = make_plan(list, {.budget = 256, .packing = packing::balanced, .on = spread});
  CHECK(plan.rounds() == 2);
  CHECK(plan.summary().balance == 1);
  CHECK(plan.load(0) == 10);
  CHECK(plan.load(1) == 10);
  CHECK(plan.pieces(0, list)[0].parameter == 1);
  CHECK(to_string(plan.summary()) ==
        "chunks       4 (lower bound 4)\nrounds       2\nvalues       1024 bytes (1.0 KiB)\nlargest      256 bytes\n"
        "peak         256 bytes a rank\nutilisation  100 %\nbalance      1.000\n");
}

TEST_CASE("make_plan: with spread an engine without regions stages what it sends and what it receives") {
  const model list{{.n = 64}};
  const options o{.budget = 3 * 2 * 256 + 10, .in_flight = 2, .on = spread};
  CHECK(make_plan(list, o, {.regions = false, .staging = 10}).capacity() == 256);
  CHECK(make_plan(list, o, {.regions = false, .staging = 10}).summary().peak == 3 * 256 + 10);
  CHECK(make_plan(list, o, {.staging = 10}).capacity() == 3 * 256);
}

namespace {
template <class Error>
std::string told(const model& list, const options& o) {
  try {
    static_cast<void>(make_plan(list, o));
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing";
}
}  // namespace

TEST_CASE("make_plan: what spread and balanced can't be combined with is said") {
  const model list{{.n = 64}};
  CHECK(
      told<bad_options>(list, {.budget = 256, .packing = packing::best_fit, .on = spread}).find("packing::balanced") !=
      std::string::npos);
  CHECK(told<bad_options>(list, {.budget = 256, .packing = packing::balanced}).find("goes with .on = spread only") !=
        std::string::npos);
  CHECK(told<bad_options>(list, {.budget = 256, .packing = packing::balanced, .cut = cut::anywhere, .on = spread})
            .find("with balanced use cut::oversized") != std::string::npos);
  const model mixed{{.n = 64}, {.n = 64, .ranks = 3}};
  CHECK(told<bad_layout>(mixed, {.budget = 256, .on = spread})
            .find("parameter 1 has a layout for 3 ranks, and parameter "
                  "0 for 4") != std::string::npos);
  CHECK(told<bad_layout>(mixed, {.budget = 256}) == "nothing");
  constexpr std::uint64_t half = std::uint64_t{1} << 62;
  const model dear{{.n = 64, .costs = half}, {.n = 64, .costs = half}};
  CHECK(told<size_overflow>(dear, {.budget = 256, .on = spread}).find("parameter 1 costs") != std::string::npos);
  const model negative{{.n = 64, .costs = static_cast<std::uint64_t>(-1)}};
  CHECK(told<size_overflow>(negative, {.budget = 256}).find("parameter 0 costs 18446744073709551615") !=
        std::string::npos);
}

TEST_CASE("make_plan: owners with dear units do fewer in a round, so that rounds are alike") {
  model list(21, {.n = 64, .costs = 10, .ranks = 2});  // of 256 bytes; four fill a chunk
  list[7].costs = 30;
  const chunk_plan plan = make_plan(list, {.budget = 1024, .packing = packing::balanced, .on = spread});
  CHECK(plan.rounds() == 3);
  CHECK(plan.owner(7) == 0);
  CHECK(plan.load(0) == 120);
  CHECK(plan.load(1) == 110);
  CHECK(plan.summary().balance == doctest::Approx(120 / 115.0));  // filled to the brim: 130
}
