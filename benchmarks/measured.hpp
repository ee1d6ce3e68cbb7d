// SPDX-License-Identifier: Apache-2.0
#pragma once  // measured.hpp: what bench_mpi measured beside what the model says, with the links that bench_mpi_link
              // found.

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unshard/layout.hpp>
#include <vector>

#include "simulation.hpp"

namespace simulation {

using json = nlohmann::ordered_json;

inline json read_json(const std::string& file) {
  std::ifstream in(file);
  json all = json::parse(in, nullptr, false);
  if (all.is_discarded())
    throw std::runtime_error(file + ": can't be read as JSON. Name a file that a benchmark wrote.");
  return all;
}

/// One host whose ranks fetch from each other's memory, two or more of them at once on its cores.
inline machine machine_of(const json& l) {
  const auto rates = [&](const char* one, const char* two) { return rate{l.at(one), l.at(two)}; };
  const port memory{l.at("latency_s"),
                    l.at("message_s"),
                    {rates("gather_bytes_per_s", "gather_both_bytes_per_s"),
                     rates("scatter_bytes_per_s", "scatter_both_bytes_per_s")}};
  return {.per_host = l.at("ranks"),
          .cores = l.at("cores"),
          .inside = memory,
          .between = memory,
          .receivers_fetch = true,
          .copy = {rates("copy_in_bytes_per_s", "copy_in_2_bytes_per_s"),
                   rates("copy_out_bytes_per_s", "copy_out_2_bytes_per_s")},
          .fill = rates("fill_bytes_per_s", "fill_2_bytes_per_s"),
          .fresh_s = rates("fresh_s_per_byte", "fresh_2_s_per_byte"),
          .exchange_s = l.at("exchange_late_s")};
}

/// The parameters that bench_mpi made for a row: equal parts of float, or its many small ones.
inline std::vector<sized_parameter> parameters_of(const json& row, int ranks) {
  const auto count = row.at("params").get<std::size_t>();
  const bool small = row.at("what").get<std::string>().starts_with("20,000 small");
  std::vector<sized_parameter> list;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t elements =
        small ? 1024 * (1 + i % 16) : row.at("bytes").get<std::size_t>() / count / sizeof(float);
    list.emplace_back("", unshard::flat_shard({static_cast<unshard::index_t>(elements)}, ranks), sizeof(float), 0);
  }
  return list;
}

/// "read_write root" as what was asked for; nothing where a row is of something else.
inline const access_kind* access_of(std::string_view what, unshard::residency& on) {
  for (const access_kind& a : accesses) {
    for (const bool all : {false, true}) {
      if (!what.ends_with(std::string(a.name) + (all ? " everywhere" : " root"))) continue;
      if (!what.starts_with(a.name) && !what.starts_with("20,000 small, ")) continue;
      on = all ? unshard::every_rank : unshard::root(0);
      return &a;
    }
  }
  return nullptr;
}

inline json predicted_row(const json& row, const std::string& library, const machine& m) {
  unshard::residency on = unshard::root(0);
  const std::string what = row.at("what");
  const access_kind* const a = access_of(what, on);
  if (a == nullptr) return {};
  const int ranks = row.at("ranks");
  const group g{ranks, m.per_host, on};
  const std::vector<sized_parameter> list = parameters_of(row, ranks);
  const simulated s = simulate(list, g, {.budget = row.at("budget"), .on = on, .verify = false}, m);
  const times t = times_of(s, *a, g, m);
  const double measured = row.at("time_us").get<double>() * 1e-6;
  return {{"library", library},
          {"what", what},
          {"ranks", ranks},
          {"chunk", s.plan.largest},
          {"measured_s", measured},
          {"simulated_s", t.sum()},
          {"off", t.sum() / measured - 1},
          {"off_floor", t.sum() / (row.at("floor_us").get<double>() * 1e-6) - 1},
          {"cv", row.value("cv", 0.0)},
          {"gather_s", t.gather},
          {"write_back_s", t.write_back},
          {"body_s", t.body},
          {"fresh_s", t.fresh},
          {"votes_s", t.votes}};
}

/// Every row that the model knows, of every file, with the links of the same library and number of ranks.
inline json predict(const std::vector<std::string>& measured, const std::vector<std::string>& links) {
  std::printf(
      "# off: simulated over measured, less one, and over bare MPI for the same movement; the goal is 15 %% at chunks "
      "of "
      "128 MiB. cv: of the measured runs\n"
      "%-34s %-28s %5s %7s %10s %10s %7s %7s %6s %9s %10s %8s %8s %8s\n%-34s %-28s %5s %7s %10s %10s %7s %7s %6s %9s "
      "%10s %8s "
      "%8s %8s\n",
      "#", "", "ranks", "chunk", "measured", "simulated", "off", "floor", "cv", "gather", "write-back", "body", "fresh",
      "votes", "#", "", "", "(MiB)", "(ms)", "(ms)", "(%)", "(%)", "(%)", "(ms)", "(ms)", "(ms)", "(ms)", "(ms)");
  json rows = json::array();
  for (const std::string& file : measured) {
    const json all = read_json(file);
    const std::string library = all.at("library");
    json link;
    for (const std::string& each : links) {
      json l = read_json(each);
      if (l.at("library") == library && l.at("ranks") == all.at("ranks")) link = std::move(l);
    }
    if (link.is_null())
      throw std::runtime_error(file + ": is of " + library + " with " + all.at("ranks").dump() +
                               " ranks; no --link file is. Run bench_mpi_link with as many.");
    for (const json& row : all.at("rows")) {
      json r = predicted_row(row, library, machine_of(link));
      if (r.is_null()) continue;
      const auto ms = [&](const char* key) { return 1e3 * r[key].get<double>(); };
      std::printf("%-34.34s %-28s %5d %7.1f %10.2f %10.2f %+7.1f %+7.1f %6.1f %9.2f %10.2f %8.2f %8.2f %8.2f\n",
                  library.c_str(), r["what"].get<std::string>().c_str(), r["ranks"].get<int>(),
                  r["chunk"].get<double>() / (1 << 20), ms("measured_s"), ms("simulated_s"),
                  100 * r["off"].get<double>(), 100 * r["off_floor"].get<double>(), r["cv"].get<double>(),
                  ms("gather_s"), ms("write_back_s"), ms("body_s"), ms("fresh_s"), ms("votes_s"));
      rows.push_back(std::move(r));
    }
  }
  return rows;
}

}  // namespace simulation
