// SPDX-License-Identifier: Apache-2.0
// Ranges of chunks over real processes: random models against the oracle, and what each rank is told when one fails.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <unshard/testing/mock.hpp>
#include <unshard/unshard.hpp>

#include "../oracle.hpp"
#include "world.hpp"

namespace {

using namespace unshard;

// The property -----------------------------------------------------------------------------------------------------

std::byte changed(std::size_t parameter, oracle::index element, std::size_t b) {
  return static_cast<std::byte>(parameter * 31 + static_cast<std::size_t>(element) * 7 + b * 3 + 1);
}

/// One random case: every process draws the same one and has all ranks' shards, but gives and checks its own.
struct scenario {
  std::vector<oracle::tensor> model;
  options o;
  int access = 0;                  // read, read_write, overwrite
  std::size_t stop_at = SIZE_MAX;  // all ranks break out of this chunk
  std::string problem;
};

scenario draw(int ranks, oracle::dice& roll) {
  scenario s;
  s.model = oracle::some_model(ranks, roll);
  s.access = static_cast<int>(roll(0, 2));
  s.o.cut = static_cast<unshard::cut>(roll(0, 2));
  if (s.o.cut != unshard::cut::anywhere && roll.chance(40)) s.o.packing = unshard::packing::best_fit;
  s.o.alignment = std::size_t{1} << roll(0, 7);
  s.o.in_flight = static_cast<int>(roll.chance(50) ? 1 : roll(2, 4));
  s.o.on = roll.chance(35) ? every_rank : root(static_cast<int>(roll(0, ranks - 1)));
  if (roll.chance(35) && s.o.packing != unshard::packing::best_fit) {
    s.o.on = spread;
    if (s.o.cut != unshard::cut::anywhere && roll.chance(50)) s.o.packing = unshard::packing::balanced;
  }
  s.o.timeout_ms = world::patient_ms;
  if (roll.chance(20)) s.stop_at = static_cast<std::size_t>(roll(0, 4));
  s.o.budget = 1;
  try {
    const auto handles = oracle::handles_of(s.model, 0);
    static_cast<void>(make_plan(handles, s.o));
  } catch (const budget_too_small& e) {
    s.o.budget = e.least;
  }
  std::size_t whole = 0;
  for (const auto& t : s.model) whole += (t.value.size() + s.o.alignment) * static_cast<std::size_t>(s.o.in_flight);
  if (roll.chance(70)) s.o.budget += static_cast<std::size_t>(roll(0, static_cast<oracle::index>(whole)));
  return s;
}

template <class A>
void play(scenario& s, mpi_communicator& comm, A access) {
  auto handles = oracle::handles_of(s.model, comm.rank());
  counted_memory<> memory;
  for (auto& chunk : chunks(handles, comm, access, s.o, memory)) {
    for (auto piece : chunk) {
      const oracle::tensor& t = s.model[piece.index()];
      const auto from = t.value.begin() + piece.first() * static_cast<oracle::index>(t.element_size);
      if (A::gathers && !std::equal(piece.bytes().begin(), piece.bytes().end(), from))
        s.problem = "wrong bytes of " + t.name;
      if constexpr (A::writes) {
        for (std::size_t i = 0; i < piece.bytes().size(); ++i) {
          const auto element = piece.first() + static_cast<oracle::index>(i / t.element_size);
          piece.bytes()[i] = changed(piece.index(), element, i % t.element_size);
        }
      }
    }
    if (chunk.number() == s.stop_at) break;
  }
  if (memory.peak() > s.o.budget) s.problem = "more than the budget";
  if (memory.held() != 0) s.problem = "memory is left";
  if (!s.o.on.holds(comm.rank()) && memory.peak() != 0) s.problem = "a rank that holds nothing allocated";
  // What the chunks before stop_at hold has changed, on this rank's shards too.
  const chunk_plan plan = make_plan(handles, s.o);
  const auto wide = static_cast<std::size_t>(plan.spreads() ? comm.size() : 1);  // chunks of a round
  for (std::size_t i = 0; A::writes && i < plan.chunks() && i / wide < s.stop_at; ++i) {
    for (const planned_piece& p : plan.pieces(i, handles)) {
      oracle::tensor& t = s.model[p.parameter];
      for (index_t e = p.first; e < p.first + p.elements; ++e) {
        for (std::size_t b = 0; b < t.element_size; ++b)
          t.value[static_cast<std::size_t>(e) * t.element_size + b] = changed(p.parameter, e, b);
      }
    }
  }
  for (std::size_t i = 0; i < s.model.size(); ++i) {
    const oracle::tensor& t = s.model[i];
    if (t.tied_to != i) continue;
    const auto& mine = t.shards[world::index(comm.rank())];
    auto expected = oracle::expected_shard(t, world::index(comm.rank()));
    expected.resize(mine.size(), oracle::padding);
    if (mine != expected) s.problem = "wrong shard of " + t.name;
  }
}

// The faults -------------------------------------------------------------------------------------------------------

constexpr std::size_t parameters = 6;
constexpr index_t elements = 1000;

/// Six vectors of 4 bytes an element, two to a chunk; what each holds says which it is and whether it was written.
struct small_model {
  explicit small_model(const mpi_communicator& comm) {
    for (std::size_t i = 0; i < parameters; ++i) {
      const flat_shard layout({elements}, comm.size());
      shards.emplace_back(static_cast<std::size_t>(layout.boxes_of(comm.rank()).begin()->size.elements()),
                          static_cast<std::int32_t>(i));
      names.push_back("p" + std::to_string(i));
    }
    for (std::size_t i = 0; i < parameters; ++i)
      handles.emplace_back(names[i], flat_shard({elements}, comm.size()), 4,
                           std::as_writable_bytes(std::span(shards[i])));
  }
  bool is(std::size_t parameter, std::int32_t value) const {
    return std::all_of(shards[parameter].begin(), shards[parameter].end(), [&](auto v) { return v == value; });
  }
  /// Chunks before `end` are written, those from there on are not.
  bool written_to(std::size_t end, std::size_t in_doubt = SIZE_MAX) const {
    for (std::size_t i = 0; i < parameters; ++i) {
      const std::size_t chunk = i / 2;
      if (chunk != in_doubt && !is(i, static_cast<std::int32_t>(i) + (chunk < end ? 100 : 0))) return false;
    }
    return true;
  }
  std::vector<std::vector<std::int32_t>> shards;
  std::vector<std::string> names;
  std::vector<parameter_view> handles;
};

options small_options(int in_flight = 1) {
  options o;
  o.budget = static_cast<std::size_t>(2 * 4096 * in_flight);
  o.alignment = 64;
  o.in_flight = in_flight;
  o.timeout_ms = world::patient_ms;
  return o;
}

struct body_failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Adds 100 to all; `at(chunk)` is called in each body.
template <class C, class At>
std::size_t go_through(small_model& m, C& comm, const options& o, At at) {
  auto range = chunks(m.handles, comm, read_write, o);
  for (auto& chunk : range) {
    for (auto piece : chunk) {
      for (std::int32_t& v : piece.template as<std::int32_t>()) v += 100;
    }
    at(chunk.number());
  }
  return range.committed();
}

}  // namespace

