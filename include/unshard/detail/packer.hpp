#pragma once  // packer.hpp: sizes in, chunks out: greedy in order, with or without cutting, and best fit.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unshard/detail/checked.hpp>
#include <unshard/detail/index_space.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The start of a chunk in the caller's order: an element of a parameter.
struct cut_point {
  std::size_t parameter;
  index_t first;
};

/// A parameter as the packer sees it.
struct sized_parameter {
  std::size_t index;
  index_t elements;
  std::size_t element_size;  // bytes
  std::size_t bytes;
};

/// A piece of a chunk that is not in the caller's order; elements < 0: the whole parameter.
struct packed_piece {
  std::size_t parameter;
  index_t first;
  index_t elements;
};

/// Chunks as lists of parameters; only cut pieces say which elements they hold.
class packed_chunks {
 public:
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
    const auto cut = std::lower_bound(cuts_.begin(), cuts_.end(), from,
                                      [](const auto& entry, std::size_t position) { return entry.first < position; });
    return {iterator(this, from, static_cast<std::size_t>(cut - cuts_.begin())), iterator(this, ends_[i], 0)};
  }

  /// Whether the piece from `first` on, in this chunk, is the last of a cut parameter.
  bool ends(std::size_t chunk, std::size_t parameter, index_t first) const {
    const auto last = std::lower_bound(lasts_.begin(), lasts_.end(), parameter,
                                       [](const last_piece& l, std::size_t p) { return l.parameter < p; });
    return last->chunk == chunk && last->first == first;
  }

  void add(const packed_piece& p) {
    if (p.elements >= 0) {
      cuts_.emplace_back(order_.size(), p);
      lasts_.push_back({p.parameter, ends_.size(), p.first});
    }
    order_.push_back(p.parameter);
  }
  /// Call once all chunks are there.
  void finish() {
    std::sort(lasts_.begin(), lasts_.end(), [](const last_piece& a, const last_piece& b) {
      if (a.parameter != b.parameter) return a.parameter < b.parameter;
      return a.chunk != b.chunk ? a.chunk > b.chunk : a.first > b.first;
    });
    const auto same = [](const last_piece& a, const last_piece& b) { return a.parameter == b.parameter; };
    lasts_.erase(std::unique(lasts_.begin(), lasts_.end(), same), lasts_.end());
  }
  void end_chunk(std::size_t bytes) {
    ends_.push_back(order_.size());
    fullest_ = std::max(fullest_, bytes);
  }

 private:
  struct last_piece {
    std::size_t parameter;
    std::size_t chunk;
    index_t first;
  };
  std::vector<std::size_t> order_;
  std::vector<std::size_t> ends_;
  std::vector<last_piece> lasts_;                           // one for each cut parameter, rising
  std::vector<std::pair<std::size_t, packed_piece>> cuts_;  // position in order_, rising
  std::size_t fullest_ = 0;
};

/// Who was first with an identity. Open addressing: a list of a million ties is an ordinary one.
class identities {
 public:
  struct owner {
    std::size_t index;
    std::size_t bytes;
  };
  /// The first parameter with that identity: this one, if there was none.
  owner first_of(std::uint64_t identity, std::size_t index, std::size_t bytes) {
    if (identity == 0) return {index, bytes};
    if (used_ * 2 >= slots_.size()) grow();
    slot& s = find(identity);
    if (s.identity == 0) {
      s = {identity, {index, bytes}};
      ++used_;
    }
    return s.first;
  }

 private:
  struct slot {
    std::uint64_t identity = 0;
    owner first{};
  };
  slot& find(std::uint64_t identity) {
    std::size_t at = mix(0x1de7, identity) & (slots_.size() - 1);
    while (slots_[at].identity != 0 && slots_[at].identity != identity) at = (at + 1) & (slots_.size() - 1);
    return slots_[at];
  }
  void grow() {
    std::vector<slot> old(slots_.empty() ? 64 : slots_.size() * 2);
    old.swap(slots_);
    for (const slot& s : old) {
      if (s.identity != 0) find(s.identity) = s;
    }
  }
  std::vector<slot> slots_;
  std::size_t used_ = 0;
};

/// Takes parameters in order, joins neighbours of one group to units, and fills chunks with the units.
class packer {
 public:
  /// `oversized`: parameters over the capacity are cut; `anywhere`: all are; `keep`: pack() will be called.
  packer(std::size_t alignment, std::size_t capacity, bool oversized, bool anywhere, bool keep)
      : alignment_(alignment), capacity_(capacity), cuts_oversized_(oversized), cuts_anywhere_(anywhere), keep_(keep) {}

