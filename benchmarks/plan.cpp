// SPDX-License-Identifier: Apache-2.0
// bench_plan: how long planning takes, and how good the plans are: qwen, mixed and tight, 10^2 to 10^6 handles that
// give their layout by reference, and real models. Lists come from benchmarks/plan_sizes.py. Floor: a plain greedy
// loop over a vector of sizes; touch: the same loop, which asks each handle for its size. Runs alternate; medians.
// #wrong counts elements that are in no chunk or in two, and chunks over their capacity; > 0 fails the run.
#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <string>
#include <unshard/unshard.hpp>
#include <utility>
#include <vector>

#include "../examples/command_line.hpp"
#include "bench.hpp"

namespace {

using namespace unshard;

template <class L>
struct handle {
  L held;
  std::size_t size;
  const L& layout() const { return held; }
  std::size_t element_size() const { return size; }
  std::span<const std::byte> shard() const { return {}; }
};

struct parameter {
  index_t elements;
  std::size_t element_size;
  std::size_t bytes() const { return static_cast<std::size_t>(elements) * element_size; }
};
using model = std::vector<parameter>;

struct way {
  const char* name;
  packing how;
  cut where;
  residency on = root(0);
};
constexpr std::array ways{
    way{"in order", packing::in_order, cut::never}, way{"cut anywhere", packing::in_order, cut::anywhere},
    way{"cut oversized", packing::in_order, cut::oversized}, way{"best fit", packing::best_fit, cut::never},
    way{"best fit, cut oversized", packing::best_fit, cut::oversized}};

constexpr std::array spread_ways{way{"spread in order", packing::in_order, cut::never, spread},
                                 way{"spread, balanced", packing::balanced, cut::never, spread}};

model read_sizes(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("bench_plan: " + path + " can't be opened; benchmarks/plan_sizes.py makes it.");
  model list;
  for (parameter p{}; file >> p.elements >> p.element_size;) list.push_back(p);
  return list;
}

/// Elements that are in no chunk or in two, and chunks over their capacity.
template <class H>
std::size_t faults(const std::vector<H>& handles, const model& list, const chunk_plan& plan) {
  std::size_t wrong = 0;
  std::vector<std::vector<std::pair<index_t, index_t>>> parts(list.size());
  for (std::size_t c = 0; c < plan.chunks(); ++c) {
    std::size_t end = 0;
    for (const planned_piece& p : plan.pieces(c, handles)) {
      if (p.offset < end) ++wrong;
      end = p.offset + p.bytes;
      parts[p.parameter].emplace_back(p.first, p.elements);
    }
    if (end > plan.capacity()) ++wrong;
  }
  for (std::size_t i = 0; i < list.size(); ++i) {
    std::sort(parts[i].begin(), parts[i].end());
    index_t at = 0;
    for (const auto& [first, count] : parts[i]) {
      wrong += static_cast<std::size_t>(std::abs(first - at));
      at = first + count;
    }
    wrong += static_cast<std::size_t>(std::abs(list[i].elements - at));
  }
  return wrong;
}

/// How many chunks a loop needs that asks size(item) of each.
template <class Items, class Size>
std::size_t greedy(const Items& items, std::size_t budget, Size size) {
  std::size_t chunks = 1, used = 0;
  for (const auto& item : items) {
    const std::size_t bytes = (size(item) + 127) / 128 * 128;
    if (used + bytes > budget) ++chunks, used = 0;
    used += bytes;
  }
  return chunks;
}

class table {
 public:
  table(int argc, char** argv)
      : json_(bench::about("plan", "bench_plan", "planning, one thread, warm; floor: a greedy loop", argc, argv)) {
    std::printf("#%-21s %8s %-10s %-23s %12s %8s %8s %7s %6s %6s %11s %8s %10s %7s %10s %5s %5s\n", "", "handles",
                "layout", "", "budget", "chunks", "bound", "/bound", "share", "#wrong", "time", "", "floor", "/floor",
                "touch", "runs", "cv");
    std::printf("#%-21s %8s %-10s %-23s %12s %8s %8s %7s %6s %6s %11s %8s %10s %7s %10s %5s %5s\n", "", "", "", "",
                "(B)", "", "", "", "", "", "(us)", "(ns each)", "(us)", "", "(us)", "", "(%)");
  }

