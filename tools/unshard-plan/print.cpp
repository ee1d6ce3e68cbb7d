// SPDX-License-Identifier: Apache-2.0
// print.cpp: a report as a table of 80 columns and as JSON.

#include <algorithm>
#include <cstdio>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <ostream>

#include "../../examples/observers/readable.hpp"
#include "report.hpp"

namespace unshard_plan {
namespace {

using examples::number_of;
using unshard::detail::concat;

/// What begins with a label; further lines are indented alike.
std::ostream& line(std::ostream& out, const char* label) { return out << std::left << std::setw(17) << label; }

void print_fit(std::ostream& out, const report& r, const request& what) {
  if (!r.fit) return;
  const memory_fit& f = *r.fit;
  line(out, "GPU memory") << short_bytes(what.gpu_memory) << ": " << (f.fits ? "it fits" : "it does NOT fit") << '\n';
  line(out, "") << "shards, peak and " << short_bytes(what.engine) << " for --engine take " << short_bytes(f.needed)
                << '\n';
  if (f.largest_budget > 0) {
    line(out, "largest budget") << f.largest_budget << " (" << short_bytes(f.largest_budget) << ") fits for sure"
                                << (f.largest_budget < r.least_whole ? ", with --cut oversized" : "") << '\n';
  } else {
    line(out, "largest budget") << "none fits: take more --ranks\n";
  }
}

void print_time(std::ostream& out, const report& r, const request& what) {
  if (!what.over) return;
  if (!r.time) {
    line(out, "time") << "not worked out: too many chunks times ranks\n";
    return;
  }
  char rate[32];
  std::snprintf(rate, sizeof rate, "%.3g GB/s", what.over->bytes_per_s / 1e9);
  line(out, "time") << "read " << short_seconds(r.time->read) << ", overwrite " << short_seconds(r.time->overwrite)
                    << ", read_write " << short_seconds(r.time->read_write) << '\n';
  line(out, "") << "of links of " << rate << " and " << short_seconds(what.over->latency_s)
                << " a message, with no body\n";
}

void print_chunks(std::ostream& out, const report& r) {
  constexpr std::size_t head = 12;  // chunks to print before the gap; --json has them all
  out << "\n chunk pieces      bytes   fill  first tensor\n";
  for (std::size_t i = 0; i < r.chunks.size(); ++i) {
    if (i == head && r.chunks.size() > head + 2) {
      i = r.chunks.size() - 1;
      out << "   ...  (" << r.chunks.size() - head - 1 << " more; --json lists all)\n";
    }
    const chunk& c = r.chunks[i];
    const auto fill = r.capacity == 0 ? 0.0 : static_cast<double>(c.bytes) / static_cast<double>(r.capacity);
    out << std::right << std::setw(6) << i << std::setw(7) << c.pieces.size() << std::setw(11) << short_bytes(c.bytes)
        << std::setw(5) << percent(fill) << " %  ";
    if (!c.pieces.empty()) {
      const unshard::planned_piece& p = c.pieces.front();
      const tensor& t = r.tensors[p.parameter];
      const std::string from = p.elements == t.shape.elements() ? "" : concat(" from ", p.first);
      out << examples::in_quotes(t.name, 80 - 33 - 2 - from.size()) << from;
    }
    out << '\n';
  }
}

}  // namespace

void print_table(std::ostream& out, const report& r, const request& what) {
  const unshard::plan_summary& s = r.summary;
  out << examples::printable(what.model, 79) << '\n'
      << number_of(r.model_tensors, "tensor") << ", " << short_bytes(r.model_bytes);
  if (what.only_missing) out << "; planned: the " << r.tensors.size() << " missing, " << short_bytes(s.bytes);
  out << "\n\n";
  line(out, "at rest") << short_bytes(r.rest_fullest) << " on the fullest of "
                       << number_of(static_cast<std::size_t>(what.ranks), "rank") << " (--layout " << what.layout
                       << (what.stages > 1 ? concat(" --stages ", what.stages) : "") << ")\n";
  line(out, "one gather") << short_bytes(s.bytes) << " on every rank that holds it\n";
  line(out, "this plan") << number_of(s.chunks, "chunk") << " of at most " << short_bytes(r.capacity) << ", "
                         << percent(s.utilisation) << " % full (lower bound " << s.lower_bound << ")\n";
  line(out, "") << "--packing " << name_of(what.options.packing) << " --cut " << name_of(what.options.cut) << '\n';
  line(out, "peak") << short_bytes(s.peak)
                    << (what.every_rank ? " on every rank\n" : " on rank 0, nothing on the others\n");
  line(out, "smallest budget") << r.least_whole << " (" << short_bytes(r.least_whole) << ") with every tensor whole";
  if (r.least_cut < r.least_whole) out << ",\n" << std::setw(17) << "" << r.least_cut << " with --cut oversized";
  out << '\n';
  print_fit(out, r, what);
  print_time(out, r, what);
  print_chunks(out, r);
}

void print_json(std::ostream& out, const report& r, const request& what) {
  using json = nlohmann::ordered_json;
  const unshard::plan_summary& s = r.summary;
  json chunks = json::array();
  for (const chunk& c : r.chunks) {
    json pieces = json::array();
    for (const unshard::planned_piece& p : c.pieces)
      pieces.push_back({{"parameter", r.tensors[p.parameter].name},
                        {"first", p.first},
                        {"elements", p.elements},
                        {"offset", p.offset},
                        {"bytes", p.bytes}});
    chunks.push_back({{"bytes", c.bytes}, {"pieces", std::move(pieces)}});
  }
  json all{{"model", what.model},
           {"tensors", r.tensors.size()},
           {"ranks", what.ranks},
           {"layout", what.layout},
           {"stages", what.stages},
           {"budget", r.budget},
           {"packing", name_of(what.options.packing)},
           {"cut", name_of(what.options.cut)},
           {"in_flight", what.options.in_flight},
           {"every_rank", what.every_rank},
           {"bytes", s.bytes},
           {"bytes_of_model", r.model_bytes},
           {"bytes_at_rest_on_rank_0", r.rest_rank_0},
           {"bytes_at_rest_on_fullest_rank", r.rest_fullest},
           {"bytes_of_one_gather", s.bytes},
           {"capacity", r.capacity},
           {"largest", s.largest},
           {"peak", s.peak},
           {"lower_bound", s.lower_bound},
           {"utilisation", s.utilisation},
           {"smallest_budget", r.least_whole},
           {"smallest_budget_if_cut", r.least_cut}};
  if (r.fit)
    all["gpu_memory"] = {{"bytes", what.gpu_memory},
                         {"engine", what.engine},
                         {"needed", r.fit->needed},
                         {"fits", r.fit->fits},
                         {"largest_budget", r.fit->largest_budget}};
  if (r.time)
    all["seconds"] = {{"read", r.time->read}, {"overwrite", r.time->overwrite}, {"read_write", r.time->read_write}};
  all["chunks"] = std::move(chunks);
  out << all.dump(1, ' ', true, json::error_handler_t::replace) << '\n';  // ASCII: fit for a terminal
}

std::string short_bytes(std::size_t bytes) {
  const std::string text = unshard::detail::in_bytes(bytes);  // "9663676416 (9.0 GiB)"
  const std::size_t open = text.find('(');
  return open == std::string::npos ? text + " B" : text.substr(open + 1, text.size() - open - 2);
}

std::string short_seconds(double seconds) {
  char text[32];
  const char* const unit = seconds >= 1 ? "s" : seconds >= 1e-3 ? "ms" : "us";
  const double value = seconds >= 1 ? seconds : seconds >= 1e-3 ? seconds * 1e3 : seconds * 1e6;
  std::snprintf(text, sizeof text, value < 99.95 ? "%.1f %s" : "%.0f %s", value, unit);
  return text;
}

int percent(double share) { return share < 1 ? std::min(99, static_cast<int>(share * 100 + 0.5)) : 100; }

const char* name_of(unshard::packing p) { return p == unshard::packing::in_order ? "in_order" : "best_fit"; }
const char* name_of(unshard::cut c) {
  return c == unshard::cut::never ? "never" : c == unshard::cut::oversized ? "oversized" : "anywhere";
}

}  // namespace unshard_plan
