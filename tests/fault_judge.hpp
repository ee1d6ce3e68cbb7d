// SPDX-License-Identifier: Apache-2.0
#pragma once  // fault_judge.hpp: what must hold after a run with a fault. Returns what does not, in words; empty:
              // nothing.

#include "fault_case.hpp"

namespace faults {

/// Where faults of the mock hit: before the word (lists), when all ranks learn it, or in the transport itself.
inline bool in_transport(mock_op op) { return op == mock_op::launch || op == mock_op::wait || op == mock_op::exchange; }

/// Whether all ranks are to learn of it by word, so that the communicator stays usable. `op` is what the victim's
/// operation at the fault's point is.
inline bool agreed(const fault& f, mock_op op) {
  switch (f.kind) {
    case kind::fail_before:
    case kind::fail_after:
      return !in_transport(op);
    case kind::body_throws:
    case kind::body_breaks:
    case kind::all_break:
    case kind::allocation:
    case kind::differs:
    case kind::short_shard:
    case kind::unwritten:
    case kind::after_write:
      return true;
    default:
      return false;
  }
}
/// Whether nothing is to be seen of it at all.
inline bool harmless(const setting& s, const fault& f) {
  if (s.ranks == 1 && (f.kind == kind::long_body || f.kind == kind::long_delay || f.kind == kind::differs ||
                       f.kind == kind::never_enters))
    return true;
  return f.kind == kind::short_delay || f.kind == kind::out_of_order;
}

class judge {
 public:
  judge(const setting& s, const fault& f, mock_op op, run& r) : s_(s), f_(f), op_(op), run_(r) {}

  std::string verdict() {
    if (run_.world().hung()) complain("all ranks waited for ever");
    for (std::size_t h : run_.held) check(h == 0, "bytes of memory were not given back");
    const bool takes_time = f_.kind == kind::die || f_.kind == kind::time_out || f_.kind == kind::short_delay ||
                            f_.kind == kind::long_delay || f_.kind == kind::long_body ||
                            f_.kind == kind::never_enters || f_.kind == kind::corrupt;
    check(takes_time || run_.world().now_ms() == 0, "a rank waited for its deadline, where it could be told at once");
    if (f_.kind == kind::corrupt) {
      corrupted();
    } else if (harmless(s_, f_)) {
      clean(run_.first, "the range");
      shards(s_.access == 0 ? 0 : chunk_count, nowhere);
    } else if (agreed(f_, op_)) {
      by_word();
    } else {
      by_transport();
    }
    return words_;
  }

 private:
  static constexpr std::size_t nowhere = static_cast<std::size_t>(-1);

  void complain(const std::string& what) { words_ += (words_.empty() ? "" : "; ") + what; }
  void check(bool holds, const std::string& what) {
    if (!holds) complain(what);
  }
  std::string about(std::size_t r) const {
    const outcome& o = run_.first[r];
    return "rank " + std::to_string(r) + " was told (" + std::to_string(static_cast<int>(o.said)) + ", chunk " +
           std::to_string(static_cast<long>(o.chunk)) + ", committed " + std::to_string(o.committed) + ") '" + o.text +
           "'";
  }
  bool is_victim(std::size_t r) const { return static_cast<int>(r) == f_.victim; }

  void clean(const std::vector<outcome>& all, const char* what) {
    for (std::size_t r = 0; r < all.size(); ++r) {
      check(all[r].said == said::nothing,
            std::string(what) + " was not clean: rank " + std::to_string(r) + ": " + all[r].text);
      check(all[r].wrong_bytes == 0, std::string(what) + ": wrong values were shown");
    }
  }

  /// Chunks below `first_old` are new on all ranks, later ones old; `doubtful` may be anything but outside its bytes.
  void shards(std::size_t first_old, std::size_t doubtful) {
    for (std::size_t c = 0; c < chunk_count; ++c) {
      const auto bytes = state_of(c);
      if (c == doubtful) continue;
      const bool is_new = c < first_old;
      check(bytes[2] == 0, "chunk " + std::to_string(c) + " has bytes that nobody wrote");
      check(bytes[is_new ? 0 : 1] == 0, "chunk " + std::to_string(c) + (is_new ? " was not written" : " was written") +
                                            " everywhere: " + std::to_string(bytes[0]) + " old, " +
                                            std::to_string(bytes[1]) + " new");
    }
  }
  std::array<std::size_t, 3> state_of(std::size_t chunk) const {
    std::array<std::size_t, 3> bytes{};
    for (std::size_t r = 0; r < run_.left.size(); ++r) {
      const auto& list = run_.left[r];
      if (f_.kind == kind::differs && is_victim(r)) continue;  // its parameters are others
      for (std::size_t p = 0; p < parameters_of(s_) && p < list.size(); ++p) {
        if (chunk_of(s_, p) == chunk) list[p].count(static_cast<int>(r), bytes);
      }
    }
    return bytes;
  }

  /// How many chunks the shards say are written.
  std::size_t written() const {
    std::size_t c = 0;
    while (c < chunk_count && state_of(c)[0] == 0 && state_of(c)[2] == 0) ++c;
    return c;
  }

