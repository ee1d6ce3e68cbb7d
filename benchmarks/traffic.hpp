// SPDX-License-Identifier: Apache-2.0
#pragma once  // traffic.hpp: what each rank sends, receives and copies when a chunk moves: real schedules, no bytes.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <unshard/schedule.hpp>
#include <utility>
#include <vector>

namespace simulation {

/// A parameter of a size and a layout, and no bytes: enough to plan and to schedule. The name is not owned.
class sized_parameter {
 public:
  sized_parameter(std::string_view name, unshard::any_layout layout, std::size_t element_size, std::uint64_t identity)
      : name_(name), layout_(std::move(layout)), element_size_(element_size), identity_(identity) {}
  const unshard::any_layout& layout() const { return layout_; }
  std::size_t element_size() const { return element_size_; }
  std::span<const std::byte> shard() const { return {}; }
  std::string_view name() const { return name_; }
  std::uint64_t identity() const { return identity_; }

 private:
  std::string_view name_;
  unshard::any_layout layout_;
  std::size_t element_size_;
  std::uint64_t identity_;
};
static_assert(unshard::parameter_handle<sized_parameter>);

/// Over which kind of link.
struct flow {
  std::size_t messages = 0;
  std::size_t bytes = 0;
  friend bool operator==(const flow&, const flow&) = default;
};
struct flows {
  flow inside, between;  // ranks of one host; of two
  std::size_t messages() const { return inside.messages + between.messages; }
  std::size_t bytes() const { return inside.bytes + between.bytes; }
};

/// One rank's part in moving one chunk.
struct traffic {
  int rank = 0;
  flows sent, received;
  std::size_t copied = 0;       // bytes between the chunk and its own shard
  double schedule_seconds = 0;  // that making the schedule took here, measured
};

using pieces = std::span<const unshard::planned_piece>;
using parameters = std::span<const sized_parameter>;

/// How many ranks there are, which of them share a host (so many in a row), and which hold chunks.
struct group {
  int ranks;
  int per_host;
  unshard::residency on;
};

/// What the library's own schedule says, for engines that move messages (MPI, threads).
inline traffic traffic_of(unshard::movement way, int rank, const group& g, pieces chunk, parameters list) {
  using clock = std::chrono::steady_clock;
  traffic t;
  t.rank = rank;
  const auto begun = clock::now();
  unshard::schedule s(way, rank, g.ranks, g.on, {});
  for (const unshard::planned_piece& p : chunk) s.add(p, list[p.parameter].layout());
  s.finish();
  t.schedule_seconds = std::chrono::duration<double>(clock::now() - begun).count();
  s.for_each_transfer([&](const unshard::scheduled_transfer& x) {
    if (x.kind == unshard::transfer_kind::copy) {
      t.copied += x.bytes;
      return;
    }
    flows& way_of_it = x.kind == unshard::transfer_kind::send ? t.sent : t.received;
    flow& f = x.peer / g.per_host == rank / g.per_host ? way_of_it.inside : way_of_it.between;
    ++f.messages;
    f.bytes += x.bytes;
  });
  return t;
}

/// Ranks to look at where all would be too many: with root residency all, as each costs little. Where every rank holds
/// chunks each has messages with all others; then the ones that send most, receive most and send to most, the first,
/// the middle and the last one. What a rank sends is found without a schedule, so that the busiest is among them.
inline std::vector<int> witnesses(unshard::movement way, const group& g, pieces chunk, parameters list, int all_up_to) {
  std::vector<int> ranks;
  if (!g.on.all() || g.ranks <= all_up_to) {
    for (int r = 0; r < g.ranks; ++r) ranks.push_back(r);
    return ranks;
  }
  struct load {
    std::size_t sent = 0, sends = 0, held = 0;
  };
  std::vector<load> loads(static_cast<std::size_t>(g.ranks));
  for (const unshard::planned_piece& p : chunk) {
    if (p.elements == 0) continue;
    const unshard::any_layout& layout = list[p.parameter].layout();
    for (int first : layout.ranks_of(p.first, p.elements)) {
      if (layout.replica_of(first) != first) continue;
      const unshard::rank_list same = layout.replicas_of(first);
      const auto held = static_cast<std::size_t>(unshard::detail::held_of(layout, first, p.first, p.elements)) *
                        list[p.parameter].element_size();
      std::vector<std::size_t> serves(static_cast<std::size_t>(same.size()), 0);
      if (way == unshard::movement::gather) {
        const auto until = [&](std::size_t i) {
          return unshard::detail::ceil_div(static_cast<std::int64_t>(i) * g.ranks, same.size());
        };
        for (std::size_t i = 0; i < serves.size(); ++i) serves[i] = static_cast<std::size_t>(until(i + 1) - until(i));
        for (int member : same)
          --serves[static_cast<std::size_t>(unshard::detail::near_replica(same.size(), member, g.ranks))];
      }
      for (std::size_t i = 0; i < serves.size(); ++i) {
        load& l = loads[static_cast<std::size_t>(same[static_cast<int>(i)])];
        l.held += held;
        l.sent += held * serves[i];
        l.sends = std::max(l.sends, serves[i]);
      }
    }
  }
  const auto most = [&](auto less) {
    return static_cast<int>(std::max_element(loads.begin(), loads.end(), less) - loads.begin());
  };
  ranks = {0,
           g.ranks / 2,
           g.ranks - 1,
           most([](const load& a, const load& b) { return a.sent < b.sent; }),
           most([](const load& a, const load& b) { return a.sends < b.sends; }),
           most([](const load& a, const load& b) { return a.held < b.held; }),
           most([](const load& a, const load& b) { return a.held > b.held; })};
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

}  // namespace simulation
