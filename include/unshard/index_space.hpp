// SPDX-License-Identifier: Apache-2.0
#pragma once  // index_space.hpp: extents, boxes and row-major order; the small containers that layouts return.

#include <atomic>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <unshard/base/checked.hpp>
#include <unshard/base/sort.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// Counts elements, and positions among them. Dimensions, ranks, owners and strides of ranks are `int`.
using index_t = std::int64_t;

/// The sizes of an index space, up to 8 of them, none negative; or a position in one. `extents{}` has no dimensions
/// and one element.
class extents {
 public:
  static constexpr int max_dims = 8;  ///< the most dimensions

  constexpr extents() = default;
  /// From a braced list of integers. Throws bad_layout (more than 8, a negative one), size_overflow (over 2^63 - 1).
  template <std::integral Integer>
  constexpr extents(std::initializer_list<Integer> list) {
    assign(list.begin(), list.size());
  }
  constexpr extents(std::initializer_list<index_t> list) { assign(list.begin(), list.size()); }
  /// From whatever is a `std::span<const index_t>`. Throws bad_layout.
  template <class R>
  requires(!std::same_as<R, extents> && std::convertible_to<const R&, std::span<const index_t>>) constexpr extents(
      const R& range) {  // NOLINT(google-explicit-constructor): the two are the same thing
    const std::span<const index_t> list = range;
    assign(list.data(), list.size());
  }

  constexpr int dims() const { return dims_; }  ///< how many dimensions
  constexpr index_t operator[](int d) const { return size_[d]; }
  constexpr index_t& operator[](int d) { return size_[d]; }

  /// The product; size_overflow over 2^63 - 1.
  constexpr index_t elements() const {
    index_t product = 1;
    for (int d = 0; d < dims_; ++d) {
      if (size_[d] == 0) return 0;
    }
    for (int d = 0; d < dims_; ++d) product = detail::checked_mul(product, size_[d]);
    return product;
  }

  friend constexpr bool operator==(const extents&, const extents&) = default;

 private:
  template <class Integer>
  constexpr void assign(const Integer* first, std::size_t count) {
    if (count > max_dims) throw bad_layout(detail::concat("extents: ", count, " dimensions; at most 8 are supported."));
    for (std::size_t d = 0; d < count; ++d) {
      if (std::cmp_less(first[d], 0)) throw bad_layout(detail::concat("extents: ", first[d], " is negative."));
      if (!std::in_range<index_t>(first[d]))
        throw size_overflow(detail::concat("extents: ", first[d], " exceeds 2^63 - 1"));
      size_[d] = static_cast<index_t>(first[d]);
    }
    dims_ = static_cast<int>(count);
  }

  index_t size_[max_dims] = {};
  int dims_ = 0;
};

/// A half-open region of an index space: from `offset` on, `size` long in each dimension.
struct box {
  extents offset;
  extents size;
  friend constexpr bool operator==(const box&, const box&) = default;
};

/// Blocks of one size at equal distances in each dimension of a space, and where a rank's shard has them: side by side
/// in an array, whose rows may be longer. What a layout's for_each_part shows where boxes alone would be many, or would
/// not say it.
struct shard_part {
  extents offset;      ///< of the first block, in the space
  extents block;       ///< the size of a block
  extents count;       ///< how many there are, in each dimension
  extents step;        ///< from the start of a block to that of the next
  extents array;       ///< of the shard's array that has them, in row-major order
  extents at;          ///< where in that array the first block starts
  index_t first = 0;   ///< elements of the shard before that array
  index_t number = 0;  ///< of that array in the shard
};

