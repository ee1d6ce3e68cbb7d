#pragma once  // fill.hpp: a schedule plus addresses, into an engine's batch.

#include <cstddef>
#include <span>
#include <unshard/detail/later.hpp>
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

/// Fills one batch of a schedule. Throws what the engine throws; nothing moves.
template <class Batch>
class batch_filler {
  using schedule = later<unshard::schedule, Batch>;
  template <class T>
  using vector = std::vector<later<T, Batch>>;

 public:
  batch_filler(const schedule& s, const chunk_memory& m) : schedule_(s), memory_(m) {}

  void fill(Batch& batch, std::size_t number) {
    if (number == 0) {
      if (!schedule_.copies_.empty()) {
        lists(schedule_.copies_, true, shards_);
        lists(schedule_.copies_, false, blocks_);
        gathers() ? copy_before(batch, shards_, blocks_) : copy_before(batch, blocks_, shards_);
      }
      for (const auto& c : schedule_.collectives_) call(batch, c);
    }
    std::size_t staged = schedule_.engine_.regions ? 0 : place_packs();
    for (const auto& m : schedule_.messages_) {
      const bool sends = m.kind == transfer_kind::send;
      const std::span<const std::uint32_t> runs(schedule_.order_.data() + m.first, m.count);
      const bool in_shard = sends == gathers();
      lists(runs, in_shard, list_);
      if (schedule_.engine_.regions || is_direct()) {
        transfer_parts(batch, m, number, list_);
        continue;
      }
      std::size_t at = staged;
      if (sends) {
        pack& p = *pack_of(m.key);
        at = p.at;
        if (p.first_batch == number && !p.packed) {
          const region whole = contiguous(memory_.staging + at, m.bytes);
          copy_before(batch, list_, std::span(&whole, 1));
          p.packed = true;
        }
      } else {
        staged += m.bytes;
      }
      one_.assign(1, contiguous(memory_.staging + at, m.bytes));
      transfer_parts(batch, m, number, one_);
      if (!sends && last_batch(m) == number) unpack(batch, m, runs, in_shard, one_[0].base);
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
    for (const auto& m : schedule_.messages_) {
      if (m.kind != transfer_kind::send) continue;
      lists(std::span<const std::uint32_t>(schedule_.order_.data() + m.first, m.count), gathers(), list_);
      if (is_direct()) continue;
      const auto known = pack_of(m.key);
      if (known != packs_.end()) {
        known->first_batch = std::min(known->first_batch, first_batch(m));
      } else {
        packs_.push_back({m.key, staged, first_batch(m), false});
        staged += m.bytes;
      }
    }
    return staged;
  }

  /// Whether list_ is one contiguous run already, so that nothing is staged.
  bool is_direct() const { return list_.size() == 1 && list_[0].size.dims() == 1; }

  bool gathers() const { return schedule_.movement_ == movement::gather; }

  static region contiguous(std::byte* base, std::size_t bytes) {
    return {base, {static_cast<index_t>(bytes)}, {index_t{1}}};
  }

  std::byte* shard_of(const scheduled_run& r) const { return memory_.shards[r.piece] + r.shard_offset; }

  /// The regions of some runs, on the shard's side or on the chunk's. A run that is not kept has a region of its
  /// length all the same, so that it is staged.
  void lists(std::span<const std::uint32_t> runs, bool in_shard, vector<region>& out) const {
    out.clear();
    for (std::uint32_t i : runs) {
      const scheduled_run& r = schedule_.runs_[i];
      if (in_shard) {
        out.push_back(contiguous(shard_of(r), r.bytes));
      } else if (r.discarded) {
        out.push_back({nullptr, {index_t{1}, static_cast<index_t>(r.bytes)}, {index_t{1}, index_t{1}}});
      } else {
        for (const strided_block& b : schedule_.blocks_of(r))
          out.push_back({memory_.chunk + b.offset, b.size, b.stride});
      }
    }
  }

  template <class M>
  std::size_t parts(const M& m) const {
    return schedule_.parts_of(m.bytes);
  }
  template <class M>
  std::size_t first_batch(const M& m) const {
    return schedule_.batch_of(m.peer, m.kind == transfer_kind::send, m.ordinal);
  }
  template <class M>
  std::size_t last_batch(const M& m) const {
    return schedule_.batch_of(m.peer, m.kind == transfer_kind::send, m.ordinal + parts(m) - 1);
  }

  /// A message, or those of its parts (of max_bytes each) that are in this batch.
  template <class M>
  void transfer_parts(Batch& batch, const M& m, std::size_t number, const vector<region>& list) {
    const std::size_t count = parts(m);
    for (std::size_t part = 0; part < count; ++part) {
      if (schedule_.batch_of(m.peer, m.kind == transfer_kind::send, m.ordinal + part) != number) continue;
      if (count == 1) return transfer(batch, m, list);
      const std::size_t most = schedule_.engine_.max_bytes;
      cut(list, part * most, std::min(m.bytes, (part + 1) * most));
      transfer(batch, m, part_);
    }
  }

  template <class M>
  void transfer(Batch& batch, const M& m, const vector<region>& list) {
    if (m.kind == transfer_kind::send) {
      const_.assign(list.begin(), list.end());
      batch.send(std::span<const const_region>(const_), m.peer);
    } else {
      batch.recv(std::span<const region>(list), m.peer);
    }
  }

  /// Bytes [from, to) of a list, into part_.
  void cut(const vector<region>& list, std::size_t from, std::size_t to) {
    part_.clear();
    std::size_t at = 0;
    for (const region& r : list) {
      const std::size_t bytes = bytes_of(r);
      const std::size_t a = std::max(from, at);
      const std::size_t b = std::min(to, at + bytes);
      const auto emit = [&](const strided_block& block) {
        part_.push_back({r.base + block.offset, block.size, block.stride});
      };
      if (a < b) cut_block({0, r.size, r.stride}, static_cast<index_t>(a - at), static_cast<index_t>(b - at), emit);
      at += bytes;
    }
  }

  /// From staging to where the kept runs of a message belong.
  template <class M>
  void unpack(Batch& batch, const M& m, std::span<const std::uint32_t> runs, bool in_shard, std::byte* staged) {
    shards_.clear();
    kept_.clear();
    for (std::size_t i = 0; i < m.count; ++i) {
      const scheduled_run& r = schedule_.runs_[runs[i]];
      if (!r.discarded) {
        shards_.push_back(contiguous(staged, r.bytes));
        kept_.push_back(runs[i]);
      }
      staged += r.bytes;
    }
    if (kept_.empty()) return;
    lists(kept_, in_shard, blocks_);
    const_.assign(shards_.begin(), shards_.end());
    batch.copy_after(std::span<const const_region>(const_), std::span<const region>(blocks_));
  }

  void copy_before(Batch& batch, const vector<region>& from, std::span<const region> to) {
    const_.assign(from.begin(), from.end());
    batch.copy_before(std::span<const const_region>(const_), to);
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

  const schedule& schedule_;
  const chunk_memory& memory_;
  vector<pack> packs_;
  vector<region> list_, part_, one_, shards_, blocks_;
  vector<const_region> const_;
  vector<std::uint32_t> kept_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