TEST_CASE("chunks over MPI: the budget holds, values are right and nothing leaks, whatever the model and options") {
  const char* text = std::getenv("UNSHARD_SEED");
  const std::uint64_t seed = text == nullptr ? 20261123 : std::strtoull(text, nullptr, 10);
  text = std::getenv("UNSHARD_CASES");
  const std::uint64_t cases = text == nullptr ? 300 : std::strtoull(text, nullptr, 10);
  if (world::rank() == 0) std::printf("property over MPI: seed %llu\n", static_cast<unsigned long long>(seed));
  mpi_communicator comm(MPI_COMM_WORLD);
  for (std::uint64_t i = 0; i < cases; ++i) {
    oracle::dice roll(seed + i);
    scenario s = draw(comm.size(), roll);
    try {
      if (s.access == 0) play(s, comm, unshard::read);
      if (s.access == 1) play(s, comm, read_write);
      if (s.access == 2) play(s, comm, overwrite);
    } catch (const std::exception& e) {
      s.problem = e.what();
    }
    if (!s.problem.empty()) FAIL("UNSHARD_SEED=" << seed + i << " UNSHARD_CASES=1: " << s.problem);
  }
}

TEST_CASE(
    "chunks over MPI: a body that throws is that rank's exception, peer_failed on the others, and goes on after") {
  mpi_communicator comm(MPI_COMM_WORLD);
  for (const int in_flight : {1, 2, 3}) {
    for (int victim = 0; victim < comm.size(); ++victim) {
      for (std::size_t chunk = 0; chunk < 3; ++chunk) {
        small_model m(comm);
        const auto attempt = [&] {
          go_through(m, comm, small_options(in_flight), [&](std::size_t number) {
            if (comm.rank() == victim && number == chunk) throw body_failure("mine");
          });
        };
        if (comm.rank() == victim) {
          CHECK_THROWS_AS(attempt(), body_failure);
        } else {
          try {
            attempt();
            FAIL_CHECK("no error");
          } catch (const peer_failed& e) {
            CHECK(e.rank == victim);
            CHECK(e.chunk == chunk);
          }
        }
        CHECK(m.written_to(chunk));
        CHECK(go_through(m, comm, small_options(in_flight), [](std::size_t) {}) == 3);  // the communicator is usable
      }
    }
  }
}

