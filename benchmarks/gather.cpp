// benchmarks/gather: a gather over threads against the floor: the same copies, from and to the same addresses, split
// evenly over min(ranks, cores) threads, into a buffer touched before. Runs alternate in one process; medians.
//   gather [--ranks 2,4,8] [--from BYTES] [--to BYTES] [--runs N] [--json FILE]
// Columns as nccl-tests has them; a line that starts with # is a comment; #wrong > 0 fails the run.
#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace {

using bytes = std::vector<std::byte>;
using clock_type = std::chrono::steady_clock;

double seconds_since(clock_type::time_point start) {
  return std::chrono::duration<double>(clock_type::now() - start).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

/// (max - min) / median of the middle half: whether more runs are worth it.
double spread(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return (v[v.size() * 3 / 4] - v[v.size() / 4]) / v[v.size() / 2];
}

struct result {
  int ranks;
  std::size_t size, params, chunks, budget, peak, runs, wrong;
  double time, floor;
};

/// The same copies by plain threads that are there already, as the library's ranks are.
class copiers {
 public:
  copiers(std::size_t threads, const std::vector<bytes>& shards, std::byte* to, std::size_t total)
      : start_(static_cast<std::ptrdiff_t>(threads) + 1), end_(static_cast<std::ptrdiff_t>(threads) + 1) {
    for (std::size_t t = 0; t < threads; ++t) {
      pool_.emplace_back([this, t, threads, &shards, to, total] {
        const std::size_t each = shards[0].size();
        for (;;) {
          start_.arrive_and_wait();
          if (stop_) return;
          const std::size_t until = total / threads * (t + 1);
          for (std::size_t at = total / threads * t; at < until;) {
            const std::size_t n = std::min(each - at % each, until - at);
            std::memcpy(to + at, shards[at / each].data() + at % each, n);
            at += n;
          }
          end_.arrive_and_wait();
        }
      });
    }
  }
  copiers(const copiers&) = delete;
  copiers& operator=(const copiers&) = delete;
  ~copiers() {
    stop_ = true;
    start_.arrive_and_wait();
    for (auto& t : pool_) t.join();
  }
  double run() {
    const auto start = clock_type::now();
    start_.arrive_and_wait();
    end_.arrive_and_wait();
    return seconds_since(start);
  }

 private:
  std::barrier<> start_, end_;
  bool stop_ = false;
  std::vector<std::thread> pool_;
};

/// One chunk of `size` bytes, flat over `ranks`, gathered to rank 0: from the launch that opens it to its first byte
/// in the body. The opening and the vote are in the time.
result measure(int ranks, std::size_t size, std::size_t least_runs) {
  const auto n = static_cast<std::size_t>(ranks);
  size = size / (4 * n) * 4 * n;
  std::vector<bytes> shards;
  for (std::size_t r = 0; r < n; ++r) shards.emplace_back(size / n, static_cast<std::byte>(r + 1));
  constexpr std::size_t alignment = 4096;
  bytes storage(size + 2 * alignment, std::byte{0});
  result out{ranks, size, 1, 1, 0, 0, 0, 0, 0, 0};
  std::vector<double> times, floors;
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());

  unshard::run_ranks(ranks, [&](unshard::threads_communicator& comm) {
    const auto rank = static_cast<std::size_t>(comm.rank());
    const std::vector<unshard::parameter_view> model{
        {"weight", unshard::flat_shard({static_cast<unshard::index_t>(size / 4)}, ranks), 4, shards[rank]}};
    unshard::counted_memory memory{unshard::fixed_memory(storage)};
    const unshard::options o{.budget = size + alignment, .alignment = alignment};
    const auto plan = unshard::make_plan(model, o);
    const auto aligned = reinterpret_cast<std::byte*>(
        (reinterpret_cast<std::uintptr_t>(storage.data()) + alignment - 1) / alignment * alignment);
    copiers* bare = comm.rank() == 0 ? new copiers(std::min(n, cores), shards, aligned, size) : nullptr;
    for (std::size_t i = 0; i < 40; ++i) {
      static_cast<void>(unshard::agreed_budget(comm, 0));  // all are here
      const auto start = clock_type::now();
      for (auto& chunk : unshard::chunks(plan, model, comm, unshard::read, o, memory)) {
        if (comm.rank() != 0) continue;
        if (i > 0) times.push_back(seconds_since(start));
        if (i > 0) continue;
        for (auto piece : chunk) {  // warm-up: check
          for (std::size_t b = 0; b < piece.bytes().size(); ++b)
            out.wrong += piece.bytes()[b] != shards[b / (size / n)][0] ? 1 : 0;
        }
      }
      static_cast<void>(unshard::agreed_budget(comm, 0));
      if (comm.rank() == 0 && i > 0) floors.push_back(bare->run());
      const bool enough = comm.rank() != 0 || (i >= least_runs && spread(times) < 0.05 && spread(floors) < 0.05);
      if (unshard::agreed_budget(comm, enough ? 1 : 0) == 1) break;
    }
    delete bare;
    if (comm.rank() == 0) {
      out.budget = o.budget;
      out.peak = memory.peak();
    }
  });
  out.runs = times.size();
  out.time = median(times);
  out.floor = median(floors);
  return out;
}

