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
///                    at least as long as the rank's boxes. What follows them is padding and is never touched. By value
///                    a view only: a container would be gone before it is read
/// Optional. One of another type than this is no parameter_handle:
///   name(p)          std::string_view, or a reference to a string, which lasts as long as p; for messages. It need not
///                    be unique, but be equal on every rank: names are compared with the rest before any byte moves
///   identity(p)      std::uint64_t, 0: none, equal on every rank. Tied parameters share one and their memory, and
///                    become ONE piece, at the first's place
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
  template <class Q>
  static decltype(auto) name(Q& p) requires requires {
    p.name();
  }
  { return p.name(); }
  template <class Q>
  static decltype(auto) identity(Q& p) requires requires {
    p.identity();
  }
  { return p.identity(); }
  template <class Q>
  static decltype(auto) indivisible(Q& p) requires requires {
    p.indivisible();
  }
  { return p.indivisible(); }
  template <class Q>
  static decltype(auto) group(Q& p) requires requires {
    p.group();
  }
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

/// What is used after the call that gave it: a reference, or a view by value; never a value that owns.
template <class T>
concept lasts = std::is_lvalue_reference_v<T> || std::ranges::borrowed_range<T>;
template <class T>
concept shard_is_a_span_of_bytes = std::convertible_to<T, std::span<const std::byte>>;
template <class T>
concept shard_is_no_value_that_owns = lasts<T>;
template <class T>
concept name_is_a_string_view = std::convertible_to<T, std::string_view>;
template <class T>
concept name_is_no_value_that_owns = lasts<T> || std::is_pointer_v<T>;
template <class T>
concept whole_number =
    !std::is_floating_point_v<std::remove_cvref_t<T>> && !std::same_as<std::remove_cvref_t<T>, bool> && requires(T t) {
  static_cast<std::uint64_t>(t);
};
template <class T>
concept identity_is_an_integer = whole_number<T>;
template <class T>
concept group_is_an_integer = whole_number<T>;
template <class T>
concept indivisible_is_a_bool = std::convertible_to<T, bool> && !std::is_pointer_v<std::remove_cvref_t<T>> &&
                                !std::is_floating_point_v<std::remove_cvref_t<T>>;

/// The types of the optional traits, their defaults' where P has none.
template <class T>
struct result {
  using type = T;
};
template <class P>
constexpr auto name_result() {
  if constexpr (requires(P & p) { traits_of<P>::name(p); }) {
    return result<decltype(traits_of<P>::name(std::declval<P&>()))>{};
  } else {
    return result<std::string_view>{};
  }
}
template <class P>
constexpr auto identity_result() {
  if constexpr (requires(P & p) { traits_of<P>::identity(p); }) {
    return result<decltype(traits_of<P>::identity(std::declval<P&>()))>{};
  } else {
    return result<std::uint64_t>{};
  }
}
template <class P>
constexpr auto group_result() {
  if constexpr (requires(P & p) { traits_of<P>::group(p); }) {
    return result<decltype(traits_of<P>::group(std::declval<P&>()))>{};
  } else {
    return result<std::uint64_t>{};
  }
}
template <class P>
constexpr auto indivisible_result() {
  if constexpr (requires(P & p) { traits_of<P>::indivisible(p); }) {
    return result<decltype(traits_of<P>::indivisible(std::declval<P&>()))>{};
  } else {
    return result<bool>{};
  }
}
template <class P>
using name_t = typename decltype(name_result<P>())::type;
template <class P>
using identity_t = typename decltype(identity_result<P>())::type;
template <class P>
using group_t = typename decltype(group_result<P>())::type;
template <class P>
using indivisible_t = typename decltype(indivisible_result<P>())::type;
template <class P>
using shard_t = decltype(traits_of<P>::shard(std::declval<P&>()));

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
  { detail::traits_of<P>::shard(p) } -> detail::shard_is_a_span_of_bytes;
}
&&detail::shard_is_no_value_that_owns<detail::shard_t<P>>&& detail::name_is_a_string_view<detail::name_t<P>>&&
    detail::name_is_no_value_that_owns<detail::name_t<P>>&& detail::identity_is_an_integer<detail::identity_t<P>>&&
        detail::group_is_an_integer<detail::group_t<P>>&& detail::indivisible_is_a_bool<detail::indivisible_t<P>>;

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

/// A ready-made handle over a name, a layout and a shard of Byte, which is const where the shard is only read. It owns
/// neither name nor shard: both outlive it.
template <class Byte>
class basic_parameter_view {
 public:
  basic_parameter_view(std::string_view name, any_layout layout, std::size_t element_size, std::span<Byte> shard)
      : name_(name), layout_(std::move(layout)), element_size_(element_size), shard_(shard) {}

  std::string_view name() const { return name_; }
  const any_layout& layout() const { return layout_; }
  std::size_t element_size() const { return element_size_; }  ///< bytes
  std::span<Byte> shard() const { return shard_; }            ///< writable through a const view, like a span

 private:
  std::string_view name_;
  any_layout layout_;
  std::size_t element_size_;
  std::span<Byte> shard_;
};
/// That of a shard that may be written.
using parameter_view = basic_parameter_view<std::byte>;
/// That of a shard that is only read: for `read`.
using const_parameter_view = basic_parameter_view<const std::byte>;
static_assert(writable_parameter<parameter_view> && writable_parameter<const parameter_view>);
static_assert(parameter_handle<const_parameter_view> && !writable_parameter<const_parameter_view>);

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
