// SPDX-License-Identifier: Apache-2.0
// mpi: the main job (initialise_missing.cpp) over real processes: `mpirun -n 4 mpi [MODEL.tsv [SIZE [BUDGET]]]`, with
// sizes as 512MiB.
// Each process holds its shards and nothing of the others', so what the table says of memory is measured by the
// operating system, process by process: by how much its resident set rose over its shards.

#include <mpi.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <unshard/comm/mpi.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "initialise_missing/model.hpp"
#include "initialise_missing/ways.hpp"
#include "observers/readable.hpp"
#include "units.hpp"

#ifndef UNSHARD_MANIFESTS  // where the lists are that come with the example
#define UNSHARD_MANIFESTS "examples/manifests"
#endif

namespace {

using namespace examples;
constexpr std::uint64_t seed = 46822;

/// What one process saw of one way.
struct row {
  double ours = 0;     // bytes: the most that the library held
  double process = 0;  // bytes: the rise of the resident set, all in
  double seconds = 0;
  double agrees = 0;
};

/// What loaders do today: one gather of all that is missing, on every rank.
void gather_everything(std::vector<tensor>& tensors, unshard::mpi_communicator& comm, counted& memory) {
  std::size_t budget = 128;
  for (const tensor& t : tensors) budget += aligned_bytes(t);
  const unshard::options options{.budget = budget, .on = unshard::every_rank};
  for (auto& chunk : unshard::chunks(tensors, comm, unshard::read_write, options, memory)) {
    for (auto piece : chunk) fill_own_part(tensors[piece.index()], comm.rank(), piece, seed);
  }
}

/// The same job within a budget: the root makes the weights, chunk by chunk, the others hold nothing.
void in_chunks(std::vector<tensor>& tensors, unshard::mpi_communicator& comm, counted& memory, std::size_t budget) {
  const unshard::options options{.budget = budget, .cut = unshard::cut::oversized};
  for (auto& chunk : unshard::chunks(tensors, comm, unshard::overwrite, options, memory)) {
    for (auto piece : chunk) {
      const tensor& t = tensors[piece.index()];
      generator(seed, t.name(), t.element_size())
          .fill(piece.first(), static_cast<std::size_t>(piece.elements()), piece.bytes().data());
    }
  }
}

/// Collective; every process gets all rows.
template <class Body>
std::vector<row> measure(sharded_model& model, unshard::mpi_communicator& comm, Body body) {
  model.spoil(comm.rank());
  std::vector<tensor> tensors = model.missing(comm.rank());
  counted memory;
  MPI_Barrier(MPI_COMM_WORLD);
  const bool known = reset_process_peak();
  const std::size_t before = examples::detail::kilobytes_in("/proc/self/status", "VmRSS:");
  const auto start = std::chrono::steady_clock::now();
  body(tensors, comm, memory);
  row mine;
  mine.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  mine.ours = static_cast<double>(memory.peak());
  if (known && process_peak() > before) mine.process = static_cast<double>(process_peak() - before);
  mine.agrees =
      model.agrees(comm.rank(), [](std::string_view name, std::size_t size) { return generator(seed, name, size); })
          ? 1
          : 0;
  std::vector<row> rows(static_cast<std::size_t>(comm.size()));
  MPI_Allgather(&mine, 4, MPI_DOUBLE, rows.data(), 4, MPI_DOUBLE, MPI_COMM_WORLD);
  return rows;
}

void print(const char* way, const std::vector<row>& rows) {
  for (std::size_t r = 0; r < rows.size(); ++r)
    std::printf("%-26s %4zu %14s %14s %8.2f s  %s\n", r == 0 ? way : "", r,
                readable(static_cast<std::size_t>(rows[r].ours)).c_str(),
                readable(static_cast<std::size_t>(rows[r].process)).c_str(), rows[r].seconds,
                rows[r].agrees == 1 ? "agree" : "DIFFER");
}

bool run(int argc, char** argv) {
  unshard::mpi_communicator comm(MPI_COMM_WORLD);
  const std::string path = argc > 1 ? argv[1] : UNSHARD_MANIFESTS "/minimax-m3.tsv";
  const std::size_t size = argc > 2 ? parse_bytes(argv[2]) : 512 * unshard::MiB;
  manifest list = scaled_to(read_manifest(path), size);
  const std::size_t budget = argc > 3 ? parse_bytes(argv[3]) : bytes_of(list) / 100;
  if (comm.rank() == 0)
    std::printf("%zu parameters, %s; %d processes, a budget of %s on each\n\n%-26s %4s %14s %14s %10s  %s\n",
                list.size(), readable(bytes_of(list)).c_str(), comm.size(), readable(budget).c_str(), "", "rank",
                "library, peak", "process, rise", "time", "bits");
  sharded_model model(std::move(list), sharding::zero3, comm.size());
  model.allocate();  // address space for all; only this process's own shards are ever touched
  const auto everything = measure(model, comm, gather_everything);
  if (comm.rank() == 0) print("one gather of everything", everything);
  const auto chunks = measure(
      model, comm, [&](auto& tensors, auto& engine, auto& memory) { in_chunks(tensors, engine, memory, budget); });
  if (comm.rank() == 0) print("chunks", chunks);
  bool good = true;
  for (const row& r : chunks) good = good && r.agrees == 1 && r.ours <= static_cast<double>(budget);
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  bool good = false;
  try {
    good = run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    MPI_Abort(MPI_COMM_WORLD, 1);  // ends the other processes, too
  }
  MPI_Finalize();
  return good ? 0 : 1;
}
