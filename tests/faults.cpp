// The full product of faults, points of the protocol, ranks, accesses and residencies. Each case is one group of ranks
// with one fault; fault_judge.hpp says what must hold. UNSHARD_FAULTS=n runs every n-th case only.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "fault_judge.hpp"

using namespace faults;

namespace {

std::size_t number_from(const char* variable, std::size_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoul(text, nullptr, 10);
}

/// Ends the program, loudly, where a case takes longer than a minute of real time: nothing in the grid needs any.
/// UNSHARD_FAULTS_PATIENCE=s: other seconds.
class watchdog {
 public:
  watchdog() : thread_([this] { watch(); }) {}
  ~watchdog() {
    over_ = true;
    thread_.join();
  }
  void enter(const std::string& what) {
    const std::lock_guard lock(mutex_);
    what_ = what;
    ++cases_;
  }

 private:
  void watch() {
    std::size_t last = 0;
    for (int ticks = 0; !over_; ++ticks) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      const std::lock_guard lock(mutex_);
      if (cases_ != last) ticks = 0;
      last = cases_;
      if (ticks < patience_ * 10 || cases_ == 0) continue;
      std::fprintf(stderr, "HANG: %s\n", what_.c_str());
      std::_Exit(3);
    }
  }

  int patience_ = static_cast<int>(number_from("UNSHARD_FAULTS_PATIENCE", 60));
  std::mutex mutex_;
  std::string what_;
  std::size_t cases_ = 0;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

/// What a run without fault does: the points.
struct points {
  std::vector<std::vector<mock_record>> logs;  // by rank, without aborts
  std::vector<std::size_t> allocations;
  std::size_t batches = 0;
};

points measure(const setting& s) {
  run r(s, nullptr);
  r.go(false);
  points p{r.world().logs(), r.allocations, r.world().counts(0).batches};
  for (const outcome& o : r.first) REQUIRE_MESSAGE(o.said == said::nothing, o.text);
  CHECK(first_difference(p.logs) == "");
  for (int rank = 1; rank < s.ranks; ++rank) CHECK(r.world().counts(rank).batches == p.batches);
  const bool agrees_on_shifts = s.holder == held_by::spread && s.engine == engine_kind::mailbox;
  CHECK(r.world().counts(0).exchanges == (agrees_on_shifts ? 3 : 1) + chunk_count);
  return p;
}

std::size_t points_of(kind k, const setting& s, const points& p, int victim) {
  const auto v = static_cast<std::size_t>(victim);
  const bool holds = s.holder != held_by::root || victim == s.ranks - 1;
  switch (k) {
    case kind::fail_before:
    case kind::fail_after:
    case kind::die:
    case kind::time_out:
    case kind::short_delay:
    case kind::long_delay:
    case kind::corrupt:
      return p.logs[v].size();
    case kind::out_of_order:
      return victim == 0 ? p.batches : 0;
    case kind::body_throws:
      return 2 * chunk_count;
    case kind::body_breaks:
    case kind::long_body:
      return chunk_count;
    case kind::all_break:
      return victim == 0 ? chunk_count : 0;
    case kind::allocation:
      return p.allocations[v];
    case kind::differs:
      return s.ranks > 1 ? differences : 0;
    case kind::short_shard:
      return 1;
    case kind::never_enters:
      return s.ranks > 1 ? 1 : 0;
    case kind::after_write:
      return s.access != 0 ? parameters_of(s) : 0;
    case kind::unwritten:
      return s.access == 2 && holds ? chunk_count : 0;
  }
  return 0;
}

/// Whether the fault can happen at all at that operation.
bool applies(kind k, mock_op op) {
  if (k == kind::time_out) return op == mock_op::wait || op == mock_op::exchange;
  if (k == kind::corrupt) return op == mock_op::recv || op == mock_op::copy_after || op == mock_op::exchange;
  return true;
}

std::string verdict_of(const setting& s, const fault& f, mock_op op) {
  run r(s, &f);
  r.go(agreed(f, op) && !harmless(s, f));
  return judge(s, f, op, r).verdict();
}

/// All cases of one engine and one depth. Prints the product and its factors.
void grid(engine_kind engine, int in_flight) {
  const std::size_t every = number_from("UNSHARD_FAULTS", 1);
  watchdog dog;
  std::array<std::size_t, kinds> by_kind{};
  std::map<int, std::size_t> by_ranks, by_access, by_residency;
  std::size_t cases = 0, drawn = 0, bad = 0, most_points = 0;
  for (int ranks : {1, 2, 3, 5}) {
    for (int access : {0, 1, 2}) {
      for (const held_by holder : {held_by::root, held_by::every_rank, held_by::spread}) {
        const setting s{ranks, access, holder, in_flight, engine};
        const points p = measure(s);
        for (std::size_t k = 0; k < kinds; ++k) {
          for (int victim = 0; victim < ranks; ++victim) {
            const std::size_t n = points_of(static_cast<kind>(k), s, p, victim);
            most_points = std::max(most_points, n);
            for (std::size_t point = 0; point < n; ++point) {
              const fault f{static_cast<kind>(k), victim, point};
              const auto& log = p.logs[static_cast<std::size_t>(victim)];
              const mock_op op = point < log.size() ? log[point].op : mock_op::abort;
              if (!applies(f.kind, op) || drawn++ % every != 0) continue;
              ++cases, ++by_kind[k], ++by_ranks[ranks], ++by_access[access], ++by_residency[static_cast<int>(holder)];
              dog.enter(text_of(s, f));
              const std::string wrong = verdict_of(s, f, op);
              if (wrong.empty()) continue;
              const std::string where =
                  k < 7 ? std::string(" (") + mock_op_names[static_cast<std::size_t>(op)] + ")" : "";
              if (++bad <= 20) CHECK_MESSAGE(wrong.empty(), text_of(s, f) << where << ": " << wrong);
            }
          }
        }
      }
    }
  }
  CHECK_MESSAGE(bad == 0, bad << " of " << cases << " cases");
  std::printf("faults, %s, in_flight %d: %zu cases, %zu bad\n  kinds:",
              engine == engine_kind::threads ? "threads" : "mailbox", in_flight, cases, bad);
  for (std::size_t k = 0; k < kinds; ++k) std::printf(" %s %zu", names[k], by_kind[k]);
  std::printf("\n  points: up to %zu a rank\n  ranks:", most_points);
  for (const auto& [n, count] : by_ranks) std::printf(" %d: %zu", n, count);
  std::printf(
      "\n  accesses: read %zu, read_write %zu, overwrite %zu\n  residencies: root %zu, every_rank %zu, spread %zu\n",
      by_access[0], by_access[1], by_access[2], by_residency[0], by_residency[1], by_residency[2]);
}

}  // namespace

TEST_CASE("faults: one chunk at a time") { grid(engine_kind::threads, 1); }
TEST_CASE("faults: gathers ahead and write-backs behind") { grid(engine_kind::threads, 3); }
TEST_CASE("faults: an engine without regions") { grid(engine_kind::mailbox, 2); }
