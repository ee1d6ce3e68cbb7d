// Plans: chunks within capacity, few of them, the promises of packing, cut, groups and ties; real models.
#include <unshard/plan.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>
#include <sstream>
#include <string>

#include "../examples/manifest.hpp"
#include "manifest_files.hpp"
#include "oracle.hpp"

using namespace unshard;

namespace {

struct item {
  index_t n = 0;
  std::size_t size = 4;
  std::uint64_t group_ = 0;
  std::uint64_t identity_ = 0;
  bool whole = false;
  std::string name_ = {};
  flat_shard layout() const { return {{n}, 2}; }
  std::size_t element_size() const { return size; }
  std::span<const std::byte> shard() const { throw std::logic_error("make_plan asks for no shard"); }
  std::string_view name() const { return name_; }
  std::uint64_t group() const { return group_; }
  std::uint64_t identity() const { return identity_; }
  bool indivisible() const { return whole; }
};

/// Every element once, within capacity, at aligned offsets that do not overlap; groups and indivisible ones whole; the
/// last piece of each parameter is known as such.
void check_plan(const std::vector<item>& list, const chunk_plan& plan, const options& o) {
  std::vector<index_t> next(list.size(), 0);
  std::vector<std::vector<std::pair<index_t, index_t>>> parts(list.size());
  std::vector<bool> ended(list.size(), false);
  std::size_t largest = 0;
  for (std::size_t c = 0; c < plan.chunks(); ++c) {
    std::size_t used = 0;
    std::size_t before = 0;
    for (const planned_piece& p : plan.pieces(c, list)) {
      REQUIRE(p.offset % o.alignment == 0);
      REQUIRE(p.offset >= used);
      REQUIRE(p.parameter >= before);
      before = p.parameter;
      REQUIRE(p.offset + p.bytes <= plan.capacity());
      if (p.bytes > 0) used = p.offset + p.bytes;
      REQUIRE(p.bytes == static_cast<std::size_t>(p.elements) * list[p.parameter].size);
      parts[p.parameter].emplace_back(p.first, p.elements);
      REQUIRE(!ended[p.parameter]);
      ended[p.parameter] = plan.ends_parameter(c, p, list[p.parameter].n);
      const bool cut = p.elements != list[p.parameter].n;
      REQUIRE(!(cut && (o.cut == cut::never || list[p.parameter].whole || list[p.parameter].group_ != 0)));
      if (o.cut == cut::oversized && cut)
        REQUIRE(detail::align_up(static_cast<std::size_t>(list[p.parameter].n) * list[p.parameter].size, o.alignment) >
                plan.capacity());
    }
    largest = std::max(largest, used);
  }
  CHECK(largest == plan.summary().largest);
  for (std::size_t i = 0; i < list.size(); ++i) {
    std::sort(parts[i].begin(), parts[i].end());
    index_t at = 0;
    for (const auto& [first, n] : parts[i]) {
      REQUIRE(first == at);
      at += n;
    }
    REQUIRE(at == list[i].n);
    REQUIRE(!parts[i].empty());
    REQUIRE(ended[i]);
  }
}

using names = std::vector<std::string>;

}  // namespace

