// benchmarks/simulate: what it counts is what ranks do, it looks at the busiest, and its seconds are sums done by hand.
#include <doctest/doctest.h>

#include <algorithm>
#include <mutex>
#include <unshard/comm/threads.hpp>
#include <unshard/testing/mock.hpp>
#include <unshard/unshard.hpp>

#include "../benchmarks/simulation.hpp"
#include "oracle.hpp"

using namespace unshard;

namespace {

/// Two parameters of each kind, the second ones empty on some ranks.
std::vector<any_layout> mixed(int ranks) {
  const int half = ranks / 2;
  return {flat_shard({10, 7}, ranks),
          flat_shard({3}, ranks),
          mesh_shard({8, 6}, {{0, half, 1}}, ranks),
          mesh_shard({8, 6}, {{1, 2, 1}, {0, half, 2}}, ranks),
          on_ranks(mesh_shard({9, 4}, {{0, 2, 1}}, half), 1, 1, ranks),
          on_ranks(flat_shard({40}, half), 0, 2, ranks),
          owned({5, 5}, ranks - 1, ranks),
          replicated({6}, ranks),
          dim_shard({4, 9}, 0, ranks)};
}

std::vector<simulation::sized_parameter> sized(const std::vector<any_layout>& layouts) {
  std::vector<simulation::sized_parameter> list;
  for (std::size_t i = 0; i < layouts.size(); ++i) list.emplace_back("w", layouts[i], sizeof(float), i + 1);
  return list;
}

/// What one rank of a real range sent, received and copied.
struct done {
  simulation::flows sent, received;
  std::size_t copied = 0;
};

template <class A>
std::vector<done> run(const std::vector<any_layout>& layouts, const simulation::group& g, A access, const options& o) {
  std::vector<done> all(static_cast<std::size_t>(g.ranks));
  run_ranks(g.ranks, [&](threads_communicator& engine) {
    mock_communicator comm(engine);
    std::vector<std::vector<float>> shards;
    std::vector<parameter_view> handles;
    for (const any_layout& l : layouts) {
      index_t held = 0;
      for (const box& b : l.boxes_of(comm.rank())) held += b.size.elements();
      shards.emplace_back(static_cast<std::size_t>(held), 1.0F);
      handles.emplace_back("w", l, sizeof(float), std::as_writable_bytes(std::span(shards.back())));
    }
    for (auto& chunk : chunks(handles, comm, access, o)) {
      if constexpr (A::writes) {
        for (auto piece : chunk) std::fill(piece.template as<float>().begin(), piece.template as<float>().end(), 2.0F);
      }
    }
    done& mine = all[static_cast<std::size_t>(comm.rank())];
    for (const mock_record& r : comm.log()) {
      if (r.op == mock_op::copy_before || r.op == mock_op::copy_after) mine.copied += r.bytes;
      if (r.op != mock_op::send && r.op != mock_op::recv) continue;
      simulation::flows& way = r.op == mock_op::send ? mine.sent : mine.received;
      simulation::flow& f = r.peer / g.per_host == comm.rank() / g.per_host ? way.inside : way.between;
      ++f.messages;
      f.bytes += r.bytes;
    }
  });
  return all;
}

template <class A>
void same_as_real(const simulation::group& g, A access, std::size_t budget) {
  const std::vector<any_layout> layouts = mixed(g.ranks);
  const auto list = sized(layouts);
  const options o{.budget = budget, .cut = cut::oversized, .on = g.on, .verify = false};
  const std::vector<done> real = run(layouts, g, access, o);
  const chunk_plan plan = make_plan(list, o);
  REQUIRE(plan.chunks() > 1);
  std::size_t messages = 0;
  for (int r = 0; r < g.ranks; ++r) {
    done mine;
    const auto add = [](simulation::flow& to, const simulation::flow& f) {
      to.messages += f.messages;
      to.bytes += f.bytes;
    };
    for (std::size_t c = 0; c < plan.chunks(); ++c) {
      const auto pieces = plan.pieces(c, list);
      for (const movement way : {movement::gather, movement::write_back}) {
        if (way == movement::gather ? !A::gathers : !A::writes) continue;
        const simulation::traffic t = simulation::traffic_of(way, r, g, pieces, list);
        add(mine.sent.inside, t.sent.inside);
        add(mine.sent.between, t.sent.between);
        add(mine.received.inside, t.received.inside);
        add(mine.received.between, t.received.between);
        mine.copied += t.copied;
      }
    }
    CAPTURE(r);
    const done& his = real[static_cast<std::size_t>(r)];
    CHECK(mine.sent.inside == his.sent.inside);
    CHECK(mine.sent.between == his.sent.between);
    CHECK(mine.received.inside == his.received.inside);
    CHECK(mine.received.between == his.received.between);
    CHECK(mine.copied == his.copied);
    messages += mine.sent.messages();
  }
  CHECK((messages > 0) == (A::gathers || !g.on.all()));
}

constexpr simulation::rate both(double x) { return {x, x}; }

/// Powers of ten, so that sums can be read: inside a host 1 s and 1e-2 s a byte, between hosts 10 s and 1e-1 s a byte.
simulation::machine round_numbers(int per_host) {
  return {.per_host = per_host,
          .cores = per_host,
          .inside = {1000, 1, {both(100), both(100)}},
          .between = {5000, 10, {both(10), both(10)}},
          .receivers_fetch = false,
          .copy = {both(1e6), both(1e6)}};
}

}  // namespace

