// SPDX-License-Identifier: Apache-2.0
// placement.cpp: the words of --layout as layouts of the library.

#include "placement.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <numeric>
#include <set>

namespace unshard_plan {
namespace {

using unshard::any_layout;
using unshard::index_t;
using unshard::detail::concat;

/// The number behind a word of a name, "layers.17." say; -1 where there is none.
int number_behind(std::string_view name, std::string_view word) {
  const std::size_t at = name.find(word);
  int number = -1;
  if (at != name.npos) std::from_chars(name.data() + at + word.size(), name.data() + name.size(), number);
  return number;
}

int layer_of(std::string_view name) {
  for (std::string_view word : {"layers.", "blocks.", "h."}) {
    const std::size_t at = name.find(word);
    if (at != name.npos && (at == 0 || name[at - 1] == '.') && number_behind(name, word) >= 0)
      return number_behind(name, word);
  }
  return -1;
}

bool is_row_parallel(std::string_view name) {
  constexpr std::string_view words[] = {"o_proj",        "down_proj",       "out_proj", "c_proj",
                                        "dense_4h_to_h", "attention.dense", ".wo.",     ".w2.",
                                        "linear_proj",   "linear_fc2",      "proj_out"};
  return std::any_of(std::begin(words), std::end(words), [=](std::string_view w) { return name.find(w) != name.npos; });
}

std::size_t held_by(const any_layout& layout, int rank, std::size_t element_size) {
  std::size_t bytes = 0;
  for (const unshard::box& b : layout.boxes_of(rank))
    bytes += static_cast<std::size_t>(b.size.elements()) * element_size;
  return bytes;
}

}  // namespace

placement::placement(std::string layout, int ranks, int stages)
    : text_(std::move(layout)), ranks_(ranks), stages_(stages), each_(ranks / stages) {
  if (ranks % stages != 0) fail(concat("--stages ", stages, " does not divide --ranks ", ranks, '.'));
  const std::string_view text = text_;
  if (text == "flat") {
    kind_ = kind::flat;
  } else if (text == "owned") {
    kind_ = kind::owned;
  } else if (text == "replicated") {
    kind_ = kind::replicated;
  } else if (text == "ragged") {
    kind_ = kind::ragged;
  } else if (text.starts_with("dim:")) {
    kind_ = kind::dim;
    argument_ = number("dim:", unshard::extents::max_dims - 1);
  } else if (text.starts_with("hsdp:")) {
    kind_ = kind::mesh;
    const int shards = number("hsdp:", each_);
    if (shards < 1 || each_ % shards != 0) fail(concat(shards, " shards do not divide ", each_, " ranks."));
    mesh_ = {{-1, each_ / shards}, {0, shards}};
  } else if (text.starts_with("fsdp-tp:")) {
    kind_ = kind::tensor_parallel;
    argument_ = number("fsdp-tp:", each_);
    if (argument_ < 1 || each_ % argument_ != 0) fail(concat(argument_, " does not divide ", each_, " ranks."));
  } else if (text.starts_with("experts:")) {
    kind_ = kind::experts;
    argument_ = number("experts:", each_);
    if (argument_ < 1 || each_ % argument_ != 0) fail(concat(argument_, " does not divide ", each_, " ranks."));
  } else if (text.starts_with("mesh:")) {
    kind_ = kind::mesh;
    const char* at = text.data() + 5;
    const char* const end = text.data() + text.size();
    index_t all = 1;
    while (true) {
      int dim = -1;
      int size = 0;
      at = at != end && *at == '-' ? at + 1 : std::from_chars(at, end, dim).ptr;
      if (at != end && *at == '/') at = std::from_chars(at + 1, end, size).ptr;
      if (size < 1 || size > each_ || dim >= unshard::extents::max_dims || (at != end && *at != ',') ||
          mesh_.size() > 8)
        fail("write a mesh as mesh:-/2,0/8,1/4, outermost first: the dimension that is cut, or -, and the ranks.");
      mesh_.emplace_back(dim, size);
      all *= size;
      if (at++ == end) break;
    }
    if (all != each_)
      fail(concat("its mesh has ", all, " ranks; there are ", each_, stages > 1 ? " in a stage." : "."));
  } else {
    fail("must be flat, dim:N, hsdp:SHARDS, fsdp-tp:TP, experts:EP, mesh:D/N,D/N, ragged, owned or replicated.");
  }
}

void placement::fail(const std::string& why) const {
  throw bad_placement(concat("--layout ", printable(text_), ": ", why));
}

int placement::number(std::string_view prefix, int most) const {
  const std::string_view digits = std::string_view(text_).substr(prefix.size());
  int value = -1;
  const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (failure != std::errc{} || end != digits.data() + digits.size() || value < 0 || value > most)
    fail(concat("must be ", prefix, "N with a number from 0 to ", most, '.'));
  return value;
}

any_layout placement::meshed(const unshard::extents& shape, std::vector<unshard::mesh_dim> mesh) const {
  std::erase_if(mesh, [&](const unshard::mesh_dim& m) { return m.dim < 0 || m.dim >= shape.dims(); });
  if (mesh.empty()) return unshard::replicated(shape, each_);
  return unshard::mesh_shard(shape, mesh, each_);
}

any_layout placement::of_expert(const tensor& t) const {
  const int others = each_ / argument_;
  const int expert = number_behind(t.name, ".experts.");
  if (expert >= 0) return unshard::on_ranks(unshard::flat_shard(t.shape, others), expert % argument_, argument_, each_);
  if (t.name.find(".experts.") == std::string::npos || t.shape.dims() < 2) return unshard::flat_shard(t.shape, each_);
  return meshed(t.shape, {{0, argument_, 1}, {1, others, argument_}});
}

any_layout placement::in_stage(const tensor& t, std::size_t index) const {
  switch (kind_) {
    case kind::dim:
      if (argument_ >= t.shape.dims()) break;
      return unshard::dim_shard(t.shape, argument_, each_);
    case kind::owned:
      return unshard::owned(t.shape, static_cast<int>(index % static_cast<std::size_t>(each_)), each_);
    case kind::experts:
      return of_expert(t);
    case kind::tensor_parallel: {
      const int cut = t.shape.dims() < 2 ? -1 : t.shape.dims() - (is_row_parallel(t.name) ? 1 : 2);
      return meshed(t.shape, {{cut, argument_, 1}, {0, each_ / argument_, argument_}});
    }
    case kind::mesh: {
      std::vector<unshard::mesh_dim> mesh;
      int stride = each_;
      for (const auto& [dim, size] : mesh_) mesh.push_back({dim, size, stride /= size});
      return meshed(t.shape, mesh);
    }
    case kind::flat:
      return unshard::flat_shard(t.shape, each_);
    case kind::ragged:
    case kind::replicated:
      break;
  }
  return unshard::replicated(t.shape, each_);
}

/// Buckets of one type each, as the distributed optimizer has buffers: about 1/32 of the model in each.
std::vector<any_layout> placement::ragged(const std::vector<tensor>& model) const {
  index_t all = 0;
  for (const tensor& t : model) all = unshard::detail::checked_add(all, t.shape.elements());
  std::vector<any_layout> layouts;
  for (std::size_t first = 0, end = 0; first < model.size(); first = end) {
    index_t bucket = 0;
    while (end < model.size() && bucket <= all / 32 && model[end].element_size == model[first].element_size)
      bucket += model[end++].shape.elements();
    const index_t each = unshard::detail::ceil_div(bucket, each_);
    index_t start = 0;  // of the tensor, in its bucket
    for (std::size_t i = first; i < end; ++i) {
      const index_t count = model[i].shape.elements();
      std::vector<index_t> cuts;
      for (int r = 0; r <= each_; ++r) cuts.push_back(std::clamp<index_t>(r * each - start, 0, count));
      cuts.back() = count;
      layouts.emplace_back(unshard::ragged_shard(model[i].shape, std::move(cuts)));
      start += count;
    }
  }
  return layouts;
}

std::vector<any_layout> placement::layouts_of(const std::vector<tensor>& model) const {
  int depth = 1;
  for (const tensor& t : model) depth = std::max(depth, layer_of(t.name) + 1);
  if (depth < stages_) fail(concat("--stages ", stages_, ", but the model has ", depth, " layers."));
  const auto stage_of = [&](const tensor& t) {
    const int layer = layer_of(t.name);
    const bool last = t.name.find("lm_head") != t.name.npos || t.name.find("norm") != t.name.npos;
    return layer >= 0 ? static_cast<int>(static_cast<index_t>(layer) * stages_ / depth) : last ? stages_ - 1 : 0;
  };
  std::vector<any_layout> layouts;
  if (kind_ == kind::ragged) {
    layouts = ragged(model);
  } else {
    for (std::size_t i = 0; i < model.size(); ++i) layouts.push_back(in_stage(model[i], i));
  }
  if (stages_ > 1) {
    for (std::size_t i = 0; i < model.size(); ++i)
      layouts[i] = unshard::on_ranks(layouts[i], stage_of(model[i]) * each_, 1, ranks_);
  }
  return layouts;
}

placement::at_rest placement::bytes_at_rest(const std::vector<tensor>& model,
                                            const std::vector<any_layout>& layouts) const {
  // Ceil parts: the first rank of those that hold a tensor holds the most of it, so the fullest is one of the firsts.
  std::set<int> firsts{0};
  const int group = kind_ == kind::experts ? argument_ : kind_ == kind::owned ? std::min<int>(each_, 4096) : 1;
  for (int stage = 0; stage < stages_; ++stage) {
    for (int i = 0; i < group; ++i) firsts.insert(stage * each_ + i);
  }
  std::map<std::uint64_t, std::pair<std::size_t, std::size_t>> alike;  // of a layout and size: how many, the first
  for (std::size_t i = 0; i < model.size(); ++i) {
    if (model[i].tied_to != tensor::none) continue;
    const std::uint64_t key =
        unshard::detail::mix(layouts[i].digest(), static_cast<std::uint64_t>(model[i].element_size));
    ++alike.try_emplace(key, 0, i).first->second.first;
  }
  at_rest most;
  for (int rank : firsts) {
    std::size_t bytes = 0;
    for (const auto& [key, group_of] : alike) {
      const auto& [count, first] = group_of;
      bytes += count * held_by(layouts[first], rank, model[first].element_size);
    }
    most.fullest = std::max(most.fullest, bytes);
    if (rank == 0) most.rank_0 = bytes;
  }
  return most;
}

}  // namespace unshard_plan
