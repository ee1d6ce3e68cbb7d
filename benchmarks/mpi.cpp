// SPDX-License-Identifier: Apache-2.0
// mpi: ranges of chunks over processes against bare MPI for the same movement, alternating in the same processes.
//   mpirun -n 2 benchmarks/bench_mpi [--part chunks,overlap,small,sizes,layouts] [--runs N] [--seconds S] [--model
//   BYTES]
//                                    [--chunk BYTES] [--to BYTES] [--json FILE]
// The floor is the fastest of what bare MPI offers for the movement: collectives, or non-blocking sends and receives
// with this rank's own part copied by memcpy. Where a rank's bytes are strided in the chunk, messages have derived
// types, made beforehand, or pass a second buffer as large as the chunk and are copied; collectives always pass it.
// `chunks`: a model of flat vectors; both sides obtain the chunk anew in every run, and fill it under overwrite.
// `sizes` and `layouts`: one chunk, in one buffer that both sides have beforehand; no body does anything.
// `small` is 20,000 parameters of 4 to 64 KiB against the same bytes in 208 large ones, both ours.
// `process_peak` in the JSON is how far one range raised the process's resident set, the most of any rank.

#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <unshard/comm/mpi.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "../examples/command_line.hpp"
#include "bench.hpp"
#include "cases.hpp"
#include "floor.hpp"
#include "mpi_floor.hpp"
#include "side.hpp"

namespace {

using namespace unshard;
using bench::row;
using bench::variant;

int me, n;
bench::effort effort;
std::unique_ptr<bench::table> table;  // on rank 0

/// The largest of all ranks' numbers; a barrier.
template <class T>
T most(T mine) {
  static_assert(sizeof(T) == 8);
  MPI_Allreduce(MPI_IN_PLACE, &mine, 1, std::is_floating_point_v<T> ? MPI_DOUBLE : MPI_UNSIGNED_LONG, MPI_MAX,
                MPI_COMM_WORLD);
  return mine;
}

void alternate(std::vector<variant>& variants) {
  bench::alternate(variants, effort, [](double mine) { return most(mine); });
}

/// Bytes of a line of /proc/self/status.
std::size_t status(const std::string& field) {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    std::size_t kib = 0;
    if (word == field + ":" && file >> kib) return kib * KiB;
  }
  return 0;
}

/// How far a call raises this process's resident set.
std::size_t rise(const std::function<void()>& call) {
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak starts from here
  const std::size_t before = status("VmRSS");
  call();
  return status("VmHWM") - std::min(before, status("VmHWM"));
}

void print(const std::string& what, std::size_t bytes, std::size_t params, std::size_t chunks, std::size_t budget,
           std::size_t peak, std::size_t wrong, const std::vector<variant>& variants, nlohmann::json more = {}) {
  if (me != 0) return;
  row r{what, n, bytes, params, chunks, budget, peak, wrong, variants};
  if (!more.is_null()) r.more = std::move(more);
  table->add(r);
}

const auto nothing = [](auto&) {};

template <class A>
constexpr bool fills = !A::gathers;

/// What one row compares: this rank's side, and the same bytes by bare MPI in the same buffers.
class contest {
 public:
  /// `fresh`: each run, ours and the floor's, obtains its chunk anew; else both have one that is there before.
  template <class A>
  contest(const std::vector<any_layout>& layouts, const options& o, A, bool fresh)
      : o_(o), fresh_(fresh), mine_(layouts, me, o) {
    const chunk_plan plan = make_plan(mine_.handles(), o);
    summary_ = plan.summary();
    parts_ = bench::parts_of(plan, mine_.handles(), layouts, bench::element);
    mine_.fill(parts_);
    if (!fresh) mine_.keep_buffer(summary_.peak);
    for (const auto& chunk : parts_) {
      if (A::gathers) gathers_.emplace_back(chunk, o.on, true, me, n);
      if (A::writes) writes_.emplace_back(chunk, o.on, false, me, n);
    }
  }

  template <class A>
  void ours(mpi_communicator& comm, A access) {
    std::size_t c = 0;
    const auto body = [&](auto& chunk) {
      if constexpr (fills<A>)
        if (fresh_) fill(c++, (*chunk.begin()).bytes().data());
    };
    fresh_ ? mine_.pass(comm, access, o_, memory_, body) : mine_.pass(comm, access, o_, body);
  }

  /// between(chunk, number) where this rank holds it.
  template <class Between>
  void bare(bench::bare_movement::way way, Between between) {
    const bool holds = o_.on.holds(me);
    std::unique_ptr<std::byte[]> obtained(fresh_ && holds ? new std::byte[summary_.peak] : nullptr);
    std::byte* const chunk = fresh_ ? obtained.get() : mine_.buffer();
    for (std::size_t c = 0; c < parts_.size(); ++c) {
      if (!gathers_.empty()) gathers_[c].run(way, chunk, mine_.shards(), stage_.get());
      if (holds) between(chunk, c);
      if (!writes_.empty()) writes_[c].run(way, chunk, mine_.shards(), stage_.get());
    }
  }

