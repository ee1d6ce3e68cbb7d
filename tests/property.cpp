// 10,000 random models, engines and options: the budget holds, the values are right, nothing leaks. The oracle
// (oracle.hpp) shares no arithmetic with the library. UNSHARD_SEED and UNSHARD_CASES choose others.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <unshard/comm/threads.hpp>

#include "limited.hpp"
#include "mailbox.hpp"
#include "oracle.hpp"

namespace {

using unshard::options;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

/// What the body makes of byte b of an element.
std::byte changed(std::size_t parameter, oracle::index element, std::size_t b) {
  return static_cast<std::byte>(parameter * 31 + static_cast<std::size_t>(element) * 7 + b * 3 + 1);
}

struct seen_piece {
  std::size_t chunk;
  std::size_t parameter;
  oracle::index first, elements;
};

/// One random case, the same on every rank but for what ranks find.
struct scenario {
  int ranks = 1;
  std::vector<oracle::tensor> model;
  options o;
  unshard::capabilities engine;
  bool mailbox = false;
  int access = 0;  // read, read_write, overwrite
  bool replay = false;
  bool scopes = false;
  std::size_t stop_at = SIZE_MAX;  // all ranks break out of this chunk
  std::vector<seen_piece> seen;    // by the first rank that holds
  std::vector<std::vector<int>> written;
  std::mutex mutex;
  std::string problem;

