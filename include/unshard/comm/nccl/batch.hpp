// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/nccl/batch.hpp: a batch as a record of what its NCCL group will hold.

#include <cstddef>
#include <span>
#include <unshard/comm/nccl/cuda_handles.hpp>
#include <unshard/comm/nccl/paired_regions.hpp>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// One call within the group.
struct nccl_operation {
  enum { send, recv, all_gather, broadcast, gather, scatter } kind;
  const std::byte* from;
  std::byte* to;
  std::size_t bytes;
  int peer;  // or root
};

/// Operations in the order in which they were added; copies as pairs of regions. Its vectors are used again.
class nccl_batch {
 public:
  /// `rooted`: the library has ncclGather and ncclScatter. `pageable`: the copier takes memory that is not pinned.
  void reset(int rank, int ranks, bool rooted, bool pageable) {
    rank_ = rank;
    ranks_ = ranks;
    rooted_ = rooted;
    pageable_ = pageable;
    host_ = false;
    messages_ = 0;
    operations_.clear();
    before_.clear();
    after_.clear();
  }

  void send(std::span<const const_region> from, int peer) {
    check_one(from.size(), from[0], peer, "send");
    add({nccl_operation::send, from[0].base, nullptr, bytes_of(from[0]), peer});
  }
  void recv(std::span<const region> to, int peer) {
    check_one(to.size(), to[0], peer, "recv");
    add({nccl_operation::recv, nullptr, to[0].base, bytes_of(to[0]), peer});
  }
  void copy_before(std::span<const const_region> from, std::span<const region> to) { copy(from, to, before_); }
  void copy_after(std::span<const const_region> from, std::span<const region> to) { copy(from, to, after_); }

  // Collectives, which every rank adds to its batch, in one order. In place where `send` is this rank's part of
  // `recv`, or the other way round; the side that only the root has is null elsewhere.

  void all_gather(const std::byte* send, std::byte* recv, std::size_t bytes) {
    if (bytes > 0) add({nccl_operation::all_gather, send, recv, bytes, 0});
  }
  void broadcast(std::byte* buffer, std::size_t bytes, int root) {
    check_peer(root, "broadcast");
    if (bytes > 0) add({nccl_operation::broadcast, buffer, buffer, bytes, root});
  }
  void gather(const std::byte* send, std::byte* recv, std::size_t bytes, int root) {
    check_peer(root, "gather");
    if (bytes == 0) return;
    if (rooted_) {
      add({nccl_operation::gather, send, recv, bytes, root});
    } else if (rank_ != root) {
      add({nccl_operation::send, send, nullptr, bytes, root});
    } else {
      for (int r = 0; r < ranks_; ++r) {
        std::byte* part = recv + static_cast<std::size_t>(r) * bytes;
        if (r != root) add({nccl_operation::recv, nullptr, part, bytes, r});
        if (r == root && part != send) copy_run(send, part, bytes);
      }
    }
  }
  void scatter(const std::byte* send, std::byte* recv, std::size_t bytes, int root) {
    check_peer(root, "scatter");
    if (bytes == 0) return;
    if (rooted_) {
      add({nccl_operation::scatter, send, recv, bytes, root});
    } else if (rank_ != root) {
      add({nccl_operation::recv, nullptr, recv, bytes, root});
    } else {
      for (int r = 0; r < ranks_; ++r) {
        const std::byte* part = send + static_cast<std::size_t>(r) * bytes;
        if (r != root) add({nccl_operation::send, part, nullptr, bytes, r});
        if (r == root && part != recv) copy_run(part, recv, bytes);
      }
    }
  }

  std::size_t messages() const { return messages_; }  ///< sends and receives
  bool host() const { return host_; }                 ///< touches host memory
  std::span<const nccl_operation> operations() const { return operations_; }
  const paired_regions& before() const { return before_; }
  const paired_regions& after() const { return after_; }

 private:
  void add(const nccl_operation& o) {
    check_reach(o.from, false);
    check_reach(o.to, false);
    messages_ += o.kind == nccl_operation::send || o.kind == nccl_operation::recv ? 1 : 0;
    operations_.push_back(o);
  }
  void copy(std::span<const const_region> from, std::span<const region> to, paired_regions& list) {
    if (bytes_of(from) != bytes_of(to))
      throw batch_mismatch(concat("nccl_communicator: a copy of ", bytes_of(from), " bytes into ", bytes_of(to),
                                  ". [rank ", rank_, "]"));
    for (const const_region& r : from) check_reach(r.base, pageable_);
    for (const region& r : to) check_reach(r.base, pageable_);
    list.add(from, to);
  }
  void copy_run(const std::byte* from, std::byte* to, std::size_t bytes) {
    const extents size{static_cast<index_t>(bytes)};
    const const_region source(from, size, extents{1});
    const region target{to, size, extents{1}};
    copy({&source, 1}, {&target, 1}, before_);
  }

  /// Notes host memory, for which a wait blocks, and refuses what NCCL or the copier would fault on.
  void check_reach(const std::byte* p, bool pageable) {
    if (p == nullptr) return;
    const memory_kind kind = kind_of(p);
    if (kind == memory_kind::pageable && !pageable)
      throw bad_options(
          concat("nccl_communicator: a transfer touches host memory that is not pinned. Give the range a "
                 "cuda_memory, nccl_memory or pinned_memory, and pin shards that live on the host. [rank ",
                 rank_, "]"));
    host_ = host_ || kind != memory_kind::device;
  }
  void check_one(std::size_t regions, const const_region& r, int peer, const char* what) const {
    if (regions != 1 || r.size.dims() != 1 || r.stride[0] != 1)
      throw batch_mismatch(concat("nccl_communicator: ", what, " of ", regions, " regions, the first of ",
                                  r.size.dims(),
                                  " dimensions: it takes one contiguous run, as capabilities() say. "
                                  "[rank ",
                                  rank_, "]"));
    check_peer(peer, what);
  }
  void check_peer(int peer, const char* what) const {
    if (peer < 0 || peer >= ranks_)
      throw batch_mismatch(
          concat("nccl_communicator: ", what, " with rank ", peer, " of ", ranks_, ". [rank ", rank_, "]"));
  }

  int rank_ = 0;
  int ranks_ = 0;
  bool rooted_ = false;
  bool pageable_ = false;
  bool host_ = false;
  std::size_t messages_ = 0;
  std::vector<nccl_operation> operations_;
  paired_regions before_;
  paired_regions after_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