std::vector<int> numbers(std::string_view list) {
  std::vector<int> out;
  std::stringstream text{std::string(list)};
  for (std::string one; std::getline(text, one, ',');) out.push_back(std::atoi(one.c_str()));
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> ranks{2, 4, 8};
  std::size_t from = 4 * unshard::KiB;
  std::size_t to = 128 * unshard::MiB;
  std::size_t runs = 7;
  std::string json;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view option = argv[i];
    if (option == "--ranks") ranks = numbers(argv[i + 1]);
    if (option == "--from") from = std::strtoull(argv[i + 1], nullptr, 10);
    if (option == "--to") to = std::strtoull(argv[i + 1], nullptr, 10);
    if (option == "--runs") runs = std::strtoull(argv[i + 1], nullptr, 10);
    if (option == "--json") json = argv[i + 1];
  }
  std::vector<result> all;
  std::printf("# gather over threads, flat, read, root 0; %u cores; floor: plain threads, the same addresses\n",
              std::thread::hardware_concurrency());
  std::printf(
      "#     size  ranks  params  chunks      budget        peak      time   algbw   busbw  #wrong     floor   ratio  "
      "runs\n");
  std::printf(
      "#      (B)                                (B)         (B)      (us)  (GB/s)  (GB/s)              (us)\n");
  std::size_t wrong = 0;
  for (int n : ranks) {
    for (std::size_t size = from; size <= to; size *= 8) {
      const result r = measure(n, size, runs);
      const double algbw = static_cast<double>(r.size) / r.time / 1e9;
      std::printf("%10zu %6d %7zu %7zu %11zu %11zu %9.1f %7.2f %7.2f %7zu %9.1f %7.2f %5zu\n", r.size, r.ranks,
                  r.params, r.chunks, r.budget, r.peak, r.time * 1e6, algbw, algbw * (r.ranks - 1) / r.ranks, r.wrong,
                  r.floor * 1e6, r.time / r.floor, r.runs);
      std::fflush(stdout);
      wrong += r.wrong;
      all.push_back(r);
    }
  }
  if (!json.empty()) {
    std::ofstream out(json);
    out << "[";
    for (std::size_t i = 0; i < all.size(); ++i) {
      const result& r = all[i];
      out << (i == 0 ? "\n" : ",\n") << R"(  {"ranks": )" << r.ranks << R"(, "size": )" << r.size << R"(, "budget": )"
          << r.budget << R"(, "peak": )" << r.peak << R"(, "time_us": )" << r.time * 1e6 << R"(, "floor_us": )"
          << r.floor * 1e6 << R"(, "ratio": )" << r.time / r.floor << R"(, "wrong": )" << r.wrong << R"(, "runs": )"
          << r.runs << "}";
    }
    out << "\n]\n";
  }
  return wrong == 0 ? 0 : 1;
}
