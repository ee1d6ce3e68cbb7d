#pragma once  // schedule/fill.hpp: a schedule plus addresses, into an engine's batch.

#include <cstddef>
#include <span>
#include <unshard/base/later.hpp>
#include <unshard/schedule.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Where the bytes of one chunk are on this rank. `shards` has an address for each piece, in order.
struct chunk_memory {
  std::byte* chunk = nullptr;    // null where this rank holds no chunk
  std::byte* staging = nullptr;  // for engines without regions: as long as the chunk, or as what this rank holds of it
  std::span<std::byte* const> shards;
};

/// Fills the batches of schedules. Throws what the engine throws; nothing moves.
template <class Batch>
class batch_filler {
  using schedule = later<unshard::schedule, Batch>;
  template <class T>
  using vector = std::vector<later<T, Batch>>;

 public:
  /// From now on the batches of this schedule, which must outlive the last call of fill.
  void start(const schedule& s, const chunk_memory& m) {
    schedule_ = &s;
    memory_ = m;
  }

  void fill(Batch& batch, std::size_t number) {
    if (number == 0) {
      if (!schedule_->copies_.empty()) {
        lists(schedule_->copies_, gathers(), from_);
        lists(schedule_->copies_, !gathers(), to_);
        batch.copy_before(std::span<const const_region>(from_), std::span<const region>(to_));
      }
      for (const auto& c : schedule_->collectives_) call(batch, c);
    }
    std::size_t staged = schedule_->engine_.regions ? 0 : place_packs();
    for (const auto& m : schedule_->messages_) {
      if (m.kind == transfer_kind::send)
        send(batch, m, number);
      else
        receive(batch, m, number, staged);
    }
  }

 private:
  /// What some peers get alike, packed once, in the first batch that sends it.
  struct pack {
    std::uint32_t key;
    std::size_t at;  // in staging
    std::size_t first_batch;
    bool packed;
  };

  auto pack_of(std::uint32_t key) {
    auto at = packs_.begin();
    while (at != packs_.end() && at->key != key) ++at;
    return at;
  }

  /// Gives every pack its place at the start of staging; returns where the rest begins.
  std::size_t place_packs() {
    packs_.clear();
    std::size_t staged = 0;
    for (const auto& m : schedule_->messages_) {
      if (m.kind != transfer_kind::send) continue;
      lists(runs_of(m), gathers(), from_);
      if (is_direct(from_)) continue;
      const auto known = pack_of(m.key);
      if (known != packs_.end()) {
        known->first_batch = (std::min)(known->first_batch, first_batch(m));
      } else {
        packs_.push_back({m.key, staged, first_batch(m), false});
        staged += m.bytes;
      }
    }
    return staged;
  }

  template <class M>
  void send(Batch& batch, const M& m, std::size_t number) {
    lists(runs_of(m), gathers(), from_);
    if (!schedule_->engine_.regions && !is_direct(from_)) {
      pack& p = *pack_of(m.key);
      const region whole = contiguous<region>(memory_.staging + p.at, m.bytes);
      if (p.first_batch == number && !p.packed) {
        batch.copy_before(std::span<const const_region>(from_), std::span(&whole, 1));
        p.packed = true;
      }
      from_.assign(1, whole);
    }
    parts_in(m, number, from_, [&](std::span<const const_region> part) { batch.send(part, m.peer); });
  }

  /// Through `staged` where the engine takes no regions; goes on behind it.
  template <class M>
  void receive(Batch& batch, const M& m, std::size_t number, std::size_t& staged) {
    lists(runs_of(m), !gathers(), to_);
    const bool direct = schedule_->engine_.regions || is_direct(to_);
    std::byte* const at = memory_.staging + staged;
    if (!direct) {
      to_.assign(1, contiguous<region>(at, m.bytes));
      staged += m.bytes;
    }
    parts_in(m, number, to_, [&](std::span<const region> part) { batch.recv(part, m.peer); });
    if (!direct && last_batch(m) == number) unpack(batch, runs_of(m), at);
  }

  /// Whether a list is one contiguous run already, so that nothing is staged.
  template <class List>
  static bool is_direct(const List& list) {
    return list.size() == 1 && list[0].size.dims() == 1;
  }

  bool gathers() const { return schedule_->movement_ == movement::gather; }

  template <class Region>
  static Region contiguous(std::byte* base, std::size_t bytes) {
    return {base, {static_cast<index_t>(bytes)}, {index_t{1}}};
  }