TEST_CASE("make_plan: a chunk never exceeds its capacity and every element is in one chunk, on random lists") {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    std::vector<item> list(static_cast<std::size_t>(roll(0, 40)));
    std::uint64_t group = 0;
    for (item& i : list) {
      if (roll.chance(20)) group = static_cast<std::uint64_t>(roll(0, 2));
      i = {roll.chance(10) ? 0 : roll(1, 500), static_cast<std::size_t>(roll.of<index_t>({1, 2, 3, 4, 8, 34})), group,
           0, roll.chance(10)};
    }
    options o{.budget = 1,
              .cut = static_cast<cut>(roll(0, 2)),
              .alignment = std::size_t{1} << roll(0, 8),
              .in_flight = static_cast<int>(roll(1, 3))};
    if (o.cut != cut::anywhere && roll.chance(50)) o.packing = packing::best_fit;
    const capabilities engine{.regions = roll.chance(70), .staging = static_cast<std::size_t>(roll(0, 100))};
    try {
      static_cast<void>(make_plan(list, o, engine));
    } catch (const budget_too_small& e) {
      o.budget = e.least - 1;
      CHECK_THROWS_AS(static_cast<void>(make_plan(list, o, engine)), budget_too_small);
      o.budget = e.least;  // must work
    }
    if (roll.chance(70)) o.budget += static_cast<std::size_t>(roll(0, 20'000));
    const chunk_plan plan = make_plan(list, o, engine);
    check_plan(list, plan, o);
    CHECK(plan.summary().peak <= std::max(o.budget, engine.staging));
    CHECK(plan.summary().chunks == plan.chunks());
    if (o.packing == packing::best_fit) {
      options in_order = o;
      in_order.packing = packing::in_order;
      CHECK(plan.chunks() <= make_plan(list, in_order, engine).chunks());
    }
  }
}

TEST_CASE("make_plan: cut anywhere needs the lower bound where sizes are multiples of the alignment") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    oracle::dice roll(seed);
    std::vector<item> list(static_cast<std::size_t>(roll(1, 200)));
    for (item& i : list) i = {roll(1, 300) * 32, 4};
    const chunk_plan plan =
        make_plan(list, {.budget = 128 * static_cast<std::size_t>(roll(1, 100)), .cut = cut::anywhere});
    CHECK(plan.chunks() == plan.summary().lower_bound);
  }
}

TEST_CASE("make_plan: in order with nothing cut is the caller's order; oversized ones start at the edge in hand") {
  const std::vector<item> list{{64}, {32}, {64}, {200}, {32}};  // 256, 128, 256, 800 and 128 bytes
  const chunk_plan plan = make_plan(list, {.budget = 512, .cut = cut::oversized});
  std::ostringstream out;
  for (std::size_t c = 0; c < plan.chunks(); ++c) {
    for (const auto& p : plan.pieces(c, list))
      out << p.parameter << ':' << p.first << '+' << p.elements << '@' << p.offset << ' ';
    out << "| ";
  }
  CHECK(out.str() == "0:0+64@0 1:0+32@256 | 2:0+64@0 3:0+64@256 | 3:64+128@0 | 3:192+8@0 4:0+32@128 | ");
}

TEST_CASE("make_plan: ties are one piece, at the first's place; ties of different sizes are refused") {
  const std::vector<item> list{{10, 4, 0, 7}, {20}, {10, 4, 0, 7}, {5}};
  const chunk_plan plan = make_plan(list, {.budget = 4096});
  std::vector<std::size_t> order;
  for (const auto& p : plan.pieces(0, list)) order.push_back(p.parameter);
  CHECK(order == std::vector<std::size_t>{0, 1, 3});
  CHECK(plan.summary().bytes == 140);
  const std::vector<item> wrong{{10, 4, 0, 7}, {11, 4, 0, 7}};
  CHECK_THROWS_AS(make_plan(wrong, {.budget = 4096}), bad_layout);
}

TEST_CASE("make_plan: best fit leaves a tied member of a group out of its chunk") {
  std::vector<item> list{{300, 1}, {300, 1}, {250, 1}, {90, 1, 7}, {300, 1, 7}, {5, 1, 7}, {100, 1}};
  for (const std::size_t twin : {0U, 1U, 4U}) list[twin].identity_ = 9;
  const chunk_plan plan = make_plan(list, {.budget = 400, .packing = packing::best_fit, .alignment = 1});
  REQUIRE(plan.chunks() == 2);  // 300 + 100, 250 + (90 + 5); in order it takes three
  CHECK(make_plan(list, {.budget = 400, .alignment = 1}).chunks() == 3);
  const std::vector<std::vector<std::size_t>> expected{{0, 6}, {2, 3, 5}};
  for (std::size_t c = 0; c < 2; ++c) {
    std::vector<std::size_t> found;
    for (const planned_piece& p : plan.pieces(c, list)) found.push_back(p.parameter);
    CHECK(found == expected[c]);
  }
}

TEST_CASE("make_plan: best fit is within 1.01 of the lower bound where no parameter is over a tenth of the capacity") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    std::vector<item> list(1000);
    for (item& i : list) i = {(roll(1, 16) << roll(0, 12)) * 8};  // 256 B to 2 MiB
    const plan_summary s = make_plan(list, {.budget = 20 * MiB, .packing = packing::best_fit}).summary();
    CHECK_MESSAGE(s.chunks * 100 <= s.lower_bound * 101, s.chunks, " of ", s.lower_bound);
  }
}

