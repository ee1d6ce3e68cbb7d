// SPDX-License-Identifier: Apache-2.0
// report.cpp: plans a model's tensors as handles without shards; whether that fits, and how long moving it takes.

#include "report.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "../../benchmarks/simulation.hpp"
#include "placement.hpp"

namespace unshard_plan {
namespace {

using simulation::sized_parameter;
using unshard::detail::concat;

constexpr std::size_t most_chunks = 1'000'000;
constexpr std::size_t most_schedules = 20'000'000;  // pieces times ranks that are simulated

std::size_t bytes_of(const tensor& t) { return static_cast<std::size_t>(t.shape.elements()) * t.element_size; }

/// Of all values, each storage once.
std::size_t bytes_of(const std::vector<tensor>& tensors) {
  unshard::index_t sum = 0;
  for (const tensor& t : tensors) {
    if (t.tied_to == tensor::none) sum = unshard::detail::checked_add(sum, static_cast<unshard::index_t>(bytes_of(t)));
  }
  return static_cast<std::size_t>(sum);
}

/// The smallest budget that will do, and the tensor that asks for it.
struct least {
  std::size_t budget = 1;
  std::size_t tensor = 0;
};

least least_budget(const std::vector<sized_parameter>& handles, const unshard::plan_options& given, unshard::cut cut) {
  const unshard::options o{.budget = 0, .cut = cut, .alignment = given.alignment, .in_flight = given.in_flight};
  try {
    static_cast<void>(unshard::make_plan(handles, o));
  } catch (const unshard::budget_too_small& e) {
    return {e.least, e.parameter};
  } catch (const unshard::bad_options&) {  // nothing needs any space
  }
  return {};
}

/// Throws bad_budget for what make_plan would refuse, in the words of the command line, and for plans without end.
void check_budget(const report& r, const request& what, const least& whole, const least& cut) {
  const std::size_t budget = r.budget;
  const bool never = what.options.cut == unshard::cut::never;
  const least& need = never ? whole : cut;
  const std::string in_flight =
      what.options.in_flight > 1 ? concat(" in ", what.options.in_flight, " buffers (--in-flight)") : "";
  if (budget < need.budget) {
    const bool helps = never && cut.budget < whole.budget && budget >= cut.budget;
    throw bad_budget(concat("tensor ", printable(r.tensors[need.tensor].name), "\n  needs ",
                            unshard::detail::in_bytes(need.budget, " bytes"), never ? " whole" : " for one element",
                            in_flight, "; the budget is ", unshard::detail::in_bytes(budget), ".\n  Take --budget ",
                            need.budget, " or more", helps ? ", or --cut oversized." : "."));
  }
  const std::size_t capacity =
      budget / static_cast<std::size_t>(what.options.in_flight) & ~(what.options.alignment - 1);
  std::size_t aligned = 0;
  for (const tensor& t : r.tensors) {
    if (t.tied_to == tensor::none) aligned += unshard::detail::align_up(bytes_of(t), what.options.alignment);
  }
  if (capacity > 0 && aligned / capacity >= most_chunks)
    throw bad_budget(concat("--budget ", budget, ": the plan would have at least ", aligned / capacity, " chunks of ",
                            capacity, " bytes;\n  this program stops at ", most_chunks, ". Is a unit missing, as in ",
                            budget, "MiB?"));
}

memory_fit fit_of(const report& r, const request& what) {
  const std::size_t holder = what.every_rank ? r.rest_fullest : r.rest_rank_0;
  memory_fit fit;
  fit.needed = std::max(holder + r.summary.peak, r.rest_fullest) + what.engine;
  fit.fits = fit.needed <= what.gpu_memory;
  const std::size_t taken = holder + what.engine;
  if (r.rest_fullest + what.engine <= what.gpu_memory && taken < what.gpu_memory)
    fit.largest_budget = (what.gpu_memory - taken) & ~(what.options.alignment - 1);
  return fit;
}

std::optional<moving_time> time_of(const unshard::chunk_plan& plan, const std::vector<sized_parameter>& handles,
                                   const request& what) {
  std::size_t pieces = 0;
  for (std::size_t i = 0; i < plan.chunks(); ++i) pieces += plan.pieces(i, handles).size();
  const auto ranks = static_cast<std::size_t>(what.ranks);
  if (!what.over || (pieces + plan.chunks()) * ranks > most_schedules) return {};
  const simulation::rate rate{what.over->bytes_per_s, what.over->bytes_per_s};
  const simulation::port port{what.over->latency_s, what.over->latency_s, {rate, rate}};
  const simulation::rate copy{1e12, 1e12};  // within a rank's memory, as the simulation assumes
  const simulation::machine machine{
      .per_host = 1, .cores = 1, .inside = port, .between = port, .receivers_fetch = false, .copy = {copy, copy}};
  const simulation::group group{what.ranks, 1, what.every_rank ? unshard::every_rank : unshard::root(0)};
  const simulation::simulated moved{
      .plan = plan.summary(),
      .gather = simulation::move_all(plan, handles, unshard::movement::gather, group, machine),
      .write_back = simulation::move_all(plan, handles, unshard::movement::write_back, group, machine),
      .vote_s = simulation::exchange_seconds(what.ranks, machine)};
  const auto seconds = [&](bool gathers, bool writes) {
    return simulation::times_of(moved, {"", gathers, writes}, group, machine).sum();
  };
  return moving_time{seconds(true, false), seconds(false, true), seconds(true, true)};
}

}  // namespace

report make_report(std::vector<tensor> model, const request& what) {
  const placement where(what.layout, what.ranks, what.stages);
  const std::vector<unshard::any_layout> layouts = where.layouts_of(model);
  const placement::at_rest rest = where.bytes_at_rest(model, layouts);
  report r;
  r.model_tensors = model.size();
  r.model_bytes = bytes_of(model);
  r.rest_fullest = rest.fullest;
  r.rest_rank_0 = rest.rank_0;

  std::vector<std::size_t> moved(model.size(), tensor::none);  // where a tensor of the model is in the plan
  std::vector<std::pair<const unshard::any_layout*, std::uint64_t>> planned;
  for (std::size_t i = 0; i < model.size(); ++i) {
    if (what.only_missing && !model[i].missing) continue;
    moved[i] = r.tensors.size();
    tensor& t = r.tensors.emplace_back(std::move(model[i]));
    if (t.tied_to != tensor::none) t.tied_to = moved[t.tied_to];
    planned.emplace_back(&layouts[i], t.tied_to == tensor::none ? moved[i] + 1 : t.tied_to + 1);
  }
  if (r.tensors.empty())
    throw unreadable(concat(
        what.model, what.only_missing ? ": no tensor of it is missing. Leave out --missing." : ": lists no tensor."));
  std::vector<sized_parameter> handles;
  handles.reserve(r.tensors.size());
  for (std::size_t i = 0; i < r.tensors.size(); ++i)
    handles.emplace_back(r.tensors[i].name, *planned[i].first, r.tensors[i].element_size, planned[i].second);

  const least whole = least_budget(handles, what.options, unshard::cut::never);
  const least cut = least_budget(handles, what.options, unshard::cut::oversized);
  r.least_whole = whole.budget;
  r.least_cut = cut.budget;
  r.budget = what.options.budget;
  if (r.budget == 0) r.budget = fit_of(r, what).largest_budget;
  if (r.budget == 0)
    throw bad_budget(concat("the shards (", short_bytes(r.rest_fullest), ") and the engine (", short_bytes(what.engine),
                            ") leave nothing of --gpu-memory ", short_bytes(what.gpu_memory),
                            ".\n  Take more --ranks."));
  check_budget(r, what, whole, cut);

  const unshard::options o{.budget = r.budget,
                           .packing = what.options.packing,
                           .cut = what.options.cut,
                           .alignment = what.options.alignment,
                           .in_flight = what.options.in_flight};
  const unshard::chunk_plan plan = unshard::make_plan(handles, o);
  r.summary = plan.summary();
  r.capacity = plan.capacity();
  r.chunks.resize(plan.chunks());
  for (std::size_t i = 0; i < plan.chunks(); ++i) {
    chunk& c = r.chunks[i];
    c.pieces = plan.pieces(i, handles);
    for (const unshard::planned_piece& p : c.pieces) c.bytes += p.bytes;
  }
  if (what.gpu_memory > 0) r.fit = fit_of(r, what);
  r.time = time_of(plan, handles, what);
  return r;
}

}  // namespace unshard_plan
