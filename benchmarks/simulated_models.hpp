// SPDX-License-Identifier: Apache-2.0
#pragma once  // simulated_models.hpp: a manifest's parameters under the layouts that large runs use.

#include <charconv>
#include <cstddef>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "../examples/manifest.hpp"
#include "traffic.hpp"

namespace simulation {

/// What is moved of a model: what its checkpoint lacks; all of it, where it lacks nothing.
struct model {
  std::string name;
  examples::manifest list;
};

inline model read_model(const std::string& file) {
  model m{.name = file.substr(file.find_last_of('/') + 1), .list = examples::read_manifest(file)};
  m.name = m.name.substr(0, m.name.find('.'));
  examples::manifest missing;
  for (const examples::manifest_entry& e : m.list) {
    if (e.missing) missing.push_back(e);
    if (e.missing) missing.back().tied_to = missing.size() - 1;
  }
  if (!missing.empty()) m.list = std::move(missing);
  return m;
}

/// The layouts by name: flat (ZeRO-3: all tensors over all ranks), hybrid (HSDP: rows over 64 ranks or the most below
/// that divide all, every such group a replica) and experts (8 pipeline stages; in each the packed experts over as many
/// ranks as divide them, their rows over the rest; all else flat over the stage).
inline constexpr std::string_view layouts[] = {"flat", "hybrid", "experts"};

namespace detail {

/// "layers.17." as the stage that it is on; what belongs to no layer is on the first.
inline int stage_of(std::string_view name, int stages, int depth) {
  const std::size_t at = name.find("layers.");
  int layer = 0;
  if (at != name.npos) std::from_chars(name.data() + at + 7, name.data() + name.size(), layer);
  return layer * stages / depth;
}

inline int depth_of(const examples::manifest& list) {
  int depth = 1;
  for (const examples::manifest_entry& e : list) depth = std::max(depth, stage_of(e.name, 1 << 20, 1 << 20) + 1);
  return depth;
}

}  // namespace detail

/// Throws bad_layout for a name that there is not.
inline std::vector<sized_parameter> placed(const model& m, std::string_view layout, int ranks) {
  int shards = std::min(ranks, 64);
  while (ranks % shards != 0) --shards;
  const int stages = std::gcd(ranks, 8);
  const int depth = detail::depth_of(m.list);
  const auto layout_of = [&](const examples::manifest_entry& e) -> unshard::any_layout {
    if (layout == "flat") return unshard::flat_shard(e.shape, ranks);
    if (layout == "hybrid") {
      if (e.shape.dims() == 0) return unshard::replicated(e.shape, ranks);
      return unshard::mesh_shard(e.shape, {{0, shards, 1}}, ranks);
    }
    if (layout != "experts")
      throw unshard::bad_layout(unshard::detail::concat("simulate: layout ", layout, "; flat, hybrid or experts."));
    const int each = ranks / stages;
    const int first = detail::stage_of(e.name, stages, depth) * each;
    if (e.shape.dims() != 3) return unshard::on_ranks(unshard::flat_shard(e.shape, each), first, 1, ranks);
    const int experts = static_cast<int>(std::gcd<unshard::index_t, unshard::index_t>(each, e.shape[0]));
    return unshard::on_ranks(unshard::mesh_shard(e.shape, {{0, experts, 1}, {1, each / experts, experts}}, each), first,
                             1, ranks);
  };
  std::vector<sized_parameter> list;
  list.reserve(m.list.size());
  for (const examples::manifest_entry& e : m.list)
    list.emplace_back(e.name, layout_of(e), e.element_size, e.tied_to + 1);
  return list;
}

}  // namespace simulation