  template <class M>
  std::span<const std::uint32_t> runs_of(const M& m) const {
    return {schedule_->order_.data() + m.first, m.count};
  }

  /// The regions of some runs, on the shard's side or on the chunk's. A run that is not kept has a region of its
  /// length all the same, so that it is staged.
  template <class List>
  void lists(std::span<const std::uint32_t> runs, bool in_shard, List& out) const {
    using region_type = typename List::value_type;
    out.clear();
    for (std::uint32_t i : runs) {
      const scheduled_run& r = schedule_->runs_[i];
      if (in_shard) {
        out.push_back(contiguous<region_type>(memory_.shards[r.piece] + r.shard_offset, r.bytes));
      } else if (r.discarded) {
        out.push_back({nullptr, {index_t{1}, static_cast<index_t>(r.bytes)}, {index_t{1}, index_t{1}}});
      } else {
        schedule_->for_each_block(r, [&](const strided_block& b) {
          out.push_back({memory_.chunk + b.offset, b.size, b.stride});
        });
      }
    }
  }

  template <class M>
  std::size_t parts(const M& m) const {
    return schedule_->parts_of(m.bytes);
  }
  template <class M>
  std::size_t batch_of(const M& m, std::size_t part) const {
    return schedule_->batch_of(m.peer, m.kind == transfer_kind::send, m.ordinal + part);
  }
  template <class M>
  std::size_t first_batch(const M& m) const {
    return batch_of(m, 0);
  }
  template <class M>
  std::size_t last_batch(const M& m) const {
    return batch_of(m, parts(m) - 1);
  }

  /// Calls use(list) for a message, or for those of its parts (of max_bytes each) that are in this batch.
  template <class M, class List, class Use>
  void parts_in(const M& m, std::size_t number, const List& list, Use use) const {
    const std::size_t count = parts(m);
    for (std::size_t part = 0; part < count; ++part) {
      if (batch_of(m, part) != number) continue;
      if (count == 1) return use(list);
      const std::size_t most = schedule_->engine_.max_bytes;
      use(cut(list, part * most, (std::min)(m.bytes, (part + 1) * most)));
    }
  }

  /// Bytes [from, to) of a list.
  template <class List>
  static List cut(const List& list, std::size_t from, std::size_t to) {
    List out;
    std::size_t at = 0;
    for (const auto& r : list) {
      const std::size_t bytes = bytes_of(r);
      const std::size_t a = (std::max)(from, at);
      const std::size_t b = (std::min)(to, at + bytes);
      const auto put = [&](const strided_block& block) {
        out.push_back({r.base + block.offset, block.size, block.stride});
      };
      if (a < b) cut_block({0, r.size, r.stride}, static_cast<index_t>(a - at), static_cast<index_t>(b - at), put);
      at += bytes;
    }
    return out;
  }

  /// From staging to where the kept runs of a message belong.
  void unpack(Batch& batch, std::span<const std::uint32_t> runs, std::byte* staged) {
    from_.clear();
    kept_.clear();
    for (std::uint32_t i : runs) {
      const scheduled_run& r = schedule_->runs_[i];
      if (!r.discarded) {
        from_.push_back(contiguous<const_region>(staged, r.bytes));
        kept_.push_back(i);
      }
      staged += r.bytes;
    }
    if (kept_.empty()) return;
    lists(kept_, !gathers(), to_);
    batch.copy_after(std::span<const const_region>(from_), std::span<const region>(to_));
  }

  template <class C>
  void call(Batch& batch, const C& c) const {
    std::byte* whole = memory_.chunk == nullptr ? nullptr : memory_.chunk + c.offset;
    std::byte* mine = memory_.shards[c.piece];
    constexpr collectives can = collectives_of<Batch>();
    if constexpr (can.all_gather) {
      if (c.kind == transfer_kind::all_gather) batch.all_gather(mine, whole, c.bytes);
    }
    if constexpr (can.broadcast) {
      if (c.kind == transfer_kind::broadcast) batch.broadcast(whole, c.bytes, c.root);
    }
    if constexpr (can.gather) {
      if (c.kind == transfer_kind::gather) batch.gather(mine, whole, c.bytes, c.root);
    }
    if constexpr (can.scatter) {
      if (c.kind == transfer_kind::scatter) batch.scatter(whole, mine, c.bytes, c.root);
    }
  }

  const schedule* schedule_ = nullptr;
  chunk_memory memory_;
  vector<pack> packs_;
  vector<const_region> from_;
  vector<region> to_;
  vector<std::uint32_t> kept_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
