// SPDX-License-Identifier: Apache-2.0
#pragma once  // plan/refusals.hpp: what a plan can't be made of, and what to do about it.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <unshard/base/checked.hpp>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <unshard/options.hpp>
#include <unshard/packing/level_filler.hpp>

namespace unshard {
inline namespace v0 {
namespace detail {

/// bad_options for what no list of parameters could make right.
inline void check_options(const options& o, const capabilities& c) {
  if (o.alignment == 0 || (o.alignment & (o.alignment - 1)) != 0)
    throw bad_options(concat("unshard: .alignment is ", o.alignment, "; a power of two is needed."));
  if (o.in_flight < 1) throw bad_options(concat("unshard: .in_flight is ", o.in_flight, "; at least 1 is needed."));
  if (o.timeout_ms < 0) throw bad_options(concat("unshard: .timeout_ms is ", o.timeout_ms, "; 0 waits for ever."));
  if (o.packing != packing::in_order && o.cut == cut::anywhere)
    throw bad_options(concat("unshard: .cut = cut::anywhere goes with .packing = packing::in_order only; with ",
                             o.packing == packing::best_fit ? "best_fit" : "balanced", " use cut::oversized."));
  if (o.packing == packing::best_fit && o.on.spreads())
    throw bad_options(
        "unshard: .packing = packing::best_fit does not go with .on = spread, where few chunks are no aim; use "
        "packing::balanced, or in_order.");
  if (o.packing == packing::balanced && !o.on.spreads())
    throw bad_options(
        "unshard: .packing = packing::balanced shares parameters out between ranks: it goes with .on = spread only.");
  if (c.max_operations == 1)
    throw bad_options("unshard: the engine's max_operations is 1; at least 2 are needed: a send and a receive.");
}

/// How many bytes of memory a byte of chunk costs: its buffers, and where the engine has no regions the staging of what
/// is received or sent: of both with spread, where a rank does both.
constexpr std::size_t copies_of_a_chunk(const options& o, const capabilities& c) {
  const std::size_t staged = c.regions ? 0 : o.on.spreads() ? 2 : 1;
  return static_cast<std::size_t>(o.in_flight) * (1 + staged);
}

/// All layouts of a spread plan are for as many ranks as the first.
template <class Called>
void check_ranks(int first, int ranks, Called called) {
  if (ranks < 1)
    throw bad_layout(concat("make_plan: parameter ", called(), " has a layout for ", ranks,
                            " ranks; with .on = spread at least 1 is needed."));
  if (ranks != first)
    throw bad_layout(concat("make_plan: parameter ", called(), " has a layout for ", ranks,
                            " ranks, and parameter 0 for ", first,
                            ". With .on = spread all are needed for the same; on_ranks places one on some of them."));
}

/// The sum of costs, each and all below 2^63.
template <class Called>
std::uint64_t sum_of_costs(std::uint64_t sum, std::uint64_t cost, Called called) {
  constexpr auto most = static_cast<std::uint64_t>((std::numeric_limits<std::int64_t>::max)());
  if (cost > most - sum)
    throw size_overflow(concat("make_plan: parameter ", called(), " costs ", cost, ", those before it ", sum,
                               ": together over 2^63 - 1, the most that costs may be. Give them in a larger unit."));
  return sum + cost;
}

/// budget_too_small where a unit of `packer` is over the capacity; bad_options for no budget.
template <class Packer, class Called>
void check_capacity(const Packer& packer, const options& o, const capabilities& c, std::size_t capacity,
                    Called called) {
  if (o.budget < c.staging && packer.largest_unit() == 0)
    throw budget_too_small(
        concat("make_plan: the engine stages ", in_bytes(c.staging, " bytes"), " of its own; the budget is ",
               in_bytes(o.budget), ".\n  Set .budget to at least ", c.staging, "."),
        0, o.budget, c.staging);
  const std::size_t copies = copies_of_a_chunk(o, c);
  if (packer.largest_unit() > capacity) {
    const auto budget_for = [&](std::size_t unit) {
      return to_size(checked_add(checked_mul(static_cast<index_t>(unit), static_cast<index_t>(copies)),
                                 static_cast<index_t>(c.staging)));
    };
    const std::size_t worst = packer.largest_at();
    const std::size_t least = budget_for(packer.largest_unit());
    std::string advice = concat("Set .budget to at least ", least);
    if (o.cut == cut::never && packer.largest_if_cut() <= capacity)
      advice += ", or .cut = unshard::cut::oversized";
    else if (o.cut == cut::never && packer.largest_if_cut() < packer.largest_unit())
      advice +=
          concat(", or to at least ", budget_for(packer.largest_if_cut()), " with .cut = unshard::cut::oversized");
    throw budget_too_small(
        concat("make_plan: ", packer.largest_is_group() ? "the group that starts with parameter " : "parameter ",
               called(worst), " needs ", in_bytes(packer.largest_unit(), " bytes"),
               packer.largest_is_element() ? " for one element" : " whole", "; the budget is ", in_bytes(o.budget),
               copies == 1 && c.staging == 0 ? std::string() : concat(", of which a chunk gets ", capacity), ".\n  ",
               advice, "."),
        worst, o.budget, least);
  }
  if (o.budget == 0)
    throw bad_options("make_plan: .budget is 0. Set it to the bytes that the library may hold on a rank.");
}

/// bad_options for a list of chunks that only a budget in the wrong unit asks for.
inline void check_chunks(std::size_t chunks, const options& o, std::size_t capacity) {
  if (chunks > most_chunks)
    throw bad_options(concat("make_plan: with a budget of ", in_bytes(o.budget, " bytes"), ", a chunk has at most ",
                             capacity, " bytes, and there are ", chunks, " chunks; a plan has at most ", most_chunks,
                             ".\n  .budget is in bytes: was it meant in units of unshard::MiB or unshard::GiB?"));
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
