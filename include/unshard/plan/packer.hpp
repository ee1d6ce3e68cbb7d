#pragma once  // plan/packer.hpp: sizes in, chunks out: greedily in order, with or without cutting.

#include <cstddef>
#include <cstdint>
#include <span>
#include <unshard/base/checked.hpp>
#include <unshard/base/later.hpp>
#include <unshard/layout.hpp>
#include <unshard/plan/best_fit.hpp>
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

/// Who was first with an identity. Open addressing: a list of a million ties is an ordinary one.
template <class Deferred = void>
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
template <class Deferred = void>
class packer {
  template <class T>
  using vector = std::vector<later<T, Deferred>>;

 public:
  /// `oversized`: parameters over the capacity are cut; `anywhere`: all are; `keep`: pack() will be called.
  packer(std::size_t alignment, std::size_t capacity, bool oversized, bool anywhere, bool keep)
      : alignment_(alignment), capacity_(capacity), cuts_oversized_(oversized), cuts_anywhere_(anywhere), keep_(keep) {}

  void add(const sized_parameter& p, std::uint64_t group, bool indivisible) {
    const std::size_t aligned = align_up(p.bytes, alignment_);
    aligned_bytes_ = sum(aligned_bytes_, aligned);
    if (group == 0) {
      end_group();
      place({p.index, p.index + 1, p.elements, p.element_size, aligned, p.bytes, indivisible});
    } else if (group == group_) {
      unit_.aligned = sum(unit_.aligned, aligned);
      if (p.bytes > 0) unit_.bytes = unit_.aligned - aligned + p.bytes;
      unit_.end = p.index + 1;
    } else {
      end_group();
      group_ = group;
      unit_ = {p.index, p.index + 1, p.elements, p.element_size, aligned, p.bytes, true};
    }
  }

  void finish(std::size_t parameters) {
    end_group();
    if (parameters > 0 && starts_.empty()) starts_.push_back({0, 0});
    fullest_ = (std::max)(fullest_, end_);
  }

  std::size_t aligned_bytes() const { return aligned_bytes_; }
  std::size_t fullest() const { return fullest_; }
  vector<cut_point> take_starts() { return std::move(starts_); }

  // The unit that asks most of a chunk, in aligned bytes: all of it, or one element where it may be cut.
  std::size_t largest_unit() const { return largest_; }
  std::size_t largest_at() const { return largest_at_; }
  bool largest_is_group() const { return largest_is_group_; }
  bool largest_is_element() const { return largest_is_element_; }

  /// In any order; nothing where that needs no fewer chunks than in order. `ties` are left out of chunks.
  packed_chunks<Deferred> pack(std::size_t in_order, std::span<const tied_pair> ties) const {
    return best_fit<Deferred>(items_, in_order == 0 ? 0 : in_order - 1, capacity_, alignment_, ties);
  }

 private:
  /// Parameters [begin, end) that stay together, tied ones among them left out.
  struct unit {
    std::size_t begin = 0;
    std::size_t end = 0;
    index_t elements = 0;
    std::size_t element_size = 0;
    std::size_t aligned = 0;  // bytes with alignment
    std::size_t bytes = 0;    // without that of the last
    bool whole = true;
  };

  static std::size_t sum(std::size_t a, std::size_t b) {
    return static_cast<std::size_t>(checked_add(static_cast<index_t>(a), static_cast<index_t>(b)));
  }

  void end_group() {
    if (group_ == 0) return;
    group_ = 0;
    place(unit_);
  }

  void place(const unit& u) {
    const bool cut = !u.whole && (cuts_anywhere_ || (cuts_oversized_ && u.aligned > capacity_));
    const std::size_t asks = cut ? (std::min)(u.aligned, align_up(u.element_size, alignment_)) : u.aligned;
    if (asks > largest_) {
      largest_ = asks;
      largest_at_ = u.begin;
      largest_is_group_ = u.end - u.begin > 1;
      largest_is_element_ = cut && u.elements > 1;
    }
    if (starts_.empty()) starts_.push_back({u.begin, 0});
    if (asks > capacity_) return;
    if (keep_) keep(u, cut);
    if (cut && u.aligned > capacity_ - used_) {
      place_cut(u);
      return;
    }
    if (u.aligned > capacity_ - used_) next_chunk({u.begin, 0});
    take(u.aligned, u.bytes);
  }

  void place_cut(const unit& u) {
    const auto size = static_cast<index_t>(u.element_size);
    for (index_t first = 0; first < u.elements;) {
      const index_t fit = (std::min)(u.elements - first, static_cast<index_t>(capacity_ - used_) / size);
      if (fit == 0) {
        next_chunk({u.begin, first});
        continue;
      }
      const auto bytes = static_cast<std::size_t>(fit * size);
      take(align_up(bytes, alignment_), bytes);
      first += fit;
    }
  }

  void take(std::size_t aligned, std::size_t bytes) {
    if (bytes > 0) end_ = used_ + bytes;
    used_ += aligned;
  }

  void next_chunk(cut_point at) {
    fullest_ = (std::max)(fullest_, end_);
    starts_.push_back(at);
    used_ = 0;
    end_ = 0;
  }

  /// For pack(): all of it, or pieces as large as a chunk and a tail.
  void keep(const unit& u, bool cut) {
    if (!cut) {
      items_.push_back({.begin = u.begin, .end = u.end, .bytes = u.bytes});
      return;
    }
    const auto fit = static_cast<index_t>(capacity_ / u.element_size);
    for (index_t first = 0; first < u.elements;) {
      const index_t count = (std::min)(fit, u.elements - first);
      items_.push_back({u.begin, u.end, static_cast<std::size_t>(count) * u.element_size, first, count});
      first += count;
    }
  }

  std::size_t alignment_;
  std::size_t capacity_;
  bool cuts_oversized_;
  bool cuts_anywhere_;
  bool keep_;
  std::uint64_t group_ = 0;  // of unit_, which waits for more of its group
  unit unit_;
  vector<packed_item> items_;

  std::size_t used_ = 0;  // aligned bytes of the chunk in hand
  std::size_t end_ = 0;   // its last used byte
  std::size_t fullest_ = 0;
  std::size_t aligned_bytes_ = 0;
  vector<cut_point> starts_;

  std::size_t largest_ = 0;
  std::size_t largest_at_ = 0;
  bool largest_is_group_ = false;
  bool largest_is_element_ = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
