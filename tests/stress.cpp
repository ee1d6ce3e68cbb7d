// stress SECONDS [SEED]: random faults on 2 to 8 ranks until the time is over. Counts cases; fails on a rank that
// hangs, a torn shard, a byte that leaked, or a rank that was told something else. Prints the seed; the same one
// repeats it.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "fault_judge.hpp"

using namespace faults;

namespace {

/// Ends the program where one case takes longer than this, of real time.
class watchdog {
 public:
  explicit watchdog(int limit_ms) : thread_([this, limit_ms] { watch(limit_ms); }) {}
  ~watchdog() {
    over_ = true;
    thread_.join();
  }
  std::atomic<std::uint64_t> current{0};  // seed of the case under way

 private:
  void watch(int limit_ms) {
    std::uint64_t last = 0;
    for (int waited = 0; !over_; waited += 50) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (current != last) waited = 0;
      last = current;
      if (waited < limit_ms) continue;
      std::printf("HANG: case %llu\n", static_cast<unsigned long long>(last));
      std::fflush(stdout);
      std::_Exit(3);
    }
  }
  std::atomic<bool> over_{false};
  std::thread thread_;
};

setting random_setting(std::mt19937_64& bits) {
  const auto draw = [&](int from, int to) { return std::uniform_int_distribution<int>(from, to)(bits); };
  setting s;
  s.ranks = draw(2, 8);
  s.access = draw(0, 2);
  s.holder = static_cast<held_by>(draw(0, 2));
  s.in_flight = draw(1, 4);
  s.engine = draw(0, 2) == 0 ? engine_kind::mailbox : engine_kind::threads;
  return s;
}

/// One case; empty, or what was wrong.
std::string one_case(std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  const setting s = random_setting(bits);
  const auto draw = [&](std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(bits); };
  run plain(s, nullptr);
  plain.go(false);
  for (const outcome& o : plain.first) {
    if (o.said != said::nothing) return "a run without faults: " + o.text;
  }
  const auto logs = plain.world().logs();
  if (const std::string d = first_difference(logs); !d.empty()) return d;

  fault f{static_cast<kind>(draw(kinds)), static_cast<int>(draw(static_cast<std::size_t>(s.ranks))), 0};
  const auto& log = logs[static_cast<std::size_t>(f.victim)];
  const bool holds = s.holder != held_by::root || f.victim == s.ranks - 1;
  const std::size_t allocations = plain.allocations[static_cast<std::size_t>(f.victim)];
  // What can't happen here is something else that can.
  if (f.kind == kind::allocation && allocations == 0) f.kind = kind::short_shard;
  if (f.kind == kind::after_write && s.access == 0) f.kind = kind::body_throws;
  if (f.kind == kind::unwritten && (s.access != 2 || !holds)) f.kind = kind::body_breaks;
  switch (f.kind) {
    case kind::out_of_order:
      f.point = draw(std::max<std::size_t>(1, plain.world().counts(0).batches));
      break;
    case kind::body_throws:
      f.point = draw(2 * chunk_count);
      break;
    case kind::body_breaks:
    case kind::all_break:
    case kind::long_body:
    case kind::unwritten:
      f.point = draw(chunk_count);
      break;
    case kind::allocation:
      f.point = draw(allocations);
      break;
    case kind::differs:
      f.point = draw(differences);
      break;
    case kind::after_write:
      f.point = draw(parameters_of(s));
      break;
    default:
      f.point = draw(log.size());
  }
  const mock_op op = f.point < log.size() ? log[f.point].op : mock_op::abort;
  if (f.kind == kind::time_out && op != mock_op::wait && op != mock_op::exchange) f.kind = kind::die;
  if (f.kind == kind::corrupt && op != mock_op::recv && op != mock_op::copy_after) f.kind = kind::fail_before;
  run broken(s, &f);
  broken.go(agreed(f, op) && !harmless(s, f));
  const std::string wrong = judge(s, f, op, broken).verdict();
  return wrong.empty() ? wrong : text_of(s, f) + ": " + wrong;
}

}  // namespace

int main(int count, char** arguments) {
  const auto seconds = count > 1 ? std::strtol(arguments[1], nullptr, 10) : 10;
  std::uint64_t seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : std::random_device{}();
  std::printf("stress: %ld s, seed %llu\n", seconds, static_cast<unsigned long long>(seed));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  watchdog dog(30'000);
  std::size_t cases = 0, bad = 0;
  do {
    dog.current = ++seed;
    const std::string wrong = one_case(seed);
    ++cases;
    if (wrong.empty()) continue;
    ++bad;
    std::printf("case %llu: %s\n", static_cast<unsigned long long>(seed), wrong.c_str());
  } while (std::chrono::steady_clock::now() < end && bad < 20);
  std::printf("%zu passed, %zu failed\n", cases - bad, bad);
  return bad == 0 ? 0 : 1;
}
