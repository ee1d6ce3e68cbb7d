// SPDX-License-Identifier: Apache-2.0
#pragma once  // testing/mock_world.hpp: what the ranks of a mock share: the script of faults, the logs, and a clock of
              // its own.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <string>
#include <unshard/base/checked.hpp>
#include <unshard/error.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// What a mock records: the functions of a communicator and its batch, `gather` and `scatter` included. Every one but
/// `abort` is a point at which a fault can be injected.
enum class mock_op : unsigned char {
  open_batch,
  send,
  recv,
  copy_before,
  copy_after,
  all_gather,
  broadcast,
  gather,
  scatter,
  launch,
  wait,
  exchange,
  abort
};
/// Their names, in the same order.
inline constexpr const char* mock_op_names[] = {"open_batch", "send",      "recv",   "copy_before", "copy_after",
                                                "all_gather", "broadcast", "gather", "scatter",     "launch",
                                                "wait",       "exchange",  "abort"};

/// One operation of one rank.
struct mock_record {
  static constexpr std::size_t none = static_cast<std::size_t>(-1);  ///< no batch
  mock_op op;                                                        ///< what it was
  int peer = -1;             ///< whom a send or recv is for; the root of a broadcast, gather or scatter; else -1
  std::size_t bytes = 0;     ///< this rank's own part; of a launch or a wait: all that its batch sends and receives
  std::size_t batch = none;  ///< number of its launch on this rank; none: never launched, or an exchange
  /// The chunk in hand. Where the mock is also the range's `.observer`, that is what the range says. Else it is
  /// counted: the exchanges of this rank so far less the opening's, so that a write-back carries the next chunk's
  /// number.
  std::size_t chunk = 0;
};

/// What can go wrong at an operation.
enum class fault_kind : unsigned char {
  fail_before,   ///< the call throws injected_failure and does nothing
  fail_after,    ///< the call does its work, then throws injected_failure
  die,           ///< the rank never arrives again: this call and all later ones throw rank_died, peers are told nothing
  delay,         ///< the call starts delay_ms later, by the mock's clock
  time_out,      ///< exchange and wait: this rank's deadline passes at once: peer_timeout
  out_of_order,  ///< `operation` is the number of a batch: on all ranks it moves its bytes after the one behind it
  corrupt,       ///< recv, copy_after, the collectives, exchange: one byte of what arrived is flipped, in host memory
};

/// One line of a script: at its operation number `operation` (from 0), rank `rank` suffers `kind`.
struct mock_fault {
  fault_kind kind = fault_kind::fail_before;
  int rank = 0;
  std::size_t operation = 0;
  int delay_ms = 0;      ///< for `delay`
  std::size_t byte = 0;  ///< for `corrupt`: which one, modulo the length
};

