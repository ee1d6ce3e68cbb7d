// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/session.hpp: one range or scope from its opening to its end: the order in which everything
              // happens.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <unshard/agreement.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/gather/buffers.hpp>
#include <unshard/gather/chunk_maker.hpp>
#include <unshard/gather/listed.hpp>
#include <unshard/gather/verify.hpp>
#include <unshard/memory.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The text of an exception, for the ranks that did not throw it.
inline std::string text_of(const std::exception_ptr& e) {
  try {
    std::rethrow_exception(e);
  } catch (const std::exception& known) {
    return known.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

/// One range of chunks [first, last) of a plan. `R` as the caller passed the handles, `A` the access.
///
/// A chunk lives in slot i % in_flight. At the end of body i, in this order: wait for write-back i - 1; make all that
/// may throw on one rank alone; vote; launch write-back i; where its slot is needed next, wait for it; launch the
/// gathers that have a free slot; wait for gather i + 1. So at most one write-back is ever under way, none during a
/// vote, and every rank has launched gather i before it says a word about chunk i.
template <class R, communicator C, class A, memory_resource M>
class session {
 public:
  using byte = std::conditional_t<A::writes, std::byte, const std::byte>;
  using chunk_type = basic_chunk<byte>;

  /// Over a plan that was made before, or over one that is made of options. `only` points to the round that a scope is
  /// for; null: all. Collective; throws as documented at chunks().
  template <class Plan>
  session(const Plan& plan, R&& handles, C& comm, const run_options& o, M& memory, const std::size_t* only = nullptr)
      : listed_(static_cast<R&&>(handles), comm.rank(), comm.size()),
        comm_(comm),
        options_(o),
        buffers_(memory),
        words_(comm, o.timeout_ms < 0 ? run_options().timeout_ms : o.timeout_ms) {
    std::exception_ptr failure;
    try {
      take(plan);
      prepare(only);
    } catch (...) {
      failure = std::current_exception();
    }
    agree(failure);
    if (next_ == last_) end();
    tell_observer(event_kind::opened, next_);
    transport([&] { launch_gathers(); });
  }
  session(const session&) = delete;
  session& operator=(const session&) = delete;
  /// Takes part in the vote of the chunk in hand as `left`, at most once and bounded by timeout_ms; errors go to the
  /// observer.
  ~session() { leave(); }

  bool ended() const { return ended_; }
  std::size_t committed() const { return committed_; }
  const chunk_plan& plan() const { return *plan_; }
  chunk_type& current() { return state(current_).chunk; }

  /// Waits for the next chunk; the body may run. Not to be called when ended().
  void begin_chunk() {
    current_ = next_;
    if (deferred_) return end_chunk();  // says `failed`, and throws
    transport([&] { drain([&] { return state(current_).gathered; }); });
    chunk_state& s = state(current_);
    const std::size_t slot = slot_of(current_);
    if (!A::gathers) buffers_.reopen(slot);
    if constexpr (!A::gathers && is_host_memory<M>) {
      if (holds_ && options_.verify) maker_.paint_pieces(s, slot);
    }
    tell_observer(event_kind::chunk_begun, current_);
  }

  /// The body has ended: votes, writes back, goes on to the next chunk if there is one. Says no word once ended().
  void end_chunk() {
    if (ended_)
      throw bad_options(
          concat("unshard: the end of a chunk of a range or scope that has ended. commit() a scope once; "
                 "do not go on behind the end of a range, or after an exception. ",
                 here()));
    transport([&] { drain_write_back(); });
    std::uint64_t sums = 0;
    std::exception_ptr failure = std::exchange(deferred_, nullptr);
    try {
      if (!failure) {
        if constexpr (is_host_memory<M> && A::writes) {
          if (holds_ && options_.verify) sums = maker_.check(state(current_), slot_of(current_));
        }
        prepare_chunks(current_ + ahead_ + 2);
      }
    } catch (...) {
      failure = std::current_exception();
    }
    tell_observer(event_kind::vote_begun, current_);
    verdict v;
    const std::string said = failure ? text_of(failure) : std::string();
    try {
      transport([&] { v = words_.vote(failure ? saying::failed : saying::done, current_, sums, said); });
    } catch (...) {
      if (failure) std::rethrow_exception(failure);  // tells more than that nobody could be told
      throw;
    }
    if (!v.all_done || v.sum != 0) {
      if (failure) {
        try {
          give_up();
        } catch (...) {  // this rank's own exception is the one that tells more
        }
        std::rethrow_exception(failure);
      }
      give_up();
      if (v.all_done)
        throw replicas_differ(concat("unshard: in chunk ", current_,
                                     " the ranks wrote different bytes to replicas of one part; nothing was written. "
                                     "Under every_rank write equal values on every rank. ",
                                     here()),
                              current_);
      throw peer_failed(v.message.empty() ? concat("unshard: rank ", v.culprit, " left chunk ", current_,
                                                   " before its end; nothing of it was written. ", here())
                                          : concat("unshard: rank ", v.culprit, " failed in chunk ", current_,
                                                   "; nothing of it was written: ", v.message, ' ', here()),
                        v.culprit, current_);
    }
    tell_observer(event_kind::voted, current_);
    ++next_;
    transport([&] { write_back_and_go_on(); });
    if (next_ == last_) {
      end();
      if (deferred_) std::rethrow_exception(std::exchange(deferred_, nullptr));
    }
  }

  /// Ends early: says `left` at the chunk in hand, or `failed`, where an after_write threw meanwhile. Never throws.
  void leave() noexcept {
    if (ended_) return;
    try {
      verdict v;
      transport([&] {
        drain_write_back();
        const std::string said = deferred_ ? text_of(deferred_) : std::string();
        v = words_.vote(deferred_ ? saying::failed : saying::left, next_, 0, said);
      });
      deferred_ = nullptr;  // every rank was told
      give_up();
      if (!v.all_left && !v.message.empty())
        tell_observer(event_kind::failed, next_,
                      concat("rank ", v.culprit, " failed in chunk ", next_, ": ", v.message));
    } catch (const std::exception& e) {
      tell_observer(event_kind::failed, next_, e.what());
    } catch (...) {
      tell_observer(event_kind::failed, next_, "an exception that is no std::exception");
    }
    end();
  }

 private:
  using handle = typename handle_list<R>::handle;
  static constexpr bool has_after_write = A::writes && requires(handle & h) { traits_of<handle>::after_write(h); };

  using chunk_state = prepared_chunk<C, A>;

  struct under_way {
    completion_of<C> done;
    std::size_t chunk;
    bool writes;
    bool last;  // of its movement
  };

  chunk_state& state(std::size_t chunk) { return states_[chunk % states_.size()]; }
  std::size_t slot_of(std::size_t chunk) const { return chunk % slots_; }
  std::string here() const { return concat("[rank ", comm_.rank(), " of ", comm_.size(), ']'); }

  // ---- the opening

  void take(const options& o) {
    made_.push_back(unshard::make_plan(handles_.get(), o, unshard::capabilities_of(comm_)));
    plan_ = &made_.front();
    handles_.index();
  }
  void take(const chunk_plan& plan) {
    plan_ = &plan;
    handles_.index();
    listed_.check_replay(plan, unshard::capabilities_of(comm_));
  }

  void prepare(const std::size_t* only) {
    if (only != nullptr) {
      if (options_.first_round != 0)
        throw bad_options(concat("unshard: .first_round is ", options_.first_round, "; a scope is for round ", *only,
                                 ", as its own argument says. Leave .first_round out. ", here()));
      options_.first_round = *only;
    }
    if (options_.timeout_ms < 0) throw bad_options("unshard: .timeout_ms is negative; 0 waits for ever.");
    if (options_.on.spreads() != plan_->spreads())
      throw bad_options(concat("unshard: .on is ", options_.on.spreads() ? "spread" : "not spread",
                               "; the plan was made ", plan_->spreads() ? "with spread" : "without",
                               ". Make it with the same .on. ", here()));
    if (options_.on.root() >= comm_.size())
      throw bad_options(concat("unshard: .on is not the root of any rank: the communicator has ranks 0 to ",
                               comm_.size() - 1, ". ", here()));
    next_ = committed_ = options_.first_round;
    if (only == nullptr ? next_ > plan_->rounds() : next_ >= plan_->rounds())
      throw bad_options(concat("unshard: round ", options_.first_round, " of a plan of ", plan_->rounds(),
                               " rounds was asked for. ", here()));
    last_ = only == nullptr ? plan_->rounds() : next_ + 1;
    holds_ = options_.on.holds(comm_.rank());
    const auto flight = static_cast<std::size_t>(plan_->made_for().in_flight);
    slots_ = std::max<std::size_t>(1, (std::min)(flight, last_ - next_));
    states_.resize(slots_ + 1);
    queue_.reserve(slots_ + 2);  // so that nothing is allocated after a vote
    ahead_ = !A::gathers ? 0 : !A::writes || slots_ < 3 ? slots_ - 1 : slots_ - 2;
    listed_.check(*plan_, only == nullptr ? all_rounds : next_, options_.verify);
    obtain_memory();
    if constexpr (has_after_write) {
      tied_.assign(plan_->ties().begin(), plan_->ties().end());
      detail::sort(tied_, [](const tied_pair& a, const tied_pair& b) { return a.second < b.second; });
    }
    gathered_to_ = prepared_to_ = next_;
    if (!has_shift_groups()) prepare_chunks(next_ + ahead_ + 1);
  }

  /// Whether what one round stages may exceed what a rank has for it: then the ranks agree on groups of shifts first.
  bool has_shift_groups() const { return plan_->spreads() && !unshard::capabilities_of(comm_).regions; }

  /// Behind the opening: the group that fits every rank, then what depends on it, which may fail on one rank alone.
  void agree_on_shifts() {
    transport([&] { shifts_ = static_cast<std::size_t>(words_.least(shifts_)); });
    std::exception_ptr failure;
    try {
      prepare_chunks(next_ + ahead_ + 1);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::string said = failure ? text_of(failure) : std::string();
    verdict v;
    transport([&] { v = words_.prepared(failure != nullptr, said); });
    refuse(v, failure);
  }

  void obtain_memory() {
    std::size_t chunk = 0;
    std::size_t staging = 0;
    const std::size_t alignment = plan_->made_for().alignment;
    const std::size_t largest = align_up(plan_->summary().largest, alignment);
    if (holds_) chunk = largest;
    if (!unshard::capabilities_of(comm_).regions)
      staging = plan_->spreads() ? 2 * largest
                : holds_         ? largest
                                 : align_up(listed_.most_own_bytes(*plan_, next_, last_), alignment);
    if (has_shift_groups()) shifts_ = listed_.most_shifts(*plan_, next_, last_, staging, A::gathers);
    buffers_.obtain(slots_, chunk, staging, alignment);
  }

  parameter_size size_at(std::size_t i) { return listed_.size_at(i); }

  void agree(const std::exception_ptr& failure) {
    const std::string said = failure ? text_of(failure) : std::string();
    const std::string settings =
        failure ? std::string() : settings_text(A::name, options_, *plan_, unshard::capabilities_of(comm_));
    verdict v;
    try {
      v = words_.open(
          failure != nullptr, said, settings, handles_.size(), listed_.digest(),
          [&](std::size_t k) { return listed_.prefix_digest(*plan_, k); },
          [&](std::size_t i) { return listed_.describe(i); });
    } catch (const out_of_step& e) {
      fail(e.what());
      throw;
    } catch (const plan_mismatch&) {
      end();
      throw;
    } catch (...) {
      fail(text_of(std::current_exception()));
      if (failure) std::rethrow_exception(failure);
      throw;
    }
    refuse(v, failure);
    if (has_shift_groups()) agree_on_shifts();
  }

  /// Ends before any byte moves where some rank failed.
  void refuse(const verdict& v, const std::exception_ptr& failure) {
    if (v.culprit < 0) return;
    end();
    if (failure) std::rethrow_exception(failure);
    throw peer_failed(concat("unshard: rank ", v.culprit, " failed before any byte moved: ", v.message, ' ', here()),
                      v.culprit);
  }

  // ---- one chunk

  void prepare_chunks(std::size_t end) {
    for (; prepared_to_ < (std::min)(last_, end); ++prepared_to_) prepare_chunk(prepared_to_);
  }

  void prepare_chunk(std::size_t i) { maker_.make(state(i), i, slot_of(i), *plan_, options_, shifts_); }

  // ---- under way

  void launch(std::vector<batch_of<C>>& batches, std::size_t chunk, bool writes) {
    for (std::size_t b = 0; b < batches.size(); ++b) {
      if (b > 0) drain([] { return false; });  // a later batch may use what an earlier one packed
      queue_.push_back({comm_.launch(std::move(batches[b])), chunk, writes, b + 1 == batches.size()});
    }
    batches.clear();
  }

  void launch_gathers() {
    if constexpr (A::gathers) {
      for (; gathered_to_ < (std::min)(last_, next_ + ahead_ + 1); ++gathered_to_) {
        buffers_.reopen(slot_of(gathered_to_));
        launch(state(gathered_to_).gather, gathered_to_, false);
        tell_observer(event_kind::gather_launched, gathered_to_);
      }
    }
  }

  void write_back_and_go_on() {
    if constexpr (A::writes) {
      writing_ = true;
      launch(state(current_).write_back, current_, true);
      tell_observer(event_kind::write_back_launched, current_);
      const bool slot_needed = slots_ == 1 || (A::gathers && slots_ == 2) || next_ == last_;
      if (slot_needed) drain_write_back();
    } else {
      buffers_.close(slot_of(current_));
      ++committed_;
      tell_observer(event_kind::committed, current_);
    }
    launch_gathers();
  }

  /// Waits for launches in their order until `enough()`; for all of them, if it never is.
  template <class Enough>
  void drain(Enough enough) {
    while (!enough() && !queue_.empty()) {
      under_way& u = queue_.front();
      u.done.wait(options_.timeout_ms);
      const std::size_t chunk = u.chunk;
      const bool writes = u.writes;
      const bool last = u.last;
      queue_.erase(queue_.begin());
      if (!last) continue;
      if (writes) {
        committed(chunk);
      } else {
        state(chunk).gathered = true;
        tell_observer(event_kind::gathered, chunk);
      }
    }
  }
  void drain_write_back() {
    drain([&] { return !writing_; });
  }

  void committed(std::size_t chunk) {
    writing_ = false;
    ++committed_;
    buffers_.close(slot_of(chunk));
    if constexpr (has_after_write) {
      try {
        for (const round_piece& one : state(chunk).pieces) {
          const planned_piece& p = one.piece;
          if (!plan_->ends_parameter(one.chunk, p, size_at(p.parameter).elements)) continue;
          after_write(p.parameter);
          const auto below = [&](std::size_t t) { return tied_[t].second < p.parameter; };
          for (std::size_t t = first_not(tied_.size(), below); t < tied_.size() && tied_[t].second == p.parameter; ++t)
            after_write(tied_[t].first);
        }
      } catch (...) {
        deferred_ = std::current_exception();
      }
    }
    tell_observer(event_kind::committed, chunk);
  }
  void after_write(std::size_t i) {
    auto&& h = handles_[i];
    traits_of<handle>::after_write(h);
  }

  // ---- ends

  void end() noexcept {
    ended_ = true;
    listed_.close();
  }

  /// An agreed failure: what is under way arrives and is dropped; the communicator stays usable.
  void give_up() {
    ended_ = true;
    listed_.close();
    tell_observer(event_kind::discarded, next_);
    transport([&] { drain([] { return false; }); });
    buffers_.close(slot_of(next_));
  }

  /// The transport failed: nothing more can be said to the peers but that.
  void fail(std::string_view why) noexcept {
    if (failed_) return;
    failed_ = true;
    end();
    if (deferred_) tell_observer(event_kind::failed, next_, text_of(std::exchange(deferred_, nullptr)));
    try {
      comm_.abort(concat("in chunk ", writing_ ? committed_ : next_, " of a range or scope: ", without_rank(why)));
    } catch (...) {  // no memory for the words
      comm_.abort("a rank failed, out of memory");
    }
    if (engine_keeps_memory()) buffers_.abandon();
  }

  /// Runs what talks to peers. A throw there aborts; where a write-back is under way, that chunk is in doubt.
  template <class F>
  void transport(F f) {
    try {
      f();
    } catch (const std::exception& e) {
      give_in(e.what());
      throw;
    } catch (...) {
      give_in("an exception that is no std::exception");
      throw;
    }
  }
  /// Aborts; throws write_back_failed where a chunk is in doubt.
  void give_in(const char* why) {
    std::string text = why;
    fail(text);
    if (writing_) {
      const std::size_t doubtful = committed_;
      if (!text.ends_with(here())) append(text, concat(' ', here()));
      throw write_back_failed(
          concat(
              "unshard: the write-back of chunk ", doubtful,
              " failed: its shards are unspecified, earlier chunks are committed, later ones untouched: ", text,
              engine_keeps_memory() ? " The engine could not end its operations: their buffers stay allocated." : ""),
          doubtful);
    }
  }

  /// Whether operations that could not be ended may still touch the buffers.
  bool engine_keeps_memory() const {
    if constexpr (requires {
                    { comm_.abandoned() } -> std::convertible_to<bool>;
                  }) {
      return comm_.abandoned();
    } else {
      return false;
    }
  }

  void tell_observer(event_kind kind, std::size_t chunk, std::string_view message = {}) const {
    const plan_summary none;
    const plan_summary& s = plan_ == nullptr ? none : plan_->summary();
    std::size_t bytes = 0;
    std::size_t round_bytes = 0;
    if (!states_.empty()) {
      const chunk_state& at = states_[chunk % states_.size()];
      if (at.number == chunk) {
        bytes = at.chunk.bytes();
        round_bytes = at.round_bytes;
      }
    }
    options_.observer({kind, comm_.rank(), chunk, s.rounds, bytes, s.bytes, buffers_.bytes(), message, round_bytes});
  }

  listed_parameters<R, A> listed_;
  handle_list<R>& handles_ = listed_.handles;
  C& comm_;
  run_options options_;
  const chunk_plan* plan_ = nullptr;
  std::vector<later<chunk_plan, R>> made_;  // none, or the one that plan_ points to
  slot_buffers<M> buffers_;
  chunk_maker<R, C, A, M> maker_{listed_, comm_, buffers_};
  agreement<C> words_;
  std::vector<later<tied_pair, R>> tied_;  // by the first of each identity; for after_write

  bool holds_ = false;
  std::size_t slots_ = 1;
  std::size_t shifts_ = 0;       // cyclic shifts that share staging; 0: all
  std::size_t ahead_ = 0;        // gathers launched before the chunk's own turn
  std::size_t next_ = 0;         // the chunk in hand, or the next one
  std::size_t last_ = 0;         // one past the last
  std::size_t current_ = 0;      // the chunk whose body runs or ran last
  std::size_t prepared_to_ = 0;  // chunks below are prepared
  std::size_t gathered_to_ = 0;  // gathers below are launched
  std::size_t committed_ = 0;
  std::vector<chunk_state> states_;
  std::vector<under_way> queue_;  // launches not waited for, in order
  std::exception_ptr deferred_;   // what an after_write threw
  bool writing_ = false;          // a write-back is under way: that of chunk committed_
  bool ended_ = false;
  bool failed_ = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