  void add(const sized_parameter& p, std::uint64_t group, bool indivisible) {
    const std::size_t aligned = align_up(p.bytes, alignment_);
    aligned_bytes_ =
        static_cast<std::size_t>(checked_add(static_cast<index_t>(aligned_bytes_), static_cast<index_t>(aligned)));
    if (group != 0 && group == group_) {
      unit_.aligned =
          static_cast<std::size_t>(checked_add(static_cast<index_t>(unit_.aligned), static_cast<index_t>(aligned)));
      if (p.bytes > 0) unit_.last = unit_.aligned - aligned + p.bytes;
      unit_.end = p.index + 1;
      unit_.group = true;
      return;
    }
    flush();
    group_ = group;
    unit_ = {p.index, p.index + 1, p.elements, p.element_size, aligned, p.bytes, indivisible || group != 0, false};
    open_ = true;
  }

  void finish(std::size_t parameters) {
    flush();
    if (parameters > 0 && starts_.empty()) starts_.push_back({0, 0});
    fullest_ = std::max(fullest_, end_);
  }

  std::size_t aligned_bytes() const { return aligned_bytes_; }
  std::size_t fullest() const { return fullest_; }
  std::vector<cut_point> take_starts() { return std::move(starts_); }

  // The unit that asks most of a chunk, in aligned bytes: all of it, or one element where it may be cut.
  std::size_t largest_unit() const { return largest_; }
  std::size_t largest_at() const { return largest_at_; }
  bool largest_is_group() const { return largest_is_group_; }
  bool largest_is_element() const { return largest_is_element_; }

  /// First fit, largest first; nothing where in order needs no more chunks. `ties` are left out of chunks.
  packed_chunks pack(std::size_t in_order, std::span<const std::pair<std::size_t, std::size_t>> ties) {
    std::vector<item> items = make_items();
    std::stable_sort(items.begin(), items.end(), [](const item& a, const item& b) { return a.aligned > b.aligned; });
    std::vector<std::size_t> chunk_of(items.size());
    const std::size_t chunks = first_fit(items, chunk_of);
    if (chunks >= in_order) return {};
    return collect(items, chunk_of, chunks, ties);
  }

 private:
  /// Parameters [begin, end) that stay together, tied ones among them left out.
  struct unit {
    std::size_t begin = 0;
    std::size_t end = 0;
    index_t elements = 0;
    std::size_t element_size = 0;
    std::size_t aligned = 0;  // bytes with alignment
    std::size_t last = 0;     // bytes without that of the last
    bool whole = true;
    bool group = false;
  };
  /// What best fit places: a unit, or a piece of a cut parameter.
  struct item {
    std::size_t aligned;
    std::size_t last;
    std::size_t unit;
    index_t first;
    index_t elements;  // < 0: whole
  };

  bool is_cut(const unit& u) const {
    return !u.whole && (cuts_anywhere_ || (cuts_oversized_ && u.aligned > capacity_));
  }

  void flush() {
    if (!open_) return;
    open_ = false;
    group_ = 0;
    const bool cut = is_cut(unit_);
    const std::size_t asks = cut ? std::min(unit_.aligned, align_up(unit_.element_size, alignment_)) : unit_.aligned;
    if (asks > largest_) {
      largest_ = asks;
      largest_at_ = unit_.begin;
      largest_is_group_ = unit_.group;
      largest_is_element_ = cut && unit_.elements > 1;
    }
    if (keep_) units_.push_back(unit_);
    if (starts_.empty()) starts_.push_back({unit_.begin, 0});
    if (asks > capacity_) return;
    if (cut) {
      place_cut();
    } else {
      if (unit_.aligned > capacity_ - used_) next_chunk({unit_.begin, 0});
      take(unit_.aligned, unit_.last);
    }
  }

  void place_cut() {
    const auto size = static_cast<index_t>(unit_.element_size);
    for (index_t first = 0; first < unit_.elements;) {
      const index_t fit = std::min(unit_.elements - first, static_cast<index_t>(capacity_ - used_) / size);
      if (fit == 0) {
        next_chunk({unit_.begin, first});
        continue;
      }
      const auto bytes = static_cast<std::size_t>(fit * size);
      take(align_up(bytes, alignment_), bytes);
      first += fit;
    }
  }

  void take(std::size_t aligned, std::size_t last) {
    if (last > 0) end_ = used_ + last;
    used_ += aligned;
  }

