// SPDX-License-Identifier: Apache-2.0
#pragma once  // model.hpp: a manifest at the size that fits, sharded over ranks as an engine would, with real memory.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unshard/layout.hpp>
#include <unshard/parameter.hpp>
#include <utility>
#include <vector>

#include "../manifest.hpp"

namespace examples {

/// Bytes of all parameters, or of those that are missing, tied ones once.
inline std::size_t bytes_of(const manifest& list, bool missing_only = false) {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i].tied_to == i && (list[i].missing || !missing_only)) bytes += list[i].bytes();
  }
  return bytes;
}

/// The same model with its widths divided, so that all of it takes about `bytes`; never larger than it is. Extents up
/// to 256 count things (experts, heads, pixels) and stay: then all large matrices shrink alike, and so the shares of
/// the parameters in the model are kept.
inline manifest scaled_to(const manifest& list, std::size_t bytes) {
  const auto divided = [&](double by) {
    manifest smaller = list;
    for (manifest_entry& e : smaller) {
      for (int d = 0; d < e.shape.dims(); ++d) {
        if (e.shape[d] > 256)
          e.shape[d] =
              std::max<unshard::index_t>(1, static_cast<unshard::index_t>(static_cast<double>(e.shape[d]) / by));
      }
    }
    return smaller;
  };
  if (bytes_of(list) <= bytes) return list;
  double low = 1;
  double high = 1e6;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (bytes_of(divided(middle)) > bytes ? low : high) = middle;
  }
  return divided(high);
}

/// Who holds what.
enum class sharding {
  zero3,    ///< DeepSpeed ZeRO-3: the flat value, evenly
  fsdp2,    ///< torch FSDP2: rows
  ragged,   ///< Megatron's distributed optimizer: buckets of parameters cut evenly, at no parameter's border
  experts,  ///< expert parallel: a packed tensor's experts over the ranks, "experts.7." on one; the rest as zero3
};

/// One layout for each parameter.
inline std::vector<unshard::any_layout> layouts_of(const manifest& list, sharding how, int ranks) {
  std::vector<unshard::any_layout> layouts;
  layouts.reserve(list.size());
  const auto elements_of = [](const manifest_entry& e) { return e.shape.elements(); };

  if (how == sharding::ragged) {
    unshard::index_t all = 0;
    for (const manifest_entry& e : list) all += elements_of(e);
    for (std::size_t first = 0, end = 0; first < list.size(); first = end) {
      unshard::index_t bucket = 0;
      while (end < list.size() && bucket <= all / 32) bucket += elements_of(list[end++]);
      const unshard::index_t each = unshard::detail::ceil_div(bucket, ranks);
      unshard::index_t start = 0;  // of the parameter, in its bucket
      for (std::size_t i = first; i < end; ++i) {
        const unshard::index_t count = elements_of(list[i]);
        std::vector<unshard::index_t> cuts;
        for (int r = 0; r <= ranks; ++r) cuts.push_back(std::clamp<unshard::index_t>(r * each - start, 0, count));
        cuts.back() = count;
        layouts.push_back(unshard::ragged_shard(list[i].shape, std::move(cuts)));
        start += count;
      }
    }
    return layouts;
  }

  for (const manifest_entry& e : list) {
    const std::size_t numbered = e.name.find(".experts.");
    const char digit = numbered == e.name.npos || numbered + 9 >= e.name.size() ? 'x' : e.name[numbered + 9];
    if (how == sharding::fsdp2 && e.shape.dims() > 0) {
      layouts.push_back(unshard::dim_shard(e.shape, 0, ranks));
    } else if (how == sharding::experts && digit >= '0' && digit <= '9') {
      int expert = 0;
      std::from_chars(e.name.data() + numbered + 9, e.name.data() + e.name.size(), expert);
      layouts.push_back(unshard::owned(e.shape, expert % ranks, ranks));
    } else if (how == sharding::experts && numbered != e.name.npos && e.shape.dims() == 3) {
      layouts.push_back(unshard::dim_shard(e.shape, 0, ranks));
    } else {
      layouts.push_back(unshard::flat_shard(e.shape, ranks));
    }
  }
  return layouts;
}

/// The engine's tensor: its members are what unshard::parameter_traits asks for.
class tensor {
 public:
  tensor(const manifest_entry& entry, const unshard::any_layout& layout, std::span<std::byte> shard)
      : entry_(&entry), layout_(&layout), shard_(shard) {}

  std::string_view name() const { return entry_->name; }
  const unshard::any_layout& layout() const { return *layout_; }
  std::size_t element_size() const { return entry_->element_size; }
  std::span<std::byte> shard() const { return shard_; }
  std::uint64_t identity() const { return entry_->tied_to + 1; }  // tied parameters share one

 private:
  const manifest_entry* entry_;
  const unshard::any_layout* layout_;
  std::span<std::byte> shard_;
};
static_assert(unshard::writable_parameter<tensor>);

