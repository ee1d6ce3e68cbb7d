// SPDX-License-Identifier: Apache-2.0
#pragma once  // report.hpp: what a plan of a model comes to, as values, and as a table, JSON or a picture.

#include <cstddef>
#include <iosfwd>
#include <optional>
#include <string>
#include <unshard/plan.hpp>
#include <vector>

#include "model.hpp"

namespace unshard_plan {

/// Links between ranks, as the benchmarks' simulation has them: every rank has one, which sends and receives at the
/// same time, each one message after another; a message keeps it for the latency and for its bytes.
struct link {
  double bytes_per_s = 0;
  double latency_s = 10e-6;
};

/// What the command line asks for.
struct request {
  std::string model;  // the inputs, for headings
  bool only_missing = false;
  int ranks = 8;
  int stages = 1;
  std::string layout = "flat";
  bool every_rank = false;
  unshard::plan_options options;  // a budget of 0: the largest that fits into gpu_memory
  std::size_t gpu_memory = 0;     // bytes of a rank; 0: not asked
  std::size_t engine = std::size_t{1} << 30;
  std::optional<link> over;
};

/// A budget that no plan can keep, or that would make a plan too long to be meant. what() names the tool's options.
class bad_budget : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct chunk {
  std::vector<unshard::planned_piece> pieces;
  std::size_t bytes = 0;  // of values
};

/// Whether a rank's memory holds it all; bytes.
struct memory_fit {
  bool fits = false;
  std::size_t needed = 0;          // on the rank that needs most
  std::size_t largest_budget = 0;  // that fits whatever the plan; 0: none
};

/// Seconds that moving all chunks takes, one after another, agreement and votes in.
struct moving_time {
  double read = 0;
  double overwrite = 0;
  double read_write = 0;
};

struct report {
  std::vector<tensor> tensors;  // those that are planned
  std::size_t model_tensors = 0;
  std::size_t model_bytes = 0;
  std::size_t rest_fullest = 0;  // shards of the whole model, on the fullest rank and on rank 0
  std::size_t rest_rank_0 = 0;
  std::size_t budget = 0;
  std::size_t capacity = 0;
  std::size_t least_whole = 0;  // smallest budget with cut::never, and with cut::oversized
  std::size_t least_cut = 0;
  unshard::plan_summary summary;
  std::vector<chunk> chunks;
  std::optional<memory_fit> fit;
  std::optional<moving_time> time;
};

/// Plans. Throws unreadable where there is nothing to plan, bad_placement, and bad_budget.
report make_report(std::vector<tensor> model, const request& what);

void print_table(std::ostream& out, const report& r, const request& what);
void print_json(std::ostream& out, const report& r, const request& what);
void print_svg(std::ostream& out, const report& r, const request& what);

/// "9.0 GiB".
std::string short_bytes(std::size_t bytes);
/// "17.3 s", "120 ms".
std::string short_seconds(double seconds);
/// Rounded, but 100 only for what is full.
int percent(double share);
const char* name_of(unshard::packing p);
const char* name_of(unshard::cut c);

}  // namespace unshard_plan