  void by_word() {
    clean(run_.second, "the range after the failure");
    std::size_t agreed_chunk = nowhere;
    for (std::size_t r = 0; r < run_.first.size(); ++r) {
      const outcome& o = run_.first[r];
      if (f_.kind == kind::all_break) {
        check(o.said == said::nothing, about(r));
      } else if (f_.kind == kind::differs) {
        check(o.said == said::mismatch, about(r));
        check(o.rank == (f_.victim == 0 ? 1 : f_.victim), about(r) + ", about the wrong rank");
        const std::size_t all = parameters_of(s_);
        const std::size_t differs_at[differences] = {all, 0, 1, 2, nowhere, nowhere, nowhere, all - 1};
        check(o.chunk == differs_at[f_.point], about(r) + ", about the wrong parameter");
      } else if (is_victim(r)) {
        own(o, r);
      } else if (!(f_.kind == kind::after_write && o.said == said::nothing && last_after_write())) {
        check(o.said == said::peer_failed && o.rank == f_.victim, about(r));
        const std::string& why = run_.first[static_cast<std::size_t>(f_.victim)].text;
        const bool left = f_.kind == kind::body_throws || f_.kind == kind::body_breaks;
        check(left || o.text.find(why.substr(0, 100)) != std::string::npos, about(r) + ", which does not say why");
        if (agreed_chunk == nowhere) agreed_chunk = o.chunk;
        check(o.chunk == agreed_chunk, about(r) + ", others of another chunk");
      }
      check(o.committed == run_.first[0].committed || f_.kind == kind::differs, about(r) + ", not as rank 0");
    }
    const std::size_t done = s_.access == 0 ? 0 : written();
    shards(done, nowhere);
    if (s_.access != 0 && agreed_chunk != nowhere)
      check(done == agreed_chunk,
            "chunk " + std::to_string(agreed_chunk) + " was discarded, " + std::to_string(done) + " are written");
    const bool in_opening = f_.kind == kind::allocation || f_.kind == kind::differs || f_.kind == kind::short_shard;
    if (in_opening) check(done == 0 && agreed_chunk == nowhere, "something was done before the ranks agreed");
    switch (f_.kind) {
      case kind::all_break:
        check(s_.access == 0 || done == f_.point, std::to_string(done) + " chunks are written");
        break;
      case kind::body_throws:
        expect_chunk(agreed_chunk, f_.point / 2);
        break;
      case kind::body_breaks:
      case kind::unwritten:
        expect_chunk(agreed_chunk, f_.point);
        break;
      case kind::after_write:
        if (!last_after_write()) expect_chunk(agreed_chunk, chunk_of(s_, f_.point) + 1);
        break;
      default:
        break;
    }
  }
  bool last_after_write() const { return chunk_of(s_, f_.point) + 1 == chunk_count; }
  void expect_chunk(std::size_t told, std::size_t is) {
    if (s_.ranks > 1) check(told == is, "the chunk was said to be " + std::to_string(told));
  }
  /// The one that failed gets its own exception back.
  void own(const outcome& o, std::size_t r) {
    switch (f_.kind) {
      case kind::fail_before:
      case kind::fail_after:
        check(o.said == said::injected && o.rank == f_.victim, about(r));
        break;
      case kind::body_throws:
      case kind::after_write:
        check(o.said == said::body, about(r));
        break;
      case kind::body_breaks:
        check(o.said == said::nothing, about(r));
        break;
      case kind::allocation:
        check(o.said == said::out_of_memory, about(r));
        break;
      case kind::short_shard:
        check(o.said == said::bad_shard, about(r));
        break;
      case kind::unwritten:
        check(o.said == said::unwritten, about(r));
        break;
      default:
        break;
    }
  }

  /// The transport broke, or a rank is gone: every rank alive is told so in time, and at most one chunk is in doubt.
  void by_transport() {
    std::size_t named = nowhere;
    const std::string victim = "rank " + std::to_string(f_.victim);
    for (std::size_t r = 0; r < run_.first.size(); ++r) {
      const outcome& o = run_.first[r];
      if (o.said == said::write_back_failed) {
        check(named == nowhere || named == o.chunk, about(r) + ", others of another chunk");
        named = o.chunk;
      }
      const bool finished = o.said == said::nothing && o.committed == chunk_count;
      if (is_victim(r) && f_.kind == kind::never_enters) continue;
      if (is_victim(r) && f_.kind != kind::long_body && f_.kind != kind::long_delay) {
        check(o.said != said::nothing && o.said != said::peer_failed, about(r));
        continue;
      }
      if (finished) continue;
      check(o.said == said::peer_failed || o.said == said::peer_timeout || o.said == said::write_back_failed ||
                o.said == said::other,
            about(r));
      if (is_victim(r)) continue;  // it was slow: its peers gave up
      check(o.text.find(victim) != std::string::npos, about(r) + ", which does not say who");
    }
    const std::size_t done = s_.access == 0 ? 0 : written();
    shards(named == nowhere ? done : named, named);
    for (std::size_t r = 0; r < run_.first.size(); ++r) {
      const std::size_t c = run_.first[r].committed;
      if (s_.access != 0 && !(f_.kind == kind::never_enters && is_victim(r)))
        check(c == done || c + 1 == done || c == done + 1, about(r) + ", but " + std::to_string(done) + " are written");
    }
  }

  /// A byte that the transport changed: no more than it can be wrong, and nothing hangs.
  void corrupted() {
    std::size_t wrong = 0;
    for (const outcome& o : run_.first) wrong += o.wrong_bytes;
    if (op_ == mock_op::exchange) return;  // a false word: anything may be said, but in time
    clean_but_for(wrong);
  }
  void clean_but_for(std::size_t wrong) {
    for (std::size_t r = 0; r < run_.first.size(); ++r) check(run_.first[r].said == said::nothing, about(r));
    std::size_t changed = 0;
    for (std::size_t c = 0; c < chunk_count; ++c) {
      const auto bytes = state_of(c);
      changed += bytes[2] + (s_.access == 0 ? bytes[1] : bytes[0]);
    }
    check(wrong + changed <= 1, std::to_string(wrong) + " bytes shown wrong, " + std::to_string(changed) + " stored");
  }

  const setting& s_;
  const fault& f_;
  mock_op op_;
  run& run_;
  std::string words_;
};

}  // namespace faults
