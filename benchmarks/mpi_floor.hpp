// SPDX-License-Identifier: Apache-2.0
#pragma once  // mpi_floor.hpp: what a range over MPI is held against: the same bytes moved by bare MPI, in its best
              // way.

#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <unshard/unshard.hpp>
#include <utility>
#include <vector>

#include "floor.hpp"

namespace bench {

/// Runs of bytes in one memory, neighbours merged, as one MPI type that is made before any time is taken.
class runs {
 public:
  struct run {
    std::size_t at, bytes;
  };
  runs() = default;
  runs(runs&& other) noexcept { *this = std::move(other); }
  runs& operator=(runs&& other) noexcept {
    std::swap(list_, other.list_);
    std::swap(bytes_, other.bytes_);
    std::swap(type_, other.type_);
    return *this;
  }
  ~runs() {
    if (type_ != MPI_DATATYPE_NULL) MPI_Type_free(&type_);
  }

  void add(std::size_t at, std::size_t bytes) {
    bytes_ += bytes;
    if (!list_.empty() && list_.back().at + list_.back().bytes == at) {
      list_.back().bytes += bytes;
    } else {
      list_.push_back({at, bytes});
    }
  }
  /// A vector where the runs are alike, which MPI moves faster than a list of them.
  void commit() {
    if (list_.size() < 2) return;
    const std::size_t stride = list_[1].at - list_[0].at;
    bool even = true;
    for (std::size_t i = 0; i < list_.size(); ++i)
      even = even && list_[i].bytes == list_[0].bytes && list_[i].at == list_[0].at + i * stride;
    const auto count = static_cast<int>(list_.size());
    if (even) {
      MPI_Type_create_hvector(count, static_cast<int>(list_[0].bytes), static_cast<MPI_Aint>(stride), MPI_BYTE, &type_);
    } else {
      std::vector<int> lengths;
      std::vector<MPI_Aint> at;
      for (const run& r : list_) {
        lengths.push_back(static_cast<int>(r.bytes));
        at.push_back(static_cast<MPI_Aint>(r.at - list_[0].at));
      }
      MPI_Type_create_hindexed(count, lengths.data(), at.data(), MPI_BYTE, &type_);
    }
    MPI_Type_commit(&type_);
  }

  bool whole() const { return list_.size() <= 1; }
  std::size_t bytes() const { return bytes_; }
  std::size_t first() const { return list_.empty() ? 0 : list_[0].at; }
  int count() const { return whole() ? static_cast<int>(bytes_) : 1; }
  MPI_Datatype type() const { return whole() ? MPI_BYTE : type_; }

  void pack(std::byte* to, const std::byte* memory) const {
    for (const run& r : list_) {
      std::memcpy(to, memory + r.at, r.bytes);
      to += r.bytes;
    }
  }
  void unpack(const std::byte* from, std::byte* memory) const {
    for (const run& r : list_) {
      std::memcpy(memory + r.at, from, r.bytes);
      from += r.bytes;
    }
  }

 private:
  std::vector<run> list_;
  std::size_t bytes_ = 0;
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

/// What one rank shares with a holder of a chunk: bytes of its shards, in one run, and where they are in the chunk.
struct leg {
  int rank = 0;    // whose shards
  int holder = 0;  // whose chunk
  runs shard, chunk;
};

/// This rank's part in one movement of one chunk of one parameter, made before any time is taken. Of a write-back where
/// all hold it, each keeps its own.
class bare_movement {
 public:
  /// `messages` have derived types where a leg is strided, `packed` go through a second buffer, and so do collectives.
  enum way { messages, packed, collectives };