TEST_CASE("make_plan: a group that can't fit is named") {
  const std::vector<item> list{{10}, {100, 4, 3, 0, false, "w"}, {100, 4, 3, 0, false, "b"}};
  try {
    make_plan(list, {.budget = 512, .cut = cut::anywhere});
    FAIL("no error");
  } catch (const budget_too_small& e) {
    CHECK(std::string(e.what()).find("the group that starts with parameter 1 \"w\" needs 1024 bytes (1.0 KiB)") !=
          std::string::npos);
    CHECK(e.parameter == 1);
    CHECK(e.least == 1024);
  }
}

TEST_CASE("make_plan: nothing, and nothing but empty parameters") {
  const std::vector<item> none;
  CHECK(make_plan(none, {.budget = 1}).chunks() == 0);
  CHECK(make_plan(none, {.budget = 1, .packing = packing::best_fit}).chunks() == 0);
  const std::vector<item> empty{{0}, {0}};
  for (const packing how : {packing::in_order, packing::best_fit}) {
    const chunk_plan plan = make_plan(empty, {.budget = 1, .packing = how});
    CHECK(plan.chunks() == 1);
    CHECK(plan.pieces(0, empty).size() == 2);
    CHECK(plan.summary().peak == 0);
  }
  CHECK_THROWS_AS(make_plan(none, {}), bad_options);
}

TEST_CASE("plan_summary: prints as a table") {
  const std::vector<item> list{{1000}};
  std::ostringstream out;
  out << make_plan(list, {.budget = 8192}).summary();
  CHECK(out.str() ==
        "chunks       1 (lower bound 1)\nvalues       4000 bytes (3.9 KiB)\nlargest      4000 bytes (3.9 KiB)\n"
        "peak         4096 bytes (4.0 KiB) a rank\nutilisation  49 %\n");
}

TEST_CASE("make_plan: ten real models at real size, each packing and cut") {
  const std::vector<std::filesystem::path> files = manifest_files();
  CHECK(files.size() == 10);
  for (const auto& file : files) {
    CAPTURE(file.string());
    const auto manifest = examples::read_manifest(file.string());
    std::vector<item> list;
    std::size_t largest = 0;
    std::size_t total = 0;
    for (const auto& e : manifest) {
      list.push_back({e.shape.elements(), e.element_size, 0, e.tied_to + 1});
      largest = std::max(largest, e.bytes());
      total += e.bytes();
    }
    for (std::size_t budget : {largest + 128, 10 * largest + 1280, total + 128 * list.size()}) {
      std::size_t in_order = 0;
      for (const packing how : {packing::in_order, packing::best_fit}) {
        for (const cut where : {cut::never, cut::oversized, cut::anywhere}) {
          if (how == packing::best_fit && where == cut::anywhere) continue;
          const chunk_plan plan = make_plan(list, {.budget = budget, .packing = how, .cut = where});
          const auto& s = plan.summary();
          CHECK(s.peak <= budget);
          CHECK(s.chunks >= s.lower_bound);
          if (how == packing::in_order && where == cut::never) in_order = s.chunks;
          if (how == packing::best_fit) CHECK(s.chunks <= in_order);
          if (how == packing::best_fit && largest * 10 <= plan.capacity())
            CHECK_MESSAGE(static_cast<double>(s.chunks) <=
                              std::max(1.01 * static_cast<double>(s.lower_bound), static_cast<double>(s.lower_bound)),
                          s.chunks, " of ", s.lower_bound);
        }
      }
    }
    // The budget of a hundredth cuts what is larger.
    const chunk_plan small = make_plan(list, {.budget = total / 100, .cut = cut::oversized});
    CHECK(small.summary().peak <= total / 100);
  }
}

