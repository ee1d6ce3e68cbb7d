// SPDX-License-Identifier: Apache-2.0
#pragma once  // layout/known.hpp: the layouts of one range, what they leave out made up once for equal ones.

#include <concepts>
#include <unshard/layout/any.hpp>
#include <unshard/layout/derived.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Gives each layout with all optional functions: itself, where it has them. Of those that leave something out up to 64
/// different ones are kept, until the range ends. What it returns holds until the next call.
template <class L>
class known_layouts {
  static constexpr std::size_t most = 64;

 public:
  decltype(auto) operator()(const L& l) {
    if constexpr (std::same_as<L, any_layout>) {
      return l.tells_all() ? l : of_any(l);
    } else if constexpr (tells_all<L> || !std::copy_constructible<L>) {
      return (l);
    } else {
      return static_cast<const derived_layout<L>&>(derived(l));
    }
  }

 private:
  const L& of_any(const L& l) {
    for (std::size_t i = known_.size(); i-- > 0;) {
      if (known_[i].first == l) return known_[i].second;
    }
    if (known_.size() == most) known_.clear();
    return known_.emplace_back(l, l.derived()).second;
  }
  const auto& derived(const L& l) {
    for (std::size_t i = known_.size(); i-- > 0;) {
      if (known_[i].layout() == l) return known_[i];
    }
    if (known_.size() == most) known_.clear();
    return known_.emplace_back(l);
  }

  template <class T>
  struct kept {
    using type = derived_layout<T>;
  };
  template <std::same_as<any_layout> T>
  struct kept<T> {
    using type = std::pair<T, T>;
  };
  std::vector<typename kept<L>::type> known_;
};

/// Those that can't be copied, or tell all, are not kept.
template <class L>
requires(!std::same_as<L, any_layout> && (tells_all<L> || !std::copy_constructible<L>)) class known_layouts<L> {
 public:
  const L& operator()(const L& l) { return l; }
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