  bare_movement(const std::vector<part>& parts, unshard::residency on, bool to_holder, int rank, int ranks)
      : to_holder_(to_holder), all_(on.all()), me_(rank), root_(on.all() ? 0 : on.root()) {
    for (int holder = 0; holder < ranks; ++holder) {
      if (on.holds(holder)) add(to_holder ? sources_of(parts, holder) : parts, holder, ranks);
    }
    std::stable_sort(mine_.begin(), mine_.end(), [&](const leg& a, const leg& b) {  // not all at one rank first
      const auto key = [&](const leg& l) {
        const int peer = l.rank + l.holder - me_;
        return std::pair((peer - me_ + ranks) % ranks, sends(l) ? 0 : 1);
      };
      return key(a) < key(b);
    });
    for (const part& p : parts) {
      replicas_ = replicas_ || p.rank != p.first;
      bytes_ = std::max(bytes_, p.offset + p.bytes);
    }
    same_ = replicas_ &&
            std::all_of(counts_.begin(), counts_.end(), [&](int c) { return static_cast<std::size_t>(c) == bytes_; });
  }

  bool strided() const { return strided_; }
  /// No scatter may read bytes twice, and an all-gather has one list for all.
  bool has_collective() const {
    if (to_holder_) return !all_ || !replicas_;
    return !all_ && (same_ || !replicas_);
  }
  /// The second buffer, on this rank.
  std::size_t staging(way w) const { return w == messages || !strided_ || !(all_ || me_ == root_) ? 0 : bytes_; }

  void run(way w, std::byte* chunk, std::byte* shards, std::byte* stage) const {
    if (w == collectives && has_collective()) {
      to_holder_ ? gather(chunk, shards, stage) : scatter(chunk, shards, stage);
    } else {
      exchange(w == packed ? stage : nullptr, chunk, shards);
    }
  }

 private:
  void add(const std::vector<part>& parts, int holder, int ranks) {
    std::vector<leg> legs(static_cast<std::size_t>(ranks));
    for (const part& p : parts) {
      if (!to_holder_ && all_ && p.rank != holder) continue;
      legs[static_cast<std::size_t>(p.rank)].shard.add(p.at, p.bytes);
      legs[static_cast<std::size_t>(p.rank)].chunk.add(p.offset, p.bytes);
    }
    int before = 0;
    const std::size_t first = legs[0].chunk.bytes();
    for (int r = 0; r < ranks; ++r) {
      leg& l = legs[static_cast<std::size_t>(r)];
      l.rank = r;
      l.holder = holder;
      strided_ = strided_ || !l.chunk.whole();
      even_ = even_ && l.chunk.bytes() == first;
      if (!l.shard.whole()) throw std::logic_error("bare_movement: made for chunks of one parameter each.");
      if (holder == root_) {
        counts_.push_back(static_cast<int>(l.chunk.bytes()));
        starts_.push_back(static_cast<int>(l.chunk.first()));
        packed_.push_back(before);
        before += counts_.back();
      }
      if (l.chunk.bytes() == 0 || (holder != me_ && r != me_)) continue;
      l.chunk.commit();
      mine_.push_back(std::move(l));
    }
  }

  bool here(const leg& l) const { return l.holder == me_; }
  bool sends(const leg& l) const { return here(l) != to_holder_; }

