// SPDX-License-Identifier: Apache-2.0
#pragma once  // packing/packed_chunks.hpp: chunks whose parameters are not in the caller's order.

#include <cstddef>
#include <span>
#include <unshard/base/checked.hpp>
#include <unshard/base/later.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/layout.hpp>
#include <unshard/packing/identities.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// What stays together: parameters [begin, end), or a piece of one that is cut.
struct packed_item {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t bytes = 0;  // without the alignment that follows
  index_t first = 0;
  index_t elements = -1;  // < 0: whole
};

/// A piece of a chunk that is not in the caller's order; elements < 0: the whole parameter.
struct packed_piece {
  std::size_t parameter;
  index_t first;
  index_t elements;
};

/// Chunks as lists of parameters; only cut pieces say which elements they hold.
template <class Deferred = void>
class packed_chunks {
  template <class T>
  using vector = std::vector<later<T, Deferred>>;

 public:
  packed_chunks() = default;
  /// Of items in the caller's order, item i in chunk chunk_of[i]; `ties` are left out.
  packed_chunks(std::span<const packed_item> items, std::span<const std::size_t> chunk_of, std::size_t chunks,
                std::size_t alignment, std::span<const tied_pair> ties)
      : ends_(chunks, 0) {
    std::size_t total = 0;
    for_each_parameter(items, ties, [&](std::size_t i, std::size_t) { ++ends_[chunk_of[i]], ++total; });
    for (std::size_t start = 0; std::size_t & end : ends_) start += std::exchange(end, start);
    order_.resize(total);
    for_each_parameter(items, ties, [&](std::size_t i, std::size_t parameter) {
      std::size_t& at = ends_[chunk_of[i]];  // from the chunk's start to its end
      if (items[i].elements >= 0) add_cut(at, {parameter, items[i].first, items[i].elements}, chunk_of[i]);
      order_[at++] = parameter;
    });
    detail::sort(cuts_, [](const auto& a, const auto& b) { return a.first < b.first; });

    vector<std::size_t> used(chunks, 0);
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (items[i].bytes > 0) fullest_ = (std::max)(fullest_, used[chunk_of[i]] + items[i].bytes);
      used[chunk_of[i]] += align_up(items[i].bytes, alignment);
    }
  }

  class iterator {
   public:
    iterator(const packed_chunks* chunks, std::size_t at, std::size_t cut) : chunks_(chunks), at_(at), cut_(cut) {}
    packed_piece operator*() const {
      if (is_cut()) return chunks_->cuts_[cut_].second;
      return {chunks_->order_[at_], 0, -1};
    }
    iterator& operator++() {
      if (is_cut()) ++cut_;
      ++at_;
      return *this;
    }
    friend bool operator==(const iterator& a, const iterator& b) { return a.at_ == b.at_; }

   private:
    bool is_cut() const { return cut_ < chunks_->cuts_.size() && chunks_->cuts_[cut_].first == at_; }
    const packed_chunks* chunks_;
    std::size_t at_;
    std::size_t cut_;
  };
  struct pieces {
    iterator from, to;
    iterator begin() const { return from; }
    iterator end() const { return to; }
  };

  std::size_t size() const { return ends_.size(); }
  std::size_t fullest() const { return fullest_; }
  pieces chunk(std::size_t i) const {
    const std::size_t from = i == 0 ? 0 : ends_[i - 1];
    const std::size_t cut = first_not(cuts_.size(), [&](std::size_t at) { return cuts_[at].first < from; });
    return {iterator(this, from, cut), iterator(this, ends_[i], 0)};
  }

  /// Whether the piece from `first` on, in this chunk, is the last of a cut parameter.
  bool ends(std::size_t chunk, std::size_t parameter, index_t first) const {
    const auto& last = lasts_[first_not(lasts_.size(), [&](std::size_t i) { return lasts_[i].parameter < parameter; })];
    return last.chunk == chunk && last.first == first;
  }

 private:
  struct last_piece {
    std::size_t parameter;
    std::size_t chunk;
    index_t first;
  };

  /// visit(item, parameter) for all but the tied ones.
  template <class Visit>
  static void for_each_parameter(std::span<const packed_item> items, std::span<const tied_pair> ties, Visit visit) {
    auto tied = ties.begin();
    for (std::size_t i = 0; i < items.size(); ++i) {
      for (std::size_t p = items[i].begin; p < items[i].end; ++p) {
        while (tied != ties.end() && tied->first < p) ++tied;
        if (tied == ties.end() || tied->first != p) visit(i, p);
      }
    }
  }

  void add_cut(std::size_t position, const packed_piece& p, std::size_t chunk) {
    cuts_.emplace_back(position, p);
    if (lasts_.empty() || lasts_.back().parameter != p.parameter) {
      lasts_.push_back({p.parameter, chunk, p.first});
    } else if (chunk >= lasts_.back().chunk) {  // pieces of a parameter come in rising order
      lasts_.back() = {p.parameter, chunk, p.first};
    }
  }

  vector<std::size_t> order_;
  vector<std::size_t> ends_;
  vector<last_piece> lasts_;                           // one for each cut parameter, rising
  vector<std::pair<std::size_t, packed_piece>> cuts_;  // position in order_, rising
  std::size_t fullest_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