  /// Ours, then each way that bare MPI has.
  template <class A>
  std::vector<variant> variants(mpi_communicator& comm, A access) {
    using bare_movement = bench::bare_movement;
    std::vector<variant> list;
    list.push_back({"ours", [this, &comm, access] { ours(comm, access); }});
    const auto any = [&](auto asks) {
      return std::any_of(gathers_.begin(), gathers_.end(), asks) || std::any_of(writes_.begin(), writes_.end(), asks);
    };
    const bool strided = any([](const bare_movement& m) { return m.strided(); });
    const auto way = [&](const char* name, bare_movement::way w) {
      for (const auto* list_of : {&gathers_, &writes_}) {
        for (const bare_movement& m : *list_of) staging_ = std::max(staging_, m.staging(w));
      }
      list.push_back({name, [this, w] {
                        bare(w, [&](std::byte* chunk, std::size_t c) {
                          if (fills<A> && fresh_) fill(c, chunk);
                        });
                      }});
      ways_.push_back(w);
    };
    way(strided ? "messages, derived types" : "messages", bare_movement::messages);
    if (strided) way("messages and copies", bare_movement::packed);
    if (any([](const bare_movement& m) { return m.has_collective(); }))
      way(strided ? "collectives and copies" : "collectives", bare_movement::collectives);
    stage_ = bench::touched(staging_);
    return list;
  }

  /// Bytes that are not what they should be, of all ranks, after ours. Ends the job where the floor moves others.
  template <class A>
  std::size_t wrong(mpi_communicator& comm, A access) {
    const std::size_t ours =
        total(fresh_ ? mine_.wrong(comm, access, memory_, parts_) : mine_.wrong(comm, access, parts_));
    for (const auto way : ways_) {
      std::size_t count = 0;
      mine_.fill(parts_);
      bare(way, [&](std::byte* chunk, std::size_t c) { count += mine_.wrong_chunk(access, chunk, c, parts_[c]); });
      count += mine_.wrong_shards(parts_, A::writes ? ~0U : 0U);
      if (total(count) == 0) continue;
      std::fprintf(stderr, "bench_mpi: rank %d: the floor's way %d moved %zu bytes to wrong places.\n", me, way, count);
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return ours;
  }

  /// How far one range, its chunk obtained in it, raises the process's resident set, the most of any rank.
  template <class A>
  std::size_t process_peak(mpi_communicator& comm, A access) {
    return most(rise([&] {
      counted_memory<> memory;
      std::size_t c = 0;
      mine_.pass(comm, access, o_, memory, [&](auto& chunk) {
        if constexpr (fills<A>) fill(c++, (*chunk.begin()).bytes().data());
      });
    }));
  }

  const plan_summary& summary() const { return summary_; }
  std::size_t peak() const { return most(fresh_ ? memory_.peak() : mine_.peak()); }

 private:
  /// What a body writes: all of the chunk, or, where all ranks hold it, the rank's own part, which is all that counts.
  void fill(std::size_t c, std::byte* chunk) {
    for (const bench::part& p : parts_[c]) {
      float* const at = reinterpret_cast<float*>(chunk + p.offset);
      if (o_.on.all() ? p.rank == me : p.rank == p.first) std::fill_n(at, p.bytes / sizeof(float), 3.0F);
    }
  }
  static std::size_t total(std::size_t count) {
    MPI_Allreduce(MPI_IN_PLACE, &count, 1, MPI_UNSIGNED_LONG, MPI_SUM, MPI_COMM_WORLD);
    return count;
  }

  options o_;
  bool fresh_;
  bench::side mine_;
  plan_summary summary_;
  counted_memory<> memory_;
  std::vector<std::vector<bench::part>> parts_;
  std::vector<bench::bare_movement> gathers_, writes_;  // of each chunk
  std::vector<bench::bare_movement::way> ways_;
  std::size_t staging_ = 0;
  bench::block stage_;
};

template <class A>
void compare(mpi_communicator& comm, const std::string& what, const std::vector<any_layout>& layouts, A access,
             const options& o, bool fresh) {
  contest c(layouts, o, access, fresh);
  std::vector<variant> variants = c.variants(comm, access);
  alternate(variants);
  nlohmann::json more = nlohmann::json::object();
  for (const variant& v : variants) more["ways"][v.name] = v.seconds.median() * 1e6;
  const std::size_t wrong = c.wrong(comm, access);
  if (o.budget >= 16 * MiB) more["process_peak"] = c.process_peak(comm, access);  // below, pages of all else decide
  print(what, c.summary().bytes, layouts.size(), c.summary().chunks, o.budget, c.peak(), wrong, variants, more);
}

void small_pieces(mpi_communicator& comm, std::size_t chunk) {
  const options o{.budget = chunk};
  const auto many = bench::small_parts(n);
  bench::side small(many, me, o), large(bench::equal_parts(bench::small_bytes, 208, n), me, o);
  counted_memory<> memory, other;
  const auto plan = make_plan(small.handles(), o);
  std::vector<variant> variants;
  variants.push_back({"ours", [&] { small.pass(comm, read_write, o, memory, nothing); }});
  variants.push_back({"ours, 208 large", [&] { large.pass(comm, read_write, o, other, nothing); }});
  alternate(variants);
  std::size_t wrong =
      small.wrong(comm, read_write, memory, bench::parts_of(plan, small.handles(), many, bench::element));
  MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_UNSIGNED_LONG, MPI_SUM, MPI_COMM_WORLD);
  print("20,000 small, read_write root", bench::small_bytes, many.size(), plan.chunks(), chunk, most(memory.peak()),
        wrong, variants);
}

