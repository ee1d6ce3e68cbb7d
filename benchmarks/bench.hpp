// SPDX-License-Identifier: Apache-2.0
#pragma once  // bench.hpp: what the benchmarks share: alternating runs, nccl-tests' columns, rows as JSON.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "../examples/output_file.hpp"

namespace bench {

using clock = std::chrono::steady_clock;

inline double seconds_since(clock::time_point start) {
  return std::chrono::duration<double>(clock::now() - start).count();
}

/// Seconds of some runs.
class samples {
 public:
  void add(double seconds) { sorted_.insert(std::upper_bound(sorted_.begin(), sorted_.end(), seconds), seconds); }
  const std::vector<double>& sorted() const { return sorted_; }
  double median() const { return sorted_[sorted_.size() / 2]; }
  double least() const { return sorted_.front(); }
  double p99() const { return sorted_[std::min(sorted_.size() - 1, sorted_.size() * 99 / 100)]; }
  /// (third quartile - first) / median: whether more runs are worth it.
  double spread() const { return (sorted_[sorted_.size() * 3 / 4] - sorted_[sorted_.size() / 4]) / median(); }
  /// Standard deviation over mean, in per cent.
  double variation() const {
    double mean = 0, square = 0;
    for (double s : sorted_) mean += s / static_cast<double>(sorted_.size());
    for (double s : sorted_) square += (s - mean) * (s - mean) / static_cast<double>(sorted_.size());
    return 100 * std::sqrt(square) / mean;
  }

 private:
  std::vector<double> sorted_;
};

/// One way of doing the same work; `run` is called by every rank.
struct variant {
  std::string name;
  std::function<void()> run;
  samples seconds{};
};

/// How often to run: at least `least` times, then while the runs vary by more than 5 %, for up to `seconds` or 40
/// times.
struct effort {
  std::size_t least = 7;
  double seconds = 4;
};

/// Runs all variants in turn, once to warm up, then as `e` says; times are from the first
/// rank's start to the last one's end, by the host's clock: where ranks share cores, some start when others are done.
/// Collective: `most(double)` is a barrier that gives the largest of all ranks' numbers.
template <class Most>
void alternate(std::vector<variant>& variants, const effort& e, Most most) {
  const auto begin = clock::now();
  for (std::size_t i = 0; i <= 40; ++i) {
    bool varies = false;
    for (variant& v : variants) {
      most(0);
      const double start = seconds_since({});
      v.run();
      const double end = most(seconds_since({}));
      const double t = end + most(-start);
      if (i > 0) v.seconds.add(t);
      varies = varies || (i > 1 && v.seconds.spread() > 0.05);
    }
    const double spent = most(seconds_since(begin));
    if (i >= e.least && (!varies || spent > e.seconds)) return;
  }
}

/// A line of the table. The first variant is ours; the fastest of the others is the floor.
struct row {
  std::string what;
  int ranks = 1;
  std::size_t bytes = 0;  ///< of the values
  std::size_t params = 0;
  std::size_t chunks = 0;
  std::size_t budget = 0;  ///< bytes
  std::size_t peak = 0;    ///< bytes from the memory resource, the most of any rank
  std::size_t wrong = 0;   ///< bytes
  std::vector<variant> variants;
  nlohmann::json more = nlohmann::json::object();  ///< joins the row's members in the JSON

