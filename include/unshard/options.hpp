// SPDX-License-Identifier: Apache-2.0
#pragma once  // options.hpp: what a caller can ask for, when planning and when running.

#include <cstddef>
#include <unshard/observe.hpp>

namespace unshard {
inline namespace v0 {

/// In which order parameters fill chunks.
enum class packing {
  in_order,  ///< the caller's order, greedily
  best_fit,  ///< as few chunks as can be found, never more than in order; the order is free
  balanced,  ///< with spread: each parameter has one owner, and the ranks' costs are as equal as can be found
};

/// When a parameter may be cut over several chunks. `group` and `indivisible` win over both kinds of cutting.
enum class cut {
  never,      ///< a parameter over a chunk's capacity is budget_too_small
  oversized,  ///< only such a parameter is cut, in row-major order
  anywhere,   ///< every chunk is filled by cutting at its edge (in order only)
};

/// Which ranks hold the whole values of a chunk.
class residency {
 public:
  /// Makes root(rank).
  static constexpr residency on_root(int rank) { return residency(rank); }
  /// Makes every_rank.
  static constexpr residency everywhere() { return residency(-1); }
  /// Makes spread.
  static constexpr residency one_each() { return residency(-2); }

  constexpr bool all() const { return root_ == -1; }      ///< every rank holds every chunk
  constexpr bool spreads() const { return root_ == -2; }  ///< every rank holds chunks of its own
  constexpr int root() const { return root_; }            ///< the one rank that holds; below 0 where all do
  /// Whether that rank holds chunks.
  constexpr bool holds(int rank) const { return root_ < 0 || rank == root_; }
  friend constexpr bool operator==(const residency&, const residency&) = default;

 private:
  explicit constexpr residency(int root) : root_(root) {}
  int root_;
};

/// Only this rank holds chunks, the others hold nothing. bad_options where the communicator has no such rank.
constexpr residency root(int rank) { return residency::on_root(rank < 0 ? 0x7fffffff : rank); }
/// All ranks hold them; each keeps its own part of what it wrote, so that a write-back moves no bytes.
inline constexpr residency every_rank = residency::everywhere();
/// Every rank holds chunks of its own: a round is one on each, gathered, worked on and written back at the same time.
inline constexpr residency spread = residency::one_each();

/// What shapes a plan: it holds whenever the plan is used.
struct plan_options {
  std::size_t budget = 0;  ///< bytes: the most that the library holds on any one rank at any moment, all in
  unshard::packing packing = unshard::packing::in_order;  ///< in which order parameters fill chunks
  unshard::cut cut = unshard::cut::never;                 ///< when one may be cut over several
  std::size_t alignment = 128;                            ///< bytes, a power of two: every piece starts at a multiple
  int in_flight = 1;                                      ///< chunk buffers that share the budget
};

/// What each use of a plan chooses anew. All ranks give equal ones, `timeout_ms` and `observer` apart.
struct run_options {
  residency on = unshard::root(0);  ///< who holds chunks
  int timeout_ms = 600'000;         ///< bounds every wait for peers, their bodies included; 0: none
  std::size_t first_round = 0;      ///< the round to start at, to resume after `committed()` of them
  unshard::observer observer = {};
  bool verify = true;  ///< check what callers get wrong: unwritten pieces, overlapping scopes, aliases, replicas
};

/// Both in one flat aggregate, for the call that plans and runs. All ranks give equal ones, `timeout_ms` and `observer`
/// apart. Where only one half is meant, the conversion is explicit, so that nothing is ignored in silence.
struct options {
  std::size_t budget = 0;  ///< bytes: the most that the library holds on any one rank at any moment, all in
  unshard::packing packing = unshard::packing::in_order;  ///< in which order parameters fill chunks
  unshard::cut cut = unshard::cut::never;                 ///< when one may be cut over several
  std::size_t alignment = 128;      ///< bytes, a power of two: every piece starts at a multiple of it
  int in_flight = 1;                ///< chunk buffers that share the budget; 2 gathers ahead, 3 writes back behind, too
  residency on = unshard::root(0);  ///< who holds chunks
  int timeout_ms = 600'000;         ///< bounds every wait for peers, their bodies included; 0: none
  std::size_t first_round = 0;      ///< the round to start at, to resume after `committed()` of them
  unshard::observer observer = {};
  bool verify = true;  ///< check what callers get wrong: unwritten pieces, overlapping scopes, aliases, replicas

  explicit constexpr operator plan_options() const { return {budget, packing, cut, alignment, in_flight}; }
  explicit constexpr operator run_options() const { return {on, timeout_ms, first_round, observer, verify}; }
};

}  // namespace v0
}  // namespace unshard
