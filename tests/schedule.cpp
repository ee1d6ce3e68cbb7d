// Schedules without any data: over all ranks sends match receives, every byte is written exactly once, and their cost
// grows with what they move.
#include <unshard/schedule.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "oracle.hpp"

using namespace unshard;

namespace {

/// All ranks' schedules of one chunk of one random tensor list, checked against each other.
struct world {
  int ranks;
  std::vector<oracle::tensor> model;
  std::vector<planned_piece> pieces;
  residency on = root(0);
  capabilities engine;
  std::vector<int> holders = {};  // with spread: of each piece, rising
  std::size_t shifts = 0;

  schedule of(movement m, int rank) const {
    schedule s(m, rank, ranks, on, engine, {}, shifts);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const auto& layout = model[pieces[i].parameter].where.layout;
      holders.empty() ? s.add(pieces[i], layout) : s.add(pieces[i], layout, holders[i]);
    }
    s.finish();
    return s;
  }
  bool holds(int rank, std::size_t piece) const { return holders.empty() ? on.holds(rank) : holders[piece] == rank; }
};

using messages = std::map<std::pair<int, int>, std::vector<std::pair<std::size_t, std::size_t>>>;  // bytes and batch

/// Both ends of every message, in one order and in the same batches; with spread at most one for each pair of ranks.
void check_ends(const world& w, const messages& sent, const messages& received) {
  REQUIRE(sent == received);
  const auto n = static_cast<std::size_t>(w.ranks);
  const std::size_t most = w.shifts == 0 ? n : w.shifts;
  if (w.on.spreads()) REQUIRE(w.of(movement::gather, 0).batches() == (n + most - 1) / most);
  for (const auto& [pair, list] : sent) {
    if (!w.on.spreads()) continue;
    REQUIRE(list.size() == 1);
    const auto shift = static_cast<std::size_t>((pair.second - pair.first + w.ranks) % w.ranks);
    REQUIRE(list[0].second == shift / most);
  }
}

/// Where the bytes of a block are, one by one.
std::vector<std::size_t> bytes_of(const detail::strided_block& b) {
  std::vector<std::size_t> out;
  for (index_t i = 0; i < b.size.elements(); ++i) {
    index_t rest = i;
    index_t at = b.offset;
    for (int d = b.size.dims() - 1; d >= 0; --d) {
      at += rest % b.size[d] * b.stride[d];
      rest /= b.size[d];
    }
    out.push_back(static_cast<std::size_t>(at));
  }
  return out;
}

/// Bytes of the chunk that some runs cover.
void mark(const schedule& s, const scheduled_run& r, std::vector<int>& times) {
  if (r.to.base == run_end::nowhere) return;  // it has no place in the chunk
  std::size_t bytes = 0;
  s.for_each_block(r, [&](const detail::strided_block& b) {
    for (std::size_t at : bytes_of(b)) ++times[at], ++bytes;
  });
  REQUIRE(bytes == r.bytes);
}

void check_gather(const world& w) {
  messages sent, received;  // (from, to), in order
  for (int rank = 0; rank < w.ranks; ++rank) {
    const schedule s = w.of(movement::gather, rank);
    std::vector<int> times(w.pieces.empty() ? 0 : 4096, 0);
    std::size_t operations = 0;
    s.for_each_transfer([&](const scheduled_transfer& t) {
      std::size_t bytes = 0;
      for (std::uint32_t r : t.runs) bytes += s.runs()[r].bytes;
      REQUIRE(bytes == t.bytes);
      REQUIRE(bytes > 0);
      if (t.kind == transfer_kind::send) sent[{rank, t.peer}].push_back({t.bytes, t.batch}), ++operations;
      if (t.kind == transfer_kind::recv) received[{t.peer, rank}].push_back({t.bytes, t.batch}), ++operations;
      if (t.kind != transfer_kind::send) {
        for (std::uint32_t r : t.runs) mark(s, s.runs()[r], times);
      }
    });
    REQUIRE(operations <= 2 * static_cast<std::size_t>(w.ranks));
    for (std::size_t i = 0; i < w.pieces.size(); ++i) {
      if (!w.holds(rank, i)) continue;
      for (std::size_t b = 0; b < w.pieces[i].bytes; ++b) --times[w.pieces[i].offset + b];
    }
    // Each byte of a piece once; nothing outside of the pieces, nothing where nothing is held.
    REQUIRE(std::all_of(times.begin(), times.end(), [](int n) { return n == 0; }));
  }
  check_ends(w, sent, received);
}

