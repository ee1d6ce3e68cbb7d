// SPDX-License-Identifier: Apache-2.0
// cyclic_shard and pitched: values against element-by-element lists, gaps that nobody touches, own layouts on some
// ranks.
#include <unshard/unshard.hpp>

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <unshard/comm/threads.hpp>
#include <unshard/testing/conformance.hpp>

#include "limited.hpp"
#include "mailbox.hpp"
#include "oracle.hpp"

using namespace unshard;

namespace {

struct grid_case {
  oracle::indices shape;
  std::vector<cyclic_dim> grid;
  int ranks;
  index_t gap;  // added to each leading extent; below 0: not pitched
};

/// Which elements a rank holds, asked element by element: the coordinate of an element's block is the rank's.
oracle::indices held_by(const grid_case& c, int rank) {
  return oracle::those(c.shape, [&](const oracle::indices& at) {
    for (const cyclic_dim& g : c.grid) {
      if (at[static_cast<std::size_t>(g.dim)] / g.block % g.size != rank / g.stride % g.size) return false;
    }
    return true;
  });
}

/// The extents of a rank's array: how many different coordinates its elements have along each dimension.
oracle::indices array_of(const oracle::indices& held, const oracle::indices& shape) {
  oracle::indices array;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    std::vector<bool> seen(static_cast<std::size_t>(shape[d]));
    for (oracle::index i : held) seen[static_cast<std::size_t>(oracle::coordinates(i, shape)[d])] = true;
    array.push_back(std::count(seen.begin(), seen.end(), true));
  }
  return array;
}

constexpr std::uint32_t gap_value = 0xdeadbeef;

template <class L>
struct tensor {
  L where;
  std::vector<std::uint32_t> values;
  const L& layout() const { return where; }
  std::size_t element_size() const { return 4; }
  std::span<std::byte> shard() { return std::as_writable_bytes(std::span(values)); }
  std::string_view name() const { return "grid"; }
};

/// The shard of a rank: element i of the whole has the value i + add; everything else is a gap.
std::vector<std::uint32_t> shard_of(const grid_case& c, int rank, std::uint32_t add, bool pitch) {
  const oracle::indices held = held_by(c, rank);
  oracle::indices array = array_of(held, c.shape);
  oracle::indices leading = array;
  for (oracle::index& l : leading) l += pitch ? c.gap : 0;
  std::vector<std::uint32_t> out(static_cast<std::size_t>(oracle::volume(leading)) + 3, gap_value);
  for (std::size_t n = 0; n < held.size(); ++n) {
    const oracle::indices local = oracle::coordinates(static_cast<oracle::index>(n), array);
    oracle::index at = 0;
    for (std::size_t d = 0; d < leading.size(); ++d) at = at * leading[d] + local[d];
    out[static_cast<std::size_t>(at)] = static_cast<std::uint32_t>(held[n]) + add;
  }
  return out;
}

template <class C, class L>
void move_there_and_back(C& comm, const grid_case& c, const L& layout, bool pitch, residency on, std::size_t budget) {
  std::vector<tensor<L>> model{{layout, shard_of(c, comm.rank(), 0, pitch)}};
  const options o{.budget = budget, .cut = cut::oversized, .on = on};
  for (auto& chunk : chunks(model, comm, read_write, o)) {
    for (auto p : chunk) {
      auto v = p.template as<std::uint32_t>();
      for (std::size_t i = 0; i < v.size(); ++i) {
        if (v[i] != static_cast<std::uint32_t>(p.first()) + i) throw error("a wrong value");
        v[i] += 1000;
      }
    }
  }
  if (model[0].values != shard_of(c, comm.rank(), 1000, pitch)) throw error("a wrong shard, or a gap that was touched");
  for (auto& chunk : chunks(model, comm, overwrite, o)) {
    for (auto p : chunk) {
      auto v = p.template as<std::uint32_t>();
      for (std::size_t i = 0; i < v.size(); ++i)
        v[i] = static_cast<std::uint32_t>(p.first() + 7) + static_cast<std::uint32_t>(i);
    }
  }
  if (model[0].values != shard_of(c, comm.rank(), 7, pitch)) throw error("a wrong shard after overwrite");
}

template <class C>
void play(C& comm, const grid_case& c, residency on, std::size_t budget) {
  const cyclic_shard plain(oracle::extents_of(c.shape), c.grid, c.ranks);
  move_there_and_back(comm, c, plain, false, on, budget);
  move_there_and_back(comm, c, any_layout(plain), false, on, budget);
  oracle::indices leading = array_of(held_by(c, comm.rank()), c.shape);
  for (oracle::index& l : leading) l += c.gap;
  const pitched<cyclic_shard> wide(plain, oracle::extents_of(leading));
  move_there_and_back(comm, c, wide, true, on, budget);
}

