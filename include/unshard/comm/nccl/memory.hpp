// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/nccl/memory.hpp: chunk buffers that NCCL itself allocates and knows.

#include <cstddef>
#include <cstdint>
#include <unshard/comm/nccl/cuda_handles.hpp>
#include <unshard/error.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {

/// Whether nccl_memory makes its buffers known to NCCL, which may then move bytes without copies of its own. NCCL's
/// guide to buffer registration leaves a call undefined of which some buffers are registered and some are not, on any
/// rank, at its source or its destination. So all shards must be registered, too, on every rank and in the same way:
/// allocate them from such an nccl_memory, or register them yourself.
enum class registration {
  none,     ///< not registered: right with any shards
  buffers,  ///< by ncclCommRegister
  windows,  ///< as symmetric windows, NCCL 2.27 (before that as buffers). Collective: every rank allocates as often and
            ///< as much, which takes every_rank and equal budgets
};

/// Device memory from ncclMemAlloc, registered with the communicator, if asked, for as long as it is out. Deallocation
/// waits for the caller's stream. Use it with ranges over that communicator only, an nccl_communicator, which outlives
/// it.
template <class Communicator>
class nccl_memory {
 public:
  static constexpr bool host = false;

  explicit nccl_memory(Communicator& comm, registration how = registration::none) : comm_(&comm), how_(how) {}

  void* allocate(std::size_t bytes, std::size_t alignment) {
    comm_->usable();
    const detail::device_guard guard(comm_->device());
    blocks_.reserve(blocks_.size() + 1);
    void* p = comm_->handle().allocate(bytes);
    if (p == nullptr)
      throw out_of_memory(detail::concat("nccl_memory: no ", detail::in_bytes(bytes, " bytes"), ". Lower .budget."),
                          bytes);
    try {
      if (reinterpret_cast<std::uintptr_t>(p) % alignment != 0)
        throw bad_options(detail::concat("nccl_memory: NCCL does not align to ", alignment, ". Lower .alignment."));
      if (how_ != registration::none)
        blocks_.push_back({p, comm_->handle().enroll(p, bytes, how_ == registration::windows, comm_->timeout_ms())});
    } catch (...) {
      comm_->handle().deallocate(p);
      throw;
    }
    return p;
  }

  void deallocate(void* p, std::size_t, std::size_t) noexcept {
    const detail::outside_capture calls;
    static_cast<void>(cudaStreamSynchronize(comm_->stream()));
    for (block& b : blocks_) {
      if (b.at != p) continue;
      comm_->handle().dismiss(b.enrolled, how_ == registration::windows);
      b = blocks_.back();
      blocks_.pop_back();
      break;
    }
    comm_->handle().deallocate(p);
  }

 private:
  struct block {
    void* at;
    void* enrolled;
  };
  Communicator* comm_;
  registration how_;
  std::vector<block> blocks_;
};

}  // namespace v0
}  // namespace unshard
