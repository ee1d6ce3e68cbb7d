// SPDX-License-Identifier: Apache-2.0
#pragma once  // schedule/fill.hpp: a schedule plus addresses, into an engine's batches.

#include <cstddef>
#include <span>
#include <unshard/base/plain_vector.hpp>
#include <unshard/schedule.hpp>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Where the bytes of one round are on this rank. `shards` has an address for each piece, in order.
struct chunk_memory {
  std::byte* chunk = nullptr;    // null where this rank holds no chunk
  std::byte* staging = nullptr;  // for engines without regions: what a group of shifts sends and receives
  std::span<std::byte* const> shards;
};

/// Where a message without regions waits: packed before it goes, or arrived and not unpacked yet.
struct staged_message {
  bool direct = true;  // one contiguous run as it is: it does not wait
  bool packs = false;  // it packs; others of its key, which are alike, find it packed
  std::size_t at = 0;  // in staging
};

/// Fills the batches of schedules. Throws what the engine throws; nothing moves.
template <class Batch>
class batch_filler {
 public:
  /// From now on the batches of this schedule, which must outlive the last call of fill.
  void start(const schedule& s, const chunk_memory& m) {
    schedule_ = &s;
    moved_ = &s.moved_;
    memory_ = m;
    if (!moved_->engine().regions) place_in_staging();
  }

  void fill(Batch& batch, std::size_t number) {
    if (number == 0) {
      if (!moved_->copies().empty()) {
        list(moved_->copies(), &scheduled_run::from, from_);
        list(moved_->copies(), &scheduled_run::to, to_);
        batch.copy_before(span_of<const_region>(from_), span_of<region>(to_));
      }
      for (const collective& c : schedule_->collectives_) call(batch, c);
    }
    for (std::size_t i = 0; i < moved_->list().size(); ++i) {
      const message& m = moved_->list()[i];
      const std::size_t last = moved_->parts_of(m) - 1;
      if (moved_->batch_of(m, 0) > number || moved_->batch_of(m, last) < number) continue;
      const staged_message at = moved_->engine().regions ? staged_message() : places_[i];
      m.kind == transfer_kind::send ? send(batch, m, number, at) : receive(batch, m, number, at);
    }
  }

 private:
  /// Each group of shifts has all of staging: its packs, then what arrives. Messages that are packed for all receivers
  /// are one pack for each key, in one group.
  void place_in_staging() {
    places_.assign(moved_->list().size(), {});
    used_.assign(moved_->groups(), 0);
    packer_.clear();
    const bool shared = schedule_->packs_for_all();
    for (const transfer_kind kind : {transfer_kind::send, transfer_kind::recv}) {
      for (std::size_t i = 0; i < places_.size(); ++i) {
        const message& m = moved_->list()[i];
        if (m.kind != kind || is_direct(m)) continue;
        places_[i].direct = false;
        if (shared && kind == transfer_kind::send && is_packed(m, i)) continue;
        std::size_t& used = used_[shared ? 0 : moved_->group_of(m)];
        places_[i].at = used;
        places_[i].packs = kind == transfer_kind::send;
        used += m.bytes;
      }
    }
  }

  /// Whether another message of its key is packed already: this one finds it there. The one of the earliest batch
  /// packs.
  bool is_packed(const message& m, std::size_t i) {
    constexpr std::size_t none = static_cast<std::size_t>(-1);
    if (m.key >= packer_.size()) packer_.resize(m.key + 1, none);
    std::size_t& packer = packer_[m.key];
    if (packer == none) {
      packer = i;
      return false;
    }
    places_[i].at = places_[packer].at;
    if (moved_->batch_of(m, 0) < moved_->batch_of(moved_->list()[packer], 0)) {
      places_[packer].packs = false;
      places_[i].packs = true;
      packer = i;
    }
    return true;
  }

  /// Whether this rank's side of a message is one contiguous run already.
  bool is_direct(const message& m) const {
    if (m.count != 1) return false;
    const scheduled_run& r = moved_->runs()[moved_->runs_of(m)[0]];
    const run_end& e = m.kind == transfer_kind::send ? r.from : r.to;
    return e.base != run_end::nowhere && (e.blocks == 0 || (e.blocks == 1 && moved_->blocks_of(e)[0].size.dims() == 1));
  }

