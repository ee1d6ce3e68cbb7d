// SPDX-License-Identifier: Apache-2.0
#pragma once  // hollow.hpp: tensors without memory, for parameters whose values are not here until someone uses them.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace unshard_torch {

/// A tensor in host memory, of this shape, whose storage has no bytes. Its shape, type and views are as any other's;
/// whoever asks for its bytes gets a RuntimeError that says `why`.
inline at::Tensor hollow(const std::vector<std::int64_t>& shape, at::ScalarType type, const std::string& why) {
  std::int64_t bytes = static_cast<std::int64_t>(c10::elementSize(type));
  for (const std::int64_t extent : shape) bytes *= extent;
  c10::Storage storage(c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(),
                                                             static_cast<std::size_t>(bytes),
                                                             at::DataPtr(nullptr, at::kCPU), nullptr, false));
  at::Tensor t = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), c10::scalarTypeToTypeMeta(type));
  t.unsafeGetTensorImpl()->set_sizes_contiguous(shape);
  if (bytes > 0) t.storage().unsafeGetStorageImpl()->release_data_and_set_meta_custom_data_ptr_error_msg_(why);
  return t;
}

/// Gives the storage of `empty`, and so every view of it, the bytes of `values`, which it keeps alive.
inline void lend(const at::Tensor& empty, const at::Tensor& values) {
  c10::StorageImpl* storage = empty.storage().unsafeGetStorageImpl();
  TORCH_CHECK(static_cast<std::size_t>(values.nbytes()) == storage->nbytes() && values.is_contiguous(),
              "unshard: the values of a parameter have ", values.nbytes(), " bytes, its shape ", storage->nbytes());
  auto* owner = new at::Tensor(values);
  storage->set_data_ptr_noswap(at::DataPtr(
      values.mutable_data_ptr(), owner, [](void* p) { delete static_cast<at::Tensor*>(p); }, at::kCPU));
  storage->clear_data_ptr_access_error_msg_();
}

/// From here on whoever uses the bytes gets a RuntimeError that says `why`.
inline void take_back(const at::Tensor& lent, const std::string& why) {
  lent.storage().unsafeGetStorageImpl()->release_data_and_set_meta_custom_data_ptr_error_msg_(why);
}

}  // namespace unshard_torch