void check_write_back(const world& w) {
  messages sent, received;
  for (int rank = 0; rank < w.ranks; ++rank) {
    const schedule s = w.of(movement::write_back, rank);
    std::vector<std::map<std::size_t, int>> times(w.pieces.size());  // by piece: bytes of the shard
    std::size_t operations = 0;
    s.for_each_transfer([&](const scheduled_transfer& t) {
      if (t.kind == transfer_kind::send) sent[{rank, t.peer}].push_back({t.bytes, t.batch}), ++operations;
      if (t.kind == transfer_kind::recv) received[{t.peer, rank}].push_back({t.bytes, t.batch}), ++operations;
      if (t.kind == transfer_kind::send) return;
      for (std::uint32_t r : t.runs) {
        const run_end& to = s.runs()[r].to;
        s.for_each_block(s.runs()[r], to, [&](const detail::strided_block& b) {
          for (std::size_t at : bytes_of(b)) ++times[to.base][at];
        });
      }
    });
    if (w.engine.regions) REQUIRE(operations <= 2 * static_cast<std::size_t>(w.ranks));
    for (std::size_t p = 0; p < w.pieces.size(); ++p) {
      const auto& t = w.model[w.pieces[p].parameter];
      std::map<std::size_t, int> want;
      const auto& held = t.where.held[static_cast<std::size_t>(rank)];
      for (std::size_t i = 0; i < held.size(); ++i) {
        if (held[i] < w.pieces[p].first || held[i] >= w.pieces[p].first + w.pieces[p].elements) continue;
        for (std::size_t b = 0; b < t.element_size; ++b) want[i * t.element_size + b] = 1;
      }
      REQUIRE(times[p] == want);
    }
  }
  check_ends(w, sent, received);
}

world some_world(oracle::dice& roll) {
  world w;
  w.ranks = static_cast<int>(roll(1, 9));
  w.model = oracle::some_model(w.ranks, roll);
  w.on = roll.chance(50) ? every_rank : root(static_cast<int>(roll(0, w.ranks - 1)));
  w.engine.regions = roll.chance(70);
  std::size_t at = 0;
  for (std::size_t i = 0; i < w.model.size() && at < 4000; ++i) {
    const auto size = w.model[i].element_size;
    const index_t n = w.model[i].elements();
    const index_t first = roll(0, n);
    const index_t most = static_cast<index_t>((4096 - at) / size);
    const index_t count = std::min(roll(0, n - first), most);
    w.pieces.push_back({i, first, count, at, static_cast<std::size_t>(count) * size});
    at += w.pieces.back().bytes + static_cast<std::size_t>(roll(0, 8));
  }
  if (roll.chance(40)) {
    w.on = spread;
    w.shifts = static_cast<std::size_t>(roll(0, w.ranks));
    for (std::size_t i = 0; i < w.pieces.size(); ++i) w.holders.push_back(static_cast<int>(roll(0, w.ranks - 1)));
    std::sort(w.holders.begin(), w.holders.end());
  }
  return w;
}

}  // namespace

TEST_CASE("schedule: sends match receives, every byte of every piece is written exactly once, on random layouts") {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    const world w = some_world(roll);
    check_gather(w);
    check_write_back(w);
  }
}