  /// Plans `list` as handles of layout L, in those `which` ways.
  template <class L>
  void measure(const std::string& name, const char* layout, const model& list, std::size_t budget,
               const std::vector<way>& which, const bench::effort& effort, int ranks = 8) {
    std::vector<handle<L>> handles;
    handles.reserve(list.size());
    std::vector<std::size_t> sizes;
    for (const parameter& p : list) {
      const extents shape = p.elements % 1024 == 0 ? extents{p.elements / 1024, 1024L} : extents{p.elements};
      handles.push_back({flat_shard(shape, ranks), p.element_size});
      sizes.push_back(p.bytes());
    }
    std::size_t sink = 0;
    std::vector<bench::variant> variants;
    for (const way& w : which) {
      const options o{.budget = budget, .packing = w.how, .cut = w.where, .on = w.on};
      variants.push_back({w.name, [&sink, &handles, o] { sink += make_plan(handles, o).chunks(); }});
    }
    const auto bytes_of = [](const auto& h) {
      return static_cast<std::size_t>(h.layout().shape().elements()) * h.element_size();
    };
    variants.push_back({"floor", [&] { sink += greedy(sizes, budget, [](std::size_t s) { return s; }); }});
    variants.push_back({"touch", [&] { sink += greedy(handles, budget, bytes_of); }});
    bench::alternate(variants, effort, [](double t) { return t; });

    const std::size_t largest = *std::max_element(sizes.begin(), sizes.end());
    for (std::size_t i = 0; i < which.size(); ++i) {
      const options o{.budget = budget, .packing = which[i].how, .cut = which[i].where, .on = which[i].on};
      const chunk_plan plan = make_plan(handles, o);
      const std::size_t wrong = faults(handles, list, plan);
      wrong_ += wrong;
      const double share = static_cast<double>(largest) / static_cast<double>(plan.capacity());
      const plan_summary& s = plan.summary();
      const double over = static_cast<double>(s.chunks) / static_cast<double>(s.lower_bound);
      const bench::samples& time = variants[i].seconds;
      const bench::samples& floor = variants[which.size()].seconds;
      const bench::samples& touch = variants[which.size() + 1].seconds;
      const double each = time.median() * 1e9 / static_cast<double>(list.size());
      std::printf(
          "%-22s %8zu %-10s %-23s %12zu %8zu %8zu %7.4f %6.3f %6zu %11.1f %8.1f %10.1f %7.1f %10.1f %5zu %5.1f\n",
          name.c_str(), list.size(), layout, which[i].name, budget, s.chunks, s.lower_bound, over, share, wrong,
          time.median() * 1e6, each, floor.median() * 1e6, time.median() / floor.median(), touch.median() * 1e6,
          time.sorted().size(), time.variation());
      std::fflush(stdout);
      json_["rows"].push_back({{"sizes", name},
                               {"handles", list.size()},
                               {"layout", layout},
                               {"way", which[i].name},
                               {"budget", budget},
                               {"chunks", s.chunks},
                               {"bound", s.lower_bound},
                               {"over_bound", over},
                               {"share", share},
                               {"utilisation", s.utilisation},
                               {"balance", s.balance},
                               {"fullest", static_cast<double>(s.largest) / static_cast<double>(budget)},
                               {"wrong", wrong},
                               {"time_us", time.median() * 1e6},
                               {"least_us", time.least() * 1e6},
                               {"ns_each", each},
                               {"floor_us", floor.median() * 1e6},
                               {"touch_us", touch.median() * 1e6},
                               {"runs", time.sorted().size()},
                               {"cv", time.variation()}});
    }
    if (sink == 0) std::printf("# no chunks\n");
  }

  int finish(const std::string& file) { return bench::write(json_, file) && wrong_ == 0 ? 0 : 1; }

 private:
  nlohmann::json json_;
  std::size_t wrong_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  std::string sizes, json;
  std::size_t from = 100, to = 1'000'000;
  bool brief = false;
  bench::effort effort{7, 4};
  CLI::App app("Planning: time and chunks");
  examples::prepare(app);
  app.add_option("--sizes", sizes, "folder that benchmarks/plan_sizes.py filled")->required();
  app.add_option("--from", from, "least handles");
  app.add_option("--to", to, "most handles");
  app.add_option("--runs", effort.least, "least runs of each");
  app.add_option("--seconds", effort.seconds, "most seconds for a row that varies");
  examples::add_output(app, "--json", json, "file");
  app.add_flag("--brief", brief, "no real models, no flat_shard");
  CLI11_PARSE(app, argc, argv);
  table out(argc, argv);

  for (const char* name : {"qwen", "mixed", "tight"}) {
    const model all = read_sizes(sizes + '/' + name + ".sizes");
    for (std::size_t n = from; n <= to; n *= 10) {
      const model list(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(n, all.size())));
      const std::vector<way> which(ways.begin(), ways.begin() + 4);
      out.measure<any_layout>(name, "any_layout", list, 256 * MiB, which, effort);
      if (!brief) out.measure<flat_shard>(name, "flat_shard", list, 256 * MiB, which, effort);
    }
  }
  // Shared out between 10,000 ranks: 400 ms for a million is the goal.
  for (const char* name : {"qwen", "mixed"}) {
    model list = read_sizes(sizes + '/' + name + ".sizes");
    list.resize((std::min)(list.size(), to));
    out.measure<any_layout>(name, "any_layout", list, 256 * MiB, {spread_ways[0], spread_ways[1]}, effort, 10'000);
  }
  // With parameters of up to all of a chunk, a tenth of it and less; and cut into a hundred chunks.
  const bench::effort quick{effort.least, std::min(effort.seconds, 0.5)};
  for (const char* name :
       {"qwen", "mixed", "all-minilm-l6", "bert-base-classifier", "deepseek-v3", "deepseek-v3-unpacked",
        "deepseek-v4-flash", "gpt2", "llama-3.2-1b", "minimax-m3", "mixtral-8x22b", "qwen3-235b-a22b"}) {
    if (brief) break;
    model list = read_sizes(sizes + '/' + name + ".sizes");
    list.resize(std::min<std::size_t>(list.size(), 100'000));
    std::size_t largest = 0, total = 0;
    for (const parameter& p : list) {
      largest = std::max(largest, p.bytes());
      total += p.bytes();
    }
    for (const std::size_t times : {1u, 10u, 13u, 17u, 30u, 100u}) {
      if (times > 10 && largest * times > total) break;
      const std::size_t budget = times * ((largest + 127) / 128 * 128);
      out.measure<any_layout>(name, "any_layout", list, budget, {ways[0], ways[1], ways[3]}, quick);
    }
    out.measure<any_layout>(name, "any_layout", list, total / 100, {ways[1], ways[2], ways[4]}, quick);
  }
  return out.finish(json);
}