/// The same fault for the same seed: any kind that breaks something, on one of `ranks`, at one of `operations`.
inline mock_fault random_fault(std::uint64_t seed, int ranks, std::size_t operations) {
  const auto draw = [&](std::size_t below) {
    std::uint64_t z = (seed += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return below == 0 ? 0 : detail::to_size(static_cast<std::int64_t>((z ^ (z >> 31)) % below));
  };
  mock_fault f;
  f.kind = static_cast<fault_kind>(draw(7));
  f.rank = static_cast<int>(draw(static_cast<std::size_t>(ranks)));
  f.operation = draw(operations);
  f.delay_ms = 1 << draw(21);
  f.byte = draw(256);
  return f;
}

/// Thrown by a mock where its script says so.
class [[gnu::visibility("default")]] injected_failure : public device_failed {
 public:
  injected_failure(const std::string& what, int the_rank, std::size_t the_operation)
      : device_failed(what), rank(the_rank), operation(the_operation) {}
  int rank;               ///< whose operation failed
  std::size_t operation;  ///< its number on that rank, from 0
};

/// Thrown by every call of a rank that the script has let die; nothing reaches the wrapped engine any more.
class [[gnu::visibility("default")]] rank_died : public error {
 public:
  using error::error;
};

/// No rank can go on and no deadline can pass: this would have hung for ever.
class [[gnu::visibility("default")]] mock_hang : public error {
 public:
  using error::error;
};

/// How much a rank has done so far.
struct mock_counts {
  std::size_t operations = 0;      ///< points at which a fault could have been
  std::size_t batches = 0;         ///< launches
  std::size_t waits = 0;           ///< calls
  std::size_t exchanges = 0;       ///< calls
  std::size_t exchange_bytes = 0;  ///< this rank's own
  std::size_t sends = 0;           ///< calls
  std::size_t receives = 0;        ///< calls
  std::size_t bytes_sent = 0;      ///< by sends
  std::size_t bytes_received = 0;  ///< by receives
};

template <class C>
class mock_communicator;

/// Shared by the mocks of all ranks of one group, which are threads of one process: one world per group, made before
/// its mocks, alive after them. Each rank makes its mock first of all, as a rank without one counts as on its way.
///
/// Its clock stands still while any rank runs. When every rank waits (for peers in `exchange` or `wait`, or in a
/// delay), it jumps to the next deadline, and that rank gets peer_timeout, or its delay is over. So nothing depends on
/// the speed of the machine, and a deadline of an hour costs nothing. Where nobody has a deadline: mock_hang.
/// All of it may be called from any thread.
class mock_world {
 public:
  explicit mock_world(int ranks) : seats_(static_cast<std::size_t>(ranks)) {}
  mock_world(const mock_world&) = delete;
  mock_world& operator=(const mock_world&) = delete;

  /// Adds a line to the script, for operations to come.
  void inject(const mock_fault& fault) {
    const std::lock_guard lock(mutex_);
    script_.push_back(fault);
  }
  /// The mock's time, in ms.
  std::int64_t now_ms() const {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  /// Whether all ranks were found waiting with no deadline.
  bool hung() const {
    const std::lock_guard lock(mutex_);
    return hung_;
  }
  /// What a rank has done so far.
  std::vector<mock_record> log(int rank) const {
    const std::lock_guard lock(mutex_);
    return at(rank).log;
  }
  /// How much that was.
  mock_counts counts(int rank) const {
    const std::lock_guard lock(mutex_);
    return at(rank).counts;
  }
  /// Of all ranks, for first_difference.
  std::vector<std::vector<mock_record>> logs() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::vector<mock_record>> all;
    for (const seat& s : seats_) all.push_back(s.log);
    return all;
  }

 private:
  template <class C>
  friend class mock_communicator;

  static constexpr std::int64_t never = (std::numeric_limits<std::int64_t>::max)();

  enum class state : unsigned char { coming, running, blocked, gone, dead };
  enum class wish : unsigned char { nothing, exchange_begins, exchange_ends, wait_begins, wait_ends };
  enum class outcome : unsigned char { met, aborted, expired, hung };

  struct seat {
    v0::mock_world::state state = state::coming;
    v0::mock_world::wish wish = wish::nothing;
    std::size_t number = 0;  // of the exchange or wait that it waits in
    std::int64_t deadline = never;
    bool released = false;
    std::size_t exchanges_begun = 0, exchanges_ended = 0, launches = 0, waits_begun = 0, waits_ended = 0;
    std::size_t exchange_bytes = 0;
    bool observed = false;
    std::size_t chunk = 0;
    std::vector<std::size_t> chunk_of_batch;
    std::vector<mock_record> log;
    mock_counts counts;
  };

  seat& at(int rank) { return seats_[static_cast<std::size_t>(rank)]; }
  const seat& at(int rank) const { return seats_[static_cast<std::size_t>(rank)]; }

  template <class Member>
  bool all_past(Member seat::*count, std::size_t number) const {
    for (const seat& s : seats_) {
      if (s.*count <= number) return false;
    }
    return true;
  }

  bool met(const seat& s) const {
    switch (s.wish) {
      case wish::nothing:
        return false;
      case wish::exchange_begins:
        return all_past(&seat::exchanges_begun, s.number);
      case wish::exchange_ends:
        return all_past(&seat::exchanges_ended, s.number);
      case wish::wait_begins:
        return s.released || all_past(&seat::waits_begun, s.number);
      case wish::wait_ends:
        return all_past(&seat::waits_ended, s.number);
    }
    return false;
  }
  bool can_go_on(const seat& s) const {
    return met(s) || s.deadline <= now_ || hung_ || (aborted_ && s.wish != wish::nothing);
  }

  /// If nobody can go on, something has to give. Call with the lock held, after every change that can block or unblock.
  void settle() {
    changed_.notify_all();
    std::int64_t next = never;
    bool asleep = false;
    bool waiting = false;
    for (const seat& s : seats_) {
      if (s.state == state::coming || s.state == state::running) return;
      if (s.state != state::blocked) continue;
      if (can_go_on(s)) return;
      waiting = true;
      if (s.deadline < next) next = s.deadline;
      asleep = asleep || s.wish == wish::nothing;
    }
    if (!waiting) return;
    // A wait that all peers have launched may end before they wait, too: ranks need not wait in the same place.
    for (seat& s : seats_) {
      if (asleep || s.state != state::blocked || s.wish != wish::wait_begins) continue;
      bool launched = true;
      for (const seat& p : seats_) launched = launched && p.state == state::blocked && p.launches > s.number;
      s.released = launched;
      if (launched) return;
    }
    if (next == never) {
      hung_ = true;
    } else {
      now_ = next;
    }
  }

  /// Until the wish is met, or timeout_ms (0: never) have passed. wish::nothing sleeps.
  outcome block(std::unique_lock<std::mutex>& lock, int rank, wish what, std::size_t number, std::int64_t timeout_ms) {
    seat& s = at(rank);
    s.wish = what;
    s.number = number;
    s.deadline = timeout_ms > 0 ? now_ + timeout_ms : never;
    s.released = false;
    s.state = state::blocked;
    settle();
    changed_.wait(lock, [&] { return can_go_on(s); });
    const outcome result = met(s)               ? outcome::met
                           : s.deadline <= now_ ? outcome::expired
                           : aborted_ && !hung_ ? outcome::aborted
                                                : outcome::hung;
    s.state = state::running;
    s.wish = wish::nothing;
    return result;
  }

  int first_dead() const {
    for (std::size_t r = 0; r < seats_.size(); ++r) {
      if (seats_[r].state == state::dead) return static_cast<int>(r);
    }
    return -1;
  }
  template <class Member>
  int first_missing(Member seat::*count, std::size_t number) const {
    for (std::size_t r = 0; r < seats_.size(); ++r) {
      if (seats_[r].*count <= number) return static_cast<int>(r);
    }
    return -1;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<seat> seats_;
  std::vector<mock_fault> script_;
  std::int64_t now_ = 0;
  bool aborted_ = false;
  bool hung_ = false;
};

namespace detail {

inline std::string to_text(const mock_record& r) {
  std::string out = mock_op_names[static_cast<std::size_t>(r.op)];
  if (r.peer >= 0) out += concat(" peer ", r.peer);
  out += concat(", ", r.bytes, " bytes");
  if (r.batch != mock_record::none) out += concat(", batch ", r.batch);
  return out += concat(", chunk ", r.chunk);
}

/// The launches and exchanges of a log: what all ranks must do equally often and in one order.
inline std::vector<const mock_record*> steps_of(const std::vector<mock_record>& log) {
  std::vector<const mock_record*> steps;
  for (const mock_record& r : log) {
    if (r.op == mock_op::launch || r.op == mock_op::exchange) steps.push_back(&r);
  }
  return steps;
}

/// "send of 4, 8 bytes": the bytes of all `op` with `peer` in a batch, in order.
inline std::string lengths_of(const std::vector<mock_record>& log, mock_op op, int peer, std::size_t batch) {
  std::string out;
  for (const mock_record& r : log) {
    if (r.op == op && r.peer == peer && r.batch == batch) out += concat(out.empty() ? "" : ", ", r.bytes);
  }
  return out.empty() ? "nothing" : out + " bytes";
}

}  // namespace detail

/// Where the logs of a group's ranks part: their launches and exchanges first, then both ends of every transfer.
/// Shows the two sides below each other; empty where the ranks agree.
inline std::string first_difference(const std::vector<std::vector<mock_record>>& logs) {
  using detail::concat;
  if (logs.empty()) return {};
  const auto first = detail::steps_of(logs[0]);
  std::size_t batches = 0;
  for (const mock_record* r : first) batches += r->op == mock_op::launch ? 1 : 0;
  for (std::size_t r = 1; r < logs.size(); ++r) {
    const auto other = detail::steps_of(logs[r]);
    for (std::size_t i = 0; i < first.size() || i < other.size(); ++i) {
      const mock_record* a = i < first.size() ? first[i] : nullptr;
      const mock_record* b = i < other.size() ? other[i] : nullptr;
      if (a != nullptr && b != nullptr && a->op == b->op && (a->op == mock_op::launch || a->bytes == b->bytes))
        continue;
      const auto side = [](const mock_record* m) { return m != nullptr ? detail::to_text(*m) : "nothing more"; };
      return concat("the ranks' sequences part at step ", i, ":\n  rank 0: ", side(a), "\n  rank ", r, ": ", side(b));
    }
  }
  const auto ranks = static_cast<int>(logs.size());
  for (std::size_t batch = 0; batch < batches; ++batch) {
    for (int a = 0; a < ranks; ++a) {
      const auto& log = logs[static_cast<std::size_t>(a)];
      for (int b = 0; b < ranks; ++b) {
        const auto& theirs = logs[static_cast<std::size_t>(b)];
        const std::string sent = detail::lengths_of(log, mock_op::send, b, batch);
        const std::string received = detail::lengths_of(theirs, mock_op::recv, a, batch);
        if (sent != received)
          return concat("the two ends of batch ", batch, " differ:\n  rank ", a, " sends rank ", b, ": ", sent,
                        "\n  rank ", b, " receives from rank ", a, ": ", received);
        for (mock_op op : {mock_op::all_gather, mock_op::broadcast, mock_op::gather, mock_op::scatter}) {
          for (int root = -1; root < ranks; ++root) {
            const std::string mine = detail::lengths_of(log, op, root, batch);
            const std::string other = detail::lengths_of(theirs, op, root, batch);
            if (mine != other)
              return concat("batch ", batch, " differs in ", mock_op_names[static_cast<std::size_t>(op)], " (root ",
                            root, "):\n  rank ", a, ": ", mine, "\n  rank ", b, ": ", other);
          }
        }
      }
    }
  }
  return {};
}

}  // namespace v0
}  // namespace unshard
