// unshard-plan: for the person who sizes a run. Reads what a model consists of and says what a gather within a budget
// would take. Exit status: 0 planned, 1 the input can't be read, 2 the budget is too small, over 100 a wrong option.

#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <map>
#include <unshard/version.hpp>

#include "report.hpp"

namespace {

using unshard_plan::request;

/// Sets `what` from the command line; throws CLI::ParseError.
void parse(CLI::App& app, request& what, int argc, char** argv) {
  const std::map<std::string, unshard::packing> packings{{"in_order", unshard::packing::in_order},
                                                         {"best_fit", unshard::packing::best_fit}};
  const std::map<std::string, unshard::cut> cuts{
      {"never", unshard::cut::never}, {"oversized", unshard::cut::oversized}, {"anywhere", unshard::cut::anywhere}};
  app.add_option("model", what.model, "a manifest (.tsv), a .safetensors file, or a model.safetensors.index.json")
      ->required();
  app.add_option("--budget", what.options.budget, "bytes that a rank may hold: 2147483648, 2GiB, 512MiB")
      ->required()
      ->transform(CLI::AsSizeValue(true));
  app.add_option("--ranks", what.ranks, "how many ranks the model is sharded over")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--layout", what.layout, "how: flat, dim:N, owned (one owner each, in turns), replicated")
      ->capture_default_str();
  app.add_option("--packing", what.options.packing, "in_order (default) or best_fit")
      ->transform(CLI::CheckedTransformer(packings));
  app.add_option("--cut", what.options.cut, "never (default), oversized or anywhere")
      ->transform(CLI::CheckedTransformer(cuts));
  app.add_option("--in-flight", what.options.in_flight, "chunk buffers that share the budget")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_flag("--every-rank", what.every_rank, "all ranks hold the chunks, not rank 0 alone");
  app.add_flag("--missing", what.only_missing, "only the tensors that the manifest marks as missing");
  app.add_flag("--json", what.json, "print JSON, with every piece of every chunk");
  app.add_option("--svg", what.svg, "draw the chunks into this file");
  app.set_version_flag("--version", std::to_string(UNSHARD_VERSION_MAJOR) + '.' +
                                        std::to_string(UNSHARD_VERSION_MINOR) + '.' +
                                        std::to_string(UNSHARD_VERSION_PATCH));
  app.parse(argc, argv);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Plans how a sharded model's tensors are gathered in chunks within a byte budget.", "unshard-plan");
  request what;
  try {
    parse(app, what, argc, argv);
    if (what.every_rank) what.options.on = unshard::every_rank;
    const unshard_plan::report r = unshard_plan::make_report(unshard_plan::read_model(what.model), what);
    if (what.json) {
      print_json(std::cout, r, what);
    } else {
      print_table(std::cout, r, what);
    }
    if (!what.svg.empty()) {
      std::ofstream file(what.svg);
      print_svg(file, r, what);
      if (!file.flush()) throw unshard_plan::unreadable("--svg " + what.svg + ": can't be written.");
    }
    return 0;
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  } catch (const unshard::budget_too_small& e) {
    std::cerr << e.what() << "\nThat is --budget " << e.least << " or --cut oversized here.\n";
    return 2;
  } catch (const std::exception& e) {
    std::cerr << "unshard-plan: " << e.what() << '\n';
    return 1;
  }
}
