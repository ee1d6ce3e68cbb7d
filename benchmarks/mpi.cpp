// mpi: ranges of chunks over processes against bare MPI for the same movement, alternating in the same processes.
//   mpirun -n 2 benchmarks/bench_mpi [--runs N] [--seconds S] [--model BYTES] [--chunk BYTES] [--json FILE]
// The model is flat_shard vectors of float, so that a chunk is one contiguous part of each rank; the floor is the best
// of what bare MPI offers for the movement: a blocking collective, or non-blocking sends and receives with this rank's
// own part copied by memcpy. The bodies, ours and the floor's, do nothing, but under overwrite, where both fill.
// `small` is 20,000 parameters of 4 to 64 KiB against the same bytes in 208 large ones, both ours.
// `process_peak` in the JSON is how far one range raised the process's resident set, the most of any rank.

#include <mpi.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <unshard/comm/mpi.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "bench.hpp"

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

/// A model whose parameters are equal parts of `total` bytes, or of the sizes given.
struct model {
  explicit model(const std::vector<index_t>& elements) {
    for (index_t e : elements) {
      const flat_shard layout({e}, n);
      total += static_cast<std::size_t>(e) * 4;
      shards.emplace_back(static_cast<std::size_t>(layout.boxes_of(me).begin()->size.elements()), 1.0F);
      handles.emplace_back("", layout, sizeof(float), std::as_writable_bytes(std::span(shards.back())));
    }
  }
  std::size_t wrong(float value) const {
    std::size_t count = 0;
    for (const auto& s : shards)
      count += static_cast<std::size_t>(std::count_if(s.begin(), s.end(), [&](float x) { return x != value; }));
    MPI_Allreduce(MPI_IN_PLACE, &count, 1, MPI_UNSIGNED_LONG, MPI_SUM, MPI_COMM_WORLD);
    return count;
  }
  std::vector<std::vector<float>> shards;
  std::vector<parameter_view> handles;
  std::size_t total = 0;
};

/// Our side: one range over all of it.
template <class A>
void pass(model& m, mpi_communicator& comm, A access, const options& o, counted_memory<>& memory, float fill) {
  for (auto& chunk : chunks(m.handles, comm, access, o, memory)) {
    if constexpr (std::is_same_v<A, overwrite_access>) {
      for (auto piece : chunk) {
        if (o.on.all()) {  // each rank's own part is all that counts
          const auto part = static_cast<std::size_t>(piece.elements()) / static_cast<std::size_t>(n);
          const auto mine = piece.template as<float>().subspan(part * static_cast<std::size_t>(me), part);
          std::fill(mine.begin(), mine.end(), fill);
        } else {
          std::fill(piece.template as<float>().begin(), piece.template as<float>().end(), fill);
        }
      }
    }
  }
}

/// The floor: the same bytes between the same buffers.
struct bare {
  model& m;
  std::size_t elements;              // of the chunk, where this rank holds it
  std::unique_ptr<float[]> chunk{};  // obtained anew in every run, as a range does: fresh pages on both sides
  void obtain() { chunk.reset(elements == 0 ? nullptr : new float[elements]); }
  std::size_t part(std::size_t i) const { return m.shards[i].size(); }
  int bytes(std::size_t i) const { return static_cast<int>(part(i) * 4); }
  float* at(std::size_t i, int rank) { return chunk.get() + part(i) * static_cast<std::size_t>(rank); }

  void gather(std::size_t i) {
    MPI_Gather(m.shards[i].data(), bytes(i), MPI_BYTE, chunk.get(), bytes(i), MPI_BYTE, 0, MPI_COMM_WORLD);
  }
  void scatter(std::size_t i) {
    MPI_Scatter(chunk.get(), bytes(i), MPI_BYTE, m.shards[i].data(), bytes(i), MPI_BYTE, 0, MPI_COMM_WORLD);
  }
  void all_gather(std::size_t i) {
    MPI_Allgather(m.shards[i].data(), bytes(i), MPI_BYTE, chunk.get(), bytes(i), MPI_BYTE, MPI_COMM_WORLD);
  }
  /// Messages to or from the root, or between all; the own part by memcpy.
  void messages(std::size_t i, bool to_holder, bool all) {
    std::vector<MPI_Request> requests;
    const auto post = [&](bool sends, float* p, int peer) {
      MPI_Request& r = requests.emplace_back();
      sends ? MPI_Isend(p, bytes(i), MPI_BYTE, peer, 0, MPI_COMM_WORLD, &r)
            : MPI_Irecv(p, bytes(i), MPI_BYTE, peer, 0, MPI_COMM_WORLD, &r);
    };
    const bool holds = all || me == 0;
    for (int k = 1; k < n; ++k) {
      const int peer = (me + k) % n;
      if (!all && me != 0 && peer != 0) continue;
      if (to_holder ? (all || peer == 0) : holds) post(true, to_holder ? m.shards[i].data() : at(i, peer), peer);
      if (to_holder ? holds : peer == 0) post(false, to_holder ? at(i, peer) : m.shards[i].data(), peer);
    }
    if (holds && to_holder) std::memcpy(at(i, me), m.shards[i].data(), static_cast<std::size_t>(bytes(i)));
    if (holds && !to_holder) std::memcpy(m.shards[i].data(), at(i, me), static_cast<std::size_t>(bytes(i)));
    MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
  }
  void keep_own(std::size_t i) { std::memcpy(m.shards[i].data(), at(i, me), static_cast<std::size_t>(bytes(i))); }
  void fill(std::size_t i, bool all, float value) {
    if (all) std::fill_n(at(i, me), part(i), value);
    if (!all && me == 0) std::fill_n(chunk.get(), part(i) * static_cast<std::size_t>(n), value);
  }
};

