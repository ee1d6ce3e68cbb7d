// SPDX-License-Identifier: Apache-2.0
// The Python module _unshard_torch: communicator, handles, ranges of chunks. The face is in ../unshard.

#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <unshard/gather.hpp>
#include <unshard/memory.hpp>

#include "gathering.hpp"
#include "handles.hpp"
#include "hollow.hpp"
#include "process_group_communicator.hpp"
#include "zero3.hpp"

namespace py = pybind11;
using unshard_torch::gathering;
using unshard_torch::handle_list;
using unshard_torch::process_group_communicator;
using unshard_torch::torch_piece;

namespace {

std::shared_ptr<gathering> open_gathering(const handle_list& handles, std::shared_ptr<process_group_communicator> comm,
                                          const std::string& access, std::size_t budget, int root,
                                          const std::string& cut, int in_flight, int timeout_ms,
                                          std::size_t first_chunk, bool verify) {
  unshard::options options{.budget = budget};
  options.in_flight = in_flight;
  options.timeout_ms = timeout_ms;
  options.first_round = first_chunk;
  options.verify = verify;
  options.on = root < 0 ? unshard::every_rank : unshard::root(root);
  if (cut == "oversized") {
    options.cut = unshard::cut::oversized;
  } else if (cut == "anywhere") {
    options.cut = unshard::cut::anywhere;
  } else if (cut != "never") {
    throw py::value_error("cut is \"never\", \"oversized\" or \"anywhere\", not \"" + cut + "\"");
  }
  // Staging is part of the budget. Where the largest parameter or group does not fit beside it, it does beside the
  // least staging or none, or the error names what is needed. The same on every rank, and known before they talk to
  // each other.
  comm->limit_staging(std::min(budget / 16, 8 * unshard::MiB));
  const std::size_t largest = handles.largest(options.cut != unshard::cut::never, options.alignment);
  const auto fits = [&] {
    const std::size_t staging = comm->capabilities().staging;
    return staging <= budget && largest <= (budget - staging) / static_cast<std::size_t>(std::max(1, in_flight));
  };
  if (!fits()) comm->limit_staging(0);
  if (!fits() && handles.moves_runs()) comm->stage_nothing();
  const auto make = [&]<class Access>(Access a) -> std::shared_ptr<gathering> {
    py::gil_scoped_release free;  // it waits for peers
    return std::make_shared<unshard_torch::gathering_with<Access>>(handles.shared(), std::move(comm), a, options);
  };
  if (access == "read") return make(unshard::read);
  if (access == "read_write") return make(unshard::read_write);
  if (access == "overwrite") return make(unshard::overwrite);
  throw py::value_error("access is \"read\", \"read_write\" or \"overwrite\", not \"" + access + "\"");
}

/// Takes part in an opening for a rank that could not list its parameters: the others get peer_failed, and `why`.
void refuse(process_group_communicator& comm, const std::string& why, int timeout_ms) {
  struct refused {
    const std::string& why;
    unshard::flat_shard layout() const { throw unshard::bad_layout(why); }
    std::size_t element_size() const { return 1; }
    std::span<const std::byte> shard() const { return {}; }
  };
  const refused only[] = {{why}};
  try {
    unshard::chunks(only, comm, unshard::read, {.budget = unshard::MiB, .timeout_ms = timeout_ms});
  } catch (const unshard::error&) {  // the caller has an error of its own
  }
}

void register_errors(py::module_& m) {
  const auto base = py::register_exception<unshard::error>(m, "Error", PyExc_RuntimeError);
  const auto options = py::register_exception<unshard::bad_options>(m, "BadOptions", base);
  py::register_exception<unshard::budget_too_small>(m, "BudgetTooSmall", options);
  py::register_exception<unshard::size_overflow>(m, "SizeOverflow", base);
  py::register_exception<unshard::bad_layout>(m, "BadLayout", base);
  py::register_exception<unshard::bad_shard>(m, "BadShard", base);
  py::register_exception<unshard::plan_mismatch>(m, "PlanMismatch", base);
  py::register_exception<unshard::stale_plan>(m, "StalePlan", base);
  py::register_exception<unshard::peer_failed>(m, "PeerFailed", base);
  py::register_exception<unshard::peer_timeout>(m, "PeerTimeout", base);
  py::register_exception<unshard::batch_mismatch>(m, "BatchMismatch", base);
  py::register_exception<unshard::write_back_failed>(m, "WriteBackFailed", base);
  py::register_exception<unshard::device_failed>(m, "DeviceFailed", base);
  py::register_exception<unshard::overlapping_scope>(m, "OverlappingScope", base);
  py::register_exception<unshard::aliased_parameters>(m, "AliasedParameters", base);
  py::register_exception<unshard::replicas_differ>(m, "ReplicasDiffer", base);
  py::register_exception<unshard::unwritten_piece>(m, "UnwrittenPiece", base);
  py::register_exception<unshard::out_of_memory>(m, "OutOfMemory", base);
}

}  // namespace

