// SPDX-License-Identifier: Apache-2.0
// simulate: the library's own plans and schedules for up to thousands of ranks, with no bytes, on machines of which
// only latency and bandwidth are known. `--measured` predicts what bench_mpi measured, from what bench_mpi_link did.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <unshard/unshard.hpp>

#include "../examples/command_line.hpp"
#include "bench.hpp"
#include "measured.hpp"
#include "simulated_models.hpp"
#include "simulation.hpp"

namespace {

using namespace simulation;
using json = nlohmann::ordered_json;

/// What the command line asks for. The machine is an assumption, and only that: eight accelerators a host, one 400 Gb/s
/// port each.
struct request {
  std::vector<std::string> manifests{"examples/manifests/minimax-m3.tsv", "tests/manifests/deepseek-v3.tsv"};
  std::vector<std::string> layouts{simulation::layouts, std::end(simulation::layouts)};
  std::vector<int> ranks{2, 4, 8, 64, 256, 1024, 4096, 10'000};
  std::size_t budget = 8 * unshard::GiB;
  std::vector<std::size_t> budgets;
  std::vector<int> budget_ranks{64, 1024, 10'000};
  int per_host = 8;
  std::vector<double> inside{3, 1, 300}, between{8, 2, 50};  // microseconds, microseconds, GB/s
  double copy = 1000;                                        // GB/s
  std::vector<std::string> measured, links;
  bool only_measured = false;
  std::string json;
};

constexpr rate both(double x) { return {x, x}; }

machine machine_of(const request& r) {
  const auto link_of = [](const std::vector<double>& l) {
    return port{l[0] * 1e-6, l[1] * 1e-6, {both(l[2] * 1e9), both(l[2] * 1e9)}};
  };
  return {.per_host = r.per_host,
          .cores = r.per_host,
          .inside = link_of(r.inside),
          .between = link_of(r.between),
          .receivers_fetch = false,
          .copy = {both(r.copy * 1e9), both(r.copy * 1e9)}};
}

void parse(CLI::App& app, request& r, int argc, char** argv) {
  app.add_option("--manifest", r.manifests, "parameter lists, .tsv; what they mark as missing, or all")
      ->capture_default_str();
  app.add_option("--layout", r.layouts, "flat, hybrid, experts")->capture_default_str();
  app.add_option("--ranks", r.ranks, "how many")->check(CLI::Range(1, 1'000'000))->capture_default_str();
  examples::add_bytes(app, "--budget", r.budget, "bytes a rank may hold: 8GiB");
  examples::add_bytes(app, "--budgets", r.budgets, "others, for the first manifest and layout");
  app.add_option("--budget-ranks", r.budget_ranks, "the ranks for those")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--per-host", r.per_host, "ranks of a host")->check(CLI::Range(1, 1'000'000))->capture_default_str();
  app.add_option("--inside", r.inside, "a link in a host: us of latency, us a message, GB/s")
      ->expected(3)
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--between", r.between, "a link between hosts")->expected(3)->delimiter(',')->capture_default_str();
  app.add_option("--copy", r.copy, "GB/s of a copy within a rank's memory")->capture_default_str();
  app.add_option("--measured", r.measured, "JSON files of bench_mpi to predict");
  app.add_option("--link", r.links, "JSON files of bench_mpi_link, to predict those of the same library and ranks");
  app.add_flag("--only-measured", r.only_measured, "predicts, and simulates nothing else");
  examples::add_output(app, "--json", r.json, "writes all rows to this file");
  app.parse(argc, argv);
}

/// As many digits as mean something, so that files stay small.
double rounded(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", seconds);
  return std::strtod(text, nullptr);
}

json row_of(const model& m, std::string_view layout, const access_kind& a, const group& g, std::size_t budget,
            const simulated& s, const times& t) {
  const movement_total none{.evaluated = g.ranks};
  const movement_total& in = a.gathers ? s.gather : none;
  const movement_total& out = a.writes ? s.write_back : none;
  return {{"model", m.name},
          {"layout", layout},
          {"access", a.name},
          {"on", g.on.all() ? "every_rank" : "root"},
          {"ranks", g.ranks},
          {"budget", budget},
          {"params", m.list.size()},
          {"chunks", s.plan.chunks},
          {"bytes", s.plan.bytes},
          {"peak", s.plan.peak},
          {"time_s", rounded(t.sum())},
          {"votes_s", rounded(t.votes)},
          {"plan_s", rounded(s.plan_s)},
          {"schedules_root_s", rounded(in.schedule_root_s + out.schedule_root_s)},
          {"schedules_others_s", rounded(in.schedule_others_s + out.schedule_others_s)},
          {"messages_root", in.messages_root + out.messages_root},
          {"messages_most", in.messages_most + out.messages_most},
          {"sent_most", in.sent_most + out.sent_most},
          {"received_most", in.received_most + out.received_most},
          {"looked_at", std::min(in.evaluated, out.evaluated)}};
}

void print_heading(const request& r) {
  std::printf(
      "# assumed: %d ranks a host; inside it %g us, %g us a message, %g GB/s; between hosts %g us, %g us, %g GB/s a "
      "rank; "
      "copies %g GB/s\n"
      "# time: of the links, the copies and the votes; host: of making the plan and the root's schedules, measured "
      "here\n"
      "# peak: of the root, or of every rank; most: of the busiest rank, chunk by chunk\n",
      r.per_host, r.inside[0], r.inside[1], r.inside[2], r.between[0], r.between[1], r.between[2], r.copy);
  const auto line = [](const char* const(&c)[17]) {
    std::printf("%-11s %-8s %-10s %-10s %6s %7s %6s %8s %9s %8s %8s %8s %9s %9s %9s %9s %7s\n", c[0], c[1], c[2], c[3],
                c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13], c[14], c[15], c[16]);
  };
  line({"#", "layout", "access", "on", "ranks", "budget", "chunks", "peak", "time", "algbw", "votes", "host",
        "messages", "messages", "sent", "received", "looked"});
  line({"#", "", "", "", "", "(MiB)", "", "(MiB)", "(s)", "(GB/s)", "(s)", "(s)", "root", "most", "most GB", "most GB",
        "at"});
}

void print(const json& r) {
  const auto text = [&](const char* key) { return r[key].get<std::string>(); };
  const auto number = [&](const char* key) { return r[key].get<double>(); };
  std::printf("%-11s %-8s %-10s %-10s %6.0f %7.0f %6.0f %8.0f %9.2f %8.1f %8.3f %8.3f %9.0f %9.0f %9.1f %9.1f %7.0f\n",
              text("model").c_str(), text("layout").c_str(), text("access").c_str(), text("on").c_str(),
              number("ranks"), number("budget") / unshard::MiB, number("chunks"), number("peak") / unshard::MiB,
              number("time_s"), number("bytes") / number("time_s") / 1e9, number("votes_s"),
              number("plan_s") + number("schedules_root_s"), number("messages_root"), number("messages_most"),
              number("sent_most") / 1e9, number("received_most") / 1e9, number("looked_at"));
  std::fflush(stdout);
}

/// All accesses and both residencies of one placed model within one budget.
void add_rows(json& rows, const model& m, std::string_view layout, int ranks, std::size_t budget,
              const machine& where) {
  const std::vector<sized_parameter> list = placed(m, layout, ranks);
  for (const unshard::residency on : {unshard::root(0), unshard::every_rank}) {
    const group g{ranks, where.per_host, on};
    const simulated s = simulate(list, g, {.budget = budget, .cut = unshard::cut::oversized, .on = on}, where);
    for (const access_kind& a : accesses) {
      rows.push_back(row_of(m, layout, a, g, budget, s, times_of(s, a, g, where)));
      print(rows.back());
    }
  }
}

json all_rows(const request& r) {
  print_heading(r);
  const machine where = machine_of(r);
  std::vector<model> models;
  for (const std::string& file : r.manifests) models.push_back(read_model(file));
  json rows = json::array();
  for (const model& m : models) {
    for (const std::string& layout : r.layouts) {
      for (int ranks : r.ranks) add_rows(rows, m, layout, ranks, r.budget, where);
    }
  }
  for (std::size_t budget : r.budgets) {
    for (int ranks : r.budget_ranks) add_rows(rows, models.front(), r.layouts.front(), ranks, budget, where);
  }
  return rows;
}

/// A row a line, so that changes of results can be read.
void write(const std::string& name, const json& out) {
  examples::write_file(name, [&](std::ostream& file) {
    std::string between = "{\n";
    for (const auto& [key, value] : out.items()) {
      file << between << json(key).dump() << ": ";
      between = ",\n";
      if (key != "rows" && key != "predicted") {
        file << value.dump();
        continue;
      }
      for (std::size_t i = 0; i < value.size(); ++i) file << (i == 0 ? "[\n" : ",\n") << value[i].dump();
      file << "\n]";
    }
    file << "\n}\n";
  });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Time, messages, bytes and peak of ranges of chunks over many ranks, from real plans and schedules.",
               "simulate");
  examples::prepare(app);
  request r;
  try {
    parse(app, r, argc, argv);
    json out = bench::about("simulate", "simulate", "real plans and schedules over links of a model", argc, argv);
    out["assumed"] = {{"per_host", r.per_host}, {"inside", r.inside}, {"between", r.between}, {"copy", r.copy}};
    if (!r.only_measured) out["rows"] = all_rows(r);
    if (!r.measured.empty()) out["predicted"] = predict(r.measured, r.links);
    if (!r.json.empty()) write(r.json, out);
    return 0;
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  } catch (const std::exception& e) {
    std::cerr << "simulate: " << e.what() << '\n';
    return 1;
  }
}
