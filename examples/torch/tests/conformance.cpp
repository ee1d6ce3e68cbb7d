// SPDX-License-Identifier: Apache-2.0
// The Python module _unshard_torch_conformance: unshard's own conformance kit, over torch's process groups.

#include <pybind11/functional.h>
#include <torch/csrc/utils/pybind.h>

#include <functional>
#include <string>
#include <unshard/testing/conformance.hpp>
#include <utility>
#include <vector>

#include "../csrc/process_group_communicator.hpp"

namespace py = pybind11;

namespace {

/// Findings of this rank, "check: what". `new_group` makes a group of all processes; each of them calls this.
std::vector<std::string> check_communicator(const std::function<c10::intrusive_ptr<c10d::ProcessGroup>()>& new_group,
                                            std::size_t staging, int patience_ms) {
  const auto make = [&] {
    struct limited : unshard_torch::process_group_communicator {
      limited(c10::intrusive_ptr<c10d::ProcessGroup> group, std::size_t bytes)
          : process_group_communicator(std::move(group)) {
        limit_staging(bytes);
      }
    };
    const py::gil_scoped_acquire python;
    return limited(new_group(), staging);
  };
  std::vector<std::string> out;
  const py::gil_scoped_release free;
  for (const unshard::finding& f : unshard::check_communicator(make, patience_ms))
    out.push_back(f.check + ": " + f.what);
  return out;
}

}  // namespace

PYBIND11_MODULE(_unshard_torch_conformance, m) {
  m.def("check_communicator", &check_communicator, py::arg("new_group"), py::arg("staging"), py::arg("patience_ms"));
}