template <class A>
void compare(model& m, mpi_communicator& comm, A access, bool all, std::size_t chunk) {
  const options o{.budget = chunk, .on = all ? every_rank : root(0), .verify = false};
  const std::size_t count = m.shards.size();
  counted_memory<> memory;
  bare floor{m, all || me == 0 ? chunk / 4 : 0};
  std::vector<variant> variants;
  variants.push_back({"ours", [&] { pass(m, comm, access, o, memory, 3.0F); }});
  for (const bool collective : {true, false}) {
    variants.push_back({collective ? "collectives" : "messages", [&, collective] {
                          floor.obtain();
                          for (std::size_t i = 0; i < count; ++i) {
                            if (A::gathers && collective) all ? floor.all_gather(i) : floor.gather(i);
                            if (A::gathers && !collective) floor.messages(i, true, all);
                            if (!A::gathers) floor.fill(i, all, 3.0F);
                            if (!A::writes) continue;
                            if (all) {
                              floor.keep_own(i);
                            } else {
                              collective ? floor.scatter(i) : floor.messages(i, false, false);
                            }
                          }
                        }});
  }
  alternate(variants);
  const std::size_t wrong = m.wrong(A::gathers ? 1.0F : 3.0F);
  for (auto& s : m.shards) std::fill(s.begin(), s.end(), 1.0F);
  const std::size_t held = most(rise([&] { pass(m, comm, access, o, memory, 1.0F); }));
  print(std::string(A::name) + (all ? " everywhere" : " root"), m.total, count, count, chunk, most(memory.peak()),
        wrong, variants, {{"process_peak", held}});
}

void small_pieces(mpi_communicator& comm, std::size_t chunk) {
  std::vector<index_t> many, few;
  std::size_t total = 0;
  for (std::size_t i = 0; i < 20'000; ++i) {
    many.push_back(static_cast<index_t>(1024 * (1 + i % 16)));
    total += static_cast<std::size_t>(many.back());
  }
  for (int i = 0; i < 208; ++i) few.push_back(static_cast<index_t>(total / 208));
  model small(many), large(few);
  const options o{.budget = chunk};
  counted_memory<> memory, other;
  const auto plan = make_plan(small.handles, o);
  std::vector<variant> variants;
  variants.push_back({"ours", [&] { pass(small, comm, read_write, o, memory, 0); }});
  variants.push_back({"ours, 208 large", [&] { pass(large, comm, read_write, o, other, 0); }});
  alternate(variants);
  print("20,000 small, read_write root", small.total, many.size(), plan.chunks(), chunk, most(memory.peak()),
        small.wrong(1.0F), variants);
}

/// What a root that computes for as long as a gather takes gains from gathering ahead.
void overlap(model& m, mpi_communicator& comm, std::size_t chunk) {
  counted_memory<> memory;
  double seconds = 0;  // of computing, for each chunk
  const auto run = [&](int in_flight, bool polls) {
    const options o{.budget = chunk * static_cast<std::size_t>(in_flight), .in_flight = in_flight, .verify = false};
    for (auto& c : chunks(m.handles, comm, unshard::read, o, memory)) {
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
  seconds = gather[0].seconds.median() / static_cast<double>(m.shards.size());
  for (const bool polls : {false, true}) {
    std::vector<variant> variants;
    variants.push_back({"ours", [&] { run(2, polls); }});
    variants.push_back({"in_flight 1", [&] { run(1, false); }});
    alternate(variants);
    print(polls ? "in_flight 2 / 1, read root, body polls" : "in_flight 2 / 1, read root", m.total, m.shards.size(),
          m.shards.size(), 2 * chunk, most(memory.peak()), 0, variants);
  }
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &me);
  MPI_Comm_size(MPI_COMM_WORLD, &n);
  std::size_t size = GiB, chunk = 128 * MiB;
  std::string json;
  CLI::App app{"Ranges of chunks over processes against bare MPI."};
  app.add_option("--runs", effort.least, "least runs of each");
  app.add_option("--seconds", effort.seconds, "most seconds for a row that varies");
  app.add_option("--model", size, "bytes");
  app.add_option("--chunk", chunk, "bytes");
  app.add_option("--json", json, "file");
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
  {
    mpi_communicator comm(MPI_COMM_WORLD);
    {
      model m(std::vector<index_t>(size / chunk, static_cast<index_t>(chunk / 4)));
      for (const bool all : {false, true}) {
        compare(m, comm, unshard::read, all, chunk);
        compare(m, comm, read_write, all, chunk);
        compare(m, comm, overwrite, all, chunk);
      }
      overlap(m, comm, chunk);
    }
    small_pieces(comm, chunk);
  }
  int status = me == 0 ? table->finish(json) : 0;
  MPI_Finalize();
  return status;
}
