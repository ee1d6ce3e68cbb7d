// report.cpp: plans a model's tensors as handles without shards, and prints what came out.

#include "report.hpp"

#include <algorithm>
#include <charconv>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <ostream>
#include <utility>

namespace unshard_plan {
namespace {

using unshard::detail::concat;

/// A tensor as a parameter that has sizes and no bytes: enough to plan.
class sized_parameter {
 public:
  sized_parameter(const tensor& t, unshard::any_layout layout, std::uint64_t identity)
      : tensor_(&t), layout_(std::move(layout)), identity_(identity) {}
  const unshard::any_layout& layout() const { return layout_; }
  std::size_t element_size() const { return tensor_->element_size; }
  std::span<const std::byte> shard() const { return {}; }
  std::string_view name() const { return tensor_->name; }
  std::uint64_t identity() const { return identity_; }

 private:
  const tensor* tensor_;
  unshard::any_layout layout_;
  std::uint64_t identity_;
};
static_assert(unshard::parameter_handle<sized_parameter>);

/// Tensors with fewer dimensions than dim:N asks for are replicated, as engines do with scalars.
unshard::any_layout layout_of(const tensor& t, std::size_t index, const request& what) {
  if (what.layout == "flat") return unshard::flat_shard(t.shape, what.ranks);
  if (what.layout == "replicated") return unshard::replicated(t.shape, what.ranks);
  if (what.layout == "owned") {
    const auto owner = static_cast<int>(index % static_cast<std::size_t>(what.ranks));
    return unshard::owned(t.shape, owner, what.ranks);
  }
  int dim = -1;
  const std::string_view text = what.layout;
  if (text.starts_with("dim:")) std::from_chars(text.data() + 4, text.data() + text.size(), dim);
  if (dim < 0 || dim >= unshard::extents::max_dims || text.substr(4) != std::to_string(dim))
    throw unreadable(concat("--layout ", printable(text), ": must be flat, dim:0 to dim:7, owned or replicated."));
  if (dim >= t.shape.dims()) return unshard::replicated(t.shape, what.ranks);
  return unshard::dim_shard(t.shape, dim, what.ranks);
}

std::size_t bytes_of(const tensor& t) { return static_cast<std::size_t>(t.shape.elements()) * t.element_size; }

/// Of all values, each storage once.
std::size_t bytes_of(const std::vector<tensor>& tensors) {
  unshard::index_t sum = 0;
  for (const tensor& t : tensors) {
    if (t.tied_to == tensor::none) sum = unshard::detail::checked_add(sum, static_cast<unshard::index_t>(bytes_of(t)));
  }
  return static_cast<std::size_t>(sum);
}

/// Leaves out what the checkpoint has; ties point into the new list, or nowhere.
std::vector<tensor> only_missing(const std::vector<tensor>& model) {
  std::vector<std::size_t> moved(model.size(), tensor::none);
  std::vector<tensor> kept;
  for (std::size_t i = 0; i < model.size(); ++i) {
    if (!model[i].missing) continue;
    moved[i] = kept.size();
    kept.push_back(model[i]);
    tensor& t = kept.back();
    if (t.tied_to != tensor::none) t.tied_to = moved[t.tied_to];
  }
  return kept;
}

std::size_t least_budget(const std::vector<sized_parameter>& handles, unshard::options o, unshard::cut cut) {
  o.budget = 0;
  o.cut = cut;
  o.packing = unshard::packing::in_order;
  try {
    static_cast<void>(unshard::make_plan(handles, o));
  } catch (const unshard::budget_too_small& e) {
    return e.least;
  } catch (const unshard::bad_options&) {  // nothing needs any space
  }
  return 1;
}

}  // namespace

report make_report(std::vector<tensor> model, const request& what) {
  report r;
  r.model_tensors = model.size();
  r.model_bytes = bytes_of(model);
  r.tensors = what.only_missing ? only_missing(model) : std::move(model);
  if (r.tensors.empty())
    throw unreadable(concat(printable(what.model), what.only_missing
                                                       ? ": marks no tensor as missing. Leave out --missing."
                                                       : ": lists no tensor."));

  std::vector<sized_parameter> handles;
  handles.reserve(r.tensors.size());
  for (std::size_t i = 0; i < r.tensors.size(); ++i) {
    const tensor& t = r.tensors[i];
    handles.emplace_back(t, layout_of(t, i, what), t.tied_to == tensor::none ? i + 1 : t.tied_to + 1);
    if (t.tied_to != tensor::none) continue;
    for (const unshard::box& b : handles.back().layout().boxes_of(0))
      r.shard_bytes += static_cast<std::size_t>(b.size.elements()) * t.element_size;
  }

  r.least_whole = least_budget(handles, what.options, unshard::cut::never);
  r.least_cut = least_budget(handles, what.options, unshard::cut::oversized);
  const unshard::chunk_plan plan = unshard::make_plan(handles, what.options);
  r.summary = plan.summary();
  r.capacity = plan.capacity();
  r.chunks.resize(plan.chunks());
  for (std::size_t i = 0; i < plan.chunks(); ++i) {
    chunk& c = r.chunks[i];
    c.pieces = plan.pieces(i, handles);
    for (const unshard::planned_piece& p : c.pieces) {
      c.bytes += p.bytes;
      c.used = std::max(c.used, p.offset + p.bytes);
    }
  }
  return r;
}

void print_table(std::ostream& out, const report& r, const request& what) {
  const unshard::plan_summary& s = r.summary;
  out << what.model << ": " << r.model_tensors << (r.model_tensors == 1 ? " tensor, " : " tensors, ")
      << short_bytes(r.model_bytes);
  if (what.only_missing) out << "; planned: the " << r.tensors.size() << " missing ones, " << short_bytes(s.bytes);
  out << "\n\n";
  const auto line = [&out](const char* label) -> std::ostream& { return out << std::left << std::setw(17) << label; };
  line("at rest") << short_bytes(r.shard_bytes) << " on rank 0 of " << what.ranks << " (--layout " << what.layout
                  << ")\n";
  line("one gather") << short_bytes(s.bytes) << " on every rank that holds it\n";
  line("this plan") << s.chunks << (s.chunks == 1 ? " chunk" : " chunks") << " of at most " << short_bytes(r.capacity)
                    << " (lower bound " << s.lower_bound << "), " << name_of(what.options.packing) << ", cut "
                    << name_of(what.options.cut) << ", " << percent(s.utilisation) << " % full\n";
  line("peak") << short_bytes(s.peak) << (what.every_rank ? " on every rank\n" : " on rank 0, nothing on the others\n");
  line("smallest budget") << r.least_whole << " (" << short_bytes(r.least_whole) << ") with every tensor whole, "
                          << r.least_cut << " with --cut oversized\n\n";

  constexpr std::size_t head = 12;  // chunks to print before the gap; --json has them all
  out << " chunk  pieces        bytes   fill  first parameter\n";
  for (std::size_t i = 0; i < r.chunks.size(); ++i) {
    if (i == head && r.chunks.size() > head + 2) {
      i = r.chunks.size() - 1;
      out << "   ...  (" << r.chunks.size() - head - 1 << " more; --json lists all)\n";
    }
    const chunk& c = r.chunks[i];
    const auto fill = r.capacity == 0 ? 0.0 : static_cast<double>(c.bytes) / static_cast<double>(r.capacity);
    out << std::right << std::setw(6) << i << std::setw(8) << c.pieces.size() << std::setw(13) << short_bytes(c.bytes)
        << std::setw(5) << percent(fill) << " %  ";
    if (!c.pieces.empty()) {
      const unshard::planned_piece& p = c.pieces.front();
      out << printable(r.tensors[p.parameter].name);
      if (p.elements != r.tensors[p.parameter].shape.elements()) out << " from element " << p.first << " on";
    }
    out << '\n';
  }
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
  const json all{{"model", what.model},
                 {"tensors", r.tensors.size()},
                 {"ranks", what.ranks},
                 {"layout", what.layout},
                 {"budget", what.options.budget},
                 {"packing", name_of(what.options.packing)},
                 {"cut", name_of(what.options.cut)},
                 {"in_flight", what.options.in_flight},
                 {"every_rank", what.every_rank},
                 {"bytes", s.bytes},
                 {"bytes_at_rest_on_rank_0", r.shard_bytes},
                 {"bytes_of_one_gather", s.bytes},
                 {"capacity", r.capacity},
                 {"largest", s.largest},
                 {"peak", s.peak},
                 {"lower_bound", s.lower_bound},
                 {"utilisation", s.utilisation},
                 {"smallest_budget", r.least_whole},
                 {"smallest_budget_if_cut", r.least_cut},
                 {"chunks", std::move(chunks)}};
  out << all.dump(1, ' ', false, json::error_handler_t::replace) << '\n';
}

std::string short_bytes(std::size_t bytes) {
  const std::string text = unshard::detail::in_bytes(bytes);  // "9663676416 (9.0 GiB)"
  const std::size_t open = text.find('(');
  return open == std::string::npos ? text + " B" : text.substr(open + 1, text.size() - open - 2);
}

int percent(double share) { return share < 1 ? std::min(99, static_cast<int>(share * 100 + 0.5)) : 100; }

const char* name_of(unshard::packing p) { return p == unshard::packing::in_order ? "in_order" : "best_fit"; }
const char* name_of(unshard::cut c) {
  return c == unshard::cut::never ? "never" : c == unshard::cut::oversized ? "oversized" : "anywhere";
}

}  // namespace unshard_plan