/// What a root that computes for as long as a gather takes gains from gathering ahead.
void overlap(mpi_communicator& comm, const std::vector<any_layout>& layouts, std::size_t chunk) {
  bench::side mine(layouts, me, {.budget = chunk});
  counted_memory<> memory;
  double seconds = 0;  // of computing, for each chunk
  const auto run = [&](int in_flight, bool polls) {
    const options o{.budget = chunk * static_cast<std::size_t>(in_flight), .in_flight = in_flight, .verify = false};
    for (auto& c : chunks(mine.handles(), comm, unshard::read, o, memory)) {
      if (me != 0 || c.size() == 0) continue;
      int flag = 0;
      for (const double until = MPI_Wtime() + seconds; MPI_Wtime() < until;) {
        if (polls) MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
      }
    }
  };
  std::vector<variant> gather;
  gather.push_back({"ours", [&] { run(1, false); }});
  alternate(gather);
  seconds = gather[0].seconds.median() / static_cast<double>(layouts.size());
  for (const bool polls : {false, true}) {
    std::vector<variant> variants;
    variants.push_back({"ours", [&] { run(2, polls); }});
    variants.push_back({"in_flight 1", [&] { run(1, false); }});
    alternate(variants);
    print(polls ? "in_flight 2 / 1, read root, body polls" : "in_flight 2 / 1, read root", chunk * layouts.size(),
          layouts.size(), layouts.size(), 2 * chunk, most(memory.peak()), 0, variants);
  }
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &me);
  MPI_Comm_size(MPI_COMM_WORLD, &n);
  std::size_t size = GiB, chunk = 128 * MiB, to = GiB;
  std::vector<std::string> parts{"chunks", "overlap", "small", "sizes", "layouts"};
  std::string json;
  CLI::App app{"Ranges of chunks over processes against bare MPI."};
  examples::prepare(app);
  app.add_option("--part", parts, "which parts, by comma")->delimiter(',');
  app.add_option("--runs", effort.least, "least runs of each");
  app.add_option("--seconds", effort.seconds, "most seconds for a row that varies");
  examples::add_bytes(app, "--model", size, "bytes, in chunks of one parameter each");
  examples::add_bytes(app, "--chunk", chunk, "bytes");
  examples::add_bytes(app, "--to", to, "largest size, bytes");
  examples::add_output(app, "--json", json, "file");
  CLI11_PARSE(app, argc, argv);
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(version, &length);
  std::string library(version);
  library = library.substr(0, std::min(library.find_first_of(",\n"), std::size_t{60}));
  std::replace(library.begin(), library.end(), '\t', ' ');
  if (me == 0) {
    table =
        std::make_unique<bench::table>("mpi", library + ": ranges of chunks; floor: the best of bare MPI", argc, argv);
    table->note("library", library);
    table->note("ranks", n);
  }
  const std::set<std::string> wanted(parts.begin(), parts.end());
  const options plain{.budget = chunk, .verify = false};
  {
    mpi_communicator comm(MPI_COMM_WORLD);
    const auto chunks_of = bench::equal_parts(size, size / chunk, n);
    for (const residency on : {root(0), every_rank}) {
      if (!wanted.contains("chunks")) break;
      bench::for_each_access([&](auto access) {
        options o = plain;
        o.on = on;
        compare(comm, std::string(access.name) + (on.all() ? " everywhere" : " root"), chunks_of, access, o, true);
      });
    }
    if (wanted.contains("overlap")) overlap(comm, chunks_of, chunk);
    if (wanted.contains("small")) small_pieces(comm, chunk);
    for (std::size_t bytes = 4 * KiB; wanted.contains("sizes") && bytes <= to; bytes *= 4) {
      options o = plain;
      o.budget = bytes;
      compare(comm, "size, flat read_write root", bench::equal_parts(bytes, 1, n), read_write, o, false);
    }
    if (wanted.contains("layouts")) {
      bench::for_each_case(chunk, n, [&](const std::string& what, const any_layout& layout, auto access, residency on) {
        options o = plain;
        o.on = on;
        compare(comm, what, {layout}, access, o, false);
      });
    }
  }
  int status = me == 0 ? table->finish(json) : 0;
  MPI_Finalize();
  return status;
}
