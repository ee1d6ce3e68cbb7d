// SPDX-License-Identifier: Apache-2.0
#pragma once  // alpha_beta.hpp: traffic in, seconds out: links of a latency, a cost a message and a bandwidth.

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

#include "traffic.hpp"

namespace simulation {

/// Bytes a second of one rank: the only one of its host at work, or one of several.
struct rate {
  double alone, shared;
};

/// From the shards into the chunk, and back: on a real machine the two differ.
struct path {
  rate in, out;
  const rate& of(unshard::movement m) const { return m == unshard::movement::gather ? in : out; }
};

/// A message of b bytes keeps its port for message_s + b / rate seconds, and is there latency_s later. A rank has one
/// port a link, which sends and receives at the same time, each one message after another.
struct port {
  double latency_s, message_s;
  path bytes;
};

/// What moves bytes. All numbers are inputs.
struct machine {
  int per_host;          ///< ranks that share a host
  int cores;             ///< of a host: so many of its ranks work at once; where fewer than per_host, all are looked at
  port inside, between;  ///< ranks of one host; of two
  bool receivers_fetch;  ///< the receiver's core moves the bytes and the sender's port is free (shared memory)
  path copy;             ///< a rank's own part, within its memory
  rate fill{0, 0};       ///< a body that overwrites; 0: takes no time
  rate fresh_s{0, 0};    ///< seconds a byte that memory obtained anew costs when it is first written
  double exchange_s = 0;  ///< of a word of 16 bytes; 0: log2(ranks) steps of the link
};

/// All ranks' parts of one movement of one chunk, or those of witnesses.
using all_traffic = std::span<const traffic>;

namespace detail {

inline double pick(const rate& r, bool alone) { return alone ? r.alone : r.shared; }

inline bool works(const traffic& t, const machine& m) {
  return t.copied > 0 || t.received.messages() > 0 || (!m.receivers_fetch && t.sent.messages() > 0);
}

/// How long one rank is busy. Its sends and its receives go on at the same time.
inline double busy_seconds(const traffic& t, unshard::movement way, const machine& m, bool alone) {
  const auto over = [&](const flow& f, const port& l) {
    return static_cast<double>(f.messages) * l.message_s + static_cast<double>(f.bytes) / pick(l.bytes.of(way), alone);
  };
  const auto both = [&](const flows& f) { return over(f.inside, m.inside) + over(f.between, m.between); };
  const double sends = m.receivers_fetch ? 0.0 : both(t.sent);
  return static_cast<double>(t.copied) / pick(m.copy.of(way), alone) + std::max(sends, both(t.received));
}

/// Ranks on the hosts' cores: the last host to be done, where none is done before its busiest rank, nor before its
/// cores have done all its ranks' work.
template <class Seconds>
double slowest_host(all_traffic all, const machine& m, Seconds seconds) {
  struct host {
    int working = 0;
    double longest = 0, sum = 0;
  };
  std::map<int, host> hosts;
  for (const traffic& t : all) hosts[t.rank / m.per_host].working += works(t, m) ? 1 : 0;
  for (const traffic& t : all) {
    host& h = hosts[t.rank / m.per_host];
    const double s = seconds(t, h.working <= 1);
    h.longest = std::max(h.longest, s);
    h.sum += s;
  }
  double last = 0;
  for (const auto& [number, h] : hosts)
    last = std::max({last, h.longest, m.cores < m.per_host ? h.sum / m.cores : 0.0});
  return last;
}

}  // namespace detail

/// Seconds from the launch of a movement to the end of its last wait.
inline double movement_seconds(all_traffic all, unshard::movement way, const machine& m) {
  double latency = 0;
  for (const traffic& t : all) {
    if (t.sent.inside.messages + t.received.inside.messages > 0) latency = std::max(latency, m.inside.latency_s);
    if (t.sent.between.messages + t.received.between.messages > 0) latency = std::max(latency, m.between.latency_s);
  }
  return latency + detail::slowest_host(
                       all, m, [&](const traffic& t, bool alone) { return detail::busy_seconds(t, way, m, alone); });
}

/// Seconds of one exchange: what all ranks' words take to reach all, by doubling.
inline double exchange_seconds(int ranks, const machine& m) {
  if (m.exchange_s > 0 || ranks == 1) return m.exchange_s;
  const port& l = ranks > m.per_host ? m.between : m.inside;
  return std::ceil(std::log2(ranks)) * (l.latency_s + l.message_s) + 16.0 * (ranks - 1) / l.bytes.in.alone;
}

}  // namespace simulation
