// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/handles.hpp: the caller's range of handles, kept and asked by index.

#include <cstddef>
#include <iterator>
#include <type_traits>
#include <unshard/parameter.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// An lvalue range that is no view is kept by address; anything else is moved in.
template <class R>
class kept_range {
  static constexpr bool by_address = std::is_lvalue_reference_v<R> && !std::ranges::view<std::remove_cvref_t<R>>;
  using range = std::remove_reference_t<R>;

 public:
  explicit kept_range(R&& r) : kept_(make(static_cast<R&&>(r))) {}
  auto& get() {
    if constexpr (by_address) {
      return *kept_;
    } else {
      return kept_;
    }
  }

 private:
  static auto make(R&& r) {
    if constexpr (by_address) {
      return &r;
    } else {
      return std::remove_cv_t<range>(static_cast<R&&>(r));
    }
  }
  std::conditional_t<by_address, range*, std::remove_cv_t<range>> kept_;
};

/// Handles by index. A range without random access has its iterators remembered, once.
template <class R>
class handle_list {
  using range = std::remove_reference_t<decltype(std::declval<kept_range<R>&>().get())>;
  static constexpr bool jumps = std::ranges::random_access_range<range>;

 public:
  using handle = std::remove_reference_t<std::ranges::range_reference_t<range>>;

  explicit handle_list(R&& r) : kept_(static_cast<R&&>(r)) {}
  handle_list(const handle_list&) = delete;
  handle_list& operator=(const handle_list&) = delete;

  range& get() { return kept_.get(); }
  /// To be called before `size` and `[]`.
  void index() {
    if constexpr (jumps) {
      size_ = static_cast<std::size_t>(std::ranges::distance(get()));
    } else {
      at_.clear();
      for (auto it = std::ranges::begin(get()); it != std::ranges::end(get()); ++it) at_.push_back(it);
      size_ = at_.size();
    }
  }
  std::size_t size() const { return size_; }
  decltype(auto) operator[](std::size_t i) {
    if constexpr (jumps) {
      return std::ranges::begin(get())[static_cast<std::ranges::range_difference_t<range>>(i)];
    } else {
      return *at_[i];
    }
  }

 private:
  struct none {};
  kept_range<R> kept_;
  std::conditional_t<jumps, none, std::vector<std::ranges::iterator_t<range>>> at_;
  std::size_t size_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
