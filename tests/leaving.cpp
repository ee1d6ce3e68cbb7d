// A rank throws or breaks, in any chunk, in every access: nobody hangs, nothing of that chunk is written, each is
// told, and the next range over the same communicator runs clean.
#include <algorithm>

#include "small.hpp"

using namespace unshard;
using small::has;

namespace {

struct stop : std::runtime_error {
  stop() : std::runtime_error("the body gave up") {}
};
enum class way { exception, leave };

template <class A>
void one_rank_leaves(A access, int ranks, residency on, int in_flight, int who, std::size_t where, way how) {
  CAPTURE(ranks);
  CAPTURE(who);
  CAPTURE(where);
  CAPTURE(in_flight);
  small::model m(ranks, {128, 128, 128, 128});
  auto expected = m.shards;
  for (auto& rank : expected) {
    for (std::size_t p = 0; A::writes && p < where; ++p) {
      for (float& f : rank[p]) f = -1.0F;
    }
  }
  std::vector<std::size_t> committed(static_cast<std::size_t>(ranks));
  std::vector<std::string> events(static_cast<std::size_t>(ranks));
  std::atomic<bool> clean{true};
  const small::outcome o = small::outcome_of(ranks, [&](threads_communicator& comm) {
    const auto handles = m.handles(comm.rank());
    auto watch = [&](const event& e) {
      if (e.kind == event_kind::discarded) events[static_cast<std::size_t>(comm.rank())] += std::to_string(e.chunk);
    };
    const options opt{.budget = 512u * static_cast<unsigned>(in_flight),
                      .in_flight = in_flight,
                      .on = on,
                      .timeout_ms = 20'000,
                      .observer = watch};
    try {
      auto range = chunks(handles, comm, access, opt);
      try {
        for (auto& chunk : range) {
          if constexpr (A::writes) {
            for (auto p : chunk) {
              for (float& f : p.template as<float>()) f = -1.0F;
            }
          }
          if (comm.rank() == who && chunk.number() == where) {
            if (how == way::exception) throw stop();
            break;
          }
        }
      } catch (...) {
        committed[static_cast<std::size_t>(comm.rank())] = range.committed();
        throw;
      }
      committed[static_cast<std::size_t>(comm.rank())] = range.committed();
    } catch (...) {
      for (auto& chunk : chunks(handles, comm, unshard::read, opt))
        if (chunk.bytes() != 512) clean = false;
      throw;
    }
    for (auto& chunk : chunks(handles, comm, unshard::read, opt))
      if (chunk.bytes() != 512) clean = false;
  });
  CHECK(m.shards == expected);
  CHECK(clean);
  for (int r = 0; r < ranks; ++r) {
    const auto rank = static_cast<std::size_t>(r);
    CHECK(committed[rank] == where);
    CHECK(events[rank] == std::to_string(where));
    if (r == who) {
      CHECK((how == way::exception ? o.is<stop>(r) : o.what(r).empty()));
    } else {
      CHECK(o.is<peer_failed>(r));
      CHECK(has(o.what(r), {("rank " + std::to_string(who)).c_str(), ("chunk " + std::to_string(where)).c_str()}));
    }
  }
}

template <class A>
void every_way(A access) {
  for (int ranks : {1, 2, 3}) {
    for (const residency on : {root(0), every_rank}) {
      for (int in_flight : {1, 2, 3}) {
        for (std::size_t where : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
          for (way how : {way::exception, way::leave})
            one_rank_leaves(access, ranks, on, in_flight, ranks - 1, where, how);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("an exception or a break on one rank, under read") { every_way(unshard::read); }
TEST_CASE("an exception or a break on one rank, under read_write") { every_way(read_write); }
TEST_CASE("an exception or a break on one rank, under overwrite") { every_way(overwrite); }

TEST_CASE("all ranks break: a joint early end without an error; committed() says where to resume") {
  small::model m(3, {128, 128, 128});
  run_ranks(3, [&](threads_communicator& comm) {
    const auto handles = m.handles(comm.rank());
    std::size_t done = 0;
    {
      auto range = chunks(handles, comm, overwrite, {.budget = 512});
      for (auto& chunk : range) {
        for (auto p : chunk) std::fill(p.as<float>().begin(), p.as<float>().end(), 1.0F);
        if (chunk.number() == 1) break;
      }
      done = range.committed();
    }
    CHECK(done == 1);
    std::size_t first = 99;
    for (auto& chunk : chunks(handles, comm, overwrite, {.budget = 512, .first_round = done})) {
      first = std::min(first, chunk.number());
      for (auto p : chunk) std::fill(p.as<float>().begin(), p.as<float>().end(), 2.0F);
    }
    CHECK(first == 1);
  });
  for (const auto& rank : m.shards) {
    CHECK(rank[0].front() == 1.0F);
    CHECK(rank[1].front() == 2.0F);
    CHECK(rank[2].front() == 2.0F);
  }
}

TEST_CASE("a scope without commit discards, on every rank that calls commit as well") {
  small::model m(2, {128});
  const auto before = m.shards;
  const auto o = small::outcome_of(2, [&](threads_communicator& comm) {
    const auto handles = m.handles(comm.rank());
    const auto plan = make_plan(handles, {.budget = 512});
    gather_scope scope(plan, 0, handles, comm, read_write, {});
    for (auto p : scope) std::fill(p.as<float>().begin(), p.as<float>().end(), 9.0F);
    if (comm.rank() == 1) scope.commit();
  });
  CHECK(o.what(0).empty());
  CHECK(o.is<peer_failed>(1));
  CHECK(m.shards == before);
}

TEST_CASE(
    "after_write that throws: the chunk stays committed, that rank throws its own, peers learn at the next chunk") {
  struct handle : parameter_view {
    using parameter_view::parameter_view;
    bool throws = false;
    void after_write() const {
      if (throws) throw stop();
    }
  };
  for (int in_flight : {1, 2, 3}) {
    CAPTURE(in_flight);
    small::model m(2, {128, 128, 128});
    const auto o = small::outcome_of(2, [&](threads_communicator& comm) {
      std::vector<handle> handles;
      for (const auto& v : m.handles(comm.rank()))
        handles.push_back(handle(v.name(), v.layout(), v.element_size(), v.shard()));
      handles[0].throws = comm.rank() == 1;
      for (auto& chunk : chunks(handles, comm, overwrite,
                                {.budget = 512u * static_cast<unsigned>(in_flight), .in_flight = in_flight})) {
        for (auto p : chunk) std::fill(p.as<float>().begin(), p.as<float>().end(), 5.0F);
      }
    });
    CHECK(o.is<stop>(1));
    CHECK((o.is<peer_failed>(0) && has(o.what(0), {"rank 1", "chunk 1", "gave up"})));
    for (const auto& rank : m.shards) {
      CHECK(rank[0].back() == 5.0F);
      CHECK(rank[1].back() != 5.0F);
    }
  }
}

namespace {

/// Three chunks over two ranks; after_write of the first parameter throws on rank 1, while its write-back runs behind
/// the body of the second chunk, where the ranks of `leaving` break.
template <class A>
void leave_before_it_is_told(A access, int in_flight, std::initializer_list<int> leaving) {
  CAPTURE(in_flight);
  struct handle : parameter_view {
    using parameter_view::parameter_view;
    bool throws = false;
    void after_write() const {
      if (throws) throw stop();
    }
  };
  small::model m(2, {128, 128, 128});
  std::vector<std::string> heard(2);
  std::atomic<bool> clean{true};
  const small::outcome o = small::outcome_of(2, [&](threads_communicator& comm) {
    std::vector<handle> handles;
    for (const auto& v : m.handles(comm.rank()))
      handles.push_back(handle(v.name(), v.layout(), v.element_size(), v.shard()));
    handles[0].throws = comm.rank() == 1;
    auto watch = [&](const event& e) {
      if (e.kind == event_kind::failed) heard[static_cast<std::size_t>(comm.rank())] += e.message;
    };
    const options opt{.budget = 512u * static_cast<unsigned>(in_flight), .in_flight = in_flight, .observer = watch};
    const bool leaves = std::find(leaving.begin(), leaving.end(), comm.rank()) != leaving.end();
    try {
      for (auto& chunk : chunks(handles, comm, access, opt)) {
        for (auto p : chunk) std::fill(p.template as<float>().begin(), p.template as<float>().end(), 5.0F);
        if (chunk.number() == 1 && leaves) break;
      }
    } catch (...) {
      for (auto& chunk : chunks(handles, comm, unshard::read, opt)) clean = clean && chunk.bytes() == 512;
      throw;
    }
    for (auto& chunk : chunks(handles, comm, unshard::read, opt)) clean = clean && chunk.bytes() == 512;
  });
  CHECK(clean);
  for (int r = 0; r < 2; ++r) {
    const bool leaves = std::find(leaving.begin(), leaving.end(), r) != leaving.end();
    const std::string told = heard[static_cast<std::size_t>(r)] + o.what(r);
    CHECK_MESSAGE(has(told, {"gave up"}), told);
    if (!leaves && r == 0) CHECK((o.is<peer_failed>(0) && has(o.what(0), {"rank 1", "chunk 1"})));
    if (!leaves && r == 1) CHECK(o.is<stop>(1));
  }
  for (const auto& rank : m.shards) {
    CHECK(rank[0].back() == 5.0F);  // it was committed before
    CHECK(rank[1].back() != 5.0F);
  }
}

}  // namespace

TEST_CASE("what an after_write threw behind the body is heard on every rank, whoever leaves the range then") {
  for (const std::initializer_list<int>& leaving : {std::initializer_list<int>{0, 1}, {0}, {1}}) {
    for (int in_flight : {1, 2, 3}) leave_before_it_is_told(read_write, in_flight, leaving);
    for (int in_flight : {1, 2, 3}) leave_before_it_is_told(overwrite, in_flight, leaving);
  }
}

TEST_CASE(
    "a scope of a chunk that the plan does not have is bad_options on every rank that asks, peer_failed on others") {
  for (const std::size_t wrong : {std::size_t{2}, static_cast<std::size_t>(-1), static_cast<std::size_t>(-2)}) {
    small::model m(2, {128, 128});
    const auto before = m.shards;
    const auto o = small::outcome_of(2, [&](threads_communicator& comm) {
      const auto handles = m.handles(comm.rank());
      const auto plan = make_plan(handles, {.budget = 512});
      gather_scope scope(plan, comm.rank() == 0 ? wrong : 0, handles, comm, overwrite, {});
      for (auto p : scope) std::fill(p.as<float>().begin(), p.as<float>().end(), 9.0F);
      scope.commit();
    });
    CHECK(o.is<bad_options>(0));
    CHECK(has(o.what(0), {"of a plan of 2 rounds"}));
    CHECK((o.is<peer_failed>(1) && has(o.what(1), {"of a plan of 2 rounds"})));
    CHECK(m.shards == before);
  }
}

TEST_CASE("to end a chunk that has ended says no word: bad_options there, and the communicator stays usable") {
  small::model m(2, {128, 128});
  const auto o = small::outcome_of(2, [&](threads_communicator& comm) {
    const auto handles = m.handles(comm.rank());
    const auto plan = make_plan(handles, {.budget = 512});
    {
      gather_scope scope(plan, 0, handles, comm, read_write, {});
      scope.commit();
      if (comm.rank() == 1) CHECK_THROWS_AS(scope.commit(), bad_options);  // on one rank only: nobody waits for it
    }
    {
      auto range = chunks(plan, handles, comm, unshard::read, {});
      auto at = range.begin();
      while (at != range.end()) ++at;
      if (comm.rank() == 0) CHECK_THROWS_AS(++at, bad_options);
    }
    gather_scope again(plan, 1, handles, comm, read_write, {});
    again.commit();
  });
  CHECK(o.what(0) + o.what(1) == "");
}