TEST_CASE("chunks over MPI: ranks that differ are told which parameter, on every rank, and may try again") {
  mpi_communicator comm(MPI_COMM_WORLD);
  if (comm.size() < 2) return;
  small_model m(comm);
  if (comm.rank() == 1) std::swap(m.handles[2], m.handles[3]);
  try {
    go_through(m, comm, small_options(), [](std::size_t) {});
    FAIL_CHECK("no error");
  } catch (const plan_mismatch& e) {
    CHECK(e.parameter == 2);
    CHECK(e.rank == 1);
  }
  if (comm.rank() == 1) std::swap(m.handles[2], m.handles[3]);
  options o = small_options();
  if (comm.rank() == comm.size() - 1) o.budget = 100;
  if (comm.rank() == comm.size() - 1) {
    CHECK_THROWS_AS(go_through(m, comm, o, [](std::size_t) {}), budget_too_small);
  } else {
    CHECK_THROWS_AS(go_through(m, comm, o, [](std::size_t) {}), peer_failed);
  }
  CHECK(m.written_to(0));
  CHECK(go_through(m, comm, small_options(), [](std::size_t) {}) == 3);
  CHECK(m.written_to(3));
}

TEST_CASE("chunks over MPI: a rank that never comes is peer_timeout on the others, in time") {
  mpi_communicator comm(MPI_COMM_WORLD);
  if (comm.size() < 2) return;
  small_model m(comm);
  options o = small_options();
  o.timeout_ms = 300;
  const auto begun = std::chrono::steady_clock::now();
  if (comm.rank() != comm.size() - 1) CHECK_THROWS_AS(go_through(m, comm, o, [](std::size_t) {}), peer_timeout);
  CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds(20));
  CHECK(m.written_to(0));
  world::barrier();
}

TEST_CASE("chunks over MPI: a transport that fails on one rank ends all ranks, and no earlier chunk is touched") {
  std::size_t operations = 0;
  const int ranks = world::size();
  {
    mpi_communicator engine(MPI_COMM_WORLD);
    mock_communicator comm(engine);
    small_model m(engine);
    CHECK(go_through(m, comm, small_options(2), [](std::size_t) {}) == 3);
    operations = 40;
  }
  for (std::size_t point = 0; point < operations; point += 3) {
    const int victim = static_cast<int>(point) % ranks;
    mpi_communicator engine(MPI_COMM_WORLD);
    mock_communicator comm(engine);
    if (comm.rank() == victim)
      comm.world().inject({.kind = fault_kind::fail_before, .rank = victim, .operation = point});
    small_model m(engine);
    std::size_t committed = 0;
    bool threw = false;
    try {
      auto o = small_options(2);
      o.timeout_ms = 20'000;
      auto range = chunks(m.handles, comm, read_write, o);
      try {
        for (auto& chunk : range) {
          for (auto piece : chunk) {
            for (std::int32_t& v : piece.as<std::int32_t>()) v += 100;
          }
        }
      } catch (...) {
        committed = range.committed();
        throw;
      }
      committed = range.committed();
    } catch (const std::exception&) {
      threw = true;
    }
    // Without a vote in between the ranks may differ by the chunk in hand; that one alone is in doubt.
    CHECK((threw || committed == 3));
    CHECK(m.written_to(committed, threw ? committed : SIZE_MAX));
    engine.abort("the next case");
    world::barrier();
  }
}
