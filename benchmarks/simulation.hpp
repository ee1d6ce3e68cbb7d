// SPDX-License-Identifier: Apache-2.0
#pragma once  // simulation.hpp: one plan, moved: what both movements take over all its chunks, and what an access is of
              // them.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string_view>
#include <unshard/plan.hpp>
#include <vector>

#include "alpha_beta.hpp"

namespace simulation {

/// Both directions, over all chunks. "Most" is of the busiest rank, chunk by chunk.
struct movement_total {
  double seconds = 0;
  std::size_t messages_root = 0, messages_most = 0;   // sent and received
  std::size_t sent_most = 0, received_most = 0;       // bytes
  double schedule_root_s = 0, schedule_others_s = 0;  // measured here; the second is a mean over the other ranks
  std::size_t copied_first = 0;                       // most bytes of a rank's own in the first chunk
  int evaluated = 0;                                  // fewest ranks looked at in a chunk
};

/// A plan whose chunks were moved by schedules, once in each direction.
struct simulated {
  unshard::plan_summary plan;
  double plan_s = 0;  // measured here
  movement_total gather, write_back;
  double vote_s = 0;  // of one exchange
};

/// All ranks are looked at up to this many; above, as witnesses() says.
inline constexpr int all_up_to = 128;

inline movement_total move_all(const unshard::chunk_plan& plan, parameters list, unshard::movement way, const group& g,
                               const machine& m, int every_up_to = all_up_to) {
  movement_total total;
  total.evaluated = g.ranks;
  std::vector<traffic> all;
  for (std::size_t c = 0; c < plan.chunks(); ++c) {
    const std::vector<unshard::planned_piece> chunk = plan.pieces(c, list);
    const std::vector<int> ranks = witnesses(way, g, chunk, list, m.cores < m.per_host ? g.ranks : every_up_to);
    total.evaluated = std::min(total.evaluated, static_cast<int>(ranks.size()));
    all.clear();
    traffic most;
    std::size_t messages = 0;
    double schedule_s = 0;
    for (int r : ranks) {
      const traffic& t = all.emplace_back(traffic_of(way, r, g, chunk, list));
      const std::size_t both = t.sent.messages() + t.received.messages();
      messages = std::max(messages, both);
      most.sent.inside.bytes = std::max(most.sent.inside.bytes, t.sent.bytes());
      most.received.inside.bytes = std::max(most.received.inside.bytes, t.received.bytes());
      most.copied = std::max(most.copied, t.copied);
      if (r == 0) {
        total.messages_root += both;
        total.schedule_root_s += t.schedule_seconds;
      } else {
        schedule_s += t.schedule_seconds;
      }
    }
    total.seconds += movement_seconds(all, way, m);
    total.messages_most += messages;
    total.sent_most += most.sent.inside.bytes;
    total.received_most += most.received.inside.bytes;
    total.schedule_others_s += schedule_s / std::max<double>(1, static_cast<double>(ranks.size()) - 1);
    if (c == 0) total.copied_first = most.copied;
  }
  return total;
}

/// Plans `list` for a residency of all ranks or of rank 0, and moves it. Throws what make_plan throws.
inline simulated simulate(parameters list, const group& g, const unshard::options& o, const machine& m) {
  using clock = std::chrono::steady_clock;
  const auto begun = clock::now();
  const unshard::chunk_plan plan = unshard::make_plan(list, o);
  simulated s;
  s.plan_s = std::chrono::duration<double>(clock::now() - begun).count();
  s.plan = plan.summary();
  s.gather = move_all(plan, list, unshard::movement::gather, g, m);
  s.write_back = move_all(plan, list, unshard::movement::write_back, g, m);
  s.vote_s = exchange_seconds(g.ranks, m);
  return s;
}

/// What a caller asks for: which movements there are.
struct access_kind {
  std::string_view name;
  bool gathers, writes;
};
inline constexpr access_kind accesses[] = {
    {"read", true, false}, {"read_write", true, true}, {"overwrite", false, true}};

/// Where the time of a range goes. Each part waits for the one before: one chunk in flight.
struct times {
  double gather = 0, write_back = 0, votes = 0, body = 0, fresh = 0;
  double sum() const { return gather + write_back + votes + body + fresh; }
};

/// The opening, then for each chunk: gather, body, vote, write-back. A body that overwrites fills what it holds: all of
/// it on the root, each rank's own part where all hold it. The first chunk's memory is new.
inline times times_of(const simulated& s, const access_kind& a, const group& g, const machine& m) {
  const auto chunks = static_cast<double>(s.plan.chunks);
  const bool all = g.on.all();
  const int here = std::min(g.ranks, m.per_host);                                       // ranks of a host
  const double turns = all ? std::max(1.0, here / static_cast<double>(m.cores)) : 1.0;  // that its cores take
  const bool alone = !all || here == 1;
  const auto own = static_cast<double>(s.write_back.copied_first);  // the chunks of these models are alike
  const double filled = all ? own * chunks : static_cast<double>(s.plan.bytes);
  const double touched = all && !a.gathers ? own : static_cast<double>(s.plan.largest);
  times t;
  if (a.gathers) t.gather = s.gather.seconds;
  if (a.writes) t.write_back = s.write_back.seconds;
  t.votes = (chunks + 1) * s.vote_s;
  if (!a.gathers && m.fill.alone > 0) t.body = turns * filled / detail::pick(m.fill, alone);
  t.fresh = turns * touched * detail::pick(m.fresh_s, alone);
  return t;
}

}  // namespace simulation
