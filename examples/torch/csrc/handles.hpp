// SPDX-License-Identifier: Apache-2.0
#pragma once  // handles.hpp: how torch's sharded parameters plug in: DeepSpeed ZeRO-3, FSDP2 / DTensor, plain tensors.

#include <ATen/ATen.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unshard/error.hpp>
#include <unshard/layout.hpp>
#include <unshard/parameter.hpp>
#include <utility>
#include <vector>

namespace unshard_torch {

/// One parameter, as unshard sees it. It aliases the tensor of its shard, which it keeps alive; nothing is copied.
/// A model may mix all three kinds, so the layout is unshard::any_layout.
class torch_parameter {
 public:
  /// `part` is this rank's. It must be dense and in host memory: throws bad_layout. `one_run`: the part of a rank is
  /// consecutive elements of the value, and no other rank's.
  torch_parameter(std::string name, unshard::any_layout layout, at::Tensor part, bool one_run = false)
      : name_(std::move(name)), layout_(std::move(layout)), part_(std::move(part)), one_run_(one_run) {
    if (!part_.is_cpu())
      throw unshard::bad_layout("parameter \"" + name_ + "\": its shard is on " + part_.device().str() +
                                "; this plug-in moves host memory only.");
    if (!part_.is_contiguous())
      throw unshard::bad_layout("parameter \"" + name_ + "\": its shard is not contiguous, as dense as its layout.");
    dtype_ = part_.scalar_type();
    element_size_ = part_.element_size();
  }
  /// `identity` is shared by tied parameters, `group` by neighbours that stay together; 0: none.
  void set(std::uint64_t identity, std::uint64_t group) {
    identity_ = identity;
    group_ = group;
  }

  std::string_view name() const { return name_; }
  const unshard::any_layout& layout() const { return layout_; }
  at::ScalarType dtype() const { return dtype_; }
  std::size_t element_size() const { return element_size_; }
  std::span<std::byte> shard() const { return {static_cast<std::byte*>(part_.data_ptr()), part_.nbytes()}; }
  std::uint64_t identity() const { return identity_; }
  std::uint64_t group() const { return group_; }
  bool one_run() const { return one_run_; }

 private:
  std::string name_;
  unshard::any_layout layout_;
  at::Tensor part_;
  std::size_t element_size_;  // this and dtype_ are asked for often, and the tensor's are several cache lines away
  std::uint64_t identity_ = 0;
  std::uint64_t group_ = 0;
  at::ScalarType dtype_;
  bool one_run_;
};
static_assert(unshard::writable_parameter<torch_parameter>);

/// A tensor's extents.
inline unshard::extents extents_of(const std::vector<std::int64_t>& shape) {
  return unshard::extents(std::span<const unshard::index_t>(shape));
}

/// DeepSpeed ZeRO-3: `ds_tensor` holds this rank's ceil(n / ranks) elements of the flat value, the last ones padding;
/// `ds_shape` is the whole shape (that of the parameter itself is the placeholder's).
inline torch_parameter zero3_parameter(const std::string& name, const at::Tensor& ds_tensor,
                                       const std::vector<std::int64_t>& ds_shape, int ranks) {
  return {name, unshard::flat_shard{extents_of(ds_shape), ranks}, ds_tensor, true};
}

/// FSDP2, tensor parallelism, HSDP: a DTensor over a mesh. `cuts` lists, in the order in which they cut, the tensor
/// dimension, the size of the mesh dimension and its stride in ranks. Mesh dimensions that replicate are not listed;
/// ranks with equal coordinates in those listed hold the same.
inline torch_parameter dtensor_parameter(const std::string& name, const at::Tensor& local,
                                         const std::vector<std::int64_t>& shape,
                                         const std::vector<unshard::mesh_dim>& cuts, int ranks) {
  const unshard::extents whole = extents_of(shape);
  if (cuts.empty()) return {name, unshard::replicated{whole, ranks}, local};
  if (cuts.size() == 1 && cuts[0].size == ranks)
    return {name, unshard::dim_shard{whole, cuts[0].dim, ranks}, local, cuts[0].dim == 0};
  return {name, unshard::mesh_shard{whole, cuts, ranks}, local};
}

/// A tensor that every rank holds whole.
inline torch_parameter plain_parameter(const std::string& name, const at::Tensor& tensor, int ranks) {
  return {name, unshard::replicated{extents_of(tensor.sizes().vec()), ranks}, tensor};
}

/// The parameters of one range, in its order. Python fills it and never sees a single one: for tens of thousands of
/// small parameters, objects of their own would cost more than their bytes.
class handle_list {
 public:
  void reserve(std::size_t n) { list_->reserve(n); }
  void add(torch_parameter p, std::uint64_t identity, std::uint64_t group) {
    p.set(identity, group);
    list_->push_back(std::move(p));
  }
  const std::shared_ptr<std::vector<torch_parameter>>& shared() const { return list_; }

  /// Whether what two ranks move of a parameter is one contiguous region on both.
  bool moves_runs() const { return std::ranges::all_of(*list_, &torch_parameter::one_run); }

  /// The most bytes, aligned, that have to be in one chunk: of a group or, where nothing is cut, of a parameter. Tied
  /// ones may count twice.
  std::size_t largest(bool cuts, std::size_t alignment) const {
    std::size_t most = 0, together = 0;
    std::uint64_t group = 0;
    for (const torch_parameter& p : *list_) {
      const auto bytes = static_cast<std::size_t>(p.layout().shape().elements()) * p.element_size();
      if (p.group() == 0 && cuts) continue;
      if (p.group() == 0 || p.group() != group) together = 0;
      group = p.group();
      together += (bytes + alignment - 1) / alignment * alignment;
      most = std::max(most, together);
    }
    return most;
  }

 private:
  std::shared_ptr<std::vector<torch_parameter>> list_ = std::make_shared<std::vector<torch_parameter>>();
};

}  // namespace unshard_torch
