// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/mpi/batch.hpp: the operations of one launch, in MPI's terms, before and while they are under way.

#include <algorithm>
#include <climits>
#include <cstddef>
#include <exception>
#include <span>
#include <unshard/comm/mpi/region_hull.hpp>
#include <unshard/comm/mpi/types.hpp>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// One send or receive, in MPI's terms: a single run as bytes, all else as a derived type, so that nothing is staged.
template <class Mpi>
struct mpi_message {
  void* base = nullptr;
  int count = 0;
  mpi_type<Mpi> type;
  int peer = 0;
  std::size_t bytes = 0;
  bool sends = false;

  mpi_message(std::span<const const_region> list, int to_or_from, bool is_send, int rank)
      : peer(to_or_from), sends(is_send) {
    const std::vector<mpi_runs> parts = runs_of(list);
    for (const const_region& r : list) bytes += bytes_of(r);
    bool flat = true;
    for (const mpi_runs& part : parts) flat = flat && part.dims == 0 && part.run <= INT_MAX;
    if (parts.size() <= 1) {
      if (parts.empty()) return;
      base = const_cast<std::byte*>(parts[0].base);  // MPI's receives take void*; what sends only is never written
      count = flat ? static_cast<int>(parts[0].run) : 1;
      if (!flat) type = mpi_type<Mpi>::of(parts[0], rank);
    } else {
      base = Mpi::bottom();
      count = 1;
      type = flat ? runs(parts, rank) : mixed(parts, rank);
    }
    type.commit(rank);
  }

 private:
  static mpi_type<Mpi> runs(const std::vector<mpi_runs>& parts, int rank) {
    std::vector<typename Mpi::address> at;
    std::vector<int> lengths;
    at.reserve(parts.size());
    lengths.reserve(parts.size());
    for (const mpi_runs& part : parts) {
      at.push_back(Mpi::address_of(part.base, rank));
      lengths.push_back(static_cast<int>(part.run));
    }
    return mpi_type<Mpi>::of_runs(at, lengths, rank);
  }
  static mpi_type<Mpi> mixed(const std::vector<mpi_runs>& parts, int rank) {
    std::vector<typename Mpi::address> at;
    std::vector<mpi_type<Mpi>> owners;
    std::vector<typename Mpi::type> types;
    for (const mpi_runs& part : parts) {
      at.push_back(Mpi::address_of(part.base, rank));
      owners.push_back(mpi_type<Mpi>::of(part, rank));
      types.push_back(owners.back().get());
    }
    return mpi_type<Mpi>::of_types(at, types, rank);
  }
};

struct mpi_copy {
  std::vector<const_region> from;
  std::vector<region> to;
};

/// A launched batch: its requests, shared by the completion and the communicator, which must end it in abort.
template <class Mpi>
struct mpi_flight {
  std::vector<typename Mpi::request> requests;
  std::vector<mpi_message<Mpi>> messages;  // as many, in the same order
  std::vector<mpi_copy> after;
  std::size_t number = 0;    // of the launch, the same on every rank
  std::size_t ended = 0;     // of the requests, in their order
  std::exception_ptr error;  // what ready() found; wait() throws it
};

template <class Mpi>
class mpi_engine;

/// Operations of one launch; see the concept `batch`. MPI types are made as operations are added, so that what fails
/// there fails before anything moves. Throws bad_options for a peer that there is not, batch_mismatch for a copy whose
/// lists differ in length, device_failed.
template <class Mpi>
class mpi_batch {
 public:
  void send(std::span<const const_region> from, int peer) { add(from, peer, true); }
  void recv(std::span<const region> to, int peer) {
    const std::vector<const_region> list(to.begin(), to.end());
    add(list, peer, false);
  }
  void copy_before(std::span<const const_region> from, std::span<const region> to) {
    before_.push_back(copy(from, to));
  }
  void copy_after(std::span<const const_region> from, std::span<const region> to) { after_.push_back(copy(from, to)); }

 private:
  friend class mpi_engine<Mpi>;
  mpi_batch(int rank, int size) : rank_(rank), size_(size) {}

  mpi_copy copy(std::span<const const_region> from, std::span<const region> to) const {
    if (bytes_of(from) != bytes_of(to))
      throw batch_mismatch(concat("mpi_batch: a copy from ", bytes_of(from), " bytes to ", bytes_of(to),
                                  "; both lists must have equally many. [rank ", rank_, " of ", size_, "]"));
    return {{from.begin(), from.end()}, {to.begin(), to.end()}};
  }
  void add(std::span<const const_region> list, int peer, bool sends) {
    if (peer < 0 || peer >= size_)
      throw bad_options(concat("mpi_batch: ", sends ? "send to" : "recv from", " rank ", peer, "; the ranks are 0 to ",
                               size_ - 1, ". [rank ", rank_, " of ", size_, "]"));
    messages_.emplace_back(list, peer, sends, rank_);
    if (sends) sent_.insert(sent_.end(), list.begin(), list.end());
  }

  /// Whether no copy_before writes what a send reads: then peers may fetch while this rank copies. May say no where
  /// it is so.
  bool independent() const {
    region_hull sent;
    region_hull written;
    for (const region_hull& h : sent_) sent.add(h);
    for (const mpi_copy& c : before_) {
      for (const region& r : c.to) written.add(region_hull(r));
    }
    const auto apart = [](const auto& list, const region_hull& from) {
      return std::none_of(list.begin(), list.end(), [&](const auto& r) { return region_hull(r).meets(from); });
    };
    return apart(sent_, written) ||
           std::all_of(before_.begin(), before_.end(), [&](const mpi_copy& c) { return apart(c.to, sent); });
  }

  int rank_;
  int size_;
  std::vector<mpi_message<Mpi>> messages_;
  std::vector<region_hull> sent_;  // of each region that is sent
  std::vector<mpi_copy> before_;
  std::vector<mpi_copy> after_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
