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

/// One parameter, as unshard sees it. It aliases the storage of `shard`, which it keeps alive; nothing is copied.
/// A model may mix all three kinds, so the layout is unshard::any_layout.
struct torch_parameter {
  std::string its_name;
  unshard::any_layout its_layout;
  at::Tensor local;  ///< this rank's part, contiguous
  std::uint64_t its_identity = 0;
  std::uint64_t its_group = 0;

  at::ScalarType dtype() const { return local.scalar_type(); }
};

/// A tensor's extents.
inline unshard::extents extents_of(const std::vector<std::int64_t>& shape) {
  return unshard::extents(std::span<const unshard::index_t>(shape));
}

/// The parts of a tensor are aliased, so they must be dense and in host memory. Throws bad_layout.
inline at::Tensor dense(const std::string& name, const at::Tensor& local) {
  if (!local.is_cpu())
    throw unshard::bad_layout("parameter \"" + name + "\": its shard is on " + local.device().str() +
                              "; this plug-in moves host memory only.");
  if (!local.is_contiguous())
    throw unshard::bad_layout("parameter \"" + name + "\": its shard is not contiguous, as dense as its layout.");
  return local;
}

/// DeepSpeed ZeRO-3: `ds_tensor` holds this rank's ceil(n / ranks) elements of the flat value, the last ones padding;
/// `ds_shape` is the whole shape (that of the parameter itself is the placeholder's).
inline torch_parameter zero3_parameter(const std::string& name, const at::Tensor& ds_tensor,
                                       const std::vector<std::int64_t>& ds_shape, int ranks) {
  return {name, unshard::flat_shard{extents_of(ds_shape), ranks}, dense(name, ds_tensor)};
}

/// FSDP2, tensor parallelism, HSDP: a DTensor over a mesh. `cuts` lists, in the order in which they cut, the tensor
/// dimension, the size of the mesh dimension and its stride in ranks. Mesh dimensions that replicate are not listed;
/// ranks with equal coordinates in those listed hold the same.
inline torch_parameter dtensor_parameter(const std::string& name, const at::Tensor& local,
                                         const std::vector<std::int64_t>& shape,
                                         const std::vector<unshard::mesh_dim>& cuts, int ranks) {
  const unshard::extents whole = extents_of(shape);
  const auto layout = [&]() -> unshard::any_layout {
    if (cuts.empty()) return unshard::replicated{whole, ranks};
    if (cuts.size() == 1 && cuts[0].size == ranks) return unshard::dim_shard{whole, cuts[0].dim, ranks};
    return unshard::mesh_shard{whole, cuts, ranks};
  };
  return {name, layout(), dense(name, local)};
}

/// A tensor that every rank holds whole.
inline torch_parameter plain_parameter(const std::string& name, const at::Tensor& tensor, int ranks) {
  return {name, unshard::replicated{extents_of(tensor.sizes().vec()), ranks}, dense(name, tensor)};
}

/// The parameters of one range, in its order. Python fills it and never sees a single one: for tens of thousands of
/// small parameters, objects of their own would cost more than their bytes.
class handle_list {
 public:
  void reserve(std::size_t n) { list_->reserve(n); }
  /// `identity` is shared by tied parameters, `group` by neighbours that stay together; 0: none.
  void add(torch_parameter p, std::uint64_t identity, std::uint64_t group) {
    p.its_identity = identity;
    p.its_group = group;
    list_->push_back(std::move(p));
  }
  const std::shared_ptr<std::vector<torch_parameter>>& shared() const { return list_; }

  /// The most bytes, aligned, that have to be in one chunk: of a group or, where nothing is cut, of a parameter. Tied
  /// ones may count twice.
  std::size_t largest(bool cuts, std::size_t alignment) const {
    std::size_t most = 0, together = 0;
    std::uint64_t group = 0;
    for (const torch_parameter& p : *list_) {
      const auto bytes = static_cast<std::size_t>(p.its_layout.shape().elements()) * p.local.element_size();
      if (p.its_group == 0 && cuts) continue;
      if (p.its_group == 0 || p.its_group != group) together = 0;
      group = p.its_group;
      together += (bytes + alignment - 1) / alignment * alignment;
      most = std::max(most, together);
    }
    return most;
  }

 private:
  std::shared_ptr<std::vector<torch_parameter>> list_ = std::make_shared<std::vector<torch_parameter>>();
};

}  // namespace unshard_torch

template <>
struct unshard::parameter_traits<unshard_torch::torch_parameter> {
  using parameter = unshard_torch::torch_parameter;
  static const any_layout& layout(const parameter& p) { return p.its_layout; }
  static std::size_t element_size(const parameter& p) { return p.local.element_size(); }
  static std::span<std::byte> shard(const parameter& p) {
    return {static_cast<std::byte*>(p.local.data_ptr()), p.local.nbytes()};
  }
  static std::string_view name(const parameter& p) { return p.its_name; }
  static std::uint64_t identity(const parameter& p) { return p.its_identity; }
  static std::uint64_t group(const parameter& p) { return p.its_group; }
};

static_assert(unshard::writable_parameter<unshard_torch::torch_parameter>);