TEST_CASE("simulate: messages, bytes and copies of every rank are those that a mock logs in a real range") {
  for (const int ranks : {4, 6}) {
    for (const residency on : {root(0), every_rank}) {
      for (const std::size_t budget : {std::size_t{256}, std::size_t{600}}) {
        CAPTURE(ranks);
        CAPTURE(on.all());
        CAPTURE(budget);
        const simulation::group g{ranks, 2, on};
        same_as_real(g, unshard::read, budget);
        same_as_real(g, read_write, budget);
        same_as_real(g, overwrite, budget);
      }
    }
  }
}

TEST_CASE("simulate: the ranks that it looks at include the busiest") {
  std::size_t left_out = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    const int ranks = static_cast<int>(roll(2, 20)) * 2;
    std::vector<any_layout> layouts;
    const std::vector<any_layout> known = mixed(ranks);
    for (auto i = roll(1, 6); i > 0; --i)
      layouts.push_back(known[static_cast<std::size_t>(roll(0, static_cast<index_t>(known.size()) - 1))]);
    const auto list = sized(layouts);
    const simulation::group g{ranks, 4, every_rank};
    const chunk_plan plan = make_plan(list, {.budget = 256, .cut = cut::oversized, .on = every_rank});
    for (const movement way : {movement::gather, movement::write_back}) {
      const auto some = simulation::move_all(plan, list, way, g, round_numbers(4), 0);
      const auto all = simulation::move_all(plan, list, way, g, round_numbers(4), ranks);
      REQUIRE(all.evaluated == ranks);
      left_out += static_cast<std::size_t>(ranks - some.evaluated);
      CHECK(some.sent_most == all.sent_most);
      CHECK(some.received_most == all.received_most);
      CHECK(some.seconds >= 0.9 * all.seconds);
      CHECK(some.seconds <= all.seconds);
    }
  }
  CHECK(left_out > 1000);

  // Rank 5 owns little and sends it to all: with its share of what four replicas hold it sends most.
  const auto list = sized({owned({3}, 5, 16), mesh_shard({8, 6}, {{0, 4, 1}}, 16)});
  const simulation::group g{16, 4, every_rank};
  const chunk_plan plan = make_plan(list, {.budget = 512});
  const auto some = simulation::move_all(plan, list, movement::gather, g, round_numbers(4), 0);
  CHECK(some.sent_most == 15 * 12 + 3 * 48);
}

TEST_CASE("simulate: seconds are sums over the busiest port, the hosts' cores, the votes and the body") {
  const std::vector<any_layout> layouts{flat_shard({100}, 4)};
  const auto list = sized(layouts);  // 400 bytes, 100 on each rank
  simulation::machine m = round_numbers(2);
  m.exchange_s = 7;
  simulation::group g{4, 2, root(0)};
  const options o{.budget = 512};
  auto s = simulation::simulate(list, g, o, m);
  // To the root: one message of 100 bytes inside, two between; its own part by a copy.
  CHECK(s.gather.seconds == doctest::Approx(5000 + (1 + 1) + 2 * (10 + 10) + 1e-4));
  CHECK(s.write_back.seconds == doctest::Approx(s.gather.seconds));
  CHECK(s.gather.messages_root == 3);
  CHECK(s.gather.received_most == 300);
  CHECK(s.gather.sent_most == 100);
  const auto t = simulation::times_of(s, simulation::accesses[1], g, m);
  CHECK(t.sum() == doctest::Approx(2 * s.gather.seconds + 2 * 7));

  g.on = every_rank;
  s = simulation::simulate(list, g, o, m);
  CHECK(s.gather.seconds == doctest::Approx(5000 + (1 + 1) + 2 * (10 + 10) + 1e-4));
  CHECK(s.write_back.seconds == doctest::Approx(1e-4));

  // One host of two cores, whose ranks fetch: on the root all alone; on every rank four ranks' work on two cores.
  m.per_host = 4;
  m.cores = 2;
  m.receivers_fetch = true;
  m.inside.bytes.in = {100, 50};
  m.fill = {200, 100};
  m.fresh_s = {1, 2};
  g = {4, 4, root(0)};
  s = simulation::simulate(list, g, o, m);
  CHECK(s.gather.seconds == doctest::Approx(1000 + 3 * (1 + 1) + 1e-4));
  CHECK(s.write_back.seconds == doctest::Approx(1000 + (3 * (1 + 1) + 1e-4) / 2));
  auto parts = simulation::times_of(s, simulation::accesses[2], g, m);
  CHECK(parts.body == doctest::Approx(400.0 / 200));
  CHECK(parts.fresh == doctest::Approx(400.0));
  g.on = every_rank;
  s = simulation::simulate(list, g, o, m);
  CHECK(s.gather.seconds == doctest::Approx(1000 + 4 * (3 * (1 + 2) + 1e-4) / 2));
  parts = simulation::times_of(s, simulation::accesses[2], g, m);
  CHECK(parts.body == doctest::Approx(2 * 100.0 / 100));
  CHECK(parts.fresh == doctest::Approx(2 * 100.0 * 2));
}