  /// Non-blocking messages; this rank's own part by memcpy, while they are under way.
  void exchange(std::byte* stage, std::byte* chunk, std::byte* shards) const {
    std::vector<MPI_Request> requests;
    std::vector<std::pair<const leg*, const std::byte*>> arrive;  // as many: what is to be unpacked, and from where
    for (const leg& l : mine_) {
      if (l.rank == l.holder) continue;
      const int peer = here(l) ? l.rank : l.holder;
      std::byte* at = here(l) ? chunk + l.chunk.first() : shards + l.shard.first();
      int count = here(l) ? l.chunk.count() : l.shard.count();
      MPI_Datatype type = here(l) ? l.chunk.type() : l.shard.type();
      arrive.emplace_back(nullptr, nullptr);
      if (stage != nullptr && here(l) && !l.chunk.whole()) {
        if (sends(l)) l.chunk.pack(stage, chunk);
        if (!sends(l)) arrive.back() = {&l, stage};
        at = stage;
        count = static_cast<int>(l.chunk.bytes());
        type = MPI_BYTE;
        stage += l.chunk.bytes();
      }
      MPI_Request& r = requests.emplace_back();
      sends(l) ? MPI_Isend(at, count, type, peer, 0, MPI_COMM_WORLD, &r)
               : MPI_Irecv(at, count, type, peer, 0, MPI_COMM_WORLD, &r);
    }
    for (const leg& l : mine_) {
      if (l.rank != l.holder) continue;
      std::byte* const own = shards + l.shard.first();
      to_holder_ ? l.chunk.unpack(own, chunk) : l.chunk.pack(own, chunk);
    }
    if (stage == nullptr) {
      MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
      return;
    }
    for (std::size_t left = requests.size(); left > 0; --left) {
      int i = 0;
      MPI_Waitany(static_cast<int>(requests.size()), requests.data(), &i, MPI_STATUS_IGNORE);
      const auto& [l, from] = arrive[static_cast<std::size_t>(i)];
      if (l != nullptr) l->chunk.unpack(from, chunk);
    }
  }

  int count() const { return counts_[static_cast<std::size_t>(me_)]; }
  const std::vector<int>& starts() const { return strided_ ? packed_ : starts_; }
  /// Then the calls that have one count for all will do.
  bool alike() const { return even_ && std::is_sorted(starts().begin(), starts().end()); }
  std::byte* own(std::byte* shards) const {
    for (const leg& l : mine_) {
      if (l.rank == me_ && l.holder == root_) return shards + l.shard.first();
    }
    return shards;
  }

  void gather(std::byte* chunk, std::byte* shards, std::byte* stage) const {
    std::byte* const to = strided_ ? stage : chunk;
    if (all_) {
      alike() ? MPI_Allgather(own(shards), count(), MPI_BYTE, to, count(), MPI_BYTE, MPI_COMM_WORLD)
              : MPI_Allgatherv(own(shards), count(), MPI_BYTE, to, counts_.data(), starts().data(), MPI_BYTE,
                               MPI_COMM_WORLD);
    } else {
      alike() ? MPI_Gather(own(shards), count(), MPI_BYTE, to, count(), MPI_BYTE, root_, MPI_COMM_WORLD)
              : MPI_Gatherv(own(shards), count(), MPI_BYTE, to, counts_.data(), starts().data(), MPI_BYTE, root_,
                            MPI_COMM_WORLD);
    }
    for (const leg& l : mine_) {
      if (strided_ && here(l)) l.chunk.unpack(stage + packed_[static_cast<std::size_t>(l.rank)], chunk);
    }
  }

  void scatter(std::byte* chunk, std::byte* shards, std::byte* stage) const {
    if (same_) {
      MPI_Bcast(me_ == root_ ? chunk : own(shards), count(), MPI_BYTE, root_, MPI_COMM_WORLD);
      if (me_ == root_) std::memcpy(own(shards), chunk, bytes_);
      return;
    }
    for (const leg& l : mine_) {
      if (strided_ && here(l)) l.chunk.pack(stage + packed_[static_cast<std::size_t>(l.rank)], chunk);
    }
    const std::byte* const from = strided_ ? stage : chunk;
    alike() ? MPI_Scatter(from, count(), MPI_BYTE, own(shards), count(), MPI_BYTE, root_, MPI_COMM_WORLD)
            : MPI_Scatterv(from, counts_.data(), starts().data(), MPI_BYTE, own(shards), count(), MPI_BYTE, root_,
                           MPI_COMM_WORLD);
  }

  bool to_holder_, all_;
  int me_, root_;
  bool strided_ = false, replicas_ = false, same_ = false, even_ = true;
  std::size_t bytes_ = 0;             // of the chunk
  std::vector<leg> mine_;             // as a holder, or to one
  std::vector<int> counts_;           // each rank's bytes at the root, or anywhere where all hold
  std::vector<int> starts_, packed_;  // where they begin in the chunk; one after another in the second buffer
};

}  // namespace bench