  void complain(const std::string& what) {
    const std::lock_guard lock(mutex);
    if (problem.empty()) problem = what;
  }
};

template <class Chunk>
void body(scenario& s, int rank, const Chunk& chunk, bool recorder) {
  for (auto piece : chunk) {
    const oracle::tensor& t = s.model[piece.index()];
    const auto bytes = piece.bytes();
    const std::size_t from = static_cast<std::size_t>(piece.first()) * t.element_size;
    if (bytes.size() != static_cast<std::size_t>(piece.elements()) * t.element_size)
      s.complain("piece of a wrong length");
    if (s.access < 2 && !std::equal(bytes.begin(), bytes.end(), t.value.begin() + static_cast<std::ptrdiff_t>(from)))
      s.complain("rank " + std::to_string(rank) + " reads wrong bytes of " + t.name);
    if constexpr (!std::is_const_v<std::remove_reference_t<decltype(bytes[0])>>) {
      for (std::size_t i = 0; i < bytes.size(); ++i)
        bytes[i] =
            changed(piece.index(), piece.first() + static_cast<oracle::index>(i / t.element_size), i % t.element_size);
    }
    const std::lock_guard lock(s.mutex);
    if (recorder) s.seen.push_back({chunk.number(), piece.index(), piece.first(), piece.elements()});
  }
}

template <class C, class A>
void run(scenario& s, C& comm, A access) {
  auto handles = oracle::handles_of(s.model, comm.rank(), &s.written[static_cast<std::size_t>(comm.rank())]);
  const bool recorder = s.o.on.all() ? comm.rank() == 0 : s.o.on.holds(comm.rank());  // with spread, all
  unshard::counted_memory<> memory;
  const auto go_through = [&](auto&& range) {
    for (auto& chunk : range) {
      body(s, comm.rank(), chunk, recorder && chunk.number() < s.stop_at);
      if (chunk.number() == s.stop_at) break;
    }
  };
  if (s.scopes || s.replay) {
    const auto plan = unshard::make_plan(handles, s.o, unshard::capabilities_of(comm));
    if (s.replay)
      go_through(unshard::chunks(plan, handles, comm, access, static_cast<unshard::run_options>(s.o), memory));
    for (std::size_t i = 0; s.scopes && i < plan.rounds() && i <= s.stop_at; ++i) {
      unshard::gather_scope scope(plan, i, handles, comm, access, static_cast<unshard::run_options>(s.o), memory);
      body(s, comm.rank(), scope.chunk(), recorder && i < s.stop_at);
      if (i < s.stop_at) scope.commit();
    }
  } else {
    go_through(unshard::chunks(handles, comm, access, s.o, memory));
  }
  if (memory.peak() + s.engine.staging > s.o.budget)
    s.complain("rank " + std::to_string(comm.rank()) + " held more than the budget");
  if (memory.held() != 0) s.complain("rank " + std::to_string(comm.rank()) + " leaked");
  if (!s.o.on.holds(comm.rank()) && s.engine.regions && memory.peak() != 0)
    s.complain("a rank that holds nothing allocated");
}

template <class C>
void run_access(scenario& s, C& comm) {
  if (s.access == 0) run(s, comm, unshard::read);
  if (s.access == 1) run(s, comm, unshard::read_write);
  if (s.access == 2) run(s, comm, unshard::overwrite);
}

/// False: the model can't be planned in the way drawn (an indivisible one over half the budget, say).
bool draw(scenario& s, oracle::dice& roll) {
  s.ranks = static_cast<int>(roll(1, 9));
  s.model = oracle::some_model(s.ranks, roll);
  s.written.assign(static_cast<std::size_t>(s.ranks), std::vector<int>(s.model.size(), 0));
  s.access = static_cast<int>(roll(0, 2));
  s.mailbox = roll.chance(15);
  if (s.mailbox) {
    s.engine = {.regions = false};
  } else if (roll.chance(30)) {
    s.engine.regions = roll.chance(50);
    s.engine.max_operations = static_cast<std::size_t>(roll.chance(50) ? roll(2, 12) : 0);
    s.engine.max_bytes = static_cast<std::size_t>(roll.chance(50) ? roll(16, 400) : 0);
    s.engine.staging = static_cast<std::size_t>(roll.chance(50) ? roll(0, 100) : 0);
  }
  s.o.cut = static_cast<unshard::cut>(roll(0, 2));
  if (s.o.cut != unshard::cut::anywhere && roll.chance(40)) s.o.packing = unshard::packing::best_fit;
  s.o.alignment = std::size_t{1} << roll(0, 7);
  s.o.in_flight = static_cast<int>(roll.chance(50) ? 1 : roll(2, 4));
  s.o.on = roll.chance(35) ? unshard::every_rank : unshard::root(static_cast<int>(roll(0, s.ranks - 1)));
  if (roll.chance(35) && s.o.packing != unshard::packing::best_fit) {
    s.o.on = unshard::spread;
    if (s.o.cut != unshard::cut::anywhere && roll.chance(50)) s.o.packing = unshard::packing::balanced;
  }
  s.replay = roll.chance(15);
  s.scopes = !s.replay && roll.chance(15);
  std::size_t whole = 0;
  for (const auto& t : s.model) whole += (t.value.size() + s.o.alignment) * static_cast<std::size_t>(s.o.in_flight);

  s.o.budget = 1;
  try {
    const auto handles = oracle::handles_of(s.model, 0);
    static_cast<void>(unshard::make_plan(handles, s.o, s.engine));
  } catch (const unshard::budget_too_small& e) {
    s.o.budget = e.least;
  }
  if (roll.chance(70)) s.o.budget += static_cast<std::size_t>(roll(0, static_cast<oracle::index>(whole)));
  s.o.timeout_ms = 60'000;
  if (roll.chance(20)) s.stop_at = static_cast<std::size_t>(roll(0, 4));
  return true;
}

void play(scenario& s) {
  mailbox box(s.ranks);
  unshard::run_ranks(s.ranks, [&](unshard::threads_communicator& comm) {
    if (s.mailbox) {
      mailbox_communicator post(box, comm.rank());
      run_access(s, post);
    } else if (s.engine == unshard::capabilities{}) {
      run_access(s, comm);
    } else {
      limited narrow(comm, s.engine);
      run_access(s, narrow);
    }
  });
}

/// Every element of what is not tied exactly once, in chunks below stop_at; values change where they were written.
void judge(scenario& s) {
  const bool stopped = s.stop_at != SIZE_MAX;
  std::vector<std::vector<int>> times;
  for (const auto& t : s.model) times.emplace_back(static_cast<std::size_t>(t.elements()), 0);
  for (const seen_piece& p : s.seen) {
    for (oracle::index e = p.first; e < p.first + p.elements; ++e) {
      ++times[p.parameter][static_cast<std::size_t>(e)];
      if (s.access == 0) continue;
      auto& value = s.model[p.parameter].value;
      const std::size_t size = s.model[p.parameter].element_size;
      for (std::size_t b = 0; b < size; ++b) value[static_cast<std::size_t>(e) * size + b] = changed(p.parameter, e, b);
    }
  }
  for (std::size_t i = 0; i < s.model.size(); ++i) {
    const int want = s.model[i].tied_to == i ? 1 : 0;
    for (int n : times[i]) {
      if (stopped ? n > want : n != want)
        s.complain("an element of " + s.model[i].name + " was shown " + std::to_string(n) + " times");
    }
    for (const auto& calls : s.written) {
      if (stopped ? calls[i] > 1 : calls[i] != (s.access == 0 ? 0 : 1))
        s.complain("after_write called " + std::to_string(calls[i]) + " times");
    }
  }
  const std::string wrong = oracle::first_wrong_shard(s.model);
  if (!wrong.empty()) s.complain("wrong shard of " + wrong);
}

}  // namespace

TEST_CASE("chunks: the budget holds, values are right and nothing leaks, whatever the model, engine and options") {
  const std::uint64_t seed = from_environment("UNSHARD_SEED", 20260823);
  const std::uint64_t cases = from_environment("UNSHARD_CASES", 10'000);
  std::printf("property: seed %llu, %llu cases\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(cases));
  for (std::uint64_t i = 0; i < cases; ++i) {
    oracle::dice roll(seed + i);
    scenario s;
    try {
      if (!draw(s, roll)) continue;
      play(s);
      judge(s);
    } catch (const std::exception& e) {
      s.complain(e.what());
    }
    if (!s.problem.empty()) {
      FAIL("seed " << seed + i << " (UNSHARD_SEED=" << seed + i << " UNSHARD_CASES=1): " << s.problem << "; ranks "
                   << s.ranks << ", access " << s.access << ", " << s.model.size() << " tensors, budget " << s.o.budget
                   << ", regions " << s.engine.regions << ", max_operations " << s.engine.max_operations
                   << ", max_bytes " << s.engine.max_bytes << ", mailbox " << s.mailbox << ", in_flight "
                   << s.o.in_flight << ", spread " << s.o.on.spreads());
    }
  }
}