TEST_CASE("make_plan: sizes next to the largest number are cut, not overflown, and any budget will do") {
  constexpr auto most = static_cast<std::size_t>(std::numeric_limits<index_t>::max());
  const std::vector<item> list{{.n = std::numeric_limits<index_t>::max() - 255, .size = 1}};
  for (const packing p : {packing::in_order, packing::best_fit}) {
    options o{.budget = most - 511, .packing = p, .cut = cut::oversized};
    const chunk_plan two = make_plan(list, o);
    CHECK(two.chunks() == 2);
    check_plan(list, two, o);
    o.budget = std::numeric_limits<std::size_t>::max();
    const chunk_plan one = make_plan(list, o);
    CHECK(one.chunks() == 1);
    check_plan(list, one, o);
  }
}

TEST_CASE("make_plan: any budget has a lower bound, the largest one as well") {
  const std::vector<item> list{{1000}, {10}};
  for (const packing p : {packing::in_order, packing::best_fit}) {
    const plan_summary s =
        make_plan(list, {.budget = std::numeric_limits<std::size_t>::max(), .packing = p, .in_flight = 3}).summary();
    CHECK(s.lower_bound == 1);
    CHECK(s.chunks == 1);
    CHECK(s.largest == 4096 + 40);
    CHECK(s.peak == 4224);
    CHECK(s.utilisation >= 0);
  }
}

TEST_CASE("make_plan: a budget in the wrong unit is refused with the number of chunks, not listed") {
  const std::vector<item> list{{.n = index_t{500} << 30, .size = 1}};
  for (const residency on : {root(0), spread}) {
    for (const packing p : {packing::in_order, packing::best_fit, packing::balanced}) {
      if ((p == packing::best_fit && on.spreads()) || (p == packing::balanced && !on.spreads())) continue;
      try {
        static_cast<void>(make_plan(list, {.budget = 512, .packing = p, .cut = cut::oversized, .on = on}));
        FAIL("no error");
      } catch (const bad_options& e) {
        const std::string said = e.what();
        // balanced: two ranks, one of which has nothing in any round
        const char* count = p == packing::balanced ? "there are 2097152000 chunks" : "there are 1048576000 chunks";
        CHECK_MESSAGE(said.find(count) != std::string::npos, said);
        CHECK(said.find("budget of 512 bytes") != std::string::npos);
      }
    }
  }
  // As many as a plan may have are listed.
  const std::vector<item> most{{.n = 1 << 24, .size = 1}};
  CHECK(make_plan(most, {.budget = 1, .cut = cut::oversized, .alignment = 1}).chunks() == std::size_t{1} << 24);
  const std::vector<item> more{{.n = (1 << 24) + 1, .size = 1}};
  CHECK_THROWS_AS(make_plan(more, {.budget = 1, .cut = cut::oversized, .alignment = 1}), bad_options);
}

TEST_CASE("make_plan: cutting is advised where it works, with the budget that it needs") {
  const auto advice = [](const std::vector<item>& list, options o) {
    try {
      static_cast<void>(make_plan(list, o));
    } catch (const budget_too_small& e) {
      const std::string said = e.what();
      const std::size_t line = said.find("Set .budget");
      o.budget = e.least;
      static_cast<void>(make_plan(list, o));
      return said.substr(line);
    }
    return std::string("planned");
  };
  const options small{.budget = 512};
  CHECK(advice({{1000}}, small) == "Set .budget to at least 4096, or .cut = unshard::cut::oversized.");
  CHECK(advice({{1000, 4, 0, 0, true}}, small) == "Set .budget to at least 4096.");  // indivisible
  CHECK(advice({{1000, 4, 3}}, small) == "Set .budget to at least 4096.");           // a group of one
  CHECK(advice({{1, 4000}}, small) == "Set .budget to at least 4096.");              // one element
  CHECK(advice({{1}}, {.budget = 100}) == "Set .budget to at least 128.");           // below the alignment
  CHECK(advice({{1000}}, {.budget = 100}) ==
        "Set .budget to at least 4096, or to at least 128 with .cut = unshard::cut::oversized.");
  // Another one can't be cut: the smaller budget is the one for both.
  CHECK(advice({{1000}, {500, 4, 0, 0, true}}, small) ==
        "Set .budget to at least 4096, or to at least 2048 with .cut = unshard::cut::oversized.");
  CHECK(advice({{1000, 4, 0, 0, true}}, {.budget = 512, .cut = cut::oversized}) == "Set .budget to at least 4096.");
}
