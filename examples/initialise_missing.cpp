// SPDX-License-Identifier: Apache-2.0
// initialise_missing: what a model loader does when the checkpoint lacks keys. It reads the parameter list of a real
// model, shards it over ranks, and initialises every missing weight in chunks that never exceed a byte budget; then it
// checks every shard, bit by bit. For comparison it does the same as loaders do today, with one gather of everything
// on every rank, and one parameter at a time; it prints a table and draws memory.svg.
//
// The parts are in initialise_missing/: model.hpp shards, generator.hpp makes the weights, ways.hpp has the three ways
// (in_chunks() is the one to look at), metered.hpp, process_memory.hpp and table.hpp measure and print.

#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "command_line.hpp"
#include "initialise_missing/model.hpp"
#include "initialise_missing/table.hpp"
#include "initialise_missing/ways.hpp"
#include "observers/memory_svg.hpp"
#include "output_file.hpp"

#ifndef UNSHARD_MANIFESTS  // where the lists are that come with the example
#define UNSHARD_MANIFESTS "examples/manifests"
#endif

namespace {

using namespace examples;

struct settings {
  std::string model = "minimax-m3";
  int ranks = 8;
  std::size_t budget = 0;  // bytes; 0: 1/100 of the model
  std::size_t size = 512 * unshard::MiB;
  sharding layout = sharding::zero3;
  bool on_all = false;
  std::uint64_t seed = 46822;
  bool plan_only = false;
  std::string svg = "memory.svg";
};

settings parse(CLI::App& app, int argc, char** argv) {
  settings s;
  const std::map<std::string, sharding> layouts{{"zero3", sharding::zero3},
                                                {"fsdp2", sharding::fsdp2},
                                                {"ragged", sharding::ragged},
                                                {"experts", sharding::experts}};
  const std::map<std::string, bool> holders{{"root", false}, {"all", true}};
  app.add_option("--model", s.model,
                 "the parameter list: minimax-m3, bert-base-classifier or gpt2, which come with the program, or a "
                 "file (default: minimax-m3)")
      ->option_text("MODEL");
  app.add_option("--ranks", s.ranks, "how many ranks, as threads, from 1 to 1024 (default: 8)")
      ->check(CLI::Range(1, 1024))
      ->option_text("N");
  add_bytes(app, "--budget", s.budget,
            "bytes that the library may hold on a rank: 5MiB, 2GiB (default: 1/100 of the model)");
  add_bytes(app, "--size", s.size, "scale the model's widths until it takes about so many bytes (default: 512MiB)");
  app.add_option("--layout", s.layout,
                 "how the model is sharded: zero3 (flat values), fsdp2 (rows), ragged (Megatron's buckets) or experts "
                 "(the experts over the ranks, the rest flat) (default: zero3)")
      ->transform(CLI::CheckedTransformer(layouts, CLI::ignore_case))
      ->option_text("LAYOUT");
  app.add_option("--on", s.on_all, "which ranks hold the chunks: root or all (default: root)")
      ->transform(CLI::CheckedTransformer(holders, CLI::ignore_case))
      ->option_text("RANKS");
  app.add_option("--seed", s.seed, "of the generator that makes the weights (default: 46822)")->option_text("N");
  app.add_flag("--plan-only", s.plan_only, "plan the model at its real size, print what it comes to, move nothing");
  add_output(app, "--svg", s.svg, "where to draw the memory over time; --svg \"\" draws nothing (default: memory.svg)");
  app.parse(argc, argv);
  return s;
}

manifest find_manifest(const std::string& model) {
  const std::string shipped = std::string(UNSHARD_MANIFESTS) + '/' + model + ".tsv";
  const bool name = model.find_first_of("/.") == std::string::npos && !std::ifstream(model).good();
  const bool by_name = name && std::ifstream(shipped).good();
  if (name && !by_name)
    throw std::runtime_error("--model " + in_quotes(model) +
                             ": neither a file nor one of minimax-m3, bert-base-classifier, gpt2.");
  return read_manifest(by_name ? shipped : model);
}

void print_model(const settings& s, const manifest& list, std::size_t missing, std::size_t budget) {
  std::size_t count = 0;
  std::size_t largest = 0;
  for (const manifest_entry& e : list) {
    count += e.missing ? 1 : 0;
    largest = std::max(largest, e.bytes());
  }
  const std::size_t all = bytes_of(list);
  std::printf("%s: %s, %s; the largest %s\n", printable(s.model, 40).c_str(),
              number_of(list.size(), "parameter").c_str(), readable(all).c_str(), readable(largest).c_str());
  if (count == 0) {
    std::printf("none is marked as missing, so all are initialised\n");
  } else {
    std::printf("%zu missing, %s (%.1f %%)\n", count, readable(missing).c_str(),
                100 * static_cast<double>(missing) / static_cast<double>(std::max<std::size_t>(all, 1)));
  }
  std::printf("%s, a budget of %s (%zu bytes) on each\n", number_of(static_cast<std::size_t>(s.ranks), "rank").c_str(),
              readable(budget).c_str(), budget);
}

/// The model at its real size, and no bytes: what the plan would come to.
int plan_only(const settings& s, manifest list) {
  const std::size_t budget = s.budget > 0 ? s.budget : bytes_of(list) / 100;
  const bool any = bytes_of(list, true) > 0;
  const std::size_t missing = bytes_of(list, any);
  print_model(s, list, missing, budget);
  const sharded_model model(std::move(list), s.layout, s.ranks);
  const std::vector<tensor> tensors = model.missing(0);
  const auto on = s.on_all ? unshard::every_rank : unshard::root(0);
  const auto plan = unshard::make_plan(tensors, {.budget = budget, .cut = unshard::cut::oversized, .on = on});
  std::printf("\n%s\n", to_string(plan.summary()).c_str());
  std::printf("peak per rank: %s on %s%s\n", readable(plan.summary().peak).c_str(),
              s.on_all ? "every rank" : "the root", s.on_all ? "" : ", nothing on the others");
  std::printf("one gather of everything: %s on every rank, %s in all\n", readable(missing).c_str(),
              readable(missing * static_cast<std::size_t>(s.ranks)).c_str());
  return 0;
}

int run(const settings& s, const manifest& real) {
  manifest list = scaled_to(real, s.size);
  const std::size_t budget = s.budget > 0 ? s.budget : bytes_of(list) / 100;
  const std::size_t missing = bytes_of(list, bytes_of(list, true) > 0);
  print_model(s, list, missing, budget);
  const auto on = s.on_all ? unshard::every_rank : unshard::root(0);
  const std::size_t shards = bytes_of(list);
  sharded_model model(std::move(list), s.layout, s.ranks);
  unshard::make_plan(model.missing(0), {.budget = budget, .cut = unshard::cut::oversized, .on = on});  // may it be?
  model.allocate();

  std::vector<measured> ways;
  const std::size_t needed = shards + missing * static_cast<std::size_t>(s.ranks);
  const std::size_t available = available_memory();
  const bool everything = available == 0 || needed < available / 10 * 9;
  if (everything) {
    ways.push_back(gather_everything(model, s.seed, missing));
  } else {
    std::printf("one gather of everything is left out: it needs %s, this machine has %s\n", readable(needed).c_str(),
                readable(available).c_str());
  }
  ways.push_back(one_at_a_time(model, s.seed, missing));
  ways.push_back(in_chunks(model, s.seed, missing, budget, on));
  const measured& chunks = ways.back();

  print_table(ways);
  print_verdict(chunks, everything ? &ways.front() : nullptr, budget);
  if (!s.svg.empty()) {
    std::vector<memory_curve> curves;
    for (const measured& m : ways) {
      const bool each = m.others_peak > 0 || s.ranks == 1;
      curves.push_back({m.name + (each ? ", on every rank" : ", on the root alone"), &m.timeline});
    }
    write_file(s.svg, [&](std::ostream& file) {
      write_memory_svg(file, "Memory for initialising " + readable(missing) + " of missing weights",
                       "what rank 0 holds of whole values, over time", curves, budget);
    });
    std::printf("memory over time: %s\n", s.svg.c_str());
  }

  bool good = chunks.root_peak <= budget && chunks.others_peak <= (s.on_all ? budget : 0);
  for (const measured& m : ways) good = good && m.agrees;
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Initialises the weights that a checkpoint lacks, in chunks within a byte budget.",
               "initialise_missing");
  prepare(app);
  try {
    const settings s = parse(app, argc, argv);
    manifest list = find_manifest(s.model);
    return s.plan_only ? plan_only(s, std::move(list)) : run(s, list);
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "initialise_missing: %s\n", e.what());
    return 2;
  }
}