namespace detail {

/// "[3, 4]", for messages.
inline std::string to_text(const extents& e) {
  std::string out = "[";
  for (int d = 0; d < e.dims(); ++d) out += concat(d == 0 ? "" : ", ", e[d]);
  out += ']';
  return out;
}
inline std::string to_text(const box& b) { return concat("offset ", to_text(b.offset), " size ", to_text(b.size)); }

/// All of `shape`, as a box.
constexpr box whole(const extents& shape) {
  box b{shape, shape};
  for (int d = 0; d < shape.dims(); ++d) b.offset[d] = 0;
  return b;
}

constexpr std::uint64_t mix(std::uint64_t seed, const extents& e) {
  seed = mix(seed, e.dims());
  for (int d = 0; d < e.dims(); ++d) seed = mix(seed, e[d]);
  return seed;
}
constexpr std::uint64_t mix(std::uint64_t seed, const box& b) { return mix(mix(seed, b.offset), b.size); }

/// How many elements of `b` come before position `index` of the row-major order of `space`.
constexpr index_t elements_before(const box& b, const extents& space, index_t index) {
  index_t inside = 1;  // elements of b below the dimension at hand, then counted from the innermost outwards
  index_t before = 0;
  for (int d = space.dims() - 1; d >= 0; --d) {
    if (space[d] == 0 || b.size[d] == 0) return 0;
    const index_t at = index % space[d];
    index /= space[d];
    if (at < b.offset[d]) {
      before = 0;
    } else if (at >= b.offset[d] + b.size[d]) {
      before = b.size[d] * inside;
    } else {
      before += (at - b.offset[d]) * inside;
    }
    inside *= b.size[d];
  }
  if (index > 0) return inside;  // past the end of the space
  return before;
}

/// How many elements of `p` come before position `index` of the row-major order of `space`.
constexpr index_t elements_before(const shard_part& p, const extents& space, index_t index) {
  index_t inside = 1;
  index_t before = 0;
  for (int d = space.dims() - 1; d >= 0; --d) {
    const index_t length = p.block[d] * p.count[d];
    if (space[d] == 0 || length == 0) return 0;
    const index_t at = index % space[d] - p.offset[d];
    index /= space[d];
    const index_t block = at < 0 ? 0 : at / p.step[d];
    const index_t within = at - block * p.step[d];
    if (at < 0) {
      before = 0;
    } else if (block >= p.count[d]) {
      before = length * inside;
    } else if (within >= p.block[d]) {
      before = (block + 1) * p.block[d] * inside;
    } else {
      before += (block * p.block[d] + within) * inside;
    }
    inside *= length;
  }
  return index > 0 ? inside : before;
}

constexpr index_t elements_of(const shard_part& p) {
  index_t product = 1;
  for (int d = 0; d < p.block.dims(); ++d) product *= p.block[d] * p.count[d];
  return product;
}

/// Where box `b` starts in the row-major order of `space` if it is one interval of it; else -1.
constexpr index_t interval_start(const box& b, const extents& space) {
  index_t start = 0;
  index_t inside = 1;
  bool cut = false;  // the box is less than whole in a dimension further in
  for (int d = space.dims() - 1; d >= 0; --d) {
    if (cut && b.size[d] != 1) return -1;
    cut = cut || b.size[d] != space[d];
    start += b.offset[d] * inside;
    inside *= space[d];
  }
  return start;
}

template <class T>
bool equal(const T* a, const T* b, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (!(a[i] == b[i])) return false;
  }
  return true;
}

/// Values that the copies of a layout share; never changed once made. One block, its head before the values.
template <class T>
class shared_table {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  shared_table() = default;
  shared_table(const T* values, std::size_t count) {
    static_assert(alignof(T) <= alignof(head));
    head_ = new (::operator new(sizeof(head) + count * sizeof(T))) head{{1}, count};
    T* to = reinterpret_cast<T*>(head_ + 1);
    for (std::size_t i = 0; i < count; ++i) new (static_cast<void*>(to + i)) T(values[i]);
  }
  shared_table(const shared_table& other) noexcept : head_(other.head_) {
    if (head_ != nullptr) head_->uses.fetch_add(1, std::memory_order_relaxed);
  }
  shared_table(shared_table&& other) noexcept : head_(std::exchange(other.head_, nullptr)) {}
  shared_table& operator=(shared_table other) noexcept {
    std::swap(head_, other.head_);
    return *this;
  }
  ~shared_table() {
    if (head_ != nullptr && head_->uses.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      head_->~head();
      ::operator delete(head_);
    }
  }

