#pragma once  // report.hpp: what a plan of a model comes to, as values, and as a table, JSON or a picture.

#include <cstddef>
#include <iosfwd>
#include <string>
#include <unshard/plan.hpp>
#include <vector>

#include "model.hpp"

namespace unshard_plan {

/// What the command line asks for.
struct request {
  std::string model;  // the file, for headings
  bool only_missing = false;
  int ranks = 8;
  std::string layout = "flat";  // flat, dim:N, owned, replicated
  bool every_rank = false;
  bool json = false;
  std::string svg;  // a file to write, or empty
  unshard::options options;
};

struct chunk {
  std::vector<unshard::planned_piece> pieces;
  std::size_t bytes = 0;  // of values
  std::size_t used = 0;   // to the end of the last piece, alignment included
};

struct report {
  std::vector<tensor> tensors;  // those that are planned
  std::size_t model_tensors = 0;
  std::size_t model_bytes = 0;
  std::size_t shard_bytes = 0;  // at rest, on rank 0
  std::size_t capacity = 0;
  std::size_t least_whole = 0;  // smallest budget with cut::never, and with cut::oversized
  std::size_t least_cut = 0;
  unshard::plan_summary summary;
  std::vector<chunk> chunks;
};

/// Plans. Throws unreadable where there is nothing to plan, and what make_plan throws.
report make_report(std::vector<tensor> model, const request& what);

void print_table(std::ostream& out, const report& r, const request& what);
void print_json(std::ostream& out, const report& r, const request& what);
void print_svg(std::ostream& out, const report& r, const request& what);

/// "9.0 GiB".
std::string short_bytes(std::size_t bytes);
/// Rounded, but 100 only for what is full.
int percent(double share);
const char* name_of(unshard::packing p);
const char* name_of(unshard::cut c);

}  // namespace unshard_plan
