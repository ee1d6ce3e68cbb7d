// SPDX-License-Identifier: Apache-2.0
#pragma once  // base/sort.hpp: a sort and a bisection. Not std::sort: <algorithm> is a quarter of what the standard
              // headers cost.

#include <cstddef>
#include <utility>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Neighbouring runs [from, middle) and [middle, to) of `list`, each sorted, become one in `out`. Equal ones keep their
/// order.
template <class T, class Less>
void merge_runs(const T* list, std::size_t from, std::size_t middle, std::size_t to, T* out, Less less) {
  std::size_t a = from;
  std::size_t b = middle;
  std::size_t at = from;
  if (middle < to && less(list[to - 1], list[from])) {
    while (b < to) out[at++] = list[b++];
  } else if (middle < to && less(list[middle], list[middle - 1])) {
    while (a < middle && b < to) {  // no branch on what is random
      const bool second = less(list[b], list[a]);
      out[at++] = list[second ? b : a];
      b += second ? 1 : 0;
      a += second ? 0 : 1;
    }
  }
  while (a < middle) out[at++] = list[a++];
  while (b < to) out[at++] = list[b++];
}

/// Sorts; equal elements keep their order. Takes memory for a second list, unless the first is short.
template <class List, class Less>
void sort(List& list, Less less) {
  using value_type = typename List::value_type;
  constexpr std::size_t run = 8;  // elements that are sorted by insertion
  const std::size_t n = list.size();
  for (std::size_t from = 0; from < n; from += run) {
    const std::size_t to = n - from < run ? n : from + run;
    for (std::size_t i = from + 1; i < to; ++i) {
      if (!less(list[i], list[i - 1])) continue;
      const value_type value = list[i];
      std::size_t at = i;
      for (; at > from && less(value, list[at - 1]); --at) list[at] = list[at - 1];
      list[at] = value;
    }
  }
  if (n <= run) return;
  List other = list;
  for (std::size_t width = run; width < n; width *= 2) {
    for (std::size_t from = 0; from < n; from += 2 * width) {
      const std::size_t middle = n - from < width ? n : from + width;
      const std::size_t to = n - middle < width ? n : middle + width;
      merge_runs(list.data(), from, middle, to, other.data(), less);
    }
    list.swap(other);
  }
}

/// How many different values a list has; sorts it.
template <class List>
std::size_t distinct(List& list) {
  sort(list, [](const auto& a, const auto& b) { return a < b; });
  std::size_t found = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (i == 0 || list[i - 1] < list[i]) ++found;
  }
  return found;
}

/// The index of the first of `count` elements for which `below(i)` is false: those for which it is true come first.
template <class IsBelow>
std::size_t first_not(std::size_t count, IsBelow below) {
  std::size_t from = 0;
  while (count > 0) {
    const std::size_t half = count / 2;
    if (below(from + half)) {
      from += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return from;
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
