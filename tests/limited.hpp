// SPDX-License-Identifier: Apache-2.0
#pragma once  // limited.hpp: an engine with limits of its own, which complains when they are not kept.

#include <stdexcept>
#include <unshard/communicator.hpp>
#include <utility>

/// Forwards to another communicator, says that it has these capabilities, and checks every batch against them.
template <class C>
class limited {
 public:
  using inner = decltype(std::declval<C&>().open_batch());

  limited(C& comm, unshard::capabilities can) : comm_(&comm), can_(can) {}

  class batch {
   public:
    batch(inner b, unshard::capabilities can) : batch_(std::move(b)), can_(can) {}
    void send(std::span<const unshard::const_region> from, int peer) {
      check(from.size(), from.empty() ? 0 : from[0].size.dims(), unshard::bytes_of(from));
      batch_.send(from, peer);
    }
    void recv(std::span<const unshard::region> to, int peer) {
      check(to.size(), to.empty() ? 0 : to[0].size.dims(), unshard::bytes_of(to));
      batch_.recv(to, peer);
    }
    void copy_before(std::span<const unshard::const_region> from, std::span<const unshard::region> to) {
      check_copy(unshard::bytes_of(from), unshard::bytes_of(to));
      batch_.copy_before(from, to);
    }
    void copy_after(std::span<const unshard::const_region> from, std::span<const unshard::region> to) {
      check_copy(unshard::bytes_of(from), unshard::bytes_of(to));
      batch_.copy_after(from, to);
    }
    inner take() { return std::move(batch_); }

   private:
    void check(std::size_t regions, int dims, std::size_t bytes) {
      if (regions == 0 || bytes == 0) throw std::logic_error("limited: an empty list");
      if (!can_.regions && (regions != 1 || dims != 1)) throw std::logic_error("limited: more than one contiguous run");
      if (can_.max_bytes != 0 && bytes > can_.max_bytes) throw std::logic_error("limited: an operation too large");
      if (can_.max_operations != 0 && ++operations_ > can_.max_operations)
        throw std::logic_error("limited: a batch too long");
    }
    static void check_copy(std::size_t from, std::size_t to) {
      if (from == 0 || from != to) throw std::logic_error("limited: a copy of lists that differ or are empty");
    }
    inner batch_;
    unshard::capabilities can_;
    std::size_t operations_ = 0;
  };

  int rank() const { return comm_->rank(); }
  int size() const { return comm_->size(); }
  unshard::capabilities capabilities() const { return can_; }
  batch open_batch() { return {comm_->open_batch(), can_}; }
  auto launch(batch b) { return comm_->launch(b.take()); }
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    comm_->exchange(mine, all, timeout_ms);
  }
  void abort(std::string_view reason) noexcept { comm_->abort(reason); }

 private:
  C* comm_;
  unshard::capabilities can_;
};
