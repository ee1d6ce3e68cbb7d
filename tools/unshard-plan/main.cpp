// unshard-plan: for the person who sizes a run. Reads what a model consists of and says what a gather within a budget
// would take. Exit status: 0 planned, 1 the input can't be read, 2 the budget is too small, over 100 a wrong option.

#include <CLI/CLI.hpp>
#include <charconv>
#include <fstream>
#include <initializer_list>
#include <iostream>
#include <string>
#include <unshard/version.hpp>
#include <utility>

#include "report.hpp"

namespace {

using unshard_plan::request;

[[noreturn]] void wrong(const char* option, const std::string& text, const std::string& why) {
  throw CLI::ValidationError(option, unshard_plan::printable(text) + ": " + why);
}

/// "2147483648", "1.5GiB" or "20GB" as bytes. "2G" may mean either, so it is refused.
std::size_t bytes_of(const char* option, const std::string& text) {
  constexpr std::pair<std::string_view, unshard::index_t> units[] = {
      {"", 1},
      {"B", 1},
      {"kB", 1'000},
      {"KB", 1'000},
      {"MB", 1'000'000},
      {"GB", 1'000'000'000},
      {"TB", 1'000'000'000'000},
      {"KiB", 1LL << 10},
      {"MiB", 1LL << 20},
      {"GiB", 1LL << 30},
      {"TiB", 1LL << 40},
  };
  const char* const end = text.data() + text.size();
  unshard::index_t whole = 0;
  auto [at, failure] = std::from_chars(text.data(), end, whole);
  double part = 0;
  if (failure == std::errc{} && at != end && *at == '.') {
    double digit = 0.1;
    for (++at; at != end && *at >= '0' && *at <= '9'; ++at, digit /= 10) part += (*at - '0') * digit;
  }
  while (at != end && *at == ' ') ++at;
  for (const auto& [name, size] : units) {
    if (failure != std::errc{} || whole < 0 || name != std::string_view(at, end)) continue;
    try {
      const auto rest = static_cast<unshard::index_t>(part * static_cast<double>(size) + 0.5);
      return static_cast<std::size_t>(unshard::detail::checked_add(unshard::detail::checked_mul(whole, size), rest));
    } catch (const unshard::size_overflow&) {
      wrong(option, text, "more than 2^63 - 1 bytes.");
    }
  }
  wrong(option, text, "say bytes, or a unit with them: 2147483648, 1.5GiB, 512MiB; 20GB are 20,000,000,000 bytes.");
}

/// An option that takes one of these words.
template <class T>
void add_choice(CLI::App& app, const char* name, T& value, std::initializer_list<T> list, const std::string& help) {
  std::string words;
  for (const T& t : list) words += (words.empty() ? "" : "|") + std::string(unshard_plan::name_of(t));
  app.add_option_function<std::string>(
         name,
         [name, &value, choices = std::vector<T>(list), words](const std::string& text) {
           for (const T& t : choices) {
             if (text == unshard_plan::name_of(t)) return void(value = t);
           }
           wrong(name, text, "must be one of " + words + '.');
         },
         help)
      ->option_text(words);
}

/// Sets `what` from the command line; throws CLI::ParseError.
void parse(CLI::App& app, request& what, int argc, char** argv) {
  using unshard::cut, unshard::packing;
  app.add_option("model", what.model, "a manifest (.tsv), a .safetensors file, or a model.safetensors.index.json")
      ->required()
      ->option_text("FILE");
  // Not required(): then a misspelt option would be reported as this one's absence.
  const auto* budget =
      app.add_option_function<std::string>(
             "--budget", [&](const std::string& text) { what.options.budget = bytes_of("--budget", text); },
             "bytes that a rank may hold: 2147483648, 1.5GiB, 512MiB, 20GB (decimal)")
          ->option_text("BYTES");
  app.add_option("--ranks", what.ranks, "how many ranks the model is sharded over; 8 unless said")
      ->check(CLI::Range(1, 1'000'000))
      ->option_text("N");
  app.add_option("--layout", what.layout, "how: flat (default), dim:N, owned (one owner each, in turns), replicated")
      ->option_text("LAYOUT");
  add_choice(app, "--packing", what.options.packing, {packing::in_order, packing::best_fit},
             "the order of the tensors, in_order unless said");
  add_choice(app, "--cut", what.options.cut, {cut::never, cut::oversized, cut::anywhere},
             "whether a tensor may lie in several chunks, never unless said");
  app.add_option("--in-flight", what.options.in_flight, "chunk buffers that share the budget; 1 unless said")
      ->check(CLI::Range(1, 64))
      ->option_text("N");
  app.add_flag("--every-rank", what.every_rank, "all ranks hold the chunks, not rank 0 alone");
  app.add_flag("--missing", what.only_missing, "only the tensors that the manifest marks as missing");
  app.add_flag("--json", what.json, "print JSON, with every piece of every chunk");
  app.add_option("--svg", what.svg, "draw the chunks into this file")->option_text("FILE");
  app.set_version_flag("--version", std::to_string(UNSHARD_VERSION_MAJOR) + '.' +
                                        std::to_string(UNSHARD_VERSION_MINOR) + '.' +
                                        std::to_string(UNSHARD_VERSION_PATCH));
  app.parse(argc, argv);
  if (budget->count() == 0) throw CLI::RequiredError("--budget (the bytes that a rank may hold, 8GiB say)");
  if (what.options.cut == cut::anywhere && what.options.packing == packing::best_fit)
    wrong("--cut", "anywhere", "goes with --packing in_order only; with best_fit take oversized.");
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
