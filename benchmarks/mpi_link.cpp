// SPDX-License-Identifier: Apache-2.0
// mpi_link: what one link of this machine is like, for `simulate` to predict ranges of chunks from. None of what it
// measures is a range, or moves bytes between more than two ranks: the other ranks sleep meanwhile.
//   mpirun -n 4 benchmarks/bench_mpi_link --json FILE

#include <mpi.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <unshard/comm/mpi.hpp>
#include <utility>
#include <vector>

#include "../examples/command_line.hpp"
#include "bench.hpp"

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;
constexpr std::size_t wide = 512 * mib;    // like the shards of a model: walked from one end to the other
constexpr std::size_t narrow = 128 * mib;  // like a chunk: used again and again
constexpr std::size_t step = 32 * mib;

int me, n, runs = 9;

/// Waits for all ranks without taking a core from those that work.
void meet() {
  MPI_Request request;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  for (int here = 0; here == 0; MPI_Test(&request, &here, MPI_STATUS_IGNORE))
    std::this_thread::sleep_for(std::chrono::microseconds(200));
}

/// The median over some runs of what the first `ranks` ranks took together, the others asleep.
double seconds_of(int ranks, const std::function<void()>& work) {
  MPI_Comm some;
  MPI_Comm_split(MPI_COMM_WORLD, me < ranks ? 0 : 1, me, &some);
  std::vector<double> all;
  for (int i = -1; i < runs; ++i) {
    meet();
    double start_end[2] = {-1e300, -1e300};  // the first one negative, so that the largest is the first start
    if (me < ranks) {
      MPI_Barrier(some);
      start_end[0] = -bench::seconds_since({});
      work();
      start_end[1] = bench::seconds_since({});
    }
    meet();
    MPI_Allreduce(MPI_IN_PLACE, start_end, 2, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    const double t = start_end[0] + start_end[1];
    if (i >= 0) all.push_back(t);
  }
  MPI_Comm_free(&some);
  std::sort(all.begin(), all.end());
  return all[all.size() / 2];
}

std::vector<char> shards, chunk;

/// Ranks 0 and 1: a walk over the shards of one, in and out of the chunk of the other; both ways at once, if asked.
void stream(bool into_chunk, bool both) {
  if (me > 1) return;
  for (std::size_t at = 0; at < wide; at += step) {
    MPI_Request requests[2];
    int open = 0;
    char* const whole = shards.data() + at;
    char* const part = chunk.data() + at % narrow;
    const bool sends_shard = into_chunk;
    if (me == 1 || both)
      MPI_Isend(sends_shard ? whole : part, static_cast<int>(step), MPI_BYTE, 1 - me, 0, MPI_COMM_WORLD,
                &requests[open++]);
    if (me == 0 || both)
      MPI_Irecv(sends_shard ? part : whole, static_cast<int>(step), MPI_BYTE, 1 - me, 0, MPI_COMM_WORLD,
                &requests[open++]);
    MPI_Waitall(open, requests, MPI_STATUSES_IGNORE);
  }
}

/// A rank's own part of each chunk, which is in one place of the chunk, as the engine copies it.
void copy(bool into_chunk) {
  const std::size_t own = narrow / std::bit_ceil(static_cast<unsigned>(n));  // divides `wide`
  const auto bytes = static_cast<unshard::index_t>(own);
  for (std::size_t at = 0; at + own <= wide; at += own) {
    unshard::region whole{reinterpret_cast<std::byte*>(shards.data() + at), {bytes}, {1}};
    unshard::region part{reinterpret_cast<std::byte*>(chunk.data()), {bytes}, {1}};
    if (!into_chunk) std::swap(whole, part);
    const unshard::const_region from = whole;
    unshard::copy_regions({&from, 1}, {&part, 1});
  }
}

/// As bench_mpi names it.
std::string library() {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(version, &length);
  std::string name(version);
  name = name.substr(0, std::min(name.find_first_of(",\n"), std::size_t{60}));
  std::replace(name.begin(), name.end(), '\t', ' ');
  return name;
}

void fill(char* p, std::size_t bytes) {
  static float value = 0;
  std::fill_n(reinterpret_cast<float*>(p), bytes / sizeof(float), value += 1);
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &me);
  MPI_Comm_size(MPI_COMM_WORLD, &n);
  std::string file;
  CLI::App app{"Latency and bandwidth between two ranks of this machine."};
  examples::prepare(app);
  app.add_option("--runs", runs, "of each measurement; the median counts");
  examples::add_output(app, "--json", file, "writes the figures to this file");
  CLI11_PARSE(app, argc, argv);
  if (n < 2) {
    std::fprintf(stderr, "bench_mpi_link: started with 1 rank; a link needs 2: mpirun -n 2.\n");
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  nlohmann::json found;
  if (me == 0) {
    found = bench::about("mpi_link", "bench_mpi_link", library() + ": one link of this machine", argc, argv);
    found.erase("rows");
  }
  found["library"] = library();
  found["ranks"] = n;
  if (me < 2) shards.assign(wide, 1);
  if (me < 2) chunk.assign(narrow, 1);
  const auto bytes = static_cast<double>(wide);
  const auto note = [&](const char* name, double value) {
    found[name] = value;
    if (me == 0) std::printf("%-28s %.4g\n", name, value);
  };

  constexpr int pings = 1000;
  note("latency_s", seconds_of(2, [] {
                      char c = 0;
                      for (int i = 0; i < pings; ++i) {
                        if (me == 0) MPI_Send(&c, 1, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
                        MPI_Recv(&c, 1, MPI_BYTE, 1 - me, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                        if (me == 1) MPI_Send(&c, 1, MPI_BYTE, 0, 0, MPI_COMM_WORLD);
                      }
                    }) / (2 * pings));
  note("message_s", seconds_of(2, [] {
                      std::vector<MPI_Request> requests(pings);
                      for (int i = 0; i < pings; ++i) {
                        char* const p = shards.data() + i * 1024;
                        me == 1 ? MPI_Isend(p, 1024, MPI_BYTE, 0, 0, MPI_COMM_WORLD, &requests[i])
                                : MPI_Irecv(p, 1024, MPI_BYTE, 1, 0, MPI_COMM_WORLD, &requests[i]);
                      }
                      MPI_Waitall(pings, requests.data(), MPI_STATUSES_IGNORE);
                    }) / pings);
  note("gather_bytes_per_s", bytes / seconds_of(2, [] { stream(true, false); }));
  note("gather_both_bytes_per_s", bytes / seconds_of(2, [] { stream(true, true); }));
  note("scatter_bytes_per_s", bytes / seconds_of(2, [] { stream(false, false); }));
  note("scatter_both_bytes_per_s", bytes / seconds_of(2, [] { stream(false, true); }));
  note("copy_in_bytes_per_s", bytes / seconds_of(1, [] { copy(true); }));
  note("copy_in_2_bytes_per_s", bytes / seconds_of(2, [] { copy(true); }));
  note("copy_out_bytes_per_s", bytes / seconds_of(1, [] { copy(false); }));
  note("copy_out_2_bytes_per_s", bytes / seconds_of(2, [] { copy(false); }));
  for (const int ranks : {1, 2})  // of memory that no cache holds, like that of a chunk which others have read
    note(ranks == 1 ? "fill_bytes_per_s" : "fill_2_bytes_per_s",
         bytes / seconds_of(ranks, [] { fill(shards.data(), wide); }));
  const auto fresh = [](int ranks) {
    const double warm = seconds_of(ranks, [] { fill(chunk.data(), narrow); });
    const double cold = seconds_of(ranks, [] {
      char* const p = static_cast<char*>(::operator new (narrow, std::align_val_t{128}));
      fill(p, narrow);
      ::operator delete (p, std::align_val_t{128});
    });
    return (cold - warm) / static_cast<double>(narrow);
  };
  note("fresh_s_per_byte", fresh(1));
  note("fresh_2_s_per_byte", fresh(2));
  {
    unshard::mpi_communicator comm(MPI_COMM_WORLD);
    std::vector<std::byte> word(16), all(16 * static_cast<std::size_t>(n));
    for (const int late_ms : {0, 20}) {  // rank 0 comes so much later than the others
      const double t = seconds_of(n, [&] {
        for (int i = 0; i < 10; ++i) {
          const auto until = MPI_Wtime() + late_ms * 1e-3;
          while (me == 0 && MPI_Wtime() < until) {
          }
          comm.exchange(word, all, 60'000);
        }
      });
      note(late_ms == 0 ? "exchange_s" : "exchange_late_s", t / 10 - late_ms * 1e-3);
    }
  }
  const bool written = me != 0 || bench::write(found, file);
  MPI_Finalize();
  return written ? 0 : 1;
}