grid_case some_case(oracle::dice& roll) {
  grid_case c;
  const auto dims = roll(1, 3);
  for (auto d = 0; d < dims; ++d) c.shape.push_back(roll(0, 13));
  int stride = 1;
  for (int d = 0; d < static_cast<int>(dims); ++d) {
    if (roll.chance(25)) continue;
    const auto size = static_cast<int>(roll(1, 3));
    c.grid.push_back({d, roll(1, 5), size, stride});
    stride *= size;
  }
  c.ranks = stride * static_cast<int>(roll(1, 2)) + static_cast<int>(roll(0, 1));
  c.gap = roll(0, 3);
  return c;
}

}  // namespace

TEST_CASE("cyclic_shard: boxes, replicas and holders are those of the elements' blocks") {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    const grid_case c = some_case(roll);
    const cyclic_shard layout(oracle::extents_of(c.shape), c.grid, c.ranks);
    for (const finding& f : check_layout(layout)) FAIL(f.check << ": " << f.what);
    for (int r = 0; r < c.ranks; ++r) {
      const oracle::indices held = held_by(c, r);
      oracle::indices walked;
      for (const box& b : layout.boxes_of(r)) {
        const oracle::indices of_box = oracle::those(c.shape, [&](const oracle::indices& at) {
          for (int d = 0; d < b.size.dims(); ++d) {
            const oracle::index i = at[static_cast<std::size_t>(d)];
            if (i < b.offset[d] || i >= b.offset[d] + b.size[d]) return false;
          }
          return true;
        });
        walked.insert(walked.end(), of_box.begin(), of_box.end());
      }
      REQUIRE(walked == held);
      for (int q = 0; q < c.ranks; ++q)
        REQUIRE((layout.replica_of(q) == layout.replica_of(r)) == (held_by(c, q) == held));
      const index_t n = oracle::volume(c.shape);
      const index_t first = roll(0, n);
      const index_t count = roll(0, n - first);
      const auto in = [&](index_t i) { return i >= first && i < first + count; };
      REQUIRE(detail::held_of(layout, r, first, count) == std::count_if(held.begin(), held.end(), in));
    }
  }
}

TEST_CASE("cyclic_shard and pitched: there and back, on every engine's terms; gaps stay") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    const grid_case c = some_case(roll);
    const residency on = roll.chance(50) ? every_rank : root(static_cast<int>(roll(0, c.ranks - 1)));
    const auto budget = static_cast<std::size_t>(roll.of<index_t>({64, 200, 1000, 1 << 20})) * 4;
    mailbox box(c.ranks);
    const auto kind = roll(0, 2);
    run_ranks(c.ranks, [&](threads_communicator& comm) {
      if (kind == 0) return play(comm, c, on, budget);
      if (kind == 1) {
        limited narrow(comm, {.regions = false, .max_operations = 6, .max_bytes = 48});
        return play(narrow, c, on, budget);
      }
      mailbox_communicator post(box, comm.rank());
      play(post, c, on, budget);
    });
  }
}

TEST_CASE("cyclic_shard: what does not fit is named") {
  const auto refused = [](const extents& shape, const std::vector<cyclic_dim>& grid, int ranks) {
    CHECK_THROWS_AS(cyclic_shard(shape, grid, ranks), bad_layout);
  };
  refused({8, 8}, {{2, 1, 2, 1}}, 2);
  refused({8, 8}, {{0, 0, 2, 1}}, 2);
  refused({8, 8}, {{0, 1, 2, 1}, {0, 1, 2, 2}}, 4);
  refused({8, 8}, {{0, 1, 4, 1}}, 2);  // parts of two coordinates are nobody's
  refused({1, 1, 1, 1, 1, 1, 1, 1}, {{0, 1, 2, 1}}, 2);
}

TEST_CASE("pitched: leading extents that are too short, or too few, are bad_layout before a byte moves") {
  CHECK_THROWS_AS((pitched{dim_shard({8, 8}, 0, 2), {8}}), bad_layout);
  run_ranks(2, [](threads_communicator& comm) {
    std::vector<tensor<pitched<dim_shard>>> model{{{dim_shard({8, 8}, 0, 2), {4, 7}}, std::vector<std::uint32_t>(100)}};
    CHECK_THROWS_AS((chunks(model, comm, unshard::read, {.budget = KiB})), bad_layout);
  });
}

namespace {
/// Four functions, and a range that is never empty.
struct halves {
  int half = 4;
  extents shape() const { return {8}; }
  extents space() const { return {8}; }
  int ranks() const { return 2; }
  std::array<box, 1> boxes_of(int r) const { return {box{{r * half}, {half}}}; }
  friend bool operator==(const halves&, const halves&) = default;
};
}  // namespace

TEST_CASE("on_ranks: a layout of four functions is right on some ranks, and the others hold nothing") {
  const on_ranks<halves> some(halves{}, 1, 2, 5);
  static_assert(shard_layout<on_ranks<halves>>);
  for (const finding& f : check_layout(some)) FAIL(f.check << ": " << f.what);
  for (int r : {0, 2, 4}) CHECK(detail::held_of(some, r, 0, 8) == 0);
  run_ranks(5, [&](threads_communicator& comm) {
    const int r = comm.rank();
    std::vector<std::uint32_t> mine;
    if (r == 1) mine = {0, 1, 2, 3};
    if (r == 3) mine = {4, 5, 6, 7};
    std::vector<tensor<on_ranks<halves>>> model{{some, mine}};
    for (auto& chunk :
         chunks(model, comm, read_write, {.budget = 16, .cut = cut::oversized, .alignment = 4, .on = every_rank})) {
      for (auto p : chunk) {
        auto v = p.as<std::uint32_t>();
        for (std::size_t i = 0; i < v.size(); ++i) {
          if (v[i] != static_cast<std::size_t>(p.first()) + i) throw error("a wrong value");
          v[i] += 10;
        }
      }
    }
    for (std::uint32_t& v : mine) v += 10;
    if (model[0].values != mine) throw error("a wrong shard");
  });
}

