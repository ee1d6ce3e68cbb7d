// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/mpi/runs.hpp: regions as an MPI type will describe them: runs of bytes, repeated at strides.

#include <cstddef>
#include <span>
#include <unshard/communicator.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// A region without the dimensions that add nothing: `run` bytes, repeated by `levels`, the innermost first.
struct mpi_runs {
  struct level {
    index_t count, stride;
  };
  const std::byte* base;
  index_t run;
  int dims = 0;
  level levels[extents::max_dims] = {};

  explicit mpi_runs(const const_region& r) : base(r.base) {
    const int inner = r.size.dims() - 1;
    run = inner < 0 ? 1 : r.size[inner];
    for (int d = inner - 1; d >= 0; --d) {
      if (r.size[d] == 1) continue;
      level* top = dims == 0 ? nullptr : &levels[dims - 1];
      if (top == nullptr && r.stride[d] == run) {
        run *= r.size[d];
      } else if (top != nullptr && r.stride[d] == top->count * top->stride) {
        top->count *= r.size[d];
      } else {
        levels[dims++] = {r.size[d], r.stride[d]};
      }
    }
  }
};

/// The runs of a transfer's regions, in their order; neighbours in memory are one run, empty regions none.
inline std::vector<mpi_runs> runs_of(std::span<const const_region> list) {
  std::vector<mpi_runs> parts;
  parts.reserve(list.size());
  for (const const_region& r : list) {
    if (bytes_of(r) == 0) continue;
    const mpi_runs next(r);
    if (next.dims == 0 && !parts.empty() && parts.back().dims == 0 &&
        parts.back().base + parts.back().run == next.base) {
      parts.back().run += next.run;
    } else {
      parts.push_back(next);
    }
  }
  return parts;
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
