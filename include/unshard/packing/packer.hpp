// SPDX-License-Identifier: Apache-2.0
#pragma once  // packing/packer.hpp: parameters in order, joined to units; chunks of them, greedily in order.

#include <cstddef>
#include <cstdint>
#include <unshard/base/checked.hpp>
#include <unshard/base/later.hpp>
#include <unshard/layout.hpp>
#include <unshard/options.hpp>
#include <unshard/packing/level_filler.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// A parameter as the packer sees it.
struct sized_parameter {
  std::size_t index;
  index_t elements;
  std::size_t element_size;  // bytes
  std::size_t bytes;
  std::uint64_t cost;
};

/// What of a unit decides who owns it.
struct unit_weight {
  std::uint64_t cost = 0;
  std::size_t bytes = 0;  // of the values, without alignment
};

/// Takes parameters in order and joins neighbours of one group to units, which it puts into chunks as they come, keeps
/// for those who pack them in another way, or both.
template <class Deferred = void>
class packer {
  template <class T>
  using vector = std::vector<later<T, Deferred>>;

 public:
  packer(std::size_t alignment, std::size_t capacity, cut where, bool fills, bool keeps)
      : alignment_(alignment),
        capacity_(capacity),
        cut_(where),
        fills_(fills),
        keeps_(keeps),
        filler_(alignment, capacity) {}

  /// So many parameters come, at most: those that are kept need room.
  void expect(std::size_t parameters) {
    if (!keeps_) return;
    units_.reserve(parameters);
    weights_.reserve(parameters);
  }

  void add(const sized_parameter& p, std::uint64_t group, bool indivisible) {
    const std::size_t aligned = align_up(p.bytes, alignment_);
    aligned_bytes_ = sum(aligned_bytes_, aligned);
    const unit alone{p.index, p.index + 1, p.elements, p.element_size, aligned, p.bytes, group != 0 || indivisible};
    if (group == 0) {
      end_group();
      place(alone, {p.cost, p.bytes});
    } else if (group == group_) {
      unit_.aligned = sum(unit_.aligned, aligned);
      if (p.bytes > 0) unit_.bytes = unit_.aligned - aligned + p.bytes;
      unit_.end = p.index + 1;
      weight_.cost += p.cost;
      weight_.bytes += p.bytes;
    } else {
      end_group();
      group_ = group;
      unit_ = alone;
      weight_ = {p.cost, p.bytes};
    }
  }

  /// No more parameters come.
  void finish() { end_group(); }

  std::size_t aligned_bytes() const { return aligned_bytes_; }

  // In order, as they came.
  std::size_t chunks() const { return filler_.chunks(); }
  std::size_t fullest() const { return filler_.fullest(); }
  vector<cut_point> take_starts() { return std::move(starts_); }

  // Kept.
  const vector<unit>& units() const { return units_; }
  const vector<unit_weight>& weights() const { return weights_; }

  // The unit that asks most of a chunk, in aligned bytes: all of it, or one element where it may be cut.
  std::size_t largest_unit() const { return largest_; }
  std::size_t largest_at() const { return largest_at_; }
  bool largest_is_group() const { return largest_is_group_; }
  bool largest_is_element() const { return largest_is_element_; }
  /// What that would be if all that may be cut were.
  std::size_t largest_if_cut() const { return largest_if_cut_; }

 private:
  static std::size_t sum(std::size_t a, std::size_t b) {
    return to_size(checked_add(static_cast<index_t>(a), static_cast<index_t>(b)));
  }

  void end_group() {
    if (group_ == 0) return;
    group_ = 0;
    place(unit_, weight_);
  }

  void place(unit u, const unit_weight& w) {
    u.cut = !u.whole && (cut_ == cut::anywhere || (cut_ == cut::oversized && u.aligned > capacity_));
    if (u.aligned > largest_ || u.aligned > largest_if_cut_) look_at(u);
    const std::size_t asks = u.cut ? (std::min)(u.aligned, align_up(u.element_size, alignment_)) : u.aligned;
    if (asks > capacity_) return;
    if (keeps_) {
      units_.push_back(u);
      weights_.push_back(w);
    }
    if (!fills_) return;
    filler_.add(u, [&](std::size_t chunk, index_t first, index_t) {
      if (chunk == starts_.size()) starts_.push_back({u.begin, first});
    });
  }

  void look_at(const unit& u) {
    const std::size_t element = (std::min)(u.aligned, align_up(u.element_size, alignment_));
    const std::size_t asks = u.cut ? element : u.aligned;
    largest_if_cut_ = (std::max)(largest_if_cut_, u.whole ? u.aligned : element);
    if (asks <= largest_) return;
    largest_ = asks;
    largest_at_ = u.begin;
    largest_is_group_ = u.end - u.begin > 1;
    largest_is_element_ = u.cut && u.elements > 1;
  }

  std::size_t alignment_;
  std::size_t capacity_;
  cut cut_;
  bool fills_;
  bool keeps_;
  std::uint64_t group_ = 0;  // of unit_, which waits for more of its group
  unit unit_;
  unit_weight weight_;
  std::size_t aligned_bytes_ = 0;

  level_filler filler_;
  vector<cut_point> starts_;
  vector<unit> units_;
  vector<unit_weight> weights_;

  std::size_t largest_ = 0;
  std::size_t largest_at_ = 0;
  std::size_t largest_if_cut_ = 0;
  bool largest_is_group_ = false;
  bool largest_is_element_ = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