TEST_CASE("schedule: at 1,000 ranks a rank's cost is that of what it moves, in calls of the layout") {
  struct counted {
    flat_shard held;
    int* calls;
    const extents& shape() const { return held.shape(); }
    extents space() const { return held.space(); }
    int ranks() const { return held.ranks(); }
    box_list boxes_of(int r) const { return ++*calls, held.boxes_of(r); }
    int replica_of(int r) const { return ++*calls, held.replica_of(r); }
    rank_list replicas_of(int r) const { return ++*calls, held.replicas_of(r); }
    rank_list ranks_of(index_t first, index_t n) const { return ++*calls, held.ranks_of(first, n); }
    bool operator==(const counted&) const = default;
  };
  const auto calls_of = [](int ranks, int rank, movement m) {
    int calls = 0;
    const counted layout{flat_shard({1'000'000}, ranks), &calls};
    schedule s(m, rank, ranks, root(0), {});
    for (std::size_t i = 0; i < 10; ++i)
      s.add({0, static_cast<index_t>(i) * 100'000, 100, i * 400, 400}, layout);  // each on one rank
    s.finish();
    return calls;
  };
  for (const movement m : {movement::gather, movement::write_back}) {
    CHECK(calls_of(1000, 0, m) <= 60);    // the root: 10 pieces of one holder each
    CHECK(calls_of(1000, 500, m) <= 40);  // a rank that holds one of them
    CHECK(calls_of(1000, 3, m) <= 20);    // one that holds nothing
    CHECK(calls_of(1000, 0, m) <= 2 * calls_of(20, 0, m));
  }
}

TEST_CASE("schedule: where every rank gathers, replicas share the sends equally") {
  for (const auto& [size, stride] : {std::pair(8, 1), std::pair(8, 8)}) {  // replicas 8 apart, and next to each other
    const mesh_shard layout({64, 4}, {{0, size, stride}}, 64);
    for (int rank = 0; rank < 64; ++rank) {
      schedule s(movement::gather, rank, 64, every_rank, {});
      s.add({0, 0, 256, 0, 1024}, layout);
      s.finish();
      int sends = 0, receives = 0;
      s.for_each_transfer([&](const scheduled_transfer& t) {
        sends += t.kind == transfer_kind::send;
        receives += t.kind == transfer_kind::recv;
      });
      CHECK(receives == 7);
      CHECK(sends <= 8);  // of 448 in all, 7 a rank; one more where a rank serves none of its own replicas
    }
  }
}

/// An engine may make a gather or a scatter of a message for each peer, as NCCL before 2.28 must.
TEST_CASE("schedule: a batch with gathers or scatters is within max_operations, each counted as one message a peer") {
  struct limits {
    int ranks;
    std::size_t most, parameters;
  };
  std::size_t used = 0;
  for (const limits& l :
       {limits{8, 32, 8}, limits{8, 56, 20}, limits{128, 8192, 65}, limits{2, 8, 5}, limits{3, 7, 9}}) {
    for (const movement way : {movement::gather, movement::write_back}) {
      const int ranks = l.ranks;
      schedule s(way, 0, ranks, root(0), {.regions = false, .max_operations = l.most},
                 {.all_gather = true, .broadcast = true, .gather = true, .scatter = true});
      const index_t each = index_t{64} << 10;
      const auto bytes = static_cast<std::size_t>(each * ranks);
      for (std::size_t i = 0; i < l.parameters; ++i)
        s.add(planned_piece{i, 0, each * ranks, i * bytes, bytes}, flat_shard{{each * ranks}, ranks});
      s.finish();
      std::vector<std::size_t> operations(s.batches());
      s.for_each_transfer([&](const scheduled_transfer& t) {
        const bool rooted = t.kind == transfer_kind::gather || t.kind == transfer_kind::scatter;
        used += rooted ? 1 : 0;
        if (t.kind != transfer_kind::copy) operations[t.batch] += rooted ? static_cast<std::size_t>(ranks) - 1 : 1;
      });
      for (const std::size_t n : operations) CHECK(n <= l.most);
    }
  }
  CHECK(used > 20);
}

TEST_CASE("schedule: an empty box may lie anywhere") {
  struct stray {
    flat_shard held = flat_shard({4, 5, 6}, 1);
    const extents& shape() const { return held.shape(); }
    extents space() const { return held.shape(); }
    int ranks() const { return 2; }
    box_list boxes_of(int r) const {
      constexpr index_t far = index_t{1} << 62;
      static const box boxes[] = {{{0, far, 0}, {0, 5, 9}}, {{0, 0, 0}, {4, 5, 6}}};
      return box_list(boxes, r == 0 ? 2 : 1);
    }
    bool operator==(const stray&) const = default;
  };
  const stray layout;
  for (int rank = 0; rank < 2; ++rank) {
    schedule s(movement::gather, rank, 2, root(0), {});
    s.add({0, 0, 120, 0, 480}, layout);
    s.finish();
    std::size_t bytes = 0;
    s.for_each_transfer([&](const scheduled_transfer& t) { bytes += t.bytes; });
    CHECK(bytes == (rank == 0 ? 480 : 0));
  }
}

TEST_CASE("copy_regions: long copies, which go around the caches, are whole from any position, in rows of any length") {
  constexpr std::size_t total = detail::copy_streams_from + 4097;
  std::vector<std::byte> source(total);
  for (std::size_t i = 0; i < total; ++i) source[i] = static_cast<std::byte>(i * 37 + i / 251);
  for (const std::size_t row : {std::size_t{63}, std::size_t{1000}, std::size_t{4096}, total}) {
    for (const std::size_t skip : {std::size_t{0}, std::size_t{1}, std::size_t{77}}) {
      CAPTURE(row);
      CAPTURE(skip);
      const std::size_t rows = total / row;
      const std::size_t gap = 5;
      std::vector<std::byte> target(rows * (row + gap) + 1, std::byte{0xee});
      std::vector<std::byte> expected = target;
      for (std::size_t i = skip; i < rows * row; ++i) expected[1 + i / row * (row + gap) + i % row] = source[i];
      const const_region from{source.data(), {static_cast<index_t>(rows * row)}, {1}};
      const region to{target.data() + 1,
                      {static_cast<index_t>(rows), static_cast<index_t>(row)},
                      {static_cast<index_t>(row + gap), 1}};
      copy_regions({&from, 1}, {&to, 1}, skip, rows * row - skip);
      CHECK((target == expected));  // not printed
    }
  }
}
