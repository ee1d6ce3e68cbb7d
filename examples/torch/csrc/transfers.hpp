// SPDX-License-Identifier: Apache-2.0
#pragma once  // transfers.hpp: what one launch of process_group_communicator does, cut into the messages of torch.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <unshard/communicator.hpp>
#include <utility>
#include <vector>

namespace unshard_torch {

/// One send or receive of a batch.
struct transfer {
  std::vector<unshard::const_region> regions;  // of a receive, too; `writable` points to the same bytes then
  std::vector<unshard::region> writable;
  std::size_t bytes = 0;

  /// 14 bits of its length: those of another length are others, almost always.
  std::uint32_t mark() const { return static_cast<std::uint32_t>(std::uint64_t{bytes} * 0x9e3779b97f4a7c15ULL >> 50); }
};

/// Where transfers are cut: after so many bytes and, if both ends have regions of the same lengths, where one ends.
struct fragments {
  std::size_t bytes = 0;
  bool at_regions = false;
};

/// A fragment of a transfer: `bytes` bytes from `skip` bytes into its region `region` on.
struct message {
  const transfer* of;
  std::size_t region;
  std::size_t skip;
  std::size_t bytes;
  std::byte* direct;  // where it lies in one run, else null: it is staged
  std::byte* slot = nullptr;
  int tag = 0;
  c10::intrusive_ptr<c10d::Work> work;

  /// copy_regions goes from the same position of both lists on: the slot is preceded by `skip` bytes that are skipped.
  void pack() const {
    const unshard::region into[] = {run(skip), run(bytes)};
    unshard::copy_regions(std::span(of->regions).subspan(region), into, skip, bytes);
  }
  void unpack() const {
    const unshard::const_region from[] = {run(skip), run(bytes)};
    unshard::copy_regions(from, std::span(of->writable).subspan(region), skip, bytes);
  }

 private:
  unshard::region run(std::size_t n) const { return {slot, {static_cast<unshard::index_t>(n)}, {1}}; }
};

/// All messages to or from one peer, in their order.
struct message_queue {
  int peer;
  bool outgoing;
  std::vector<std::unique_ptr<transfer>> transfers;
  std::vector<message> messages;
  std::vector<std::byte*> slots;  // free ones
  std::size_t staged = 0;         // messages that go through slots
  std::size_t started = 0;        // staged messages before this one were started
  std::size_t waited = 0;
};

/// Copies within the rank.
struct own_copy {
  std::vector<unshard::const_region> from;
  std::vector<unshard::region> to;
  void run() const { unshard::copy_regions(from, to); }
};

/// Everything that one launch does.
struct operations {
  std::vector<message_queue> queues;
  std::vector<own_copy> before, after;

  message_queue& queue_of(int peer, bool outgoing) {
    for (message_queue& q : queues) {
      if (q.peer == peer && q.outgoing == outgoing) return q;
    }
    queues.push_back({peer, outgoing, {}, {}, {}});
    return queues.back();
  }

  /// Cuts a transfer into fragments: both ends cut alike.
  void add(std::unique_ptr<transfer> t, int peer, bool outgoing, const fragments& cuts) {
    message_queue& q = queue_of(peer, outgoing);
    t->bytes = unshard::bytes_of(std::span<const unshard::const_region>(t->regions));
    std::size_t region = 0, skip = 0;
    for (std::size_t at = 0; at < t->bytes;) {
      for (; skip >= unshard::bytes_of(t->regions[region]); ++region) skip -= unshard::bytes_of(t->regions[region]);
      const unshard::const_region& r = t->regions[region];
      const std::size_t bytes =
          std::min({cuts.bytes, t->bytes - at, cuts.at_regions ? unshard::bytes_of(r) - skip : cuts.bytes});
      const bool whole = dense(r) && skip + bytes <= unshard::bytes_of(r);
      std::byte* direct = whole ? const_cast<std::byte*>(r.base) + skip : nullptr;  // written by a receive only
      if (direct == nullptr && cuts.at_regions)
        throw std::logic_error("process_group_communicator: a region that is not contiguous, after stage_nothing().");
      q.messages.push_back({t.get(), region, skip, bytes, direct, nullptr, 0, {}});
      q.staged += direct == nullptr;
      at += bytes;
      skip += bytes;
    }
    q.transfers.push_back(std::move(t));
  }

  /// Whether no copy that comes before the transfers writes what is sent: then both can happen at the same time. May
  /// say no where it is so.
  bool sends_are_apart() const {
    addresses sent;
    for (const message_queue& q : queues) {
      for (const auto& t : q.transfers) {
        if (!q.outgoing) continue;
        for (const unshard::const_region& r : t->regions) sent.add(r);
      }
    }
    return std::ranges::all_of(before, [&](const own_copy& c) {
      return std::ranges::none_of(c.to, [&](const unshard::const_region& r) {
        addresses written;
        written.add(r);
        return written.first <= sent.last && sent.first <= written.last;
      });
    });
  }

 private:
  /// From the first byte of some regions to their last.
  struct addresses {
    std::uintptr_t first = UINTPTR_MAX, last = 0;
    void add(const unshard::const_region& r) {
      auto low = reinterpret_cast<std::uintptr_t>(r.base), high = low;
      for (int d = 0; d < r.size.dims(); ++d) {
        if (r.size[d] == 0) return;
        (r.stride[d] < 0 ? low : high) += static_cast<std::uintptr_t>((r.size[d] - 1) * r.stride[d]);
      }
      first = std::min(first, low);
      last = std::max(last, high);
    }
  };
  /// Whether a region's bytes follow one another in memory.
  static bool dense(const unshard::const_region& r) {
    unshard::index_t below = 1;
    for (int d = r.size.dims() - 1; d >= 0; --d) {
      if (r.size[d] != 1 && r.stride[d] != below) return false;
      below *= r.size[d];
    }
    return true;
  }
};

}  // namespace unshard_torch
