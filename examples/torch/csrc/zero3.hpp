// SPDX-License-Identifier: Apache-2.0
#pragma once  // zero3.hpp: DeepSpeed's ZeRO-3 parameters, read from Python objects in one call.

#include <torch/csrc/utils/pybind.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <unshard/error.hpp>
#include <vector>

#include "handles.hpp"

namespace unshard_torch {

/// Adds tensors[at], tensors[at + 1], ... as long as they are ZeRO-3 parameters; returns the index of the first that is
/// not. Each has a name and the number of a group. `status_of(name, process group)` is asked once for each process
/// group: it refuses those that have other ranks, and returns the status of a partitioned parameter. One loop, and no
/// Python code for each parameter: that takes half the time, on every rank.
inline std::size_t add_zero3(handle_list& list, const pybind11::list& names, const pybind11::list& tensors,
                             const pybind11::list& groups, std::size_t at, int ranks, bool writes,
                             const pybind11::function& status_of) {
  namespace py = pybind11;
  const auto interned = [](const char* s) { return py::reinterpret_steal<py::str>(PyUnicode_InternFromString(s)); };
  const py::str ds_tensor = interned("ds_tensor"), ds_shape = interned("ds_shape"), ds_status = interned("ds_status"),
                ds_process_group = interned("ds_process_group"), ds_quant_scale = interned("ds_quant_scale"),
                ds_secondary_tensor = interned("ds_secondary_tensor");
  py::object known_group, partitioned;
  std::vector<std::int64_t> shape;
  list.reserve(tensors.size());
  for (; at < tensors.size(); ++at) {
    const py::object p = tensors[at];
    const py::object shard = py::getattr(p, ds_tensor, py::handle());
    if (!shard) break;
    const auto name = names[at].cast<std::string>();
    const py::object group = p.attr(ds_process_group);
    if (!group.is(known_group)) {
      partitioned = status_of(name, group);
      known_group = group;
    }
    if (py::hasattr(shard, ds_quant_scale))
      throw unshard::bad_layout("parameter \"" + name + "\" is kept quantised; that is not supported");
    if (writes &&
        (!py::object(p.attr(ds_status)).is(partitioned) || !py::object(p.attr(ds_secondary_tensor)).is_none()))
      throw unshard::overlapping_scope("parameter \"" + name +
                                       "\" is gathered by DeepSpeed at the moment, or has a second copy (hpZ): a write "
                                       "to its shards would leave that one stale. Partition it first.");
    shape.clear();
    for (const py::handle extent : py::tuple(p.attr(ds_shape))) shape.push_back(extent.cast<std::int64_t>());
    list.add(zero3_parameter(name, shard.cast<at::Tensor>(), shape, ranks), reinterpret_cast<std::uintptr_t>(p.ptr()),
             groups[at].cast<std::uint64_t>());
  }
  return at;
}

}  // namespace unshard_torch