  void send(Batch& batch, const message& m, std::size_t number, const staged_message& at) {
    list(moved_->runs_of(m), &scheduled_run::from, from_);
    if (!at.direct) {
      const region whole = contiguous<region>(memory_.staging + at.at, m.bytes);
      if (at.packs && moved_->batch_of(m, 0) == number)
        batch.copy_before(span_of<const_region>(from_), std::span(&whole, 1));
      from_.assign(1, whole);
    }
    parts_in(m, number, from_, [&](const auto& part) { batch.send(span_of<const_region>(part), m.peer); });
  }

  void receive(Batch& batch, const message& m, std::size_t number, const staged_message& at) {
    list(moved_->runs_of(m), &scheduled_run::to, to_);
    if (!at.direct) to_.assign(1, contiguous<region>(memory_.staging + at.at, m.bytes));
    parts_in(m, number, to_, [&](const auto& part) { batch.recv(span_of<region>(part), m.peer); });
    if (!at.direct && moved_->batch_of(m, moved_->parts_of(m) - 1) == number) unpack(batch, m, memory_.staging + at.at);
  }

  template <class Region>
  static std::span<const Region> span_of(const plain_vector<Region>& v) {
    return {v.data(), v.size()};
  }
  template <class Region>
  static Region contiguous(std::byte* base, std::size_t bytes) {
    return {base, {static_cast<index_t>(bytes)}, {index_t{1}}};
  }

  /// The regions of one end of some runs. A run that does not lie here has one of its length all the same.
  template <class List>
  void list(std::span<const std::uint32_t> runs, run_end scheduled_run::*end, List& out) const {
    using region_type = typename List::value_type;
    out.clear();
    for (std::uint32_t i : runs) {
      const run_end& e = moved_->runs()[i].*end;
      const std::size_t bytes = moved_->runs()[i].bytes;
      if (e.base == run_end::nowhere) {
        out.push_back(contiguous<region_type>(nullptr, bytes));
        continue;
      }
      std::byte* const base = e.base == run_end::chunk ? memory_.chunk : memory_.shards[e.base];
      if (e.blocks == 0) out.push_back(contiguous<region_type>(base + e.at, bytes));
      for (const strided_block& b : moved_->blocks_of(e)) out.push_back({base + b.offset, b.size, b.stride});
    }
  }

  /// Calls use(list) for a message, or for those of its parts (of max_bytes each) that are in this batch.
  template <class List, class Use>
  void parts_in(const message& m, std::size_t number, const List& all, Use use) {
    const std::size_t count = moved_->parts_of(m);
    if (count == 1) return use(all);
    const std::size_t most = moved_->engine().max_bytes;
    for (std::size_t part = 0; part < count; ++part) {
      if (moved_->batch_of(m, part) == number) use(cut(all, part * most, (std::min)(m.bytes, (part + 1) * most)));
    }
  }

  /// Bytes [from, to) of a list.
  template <class List>
  static List cut(const List& whole, std::size_t from, std::size_t to) {
    List out;
    std::size_t at = 0;
    for (const auto& r : whole) {
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

  /// From staging to where the runs of a message belong that are kept.
  void unpack(Batch& batch, const message& m, std::byte* staged) {
    from_.clear();
    kept_.clear();
    for (std::uint32_t i : moved_->runs_of(m)) {
      const scheduled_run& r = moved_->runs()[i];
      if (r.to.base != run_end::nowhere) {
        from_.push_back(contiguous<const_region>(staged, r.bytes));
        kept_.push_back(i);
      }
      staged += r.bytes;
    }
    if (kept_.empty()) return;
    list({kept_.data(), kept_.size()}, &scheduled_run::to, to_);
    batch.copy_after(span_of<const_region>(from_), span_of<region>(to_));
  }

  void call(Batch& batch, const collective& c) const {
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
  const messages* moved_ = nullptr;
  chunk_memory memory_;
  plain_vector<staged_message> places_;  // of the messages, for engines without regions
  plain_vector<std::size_t> used_;       // of staging, by group of shifts
  plain_vector<std::size_t> packer_;     // by key: the message that packs
  plain_vector<const_region> from_;
  plain_vector<region> to_;
  plain_vector<std::uint32_t> kept_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
