// SPDX-License-Identifier: Apache-2.0
#pragma once  // ways.hpp: three ways to initialise what a checkpoint lacked, measured alike.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "../observers/progress.hpp"
#include "../observers/timeline.hpp"
#include "generator.hpp"
#include "metered.hpp"
#include "model.hpp"
#include "process_memory.hpp"

namespace examples {

/// What one way took.
struct measured {
  std::string name;
  std::size_t root_peak = 0;     // bytes, by a counting allocator
  std::size_t others_peak = 0;   // the most of any other rank
  std::size_t process_peak = 0;  // of all ranks and their shards, by the operating system; 0: unknown
  std::size_t moved = 0;         // bytes that came to a rank from another
  double seconds = 0;
  bool agrees = false;         // every shard of every rank, bit by bit
  memory_timeline timeline{};  // the root's
};

using counted = unshard::counted_memory<>;
using recorded = recorded_memory<counted>;
using rank_comm = metered<unshard::threads_communicator>;

/// Runs body(tensors, comm, memory, progress) on every rank, as one way of several over the same model.
template <class Body>
measured measure(sharded_model& model, std::string name, std::uint64_t seed, std::size_t total_bytes, Body body) {
  const auto ranks = static_cast<std::size_t>(model.ranks());
  std::vector<std::unique_ptr<counted>> memories;  // counters stay where they are
  for (std::size_t r = 0; r < ranks; ++r) memories.push_back(std::make_unique<counted>());
  std::vector<std::size_t> received(ranks);
  for (int r = 0; r < model.ranks(); ++r) model.spoil(r);
  const bool process_known = reset_process_peak();

  measured m{.name = name};
  m.timeline = memory_timeline();
  std::vector<memory_timeline> timelines(ranks);  // one each, for ranks are threads; only the root's is shown
  progress shown(name, total_bytes);
  const auto start = std::chrono::steady_clock::now();
  unshard::run_ranks(model.ranks(), [&](unshard::threads_communicator& inner) {
    const auto rank = static_cast<std::size_t>(inner.rank());
    std::vector<tensor> tensors = model.missing(inner.rank());
    rank_comm comm(inner);
    recorded memory(*memories[rank], rank == 0 ? m.timeline : timelines[rank]);
    unshard::observer observer;
    if (rank == 0) observer = shown;
    body(tensors, comm, memory, observer);
    received[rank] = comm.received();
  });
  m.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  m.timeline.end();
  if (process_known) m.process_peak = process_peak();

  for (std::size_t r = 0; r < ranks; ++r) {
    (r == 0 ? m.root_peak : m.others_peak) = std::max(r == 0 ? m.root_peak : m.others_peak, memories[r]->peak());
    m.moved += received[r];
  }
  std::atomic<bool> agrees{true};
  unshard::run_ranks(model.ranks(), [&](unshard::threads_communicator& comm) {
    const auto generator_of = [&](std::string_view of, std::size_t size) { return generator(seed, of, size); };
    if (!model.agrees(comm.rank(), generator_of)) agrees = false;
  });
  m.agrees = agrees;
  return m;
}

/// Fills what of a piece this rank keeps: with every_rank, each needs to write its own part only.
inline void fill_own_part(const tensor& t, int rank, const auto& piece, std::uint64_t seed) {
  const generator values(seed, t.name(), t.element_size());
  const unshard::index_t end = piece.first() + piece.elements();
  for_each_run(t.layout(), rank, [&](unshard::index_t first, unshard::index_t run) {
    const unshard::index_t from = std::max(first, piece.first());
    const unshard::index_t to = std::min(first + run, end);
    if (from >= to) return;
    const auto skip = static_cast<std::size_t>(from - piece.first()) * t.element_size();
    values.fill(from, static_cast<std::size_t>(to - from), piece.bytes().data() + skip);
  });
}

/// What a plan needs for whole values, a parameter after another: their bytes, each up to the alignment.
inline std::size_t aligned_bytes(const tensor& t) {
  const auto bytes = static_cast<std::size_t>(t.layout().shape().elements()) * t.element_size();
  return (bytes + 127) / 128 * 128;
}

/// What loaders do today: one gather of all that is missing, on every rank, and the write-back when it closes.
inline measured gather_everything(sharded_model& model, std::uint64_t seed, std::size_t total_bytes) {
  return measure(model, "one gather of everything", seed, total_bytes,
                 [&](auto& tensors, auto& comm, auto& memory, unshard::observer observer) {
                   std::size_t budget = 0;
                   for (const tensor& t : tensors) budget += aligned_bytes(t);
                   const unshard::options options{.budget = budget, .on = unshard::every_rank, .observer = observer};
                   for (auto& chunk : unshard::chunks(tensors, comm, unshard::read_write, options, memory)) {
                     for (auto piece : chunk) fill_own_part(tensors[piece.index()], comm.rank(), piece, seed);
                   }
                 });
}

/// The usual remedy: the same, but one parameter after another.
inline measured one_at_a_time(sharded_model& model, std::uint64_t seed, std::size_t total_bytes) {
  return measure(model, "one parameter at a time", seed, total_bytes,
                 [&](auto& tensors, auto& comm, auto& memory, unshard::observer observer) {
                   std::set<std::uint64_t> seen;  // tied parameters are one
                   for (tensor& t : tensors) {
                     if (!seen.insert(t.identity()).second) continue;
                     const unshard::options options{.budget = std::max<std::size_t>(aligned_bytes(t), 128),
                                                    .on = unshard::every_rank,
                                                    .observer = observer};
                     for (auto& chunk : unshard::chunks(std::span(&t, 1), comm, unshard::read_write, options, memory)) {
                       for (auto piece : chunk) fill_own_part(t, comm.rank(), piece, seed);
                     }
                   }
                 });
}

/// What this library is for: chunks within a budget, through one buffer. Nothing is gathered, as all is overwritten.
inline measured in_chunks(sharded_model& model, std::uint64_t seed, std::size_t total_bytes, std::size_t budget,
                          unshard::residency on) {
  return measure(model, "chunks", seed, total_bytes,
                 [&](auto& tensors, auto& comm, auto& memory, unshard::observer observer) {
                   const unshard::options options{
                       .budget = budget, .cut = unshard::cut::oversized, .on = on, .observer = observer};
                   for (auto& chunk : unshard::chunks(tensors, comm, unshard::overwrite, options, memory)) {
                     for (auto piece : chunk) {
                       const tensor& t = tensors[piece.index()];
                       generator(seed, t.name(), t.element_size())
                           .fill(piece.first(), static_cast<std::size_t>(piece.elements()), piece.bytes().data());
                     }
                   }
                 });
}

}  // namespace examples