/// Calls f(first, count) for each contiguous run of the value's row-major order that `rank` holds, in the order in
/// which its shard stores them.
template <class F>
void for_each_run(const unshard::any_layout& layout, int rank, F f) {
  const unshard::extents space = layout.space();
  for (const unshard::box& b : layout.boxes_of(rank)) {
    const int inner = space.dims() - 1;
    if (b.size.elements() == 0) continue;
    const unshard::index_t run = inner < 0 ? 1 : b.size[inner];
    for (unshard::index_t row = 0; row < b.size.elements() / run; ++row) {
      unshard::index_t first = inner < 0 ? 0 : b.offset[inner];
      unshard::index_t rest = row;
      unshard::index_t stride = inner < 0 ? 1 : space[inner];
      for (int d = inner - 1; d >= 0; --d) {
        first += (b.offset[d] + rest % b.size[d]) * stride;
        rest /= b.size[d];
        stride *= space[d];
      }
      f(first, run);
    }
  }
}

/// A model of which each rank holds its shards, in one block a rank.
class sharded_model {
 public:
  sharded_model(manifest list, sharding how, int ranks)
      : list_(std::move(list)), layouts_(layouts_of(list_, how, ranks)), ranks_(ranks) {}

  const manifest& list() const { return list_; }
  int ranks() const { return ranks_; }

  /// Obtains the shards' memory; until then they are empty, which is all that planning needs.
  void allocate() {
    for (int rank = 0; rank < ranks_; ++rank) {
      std::size_t bytes = 0;
      std::vector<std::size_t>& starts = starts_.emplace_back();
      for (std::size_t i = 0; i < list_.size(); ++i) {
        starts.push_back(list_[i].tied_to == i ? bytes : starts[list_[i].tied_to]);
        if (list_[i].tied_to == i) bytes += (shard_bytes(i, rank) + 63) / 64 * 64;
      }
      sizes_.push_back(bytes);
      blocks_.push_back(std::make_unique_for_overwrite<std::byte[]>(bytes));
    }
  }

  /// Fills a rank's shards with what no initialiser writes: what is not written shows.
  void spoil(int rank) { std::memset(blocks_[at(rank)].get(), spoiled, sizes_[at(rank)]); }

  /// Handles of the parameters that are missing, as `rank` sees them; of all, where none is marked.
  std::vector<tensor> missing(int rank) const {
    std::vector<tensor> tensors;
    for (std::size_t i : missing_indices()) tensors.emplace_back(list_[i], layouts_[i], shard(i, rank));
    return tensors;
  }

  /// Whether this rank's shards of missing parameters hold what `value_of` makes, asked element by element, and all
  /// others are as spoil left them.
  template <class MakeGenerator>
  bool agrees(int rank, MakeGenerator generator_of) const {
    std::vector<char> is_missing(list_.size(), 0);
    for (std::size_t i : missing_indices()) is_missing[i] = 1;
    bool same = true;
    for (std::size_t i = 0; i < list_.size(); ++i) {
      if (list_[i].tied_to != i) continue;
      const std::byte* bytes = shard(i, rank).data();
      const auto generator = generator_of(list_[i].name, list_[i].element_size);
      for_each_run(layouts_[i], rank, [&](unshard::index_t first, unshard::index_t run) {
        const auto count = static_cast<std::size_t>(run);
        const std::size_t size = count * list_[i].element_size;
        same = same && (is_missing[i] != 0
                            ? generator.agrees(first, count, bytes)
                            : std::all_of(bytes, bytes + size, [](std::byte b) { return b == std::byte{spoiled}; }));
        bytes += size;
      });
    }
    return same;
  }

 private:
  static constexpr unsigned char spoiled = 0xfd;

  static std::size_t at(int rank) { return static_cast<std::size_t>(rank); }

  std::vector<std::size_t> missing_indices() const {
    const bool any = std::any_of(list_.begin(), list_.end(), [](const manifest_entry& e) { return e.missing; });
    std::vector<std::size_t> indices;
    for (std::size_t i = 0; i < list_.size(); ++i) {
      if (list_[i].missing || !any) indices.push_back(i);
    }
    return indices;
  }
  std::size_t shard_bytes(std::size_t i, int rank) const {
    unshard::index_t elements = 0;
    for (const unshard::box& b : layouts_[i].boxes_of(rank)) elements += b.size.elements();
    return static_cast<std::size_t>(elements) * list_[i].element_size;
  }
  std::span<std::byte> shard(std::size_t i, int rank) const {
    if (blocks_.empty()) return {};
    return {blocks_[at(rank)].get() + starts_[at(rank)][i], shard_bytes(i, rank)};
  }

  manifest list_;
  std::vector<unshard::any_layout> layouts_;
  int ranks_;
  std::vector<std::vector<std::size_t>> starts_;      // of each rank, of each parameter: bytes into the block
  std::vector<std::size_t> sizes_;                    // bytes of each rank's block
  std::vector<std::unique_ptr<std::byte[]>> blocks_;  // of each rank
};

}  // namespace examples
