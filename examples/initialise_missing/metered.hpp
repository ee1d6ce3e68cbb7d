// SPDX-License-Identifier: Apache-2.0
#pragma once  // metered.hpp: a transport around another one that counts the bytes which arrive from other ranks.

#include <cstddef>
#include <span>
#include <string_view>
#include <unshard/communicator.hpp>
#include <utility>

namespace examples {

/// Forwards everything; `received()` is what came to this rank from its peers. The other one outlives it.
template <unshard::communicator C>
class metered {
 public:
  explicit metered(C& inner) : inner_(&inner) {}

  class batch {
   public:
    void send(std::span<const unshard::const_region> from, int peer) { inner_.send(from, peer); }
    void recv(std::span<const unshard::region> to, int peer) {
      *received_ += unshard::bytes_of(to);
      inner_.recv(to, peer);
    }
    void copy_before(std::span<const unshard::const_region> from, std::span<const unshard::region> to) {
      inner_.copy_before(from, to);
    }
    void copy_after(std::span<const unshard::const_region> from, std::span<const unshard::region> to) {
      inner_.copy_after(from, to);
    }

   private:
    friend class metered;
    using inner_batch = decltype(std::declval<C&>().open_batch());
    batch(inner_batch inner, std::size_t* received) : inner_(std::move(inner)), received_(received) {}
    inner_batch inner_;
    std::size_t* received_;
  };

  int rank() const { return inner_->rank(); }
  int size() const { return inner_->size(); }
  unshard::capabilities capabilities() const { return unshard::capabilities_of(*inner_); }
  batch open_batch() { return batch(inner_->open_batch(), &received_); }
  auto launch(batch b) { return inner_->launch(std::move(b.inner_)); }
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    inner_->exchange(mine, all, timeout_ms);
  }
  void abort(std::string_view reason) noexcept { inner_->abort(reason); }

  std::size_t received() const { return received_; }

 private:
  C* inner_;
  std::size_t received_ = 0;
};

}  // namespace examples
