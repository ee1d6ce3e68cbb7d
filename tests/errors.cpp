// SPDX-License-Identifier: Apache-2.0
// Every error type is thrown, with its values, and every rank is told; before any byte moves where the input is bad.
#include <algorithm>
#include <atomic>

#include "limited.hpp"
#include "small.hpp"

using namespace unshard;
using small::has;

namespace {

/// One rank, 1 of 3, opens with something else; what all ranks got. The shards must be untouched.
template <class Change>
small::outcome one_differs(Change change) {
  small::model m(3, {100, 50, 20});
  const auto before = m.shards;
  auto o = small::outcome_of(3, [&](threads_communicator& comm) {
    auto handles = m.handles(comm.rank());
    options opt{.budget = 4096, .timeout_ms = 10'000};
    if (comm.rank() == 1) change(handles, opt);
    for (auto& chunk : chunks(handles, comm, overwrite, opt)) {
      for (auto p : chunk) std::fill(p.as<float>().begin(), p.as<float>().end(), -1.0F);
    }
  });
  CHECK(m.shards == before);
  return o;
}

using views = std::vector<parameter_view>;

}  // namespace

TEST_CASE("bad input on one rank: its own error there, peer_failed with that message on the others") {
  SUBCASE("budget 0") {
    const auto o = one_differs([](views&, options& opt) { opt.budget = 0; });
    CHECK(o.is<bad_options>(1));
    for (int r : {0, 2}) CHECK((o.is<peer_failed>(r) && has(o.what(r), {"rank 1", ".budget"})));
  }
  SUBCASE("budget under the largest parameter") {
    const auto o = one_differs([](views&, options& opt) { opt.budget = 384; });
    CHECK((o.is<budget_too_small>(1) && has(o.what(1), {"0 \"a\"", "512", "384", "Set .budget to at least 512"})));
    for (int r : {0, 2}) CHECK((o.is<peer_failed>(r) && has(o.what(r), {"rank 1", "at least 512"})));
  }
  SUBCASE("a short shard") {
    const auto o =
        one_differs([](views& v, options&) { v[1] = parameter_view("b", v[1].layout(), 4, v[1].shard().first(10)); });
    CHECK((o.is<bad_shard>(1) && has(o.what(1), {"1 \"b\"", "10 bytes", "68", "rank 1 of 3"})));
    for (int r : {0, 2}) CHECK((o.is<peer_failed>(r) && has(o.what(r), {"rank 1", "68"})));
  }
  SUBCASE("a layout for another number of ranks") {
    const auto o =
        one_differs([](views& v, options&) { v[2] = parameter_view("c", flat_shard({20}, 2), 4, v[2].shard()); });
    CHECK((o.is<bad_layout>(1) && has(o.what(1), {"2 \"c\"", "2 ranks", "has 3", "on_ranks"})));
    for (int r : {0, 2}) CHECK(o.is<peer_failed>(r));
  }
  SUBCASE("root out of range") {
    for (int bad : {3, -1}) {
      const auto o = one_differs([=](views&, options& opt) { opt.on = root(bad); });
      CHECK((o.is<bad_options>(1) && has(o.what(1), {".on", "0 to 2"})));
      for (int r : {0, 2}) CHECK(o.is<peer_failed>(r));
    }
  }
  SUBCASE("options that can't be meant") {
    CHECK(one_differs([](views&, options& opt) { opt.alignment = 3; }).is<bad_options>(1));
    CHECK(one_differs([](views&, options& opt) { opt.in_flight = 0; }).is<bad_options>(1));
    CHECK(one_differs([](views&, options& opt) { opt.first_round = 99; }).is<bad_options>(1));
    CHECK(one_differs([](views&, options& opt) {
            opt.packing = packing::best_fit, opt.cut = cut::anywhere;
          }).is<bad_options>(1));
  }
  SUBCASE("shards that overlap without an identity") {
    const auto o = one_differs([](views& v, options&) { v[1] = parameter_view("b", v[1].layout(), 4, v[0].shard()); });
    CHECK((o.is<aliased_parameters>(1) && has(o.what(1), {"0 \"a\"", "1 \"b\"", "identity"})));
    for (int r : {0, 2}) CHECK(o.is<peer_failed>(r));
  }
}

TEST_CASE("plan_mismatch: every rank is told what differs first, and on which rank") {
  const auto all = [](const small::outcome& o, std::initializer_list<const char*> parts) {
    for (int r = 0; r < 3; ++r) {
      CAPTURE(o.what(r));
      CHECK((o.is<plan_mismatch>(r) && has(o.what(r), parts)));
    }
  };
  all(one_differs([](views& v, options&) { v.pop_back(); }), {"parameter 2", "\"c\"", "only 2 parameters", "[rank 1]"});
  all(one_differs([](views& v, options&) { std::swap(v[0], v[1]); }), {"parameter 0", "\"a\"", "\"b\"", "[rank 1]"});
  all(one_differs([](views& v, options&) { v[1] = parameter_view("b", v[1].layout(), 2, v[1].shard()); }),
      {"parameter 1", "4-byte", "2-byte"});
  all(one_differs([](views& v, options&) { v[1] = parameter_view("b", dim_shard({50}, 0, 3), 4, v[1].shard()); }),
      {"parameter 1", "layout"});
  all(one_differs([](views&, options& opt) { opt.budget = 8192; }), {"budget 4096", "budget 8192", "rank 1"});
  all(one_differs([](views&, options& opt) { opt.on = root(2); }), {"root 0", "root 2"});
  all(one_differs([](views&, options& opt) { opt.cut = cut::oversized; }), {"cut never", "cut oversized"});
}

TEST_CASE("plan_mismatch: ranks that ask for different accesses") {
  small::model m(2, {10});
  const auto o = small::outcome_of(2, [&](threads_communicator& comm) {
    const auto handles = m.handles(comm.rank());
    const options opt{.budget = 4096, .timeout_ms = 10'000};
    if (comm.rank() == 0) {
      for (auto& c : chunks(handles, comm, unshard::read, opt)) static_cast<void>(c);
    } else {
      for (auto& c : chunks(handles, comm, read_write, opt)) static_cast<void>(c);
    }
  });
  for (int r : {0, 1}) CHECK((o.is<plan_mismatch>(r) && has(o.what(r), {"access read", "access read_write"})));
}

TEST_CASE("plan_mismatch: found among a million parameters with at most 30 exchanges of at most 256 bytes") {
  struct handle {
    const flat_shard* where;
    bool odd;
    const flat_shard& layout() const { return *where; }
    std::size_t element_size() const { return odd ? 2 : 4; }
    std::span<const std::byte> shard() const { return {}; }
  };
  const flat_shard nothing({0}, 2);
  constexpr std::size_t place = 765'431;
  int exchanges = 0;
  std::size_t longest = 0;
  struct counting {
    threads_communicator* comm;
    int* exchanges;
    std::size_t* longest;
    int rank() const { return comm->rank(); }
    int size() const { return comm->size(); }
    unshard::capabilities capabilities() const { return comm->capabilities(); }
    auto open_batch() { return comm->open_batch(); }
    auto launch(decltype(comm->open_batch()) b) { return comm->launch(std::move(b)); }
    void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
      if (rank() == 0) {
        ++*exchanges;
        *longest = std::max(*longest, mine.size());
      }
      comm->exchange(mine, all, timeout_ms);
    }
    void abort(std::string_view why) noexcept { comm->abort(why); }
  };
  const auto o = small::outcome_of(2, [&](threads_communicator& comm) {
    std::vector<handle> list(1'000'000, handle{&nothing, false});
    list[place].odd = comm.rank() == 1;
    counting counted{&comm, &exchanges, &longest};
    for (auto& c : chunks(list, counted, unshard::read, {.budget = 4096})) static_cast<void>(c);
  });
  for (int r : {0, 1}) CHECK((o.is<plan_mismatch>(r) && has(o.what(r), {"parameter 765431", "4-byte", "2-byte"})));
  CHECK(exchanges <= 30);
  CHECK(longest <= 256);
}

TEST_CASE("gather_scope: a first round beside the scope's own is refused, not ignored") {
  small::model m(1, {128, 128});
  run_ranks(1, [&](threads_communicator& comm) {
    const auto handles = m.handles(0);
    const chunk_plan plan = make_plan(handles, {.budget = 512}, comm);
    CHECK(plan.chunks() == 2);
    CHECK_THROWS_AS(gather_scope(plan, 1, handles, comm, unshard::read, {.first_round = 1}), bad_options);
  });
}

TEST_CASE("stale_plan: layouts changed, or the engine needs more than the plan left it") {
  small::model m(2, {100, 50});
  const auto plan = make_plan(m.handles(0), {.budget = 4096});
  auto o = small::outcome_of(2, [&](threads_communicator& comm) {
    auto handles = m.handles(comm.rank());
    handles[0] = parameter_view("a", dim_shard({10, 10}, 0, 2), 4, handles[0].shard());
    for (auto& c : chunks(plan, handles, comm, unshard::read, {})) static_cast<void>(c);
  });
  for (int r : {0, 1}) CHECK(o.is<stale_plan>(r));
}

TEST_CASE("engines that differ between ranks now are told to all, at a replay too, whatever the plan was made for") {
  for (const capabilities other :
       {capabilities{.max_operations = 4}, capabilities{.max_bytes = 64}, capabilities{.max_bytes = 8, .staging = 0}}) {
    for (const bool replay : {false, true}) {
      small::model m(3, {100, 50});
      const auto before = m.shards;
      const auto plan = make_plan(m.handles(0), {.budget = 4096});  // for an engine without limits
      const auto o = small::outcome_of(3, [&](threads_communicator& comm) {
        const auto handles = m.handles(comm.rank());
        limited engine(comm, comm.rank() == 1 ? other : capabilities{});
        const auto go = [](auto&& range) {
          for (auto& chunk : range) static_cast<void>(chunk);
        };
        replay ? go(chunks(plan, handles, engine, read_write, {}))
               : go(chunks(handles, engine, read_write, {.budget = 4096}));
      });
      for (int r : {0, 1, 2})
        CHECK((o.is<plan_mismatch>(r) && has(o.what(r), {other.max_bytes != 0 ? "max_bytes 0" : "max_operations 0"})));
      CHECK(m.shards == before);
    }
  }
  small::model m(3, {100, 50});  // one that needs more than the plan left it
  const auto plan = make_plan(m.handles(0), {.budget = 4096});
  const auto o = small::outcome_of(3, [&](threads_communicator& comm) {
    limited engine(comm, comm.rank() == 1 ? capabilities{.staging = 100} : capabilities{});
    for (auto& chunk : chunks(plan, m.handles(comm.rank()), engine, unshard::read, {})) static_cast<void>(chunk);
  });
  CHECK((o.is<stale_plan>(1) && o.is<peer_failed>(0) && has(o.what(0), {"rank 1", "staging"})));
}

TEST_CASE("unwritten_piece: a body that leaves a piece is told; its peers too; nothing is written") {
  small::model m(2, {100, 50});
  const auto before = m.shards;
  const auto o = small::outcome_of(2, [&](threads_communicator& comm) {
    for (auto& chunk : chunks(m.handles(comm.rank()), comm, overwrite, {.budget = 4096})) {
      for (auto p : chunk) {
        if (p.index() == 0) std::fill(p.as<float>().begin(), p.as<float>().end(), 0.0F);
      }
    }
  });
  CHECK((o.is<unwritten_piece>(0) && has(o.what(0), {"1 \"b\"", "overwrite"})));
  CHECK((o.is<peer_failed>(1) && has(o.what(1), {"rank 0", "chunk 0", "\"b\""})));
  CHECK(m.shards == before);
}

TEST_CASE("unwritten_piece: any size from 16 bytes on; none where a 64th was written, with whatever constant") {
  run_ranks(1, [&](threads_communicator& comm) {
    for (const index_t bytes : {15, 16, 17, 23, 24, 25, 1023, 1024, 1087, 4096, 100'003}) {
      std::vector<std::byte> before(3), shard(static_cast<std::size_t>(bytes));
      views list{{"before", replicated({3}, 1), 1, before}, {"piece", replicated({bytes}, 1), 1, shard}};
      for (const std::size_t alignment : {std::size_t{1}, std::size_t{128}}) {
        const auto run = [&](auto body) {
          for (auto& chunk : chunks(list, comm, overwrite, {.budget = MiB, .alignment = alignment}))
            body(chunk[1].bytes());
        };
        const auto idle = [](auto) {};
        CAPTURE(bytes);
        if (bytes >= 16) CHECK_THROWS_AS(run(idle), unwritten_piece);
        if (bytes < 16) CHECK_NOTHROW(run(idle));
        for (const int value : {0, 1, 0x79, 255})
          CHECK_NOTHROW(run([&](auto all) { std::fill(all.begin(), all.end(), static_cast<std::byte>(value)); }));
        const auto part = static_cast<std::size_t>(bytes / 64 + 15);  // a word, wherever it begins
        for (std::size_t from = 0; from + part <= shard.size(); from += shard.size() / 7 + 1)
          CHECK_NOTHROW(run([&](auto all) { std::ranges::fill(all.subspan(from, part), std::byte{}); }));
      }
    }
  });
}

TEST_CASE("replicas_differ: every rank is told before anything is written") {
  std::vector<std::vector<float>> shards(3, std::vector<float>(64, 1.0F));
  const auto o = small::outcome_of(3, [&](threads_communicator& comm) {
    auto& mine = shards[static_cast<std::size_t>(comm.rank())];
    views v{{"norm", replicated({64}, 3), 4, std::as_writable_bytes(std::span(mine))}};
    for (auto& chunk : chunks(v, comm, read_write, {.budget = 4096, .on = every_rank})) {
      for (auto p : chunk) p.as<float>()[63] = comm.rank() == 2 ? 5.0F : 4.0F;
    }
  });
  for (int r = 0; r < 3; ++r) CHECK((o.is<replicas_differ>(r) && has(o.what(r), {"chunk 0"})));
  for (const auto& s : shards) CHECK(s[63] == 1.0F);
}

TEST_CASE("overlapping_scope: two open over the same shard bytes, where either writes") {
  small::model m(1, {100});
  run_ranks(1, [&](threads_communicator& comm) {
    const auto handles = m.handles(0);
    const auto plan = make_plan(handles, {.budget = 4096});
    threads_group other(1);
    auto second = other.communicator(0);
    gather_scope open(plan, 0, handles, comm, unshard::read, {});
    CHECK_THROWS_AS(gather_scope(plan, 0, handles, second, read_write, {}), overlapping_scope);
    CHECK_NOTHROW(gather_scope(plan, 0, handles, second, unshard::read, {}).commit());
    CHECK_NOTHROW(gather_scope(plan, 0, handles, second, read_write, {.verify = false}).commit());
  });
}

TEST_CASE("out_of_memory: before any byte moves, on every rank") {
  small::model m(2, {1000});
  const auto before = m.shards;
  const auto o = small::outcome_of(2, [&](threads_communicator& comm) {
    std::byte few[64];
    fixed_memory memory{few};
    for (auto& c : chunks(m.handles(comm.rank()), comm, read_write, {.budget = 8192, .on = root(1)}, memory))
      static_cast<void>(c);
  });
  CHECK((o.is<out_of_memory>(1) && has(o.what(1), {"4096 bytes", "64"})));
  CHECK((o.is<peer_failed>(0) && has(o.what(0), {"rank 1", "4096"})));
  CHECK(m.shards == before);
}

TEST_CASE("size_overflow: a product over 2^63 - 1 is an error, never a wrapped number") {
  CHECK_THROWS_AS(flat_shard({index_t{1} << 40, index_t{1} << 40}, 2), size_overflow);
  CHECK_THROWS_AS(dim_shard({index_t{1} << 40, index_t{1} << 40}, 0, 2), size_overflow);
  CHECK_THROWS_AS(replicated({index_t{1} << 62, 2}, 2), size_overflow);
  // What std::size_t can't hold, on processors of 32 bits: tests/portable/sizes.cpp.
  CHECK(detail::to_size(index_t{1} << 31) == std::size_t{1} << 31);
  CHECK(extents{index_t{1} << 40, index_t{1} << 40, 0}.elements() == 0);
  views v{{"a", flat_shard({index_t{1} << 61}, 2), 8, {}}};
  CHECK_THROWS_AS(make_plan(v, {.budget = 1}), size_overflow);
}

TEST_CASE("peer_timeout: a rank that never arrives is named, by those that wait") {
  small::model m(3, {100});
  std::atomic<int> told{0};
  const auto o = small::outcome_of(3, [&](threads_communicator& comm) {
    if (comm.rank() == 2) {
      for (int n = told; n < 2; n = told) told.wait(n);  // slow for ever, as far as its peers can see
      return;
    }
    try {
      for (auto& c : chunks(m.handles(comm.rank()), comm, unshard::read, {.budget = 4096, .timeout_ms = 100}))
        static_cast<void>(c);
    } catch (...) {
      ++told;
      told.notify_all();
      throw;
    }
  });
  int timeouts = 0;
  for (int r : {0, 1}) {
    timeouts += o.is<peer_timeout>(r) ? 1 : 0;
    CHECK(has(o.what(r), {"rank 2"}));
  }
  CHECK(timeouts >= 1);
}

TEST_CASE("piece::as: a type of another size is an error with both numbers") {
  small::model m(1, {10});
  run_ranks(1, [&](threads_communicator& comm) {
    for (auto& chunk : chunks(m.handles(0), comm, unshard::read, {.budget = 4096})) {
      for (auto p : chunk) {
        CHECK_THROWS_WITH_AS(static_cast<void>(p.as<double>()), doctest::Contains("4 bytes, and T has 8"), bad_options);
      }
    }
  });
}