TEST_CASE("box_shard: an empty box may lie anywhere") {
  const index_t far = index_t{1} << 62;
  const box_shard l({4, 2}, {{{{far, 7}, {0, 9}}, {{0, 0}, {4, 2}}}, {{{9, 9}, {3, 0}}}});
  CHECK(detail::held_of(l, 0, 0, 8) == 8);
  CHECK(l.ranks_of(0, 8).size() == 1);
  CHECK(check_layout(l).empty());
  CHECK_THROWS_AS((box_shard({4, 2}, {{{{1, 0}, {4, 2}}}})), bad_layout);
}

namespace {
/// Row i is rank i % ranks'; counts how often its boxes are asked for.
struct cyclic_rows {
  extents matrix;
  int count;
  std::atomic<int>* calls;
  extents shape() const { return matrix; }
  extents space() const { return matrix; }
  int ranks() const { return count; }
  std::vector<box> boxes_of(int rank) const {
    ++*calls;
    std::vector<box> rows;
    for (index_t i = rank; i < matrix[0]; i += count) rows.push_back({{i, 0}, {1, matrix[1]}});
    return rows;
  }
  friend bool operator==(const cyclic_rows&, const cyclic_rows&) = default;
};

template <class L>
int calls_of(int ranks, std::size_t budget, std::size_t* chunks_seen) {
  std::atomic<int> calls = 0;
  run_ranks(ranks, [&](threads_communicator& comm) {
    const cyclic_rows rows{{48, 4}, ranks, &calls};
    std::vector<std::uint32_t> mine(static_cast<std::size_t>(48 / ranks) * 4);
    for (std::size_t i = 0; i < mine.size(); ++i)
      mine[i] = static_cast<std::uint32_t>(
          (static_cast<std::size_t>(comm.rank()) + i / 4 * static_cast<std::size_t>(ranks)) * 4 + i % 4);
    auto expected = mine;
    for (auto& v : expected) ++v;
    std::vector<tensor<L>> model{{L(rows), mine}};
    std::size_t n = 0;
    for (auto& chunk : chunks(model, comm, read_write, {.budget = budget, .cut = cut::oversized, .alignment = 4})) {
      ++n;
      for (auto p : chunk) {
        auto v = p.template as<std::uint32_t>();
        for (std::size_t i = 0; i < v.size(); ++i) {
          if (v[i] != static_cast<std::size_t>(p.first()) + i) throw error("a wrong value");
          ++v[i];
        }
      }
    }
    if (model[0].values != expected) throw error("a wrong shard");
    if (comm.rank() == 0) *chunks_seen = n;
  });
  return calls;
}
}  // namespace

TEST_CASE("a layout of four functions: every rank's boxes are looked at a few times a range, not once a chunk") {
  for (const int ranks : {2, 4, 8}) {
    CAPTURE(ranks);
    std::size_t few = 0, many = 0;
    const int in_one = calls_of<cyclic_rows>(ranks, 1 << 20, &few);
    const int in_many = calls_of<cyclic_rows>(ranks, 48, &many);
    CHECK(few == 1);
    CHECK(many >= 16);
    CHECK(in_many == in_one);
    CHECK(in_one <= 2 * ranks * ranks);  // by each rank, once for its plan and once for the range
    CHECK(calls_of<any_layout>(ranks, 48, &many) == in_one);
  }
}

TEST_CASE("parameter_view: takes a layout of the caller's own, also over on_ranks and pitched") {
  std::atomic<int> calls = 0;
  std::vector<std::byte> shard(100);
  const cyclic_rows rows{{7, 3}, 4, &calls};
  const parameter_view a("a", rows, 4, shard);
  const parameter_view b("b", on_ranks(rows, 1, 2, 8), 4, shard);
  const parameter_view c("c", pitched(rows, {1, 5}), 4, shard);
  CHECK(check_handle(a, 1).empty());
  CHECK(check_handle(b, 3).empty());
  CHECK(check_handle(c, 1).empty());
  CHECK(a.layout() == any_layout(rows));
  CHECK(!(a.layout() == c.layout()));
  const any_layout wide = pitched(any_layout(rows), {1, 5});  // made of an any_layout, and in one
  CHECK(wide == any_layout(pitched(any_layout(rows), {1, 5})));
  CHECK(!(wide == any_layout(pitched(any_layout(rows), {1, 6}))));
  CHECK(detail::reach_of(c.layout(), 0) == 8);  // two rows, the first 5 apart
  CHECK(detail::held_of(b.layout(), 3, 0, 21) == 6);
}