PYBIND11_MODULE(_unshard_torch, m) {
  register_errors(m);

  py::class_<process_group_communicator, std::shared_ptr<process_group_communicator>>(m, "Communicator")
      .def(py::init<c10::intrusive_ptr<c10d::ProcessGroup>>())
      .def_property_readonly("size", &process_group_communicator::size)
      .def_property_readonly("staging", [](const process_group_communicator& c) { return c.capabilities().staging; });

  py::class_<handle_list>(m, "Handles", "Parameters as unshard sees them; nothing is copied.")
      .def(py::init<>())
      .def("zero3", &unshard_torch::add_zero3, py::arg("names"), py::arg("tensors"), py::arg("groups"), py::arg("at"),
           py::arg("ranks"), py::arg("writes"), py::arg("status_of"))
      .def(
          "dtensor",
          [](handle_list& self, const std::string& name, const at::Tensor& local,
             const std::vector<std::int64_t>& shape, const std::vector<std::tuple<int, int, int>>& cuts, int ranks,
             std::uint64_t identity, std::uint64_t group) {
            std::vector<unshard::mesh_dim> mesh;
            for (const auto& [dim, size, stride] : cuts) mesh.push_back({dim, size, stride});
            self.add(unshard_torch::dtensor_parameter(name, local, shape, mesh, ranks), identity, group);
          },
          py::arg("name"), py::arg("local"), py::arg("shape"), py::arg("cuts"), py::arg("ranks"),
          py::arg("identity") = 0, py::arg("group") = 0)
      .def(
          "plain",
          [](handle_list& self, const std::string& name, const at::Tensor& tensor, int ranks, std::uint64_t identity,
             std::uint64_t group) { self.add(unshard_torch::plain_parameter(name, tensor, ranks), identity, group); },
          py::arg("name"), py::arg("tensor"), py::arg("ranks"), py::arg("identity") = 0, py::arg("group") = 0);

  py::class_<torch_piece>(m, "Piece", "Some consecutive elements of one parameter, and a tensor over them.")
      .def_readonly("name", &torch_piece::name)
      .def_readonly("index", &torch_piece::index)
      .def_readonly("shape", &torch_piece::shape)
      .def_readonly("first", &torch_piece::first)
      .def_readonly("elements", &torch_piece::elements)
      .def_readonly("whole", &torch_piece::whole)
      .def_readonly("tensor", &torch_piece::tensor);

  py::class_<gathering, std::shared_ptr<gathering>>(m, "Gathering")
      .def("next", &gathering::next, py::call_guard<py::gil_scoped_release>())
      .def("close", &gathering::close, py::call_guard<py::gil_scoped_release>())
      .def("pieces", &gathering::pieces)
      .def_property_readonly("chunk", &gathering::chunk)
      .def_property_readonly("committed", &gathering::committed);
  m.def(
      "hollow",
      [](const at::Tensor& like, const std::vector<std::int64_t>& shape, const std::string& why) {
        return unshard_torch::hollow(shape, like.scalar_type(), why);
      },
      py::arg("like"), py::arg("shape"), py::arg("why"));
  m.def("lend", &unshard_torch::lend, py::arg("empty"), py::arg("values"));
  m.def("take_back", &unshard_torch::take_back, py::arg("lent"), py::arg("why"));
  m.def("refuse", &refuse, py::arg("comm"), py::arg("why"), py::arg("timeout_ms"),
        py::call_guard<py::gil_scoped_release>());
  m.def("open", &open_gathering, py::arg("handles"), py::arg("comm"), py::arg("access"), py::arg("budget"),
        py::arg("root"), py::arg("cut"), py::arg("in_flight"), py::arg("timeout_ms"), py::arg("first_chunk"),
        py::arg("verify"));
}
