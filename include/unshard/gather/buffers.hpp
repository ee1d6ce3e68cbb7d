// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/buffers.hpp: the memory of one range: a slot for each chunk in flight, obtained once.

#include <cstddef>
#include <unshard/base/sanitizers.hpp>
#include <unshard/memory.hpp>
#include <utility>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Owns one allocation. Slot s has its chunk and, for engines without regions, its staging.
template <memory_resource M>
class slot_buffers {
 public:
  explicit slot_buffers(M& memory) : memory_(memory) {}
  slot_buffers(const slot_buffers&) = delete;
  slot_buffers& operator=(const slot_buffers&) = delete;
  ~slot_buffers() { release(); }

  /// Bytes of one slot, multiples of the alignment. Throws what the resource throws.
  void obtain(std::size_t slot_count, std::size_t chunk, std::size_t staging, std::size_t alignment) {
    chunk_ = chunk;
    staging_ = staging;
    alignment_ = alignment;
    const std::size_t bytes = slot_count * (chunk + staging);
    if (bytes == 0) return;
    base_ = static_cast<std::byte*>(memory_.allocate(bytes, alignment));
    bytes_ = bytes;
  }
  void release() noexcept {
    if (base_ == nullptr) return;
    if constexpr (is_host_memory<M>) unpoison(base_, bytes_);
    memory_.deallocate(std::exchange(base_, nullptr), std::exchange(bytes_, 0), alignment_);
  }
  /// Leaves the memory allocated for good: an engine may still write to it.
  void abandon() noexcept {
    base_ = nullptr;
    bytes_ = 0;
  }

  std::size_t bytes() const { return bytes_; }
  std::byte* chunk(std::size_t slot) const { return base_ == nullptr ? nullptr : base_ + slot * (chunk_ + staging_); }
  std::byte* staging(std::size_t slot) const { return base_ == nullptr ? nullptr : chunk(slot) + chunk_; }

  // The address sanitizer's view of a slot: closed from the end of a chunk's scope until the slot is used again.
  void close(std::size_t slot) const {
    if constexpr (is_host_memory<M>) {
      if (base_ != nullptr) poison(chunk(slot), chunk_);
    }
  }
  void reopen(std::size_t slot) const {
    if constexpr (is_host_memory<M>) {
      if (base_ != nullptr) unpoison(chunk(slot), chunk_);
    }
  }

 private:
  M& memory_;
  std::byte* base_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t chunk_ = 0;
  std::size_t staging_ = 0;
  std::size_t alignment_ = 1;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
