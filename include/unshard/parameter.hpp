// SPDX-License-Identifier: Apache-2.0
#pragma once  // parameter.hpp: how a framework's own tensor plugs in.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string_view>
#include <type_traits>
#include <unshard/layout.hpp>
#include <utility>

namespace unshard {
inline namespace v0 {

/// The one customisation point: specialise it for a tensor type, or give that type members of these names.
/// Required:
///   layout(p)        a shard_layout, by value or const&; asked for once per parameter and pass
///   element_size(p)  bytes of what is never split: a number, or a block of a quantised format; any size >= 1
///   shard(p)         this rank's bytes, std::span<const std::byte>, or std::span<std::byte> where it may be written;
///                    at least as long as the rank's boxes. What follows them is padding and is never touched.
/// Optional:
///   name(p)          std::string_view, for messages; need not be unique
///   identity(p)      std::uint64_t, 0: none. Tied parameters share one and become ONE piece, at the first's place
///   indivisible(p)   bool: never cut this one over chunks
///   group(p)         std::uint64_t, 0: none. Neighbours with an equal group stay in one chunk
///   cost(p)          std::uint64_t: how much work its holder has, in any unit, for spread; without it, its bytes
///   after_write(p)   called once per handle on every rank after its last piece was committed. A throw there is this
///                    rank's failure; the chunk stays committed
template <class P>
struct parameter_traits {
  static decltype(auto) layout(const P& p) requires requires { p.layout(); }
  { return p.layout(); }
  static decltype(auto) element_size(const P& p) requires requires { p.element_size(); }
  { return p.element_size(); }
  static decltype(auto) shard(P& p) requires requires { p.shard(); }
  { return p.shard(); }
  static decltype(auto) shard(const P& p) requires requires { p.shard(); }
  { return p.shard(); }
  static decltype(auto) name(const P& p) requires requires { p.name(); }
  { return p.name(); }
  static decltype(auto) identity(const P& p) requires requires { p.identity(); }
  { return p.identity(); }
  static decltype(auto) indivisible(const P& p) requires requires { p.indivisible(); }
  { return p.indivisible(); }
  static decltype(auto) group(const P& p) requires requires { p.group(); }
  { return p.group(); }
  static decltype(auto) cost(const P& p) requires requires { p.cost(); }
  { return p.cost(); }
  static decltype(auto) after_write(P& p) requires requires { p.after_write(); }
  { return p.after_write(); }
  static decltype(auto) after_write(const P& p) requires requires { p.after_write(); }
  { return p.after_write(); }
};

namespace detail {

/// The traits of P, which may be const: of the type itself.
template <class P>
using traits_of = parameter_traits<std::remove_cv_t<P>>;

template <class L>
concept layout_or_reference = shard_layout<std::remove_cvref_t<L>>;

}  // namespace detail

/// A sharded parameter that can be read: parameter_traits<P> has layout, element_size and shard. P may be const.
/// Not checkable here: equal answers on every rank for layout and element_size, and in every pass.
///   struct tensor {
///     unshard::flat_shard layout() const;
///     std::size_t element_size() const;
///     std::span<const std::byte> shard() const;
///   };
template <class P>
concept parameter_handle = requires(P& p) {
  { detail::traits_of<P>::layout(p) } -> detail::layout_or_reference;
  { detail::traits_of<P>::element_size(p) } -> std::convertible_to<std::size_t>;
  { detail::traits_of<P>::shard(p) } -> std::convertible_to<std::span<const std::byte>>;
};

/// One whose shard may be written: read_write and overwrite ask for it.
template <class P>
concept writable_parameter = parameter_handle<P> && requires(P& p) {
  { detail::traits_of<P>::shard(p) } -> std::convertible_to<std::span<std::byte>>;
};

/// Any forward range of handles; its order is the same on every rank (that of a list made from a hash set is not).
template <class R>
concept parameter_range =
    std::ranges::forward_range<R> && parameter_handle<std::remove_reference_t<std::ranges::range_reference_t<R>>>;

/// One of writable handles.
template <class R>
concept writable_range =
    parameter_range<R> && writable_parameter<std::remove_reference_t<std::ranges::range_reference_t<R>>>;

/// A ready-made handle over a name, a layout and a shard. It owns neither name nor shard: both outlive it.
class parameter_view {
 public:
  parameter_view(std::string_view name, any_layout layout, std::size_t element_size, std::span<std::byte> shard)
      : name_(name), layout_(std::move(layout)), element_size_(element_size), shard_(shard) {}

  std::string_view name() const { return name_; }
  const any_layout& layout() const { return layout_; }
  std::size_t element_size() const { return element_size_; }  ///< bytes
  std::span<std::byte> shard() const { return shard_; }       ///< writable through a const view, like a span

 private:
  std::string_view name_;
  any_layout layout_;
  std::size_t element_size_;
  std::span<std::byte> shard_;
};
static_assert(writable_parameter<parameter_view> && writable_parameter<const parameter_view>);

namespace detail {

// The optional traits, with their defaults.

template <class P>
std::string_view name_of(P& p) {
  if constexpr (requires { traits_of<P>::name(p); }) {
    return traits_of<P>::name(p);
  } else {
    return {};
  }
}
template <class P>
std::uint64_t identity_of(P& p) {
  if constexpr (requires { traits_of<P>::identity(p); }) {
    return static_cast<std::uint64_t>(traits_of<P>::identity(p));
  } else {
    return 0;
  }
}
template <class P>
bool indivisible_of(P& p) {
  if constexpr (requires { traits_of<P>::indivisible(p); }) {
    return static_cast<bool>(traits_of<P>::indivisible(p));
  } else {
    return false;
  }
}
template <class P>
std::uint64_t group_of(P& p) {
  if constexpr (requires { traits_of<P>::group(p); }) {
    return static_cast<std::uint64_t>(traits_of<P>::group(p));
  } else {
    return 0;
  }
}

template <class P>
concept has_cost = requires(P& p) {
  traits_of<P>::cost(p);
};
/// `bytes` are the value's.
template <class P>
std::uint64_t cost_of(P& p, std::size_t bytes) {
  if constexpr (has_cost<P>) {
    using found = std::remove_cvref_t<decltype(traits_of<P>::cost(p))>;
    static_assert(std::integral<found> && !std::same_as<found, bool>, "cost(p) is to be an integer: std::uint64_t");
    return static_cast<std::uint64_t>(traits_of<P>::cost(p));
  } else {
    return bytes;
  }
}

}  // namespace detail

}  // namespace v0
}  // namespace unshard