  std::size_t size() const { return head_ == nullptr ? 0 : head_->count; }
  const T* begin() const { return head_ == nullptr ? nullptr : reinterpret_cast<const T*>(head_ + 1); }
  const T* end() const { return begin() + size(); }
  template <std::integral Integer>
  const T& operator[](Integer i) const {
    return begin()[i];
  }
  friend bool operator==(const shared_table& a, const shared_table& b) {
    return a.head_ == b.head_ || (a.size() == b.size() && equal(a.begin(), b.begin(), a.size()));
  }

 private:
  struct head {
    std::atomic<std::size_t> uses;
    std::size_t count;
  };
  head* head_ = nullptr;
};

inline void check_ranks(std::string_view who, int ranks) {
  if (ranks < 1) throw bad_layout(concat(who, ": ", ranks, " ranks; at least 1 is needed."));
}

}  // namespace detail

/// What the ready-made layouts' boxes_of returns: no box, one, a view of some that the layout keeps, or some of its
/// own.
class box_list {
 public:
  box_list() = default;
  explicit box_list(const box& one) : one_(one), count_(1) {}
  explicit box_list(std::span<const box> kept) : kept_(kept.data()), count_(kept.size()) {}
  box_list(const box* kept, std::size_t count) : kept_(kept), count_(count) {}
  explicit box_list(detail::shared_table<box> own) : own_(std::move(own)), kept_(own_.begin()), count_(own_.size()) {}
  const box* begin() const { return kept_ != nullptr ? kept_ : &one_; }
  const box* end() const { return begin() + count_; }
  std::size_t size() const { return count_; }

 private:
  box one_;
  detail::shared_table<box> own_;
  const box* kept_ = nullptr;
  std::size_t count_ = 0;
};

/// Some ranks, in rising order: what ranks_of and replicas_of return. Either `count` of them from `first` on, one
/// every `step`, or a list.
class rank_list {
 public:
  rank_list() = default;
  rank_list(int first, int count, int step = 1) : first_(first), count_(count < 0 ? 0 : count), step_(step) {}
  explicit rank_list(std::vector<int> list)
      : list_(std::move(list)), count_(static_cast<int>(list_.size())), listed_(true) {}

  int size() const { return count_; }
  bool empty() const { return count_ == 0; }
  int operator[](int i) const { return listed_ ? list_[static_cast<std::size_t>(i)] : first_ + i * step_; }

  /// Whether it is one of them.
  bool contains(int rank) const {
    if (listed_) {
      const std::size_t at = detail::first_not(list_.size(), [&](std::size_t i) { return list_[i] < rank; });
      return at < list_.size() && list_[at] == rank;
    }
    return rank >= first_ && (rank - first_) % step_ == 0 && (rank - first_) / step_ < count_;
  }

  class iterator {
   public:
    using value_type = int;
    using difference_type = int;
    iterator() = default;
    iterator(const rank_list* list, int at) : list_(list), at_(at) {}
    int operator*() const { return (*list_)[at_]; }
    iterator& operator++() { return ++at_, *this; }
    iterator operator++(int) { return {list_, at_++}; }
    friend bool operator==(const iterator&, const iterator&) = default;

   private:
    const rank_list* list_ = nullptr;
    int at_ = 0;
  };
  iterator begin() const { return {this, 0}; }
  iterator end() const { return {this, count_}; }

 private:
  std::vector<int> list_;
  int first_ = 0;
  int count_ = 0;
  int step_ = 1;
  bool listed_ = false;
};

}  // namespace v0
}  // namespace unshard