  void next_chunk(cut_point at) {
    fullest_ = std::max(fullest_, end_);
    starts_.push_back(at);
    used_ = 0;
    end_ = 0;
  }

  std::vector<item> make_items() const {
    std::vector<item> items;
    items.reserve(units_.size());
    for (std::size_t u = 0; u < units_.size(); ++u) {
      const unit& what = units_[u];
      if (!is_cut(what)) {
        items.push_back({what.aligned, what.last, u, 0, -1});
        continue;
      }
      const index_t fit = static_cast<index_t>(capacity_ / what.element_size);
      for (index_t first = 0; first < what.elements; first += fit) {
        const index_t count = std::min(fit, what.elements - first);
        const auto bytes = static_cast<std::size_t>(count) * what.element_size;
        items.push_back({align_up(bytes, alignment_), bytes, u, first, count});
      }
    }
    return items;
  }

  /// Each item into the first chunk that has room; a tree of maxima over the chunks finds it. Items come largest
  /// first, and a run of equal ones fills a chunk in one step.
  std::size_t first_fit(const std::vector<item>& items, std::vector<std::size_t>& chunk_of) const {
    std::size_t leaves = 1;
    while (leaves < items.size()) leaves *= 2;
    std::vector<std::size_t> room(2 * leaves, capacity_);
    std::size_t chunks = 0;
    for (std::size_t i = 0; i < items.size();) {
      const std::size_t size = items[i].aligned;
      std::size_t node = 1;
      while (node < leaves) node = room[2 * node] >= size ? 2 * node : 2 * node + 1;
      const std::size_t chunk = node - leaves;
      chunks = std::max(chunks, chunk + 1);
      do {
        chunk_of[i++] = chunk;
        room[node] -= size;
      } while (i < items.size() && items[i].aligned == size && room[node] >= size);
      for (node /= 2; node > 0; node /= 2) room[node] = std::max(room[2 * node], room[2 * node + 1]);
    }
    return chunks;
  }

  packed_chunks collect(const std::vector<item>& items, const std::vector<std::size_t>& chunk_of, std::size_t chunks,
                        std::span<const std::pair<std::size_t, std::size_t>> ties) const {
    std::vector<std::size_t> starts(chunks + 1, 0);  // counting sort by chunk
    for (std::size_t c : chunk_of) ++starts[c + 1];
    for (std::size_t c = 0; c < chunks; ++c) starts[c + 1] += starts[c];
    std::vector<std::size_t> by_chunk(items.size());
    std::vector<std::size_t> next(starts.begin(), starts.end() - 1);
    for (std::size_t i = 0; i < items.size(); ++i) by_chunk[next[chunk_of[i]]++] = i;

    packed_chunks out;
    const auto earlier = [&](std::size_t a, std::size_t b) {
      return std::pair(items[a].unit, items[a].first) < std::pair(items[b].unit, items[b].first);
    };
    for (std::size_t c = 0; c < chunks; ++c) {
      const auto from = by_chunk.begin() + static_cast<std::ptrdiff_t>(starts[c]);
      const auto to = by_chunk.begin() + static_cast<std::ptrdiff_t>(starts[c + 1]);
      std::sort(from, to, earlier);
      std::size_t used = 0;
      std::size_t end = 0;
      for (auto it = from; it != to; ++it) {
        const item& what = items[*it];
        const unit& u = units_[what.unit];
        auto tied = std::lower_bound(ties.begin(), ties.end(), std::pair<std::size_t, std::size_t>(u.begin, 0));
        for (std::size_t p = u.begin; p < u.end; ++p) {
          if (tied != ties.end() && tied->first == p) {
            ++tied;
          } else {
            out.add({p, what.first, what.elements});
          }
        }
        if (what.last > 0) end = used + what.last;
        used += what.aligned;
      }
      out.end_chunk(end);
    }
    out.finish();
    return out;
  }

  std::size_t alignment_;
  std::size_t capacity_;
  bool cuts_oversized_;
  bool cuts_anywhere_;
  bool keep_;
  bool open_ = false;
  std::uint64_t group_ = 0;
  unit unit_;
  std::vector<unit> units_;

  std::size_t used_ = 0;  // aligned bytes of the chunk in hand
  std::size_t end_ = 0;   // its last used byte
  std::size_t fullest_ = 0;
  std::size_t aligned_bytes_ = 0;
  std::vector<cut_point> starts_;

  std::size_t largest_ = 0;
  std::size_t largest_at_ = 0;
  bool largest_is_group_ = false;
  bool largest_is_element_ = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
