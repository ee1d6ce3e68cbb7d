// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/mpi/region_hull.hpp: the addresses that regions may touch, to see that two lists are apart.

#include <algorithm>
#include <cstdint>
#include <unshard/communicator.hpp>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The addresses from the first byte of a region to its last.
struct region_hull {
  std::uintptr_t first = UINTPTR_MAX;
  std::uintptr_t last = 0;

  region_hull() = default;
  region_hull(const const_region& r) {  // NOLINT(google-explicit-constructor): one region's hull
    if (bytes_of(r) == 0) return;
    first = last = reinterpret_cast<std::uintptr_t>(r.base);
    for (int d = 0; d < r.size.dims(); ++d) {
      const auto reach = static_cast<std::uintptr_t>((r.size[d] - 1) * r.stride[d]);  // wraps right where negative
      (r.stride[d] < 0 ? first : last) += reach;
    }
  }
  region_hull(const region& r) : region_hull(const_region(r)) {}  // NOLINT(google-explicit-constructor)
  void add(const region_hull& other) {
    first = (std::min)(first, other.first);
    last = (std::max)(last, other.last);
  }
  bool meets(const region_hull& other) const { return first <= other.last && other.first <= last; }
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