  const variant& ours() const { return variants.front(); }
  const variant& floor() const {
    return *std::min_element(variants.begin() + 1, variants.end(), [](const variant& a, const variant& b) {
      return a.seconds.median() < b.seconds.median();
    });
  }
  double ratio() const { return ours().seconds.median() / floor().seconds.median(); }
};

/// The result's members that say what was run, and where; rows to come. Prints them as comments, too.
inline nlohmann::json about(const std::string& name, const std::string& program, const std::string& what, int argc,
                            char** argv) {
  double load = 0;
  std::ifstream("/proc/loadavg") >> load;
  std::string machine;
  std::ifstream cpus("/proc/cpuinfo");
  for (std::string line; machine.empty() && std::getline(cpus, line);) {
    if (line.starts_with("model name")) machine = line.substr(line.find(':') + 2);
  }
  std::string command = "benchmarks/" + program;
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  const char* revision = std::getenv("UNSHARD_REVISION");
  const unsigned cores = std::thread::hardware_concurrency();
  std::printf("# %s\n# %u cores, load %.2f, g++ %s\n", what.c_str(), cores, load, __VERSION__);
  return {{"benchmark", name},
          {"about", what},
          {"load", load},
          {"rows", nlohmann::json::array()},
          {"command", command},
          {"cores", cores},
          {"compiler", __VERSION__},
          {"machine", machine},
          {"revision", revision == nullptr ? "" : revision}};
}

/// Writes a result, where a file is named. False, and a line on stderr, where that can't be.
inline bool write(const nlohmann::json& result, const std::string& file) {
  try {
    if (!file.empty()) examples::write_file(file, [&](std::ostream& out) { out << result.dump(1) << '\n'; });
    return true;
  } catch (const std::runtime_error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return false;
  }
}

/// Prints rows as they come and keeps them for the JSON.
class table {
 public:
  /// `about` says in a line what is measured; `command` how to repeat it.
  table(const std::string& name, const std::string& about, int argc, char** argv)
      : json_(bench::about(name, name, about, argc, argv)) {
    std::printf("#%-33s %5s %11s %8s %7s %11s %11s %10s %7s %7s %6s %10s %6s %5s %5s\n", "", "ranks", "size", "params",
                "chunks", "budget", "peak", "time", "algbw", "busbw", "#wrong", "floor", "ratio", "runs", "cv");
    std::printf("#%-33s %5s %11s %8s %7s %11s %11s %10s %7s %7s %6s %10s %6s %5s %5s\n", "", "", "(B)", "", "", "(B)",
                "(B)", "(us)", "(GB/s)", "(GB/s)", "", "(us)", "", "", "(%)");
  }

  void add(const row& r) {
    const samples& time = r.ours().seconds;
    const double algbw = static_cast<double>(r.bytes) / time.median() / 1e9;
    const double busbw = r.ranks == 1 ? 0 : algbw * (r.ranks - 1) / r.ranks;
    std::printf("%-34s %5d %11zu %8zu %7zu %11zu %11zu %10.1f %7.2f %7.2f %6zu %10.1f %6.3f %5zu %5.1f\n",
                r.what.c_str(), r.ranks, r.bytes, r.params, r.chunks, r.budget, r.peak, time.median() * 1e6, algbw,
                busbw, r.wrong, r.floor().seconds.median() * 1e6, r.ratio(), time.sorted().size(), time.variation());
    std::fflush(stdout);
    wrong_ += r.wrong + (r.peak > r.budget ? 1 : 0);
    nlohmann::json line{{"what", r.what},
                        {"ranks", r.ranks},
                        {"bytes", r.bytes},
                        {"params", r.params},
                        {"chunks", r.chunks},
                        {"budget", r.budget},
                        {"peak", r.peak},
                        {"wrong", r.wrong},
                        {"time_us", time.median() * 1e6},
                        {"least_us", time.least() * 1e6},
                        {"p99_us", time.p99() * 1e6},
                        {"cv", time.variation()},
                        {"runs", time.sorted().size()},
                        {"algbw", algbw},
                        {"busbw", busbw},
                        {"floor", r.floor().name},
                        {"floor_us", r.floor().seconds.median() * 1e6},
                        {"ratio", r.ratio()}};
    line.update(r.more);
    json_["rows"].push_back(line);
  }

  /// Members of the file beside the rows, the library's version for one.
  void note(const std::string& name, const nlohmann::json& value) { json_[name] = value; }

  /// Writes the JSON, where a name is given. Returns main's exit status: 1 where a byte was wrong or a peak too high.
  int finish(const std::string& file) { return write(json_, file) && wrong_ == 0 ? 0 : 1; }

 private:
  nlohmann::json json_;
  std::size_t wrong_ = 0;
};

}  // namespace bench
