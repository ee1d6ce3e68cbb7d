// SPDX-License-Identifier: Apache-2.0
#pragma once  // plan/handles.hpp: what a plan asks of a list of handles.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <unshard/parameter.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// What a plan needs to know of a parameter.
struct parameter_size {
  index_t elements;
  std::size_t element_size;  // bytes
};

template <class P>
parameter_size size_of(P& p) {
  return {extents(traits_of<P>::layout(p).shape()).elements(), static_cast<std::size_t>(traits_of<P>::element_size(p))};
}

/// What else shapes a plan, folded into its digest: nothing where p has neither group nor indivisible.
template <class P>
std::uint64_t with_bounds(std::uint64_t digest, P& p) {
  if (const std::uint64_t group = detail::group_of<P>(p); group != 0) digest = mix(mix(digest, 0x960b), group);
  return detail::indivisible_of<P>(p) ? mix(digest, 0x1d17) : digest;
}

/// Asks for the memory of handles that come soon, where they lie in one array: on its own, the processor stops at the
/// end of every page. A third of the time of a plan of a million (bench_plan).
template <class R, class P>
void expect_more(const P& handle) {
#if defined(__GNUC__)
  if constexpr (std::ranges::contiguous_range<R>) {
    constexpr std::size_t ahead = 1024;  // bytes: from 512 to 2048 does as well
    constexpr std::size_t line = 64;
    const auto address = reinterpret_cast<std::uintptr_t>(std::addressof(handle)) + ahead;
    for (std::size_t at = 0; at < sizeof(P); at += line)
      __builtin_prefetch(reinterpret_cast<const void*>(address + at));  // NOLINT(performance-no-int-to-ptr): a hint
  }
#endif
}

template <class P>
using layout_of = std::remove_cvref_t<decltype(traits_of<P>::layout(std::declval<P&>()))>;

/// The handle type of a range; const where the range gives const handles.
template <class R>
using handle_of = std::remove_reference_t<std::ranges::range_reference_t<R>>;

}  // namespace detail

}  // namespace v0
}  // namespace unshard
