// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/rounds.hpp: the pieces of one round, and how much of it this rank must be able to stage.

#include <cstddef>
#include <unshard/base/plain_vector.hpp>
#include <unshard/layout.hpp>
#include <unshard/plan.hpp>
#include <unshard/schedule.hpp>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Calls visit(planned_piece, chunk, holder) for every piece of a round: of the one chunk, or with spread of that of
/// each rank, in the order of ranks. The holder is -1 without spread.
template <class Size, class Visit>
void for_each_in_round(const chunk_plan& plan, std::size_t round, Size size, Visit visit) {
  const int chunks = plan.spreads() ? plan.ranks() : 1;
  for (int h = 0; h < chunks; ++h) {
    const std::size_t chunk = plan.chunk_of(round, h);
    plan.for_each_piece(chunk, size, [&](const planned_piece& p) { visit(p, chunk, plan.spreads() ? h : -1); });
  }
}

/// What one rank sends and receives in each cyclic shift of one round of a spread plan, in bytes, and whether groups of
/// so many shifts fit its staging.
class shift_loads {
 public:
  shift_loads(int rank, int ranks, std::size_t staging) : rank_(rank), ranks_(ranks), staging_(staging) {}

  /// For the next round.
  void clear() {
    gather_.assign(static_cast<std::size_t>(ranks_), 0);
    write_back_.assign(static_cast<std::size_t>(ranks_), 0);
    own_ = 0;
  }

  template <class L>
  void add(const planned_piece& p, const L& layout, int holder, bool gathers, bool writes) {
    if (p.elements == 0) return;
    const std::size_t element_size = p.bytes / static_cast<std::size_t>(p.elements);
    const auto bytes_on = [&](int rank) {
      return static_cast<std::size_t>(detail::held_of(layout, rank, p.first, p.elements)) * element_size;
    };
    if (holder == rank_) {
      own_ += p.bytes;
      if (!writes) return;
      for (int owner : detail::ranks_of(layout, p.first, p.elements)) {
        if (owner != rank_) write_back_[shift(owner - rank_)] += bytes_on(owner);
      }
      return;
    }
    const std::size_t mine = bytes_on(rank_);
    if (mine == 0) return;
    if (writes) write_back_[shift(rank_ - holder)] += mine;
    const rank_list group = detail::replicas_of(layout, rank_, p.first, p.elements);
    if (gathers && !group.contains(holder) && in_turn(group, p.parameter) == rank_)
      gather_[shift(holder - rank_)] += mine;
  }

  /// The largest group that fits, all shifts or a power of two, at most `most`: those nest, so that the least of all
  /// ranks fits every one.
  std::size_t fitting(std::size_t most) const {
    const auto n = static_cast<std::size_t>(ranks_);
    if (most >= n && fits(n)) return n;
    std::size_t group = 1;
    while (2 * group < n && 2 * group <= most && fits(2 * group)) group *= 2;
    return group;
  }

 private:
  std::size_t shift(int up) const { return static_cast<std::size_t>((up + ranks_) % ranks_); }
  bool fits(std::size_t group) const {
    for (std::size_t from = 0; from < gather_.size(); from += group) {
      std::size_t sent = own_;  // what arrives is at most this rank's chunk
      std::size_t written = 0;
      for (std::size_t d = from; d < (std::min)(gather_.size(), from + group); ++d) {
        sent += gather_[d];
        written += write_back_[d];
      }
      if (sent > staging_ || written > staging_) return false;
    }
    return true;
  }

  int rank_;
  int ranks_;
  std::size_t staging_;
  std::size_t own_ = 0;
  plain_vector<std::size_t> gather_, write_back_;  // by shift
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
