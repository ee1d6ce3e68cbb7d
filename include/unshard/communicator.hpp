// SPDX-License-Identifier: Apache-2.0
#pragma once  // communicator.hpp: what the library asks of a transport between ranks. Bytes only, no arithmetic.

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <unshard/base/stream_copy.hpp>
#include <unshard/layout.hpp>
#include <utility>

namespace unshard {
inline namespace v0 {

/// A strided block of bytes. `size` and `stride` have equally many dimensions, outermost first; strides are in
/// bytes and the innermost dimension counts single bytes, stride 1. It owns nothing.
struct region {
  std::byte* base = nullptr;  ///< where its first byte is
  extents size;
  extents stride;
};

/// A region that is only read.
struct const_region {
  const std::byte* base = nullptr;  ///< where its first byte is
  extents size;                     ///< as in region
  extents stride;                   ///< as in region

  constexpr const_region() = default;
  constexpr const_region(const std::byte* from, const extents& sizes, const extents& strides)
      : base(from), size(sizes), stride(strides) {}
  constexpr const_region(const region& r)  // NOLINT(google-explicit-constructor): to read less is always right
      : base(r.base), size(r.size), stride(r.stride) {}
};

/// The bytes of a region, or of a list of them (the length of a transfer).
constexpr std::size_t bytes_of(const const_region& r) { return static_cast<std::size_t>(r.size.elements()); }
constexpr std::size_t bytes_of(std::span<const const_region> list) {
  std::size_t bytes = 0;
  for (const const_region& r : list) bytes += bytes_of(r);
  return bytes;
}
constexpr std::size_t bytes_of(std::span<const region> list) {
  std::size_t bytes = 0;
  for (const region& r : list) bytes += bytes_of(r);
  return bytes;
}

/// What an engine can do and what it needs. 0 means no limit. An engine without `capabilities()` counts as
/// `{.regions = false}`.
struct capabilities {
  bool regions = true;             ///< send and recv take lists of strided regions; else one contiguous run each
  std::size_t max_operations = 0;  ///< most sends and receives in a batch (at least 2)
  std::size_t max_bytes = 0;       ///< most bytes in one operation
  std::size_t staging = 0;         ///< bytes of data that the engine holds itself; taken off the budget

  friend bool operator==(const capabilities&, const capabilities&) = default;
};

/// A list of operations, filled on one rank, that `launch` starts together.
///   b.send(from, peer)          the concatenation of `from` goes to rank `peer`
///   b.recv(to, peer)            ... arrives from rank `peer`, in whatever shape
///   b.copy_before(from, to)     on this rank, before any of this rank's transfers
///   b.copy_after(from, to)      on this rank, after all of them
/// The lists are used before the call returns, the bytes until the batch was waited for. No list is empty.
/// Not checkable here: nothing moves before launch; a batch that is destroyed without launch moves nothing; several
/// messages between one pair of ranks match in their order.
template <class B>
concept batch = std::movable<B> &&
    requires(B& b, std::span<const const_region> from, std::span<const region> to, int peer) {
  b.send(from, peer);
  b.recv(to, peer);
  b.copy_before(from, to);
  b.copy_after(from, to);
};

/// A launched batch.
///   d.ready()            a hint: wait would not block
///   d.wait(timeout_ms)   called once for every launch, in the order of launches; 0 waits for ever. Blocks the host
///                        where the bytes are in host memory, else orders the caller's stream. Throws peer_timeout,
///                        batch_mismatch, device_failed, ... after which the communicator is poisoned.
template <class D>
concept completion = std::movable<D> && requires(D& d, int timeout_ms) {
  { d.ready() } -> std::convertible_to<bool>;
  d.wait(timeout_ms);
};

/// The types of an engine's batches and of what its launch returns.
template <class C>
using batch_of = decltype(std::declval<C&>().open_batch());
template <class C>
using completion_of = decltype(std::declval<C&>().launch(std::declval<C&>().open_batch()));

/// A transport between the ranks of one group. Moves bytes; knows no element types.
///   c.rank(), c.size()   this rank and how many there are; constant for the life of c
///   c.open_batch()       a fresh batch; nothing moves before launch
///   c.launch(batch)      starts all of it; on every rank, in the same order; does not block for peers
///   c.exchange(mine, all, timeout_ms)
///                        all-gather of equally many bytes, at most 256 a rank, in host memory: `all` is
///                        size() * mine.size() long. Blocks until every rank has come, or throws peer_timeout
///   c.abort(reason)      noexcept: ends everything; returns when no memory of the caller's is touched any more; peers
///                        that wait get an error with the reason. Every later call throws
/// Optional: `c.capabilities()`; `c.abandoned()`, whether after an abort it may still touch the caller's memory; on the
/// batch `all_gather(send, recv, bytes)` (rank r's bytes go to recv + r * bytes), `gather(send, recv, bytes, root)`,
/// `scatter(send, recv, bytes, root)` and `broadcast(buffer, bytes, root)`. recorded_batch is a batch for an engine of
/// one's own.
/// Not checkable here: all ranks call launch and exchange equally often, in one order; one thread at a time.
template <class C>
concept communicator = requires(C& c, const C& k, std::span<const std::byte> mine, std::span<std::byte> all,
                                int timeout_ms, std::string_view reason) {
  { k.rank() } -> std::same_as<int>;
  { k.size() } -> std::same_as<int>;
  c.open_batch();
  c.launch(c.open_batch());
  c.exchange(mine, all, timeout_ms);
  { c.abort(reason) }
  noexcept;
}
&&batch<batch_of<C>>&& completion<completion_of<C>>;

/// c.capabilities() where it is there, else those of an engine that takes contiguous runs only.
template <class C>
unshard::capabilities capabilities_of(const C& c) {
  if constexpr (requires { c.capabilities(); }) {
    return c.capabilities();
  } else {
    return {.regions = false};
  }
}

namespace detail {

/// Walks a list of regions run by run: `run()` bytes at `data()` are contiguous; `advance(n)`, n <= run(), goes on.
template <class Region>
class region_cursor {
 public:
  explicit region_cursor(std::span<const Region> list, std::size_t skip = 0) : list_(list) {
    enter();
    while (skip > 0 && !done()) {
      if (skip >= left_) {
        skip -= left_;
        ++at_;
        enter();
      } else {
        seek(skip);
        skip = 0;
      }
    }
  }

  bool done() const { return at_ == list_.size(); }
  auto* data() const { return list_[at_].base + offset_; }
  std::size_t run() const { return run_; }

  void advance(std::size_t bytes) {
    left_ -= bytes;
    run_ -= bytes;
    offset_ += static_cast<index_t>(bytes);
    if (left_ == 0) {
      ++at_;
      enter();
    } else if (run_ == 0) {
      next_row();
    }
  }

 private:
  void enter() {
    while (at_ < list_.size() && (left_ = bytes_of(list_[at_])) == 0) ++at_;
    if (at_ < list_.size()) seek(0);
  }

  /// To `position` bytes into the current region.
  void seek(std::size_t position) {
    const Region& r = list_[at_];
    left_ = bytes_of(r) - position;
    const int inner = r.size.dims() - 1;
    auto rest = static_cast<index_t>(position);
    offset_ = 0;
    for (int d = inner; d >= 0; --d) {
      row_[d] = rest % r.size[d];
      rest /= r.size[d];
      offset_ += row_[d] * r.stride[d];
    }
    run_ = inner < 0 ? 1 : static_cast<std::size_t>(r.size[inner] - row_[inner]);
  }

  void next_row() {
    const Region& r = list_[at_];
    int d = r.size.dims() - 1;
    offset_ -= r.size[d] * r.stride[d];
    run_ = static_cast<std::size_t>(r.size[d]);
    for (--d; d >= 0; --d) {
      offset_ += r.stride[d];
      if (++row_[d] < r.size[d]) return;
      offset_ -= r.size[d] * r.stride[d];
      row_[d] = 0;
    }
  }

  std::span<const Region> list_;
  std::size_t at_ = 0;
  std::size_t left_ = 0;  // bytes of the current region not walked yet
  std::size_t run_ = 0;
  index_t offset_ = 0;
  index_t row_[extents::max_dims] = {};
};

}  // namespace detail

/// Copies `bytes` bytes of a transfer on the host, from position `skip` of both lists on: for engines without regions
/// of their own, and for their copy_before and copy_after. The lists may differ in shape, not in length.
inline void copy_regions(std::span<const const_region> from, std::span<const region> to, std::size_t skip,
                         std::size_t bytes) {
  detail::region_cursor<const_region> source(from, skip);
  detail::region_cursor<region> target(to, skip);
  const bool streams = bytes >= detail::copy_streams_from;
  while (bytes > 0 && !source.done() && !target.done()) {
    std::size_t run = source.run() < target.run() ? source.run() : target.run();
    if (run > bytes) run = bytes;
    detail::copy_run(target.data(), source.data(), run, streams);
    source.advance(run);
    target.advance(run);
    bytes -= run;
  }
  if (streams) detail::stream_fence();
}

/// The whole of both lists.
inline void copy_regions(std::span<const const_region> from, std::span<const region> to) {
  copy_regions(from, to, 0, bytes_of(from));
}

}  // namespace v0
}  // namespace unshard
