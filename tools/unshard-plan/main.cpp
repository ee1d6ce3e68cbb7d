// SPDX-License-Identifier: Apache-2.0
// unshard-plan: for the person who sizes a run. Reads what a model consists of and says what a gather within a budget
// would take. Exit status: 0 planned, and it fits where that is asked; 1 it does not fit into --gpu-memory; 2 the
// budget can't be kept; 3 an input can't be read or a file not written; over 100 a wrong option.

#include <initializer_list>
#include <iostream>
#include <string>
#include <unshard/version.hpp>

#include "../../examples/command_line.hpp"
#include "placement.hpp"
#include "report.hpp"

namespace {

using unshard_plan::request;

/// What main needs beside the request.
struct arguments {
  request what;
  std::vector<std::string> model;
  std::vector<std::string> checkpoint;
  bool json = false;
  std::string svg;  // a file to write, or empty
};

/// An option that takes one of these words.
template <class T>
void add_choice(CLI::App& app, const char* name, T& value, std::initializer_list<T> list, const std::string& help) {
  std::string words;
  for (const T& t : list) words += (words.empty() ? "" : ", ") + std::string(unshard_plan::name_of(t));
  app.add_option_function<std::string>(
         name,
         [name, &value, choices = std::vector<T>(list), words](const std::string& text) {
           for (const T& t : choices) {
             if (text == unshard_plan::name_of(t)) return void(value = t);
           }
           throw CLI::ValidationError(name, examples::in_quotes(text) + ": must be one of " + words + '.');
         },
         help)
      ->option_text("WORD");
}

/// Reads the command line; throws CLI::ParseError.
void parse(CLI::App& app, arguments& a, int argc, char** argv) {
  using unshard::cut, unshard::packing;
  request& what = a.what;
  unshard_plan::link over;
  app.add_option("model", a.model,
                 "what the model consists of: a Hugging Face folder, a .safetensors file or several, their index "
                 "(.json), a list of parameters (.tsv), or - for standard input")
      ->required()
      ->option_text("MODEL ...");
  // Not required(): then a misspelt option would be reported as this one's absence.
  const auto* budget =
      examples::add_bytes(app, "--budget", what.options.budget,
                          "bytes that the library may hold on a rank: 2147483648, 512M, 1.5GiB; 20GB is "
                          "decimal (default: the largest that fits, where --gpu-memory is given)");
  app.add_option("--ranks", what.ranks, "over how many ranks the model is sharded (default: 8)")
      ->check(CLI::Range(1, 1'000'000))
      ->option_text("N");
  app.add_option("--layout", what.layout,
                 "how it is sharded: flat (ZeRO-3), dim:0 (FSDP2), hsdp:SHARDS, fsdp-tp:TP (FSDP2 over tensor "
                 "parallelism), experts:EP, mesh:D/N,D/N (a mesh of N x N ranks that cut dimensions D; - cuts none), "
                 "ragged (Megatron's buckets), owned (one owner each) or replicated (default: flat)")
      ->option_text("LAYOUT");
  app.add_option("--stages", what.stages, "pipeline stages, each on an equal part of the ranks (default: 1)")
      ->check(CLI::Range(1, 1'000'000))
      ->option_text("N");
  app.add_flag("--every-rank", what.every_rank, "all ranks hold the chunks (default: rank 0 alone)");
  add_choice(app, "--packing", what.options.packing, {packing::in_order, packing::best_fit},
             "in_order: tensors come in the model's order; best_fit: fewer chunks (default: in_order)");
  add_choice(
      app, "--cut", what.options.cut, {cut::never, cut::oversized, cut::anywhere},
      "whether a tensor may lie in several chunks: never, oversized (where it is larger than a chunk) or anywhere "
      "(wherever a chunk is full) (default: never)");
  app.add_option("--in-flight", what.options.in_flight, "chunk buffers that share the budget (default: 1)")
      ->check(CLI::Range(1, 64))
      ->option_text("N");
  const auto* checkpoint =
      app.add_option("--checkpoint", a.checkpoint,
                     "plan only what this checkpoint lacks of the model; it is read as the model is")
          ->option_text("PATH ...");
  app.add_flag("--missing", what.only_missing, "plan only the tensors that the list marks as missing");
  examples::add_bytes(
      app, "--gpu-memory", what.gpu_memory,
      "the memory of a GPU: says whether shards, chunks and engine fit, and ends with status 1 where not");
  examples::add_bytes(app, "--engine", what.engine,
                      "what the engine, the CUDA context and your own program take of it (default: 1GiB)")
      ->needs("--gpu-memory");
  const auto* link = examples::add_amount(app, "--link", over.bytes_per_s,
                                          "bandwidth of a rank's link, 50GB/s or 400Gb/s: says how long moving takes",
                                          examples::parse_rate)
                         ->option_text("RATE");
  examples::add_amount(app, "--latency", over.latency_s, "what each message takes beside its bytes (default: 10us)",
                       examples::parse_seconds)
      ->needs("--link")
      ->option_text("TIME");
  app.add_flag("--json", a.json, "print JSON, with every piece of every chunk");
  examples::add_output(app, "--svg", a.svg, "draw the chunks into this file");
  app.set_version_flag("--version",
                       std::to_string(UNSHARD_VERSION_MAJOR) + '.' + std::to_string(UNSHARD_VERSION_MINOR) + '.' +
                           std::to_string(UNSHARD_VERSION_PATCH),
                       "print the version and end");
  app.parse(argc, argv);
  if (budget->count() == 0 && what.gpu_memory == 0)
    throw CLI::RequiredError("--budget (the bytes that a rank may hold, 8GiB say) or --gpu-memory");
  if (budget->count() > 0 && what.options.budget == 0) throw CLI::ValidationError("--budget", "0 bytes hold nothing.");
  if (what.options.cut == cut::anywhere && what.options.packing == packing::best_fit)
    throw CLI::ValidationError("--cut", "anywhere goes with --packing in_order only; with best_fit take oversized.");
  if (link->count() > 0) what.over = over;
  if (checkpoint->count() > 0) what.only_missing = true;
  for (const std::string& m : a.model) what.model += (what.model.empty() ? "" : " ") + m;
}

int run(const arguments& a) {
  unshard_plan::notes odd;
  std::vector<unshard_plan::tensor> model = unshard_plan::read_model(a.model, odd);
  if (!a.checkpoint.empty()) unshard_plan::mark_missing(model, unshard_plan::read_model(a.checkpoint, odd), odd);
  for (const std::string& note : odd) std::cerr << "unshard-plan: " << note << '\n';
  const unshard_plan::report r = unshard_plan::make_report(std::move(model), a.what);
  if (!a.svg.empty()) examples::write_file(a.svg, [&](std::ostream& out) { print_svg(out, r, a.what); });
  if (a.json) {
    print_json(std::cout, r, a.what);
  } else {
    print_table(std::cout, r, a.what);
  }
  if (!std::cout.flush()) throw std::runtime_error("the output can't be written.");
  return r.fit && !r.fit->fits ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Plans how a sharded model's tensors are gathered in chunks within a byte budget: how many, how full, "
      "whether it fits and how long it takes.",
      "unshard-plan");
  examples::prepare(app);
  arguments a;
  try {
    parse(app, a, argc, argv);
    return run(a);
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  } catch (const unshard_plan::bad_placement& e) {
    return app.exit(CLI::ValidationError(e.what()));
  } catch (const unshard_plan::bad_budget& e) {
    std::cerr << "unshard-plan: " << e.what() << '\n';
    return 2;
  } catch (const std::exception& e) {
    std::cerr << "unshard-plan: " << e.what() << '\n';
    return 3;
  }
}
