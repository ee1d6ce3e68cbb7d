// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/threads/engine.hpp: where ranks that are threads meet, and carry each other's bytes while they
              // wait.

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <unshard/base/sanitizers.hpp>
#include <unshard/comm/threads/batch.hpp>
#include <unshard/comm/threads/failure.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The n-th launch of every rank.
struct threads_job {
  std::size_t number = 0;
  std::vector<threads_side> sides;  // by rank
  std::vector<char> launched;       // by rank
  int arrived = 0;
  threads_work work;
  bool open = false;  // matched and cut
  bool done = false;  // every byte is where it belongs
  int phase = 0;
  std::size_t next = 0;     // the next block to carry
  std::size_t carried = 0;  // blocks that are done
};

/// The group. One mutex guards all of it; bytes are copied outside. A rank that waits carries blocks of any open
/// batch, and sleeps where there are none. The first failure poisons the group: every later call throws it, and no
/// call throws before the last byte of the caller's memory has been touched.
class threads_engine {
  using clock = std::chrono::steady_clock;
  using failure = threads_failure;
  using lock = std::unique_lock<std::mutex>;
  static constexpr std::size_t everything = (std::numeric_limits<std::size_t>::max)();

 public:
  static constexpr std::size_t longest_word = 256;

  threads_engine(int ranks, int cores)
      : ranks_(static_cast<std::size_t>(ranks)),
        workers_(std::clamp(cores > 0 ? cores : static_cast<int>(std::thread::hardware_concurrency()), 1, ranks)) {
    for (round& r : rounds_) r.words.resize(ranks_.size() * longest_word);
  }

  int size() const { return static_cast<int>(ranks_.size()); }

  /// Takes a rank, once: its communicator.
  bool take(int rank) {
    lock l(mutex_);
    return !std::exchange(at(rank).taken, true);
  }

  /// An empty side, with room from earlier ones where there are any.
  threads_side open(int rank) {
    lock l(mutex_);
    if (cause_.what != failure::none) fail(l, rank);
    std::vector<threads_side>& spare = at(rank).spare;
    threads_side side;
    if (!spare.empty()) {
      side = std::move(spare.back());
      spare.pop_back();
    }
    return side;
  }

  /// Adds a rank's side to its next batch. The last rank matches all of them; nobody blocks.
  std::shared_ptr<threads_job> launch(int rank, threads_side side) {
    lock l(mutex_);
    if (cause_.what != failure::none) fail(l, rank);
    const std::size_t number = at(rank).launches;
    if (number == first_job_ + jobs_.size()) {
      auto fresh = std::make_shared<threads_job>();
      fresh->number = number;
      fresh->sides.resize(ranks_.size());
      fresh->launched.resize(ranks_.size());
      jobs_.push_back(std::move(fresh));
    }
    std::shared_ptr<threads_job> job = jobs_[number - first_job_];
    ++at(rank).launches;
    job->sides[static_cast<std::size_t>(rank)] = std::move(side);
    job->launched[static_cast<std::size_t>(rank)] = 1;
    if (++job->arrived == size()) start(l, rank, *job);
    return job;
  }

  bool ready(const threads_job& job) {
    lock l(mutex_);
    return job.done || cause_.what != failure::none;
  }

  /// Until the batch is done, on all ranks.
  void wait(int rank, threads_job& job, int timeout_ms) {
    lock l(mutex_);
    at(rank).waits_for = &job;
    carry_until(
        l, rank, timeout_ms, job.number, [&] { return job.done; },
        [&](int peer) { return job.launched[static_cast<std::size_t>(peer)] != 0; },
        [&] { return concat("batch ", job.number); });
    threads_side& side = job.sides[static_cast<std::size_t>(rank)];
    side.clear();
    at(rank).spare.push_back(std::move(side));
  }

  void exchange(int rank, std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    lock l(mutex_);
    if (cause_.what != failure::none) fail(l, rank);
    const std::size_t number = at(rank).exchanges++;
    // Two rounds are enough: who deposits in the next but one has seen the next complete, which every rank joined
    // after it had read this one.
    round& r = rounds_[number % 2];
    if (r.number != number) r = {number, 0, rank, mine.size(), std::move(r.words)};
    if (r.bytes != mine.size()) {
      poison({failure::mismatch, rank, -1,
              concat("threads_communicator: exchange ", number, ": rank ", r.first, " gives ", r.bytes, " bytes, rank ",
                     rank, " gives ", mine.size(), " bytes. All ranks must give equally many.")},
             0);
      fail(l, rank);
    }
    std::copy(mine.begin(), mine.end(), r.words.data() + static_cast<std::size_t>(rank) * longest_word);
    if (++r.arrived == size()) {
      ++exchanged_;
      for (rank_state& peer : ranks_) {
        if (peer.exchanges == exchanged_) wake(peer);
      }
    }
    carry_until(
        l, rank, timeout_ms, everything, [&] { return exchanged_ > number; },
        [&](int peer) { return at(peer).exchanges > number; }, [&] { return concat("exchange ", number); });
    for (std::size_t peer = 0; peer < ranks_.size(); ++peer)
      std::copy_n(r.words.data() + peer * longest_word, mine.size(), all.data() + peer * mine.size());
  }

  /// Ends everything, for all ranks. Blocks for the blocks that are being copied: microseconds.
  void abort(int rank, std::string_view reason) noexcept {
    lock l(mutex_);
    poison({failure::aborted, rank, -1, failure::words(reason)}, 0);
    idle_.wait(l, [&] { return carrying_ == 0; });
  }

  /// The rank won't call again. What it launched and is not done fails; blocks as abort does.
  void leave(int rank, std::string_view how) noexcept {
    lock l(mutex_);
    rank_state& self = at(rank);
    if (std::exchange(self.gone, true)) return;
    self.how = failure::words(how);
    for (const auto& job : jobs_) {
      const auto r = static_cast<std::size_t>(rank);
      if (job->done || job->launched[r] == 0 || job->sides[r].empty()) continue;
      poison({failure::gone, rank, -1, failure::words(how)}, 0);
      idle_.wait(l, [&] { return carrying_ == 0; });
      break;
    }
    for (rank_state& peer : ranks_) wake(peer);
  }

 private:
  struct rank_state {
    std::condition_variable waker;
    const threads_job* waits_for = nullptr;  // the last that it waited for
    std::size_t launches = 0;
    std::size_t exchanges = 0;
    std::vector<threads_side> spare;  // empty, with room
    std::string how;                  // it went
    bool asleep = false;
    bool taken = false;
    bool gone = false;
  };

  struct round {
    std::size_t number = everything;
    int arrived = 0;
    int first = 0;          // the rank that came first
    std::size_t bytes = 0;  // of each word
    std::vector<std::byte> words;
  };

  rank_state& at(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }

  void wake(rank_state& r) noexcept {
    if (std::exchange(r.asleep, false)) r.waker.notify_one();
  }

  /// Matches and cuts a batch that all ranks have launched. Others carry older batches meanwhile.
  void start(lock& l, int rank, threads_job& job) {
    std::string difference;
    std::swap(job.work, spare_work_);
    l.unlock();
    try {
      difference = plan_work(job.number, job.sides, workers_, job.work);
    } catch (...) {  // no memory for the lists
      l.lock();
      poison({failure::aborted, rank, -1, "out of memory while a batch was matched"}, 0);
      idle_.wait(l, [&] { return carrying_ == 0; });
      throw;
    }
    l.lock();
    if (!difference.empty()) return poison({failure::mismatch, rank, -1, std::move(difference)}, job.number);
    job.open = true;
    const bool tiny = job.work.bytes() <= threads_work::smallest_block;
    if (!tiny || job.number >= stop_at_) return advance(job);
    // To copy so little takes no longer than to wake somebody for it.
    job.phase = threads_work::phases;
    ++carrying_;
    l.unlock();
    for (; job.carried < job.work.blocks(); ++job.carried) job.work.copy(job.carried);
    l.lock();
    if (--carrying_ == 0) idle_.notify_all();
    advance(job);
    hand_on();
  }

  /// Opens the phase after one whose last block is done, or ends the batch.
  void advance(threads_job& job) {
    while (job.phase < threads_work::phases && job.carried == job.work.end(job.phase)) ++job.phase;
    if (job.phase < threads_work::phases) {
      wake_carriers(job.work.end(job.phase) - job.next);
      return;
    }
    job.done = true;
    job.work.clear();
    std::swap(job.work, spare_work_);
    while (!jobs_.empty() && jobs_.front()->done) {
      jobs_.pop_front();
      ++first_job_;
    }
    for (rank_state& r : ranks_) {
      if (r.waits_for == &job || cause_.what != failure::none) wake(r);
    }
  }

  void wake_carriers(std::size_t blocks) {
    int free = workers_ - carrying_;
    for (rank_state& r : ranks_) {
      if (blocks == 0 || free <= 0) return;
      if (!r.asleep) continue;
      wake(r);
      --blocks;
      --free;
    }
  }

  /// Who stops carrying wakes others for what is left: they may have found no core free and gone to sleep.
  void hand_on() {
    if (const threads_job* job = with_work()) wake_carriers(job->work.end(job->phase) - job->next);
  }

  threads_job* with_work() {
    if (carrying_ >= workers_) return nullptr;
    for (const auto& job : jobs_) {
      if (job->number >= stop_at_) break;
      if (job->open && job->phase < threads_work::phases && job->next < job->work.end(job->phase)) return job.get();
    }
    return nullptr;
  }

  /// Carries a block, if there is one and a core for it. The job outlives the block: it ends after its last one.
  bool carry(lock& l) {
    threads_job* const job = with_work();
    if (job == nullptr) return false;
    const std::size_t block = job->next++;
    ++carrying_;
    l.unlock();
    job->work.copy(block);
    l.lock();
    if (--carrying_ == 0) idle_.notify_all();
    if (++job->carried == job->work.end(job->phase)) advance(*job);
    return true;
  }

  /// Carries and sleeps until done() or, throwing, a failure; `here(peer)`: that rank has come. Jobs under `number`
  /// of a group that a mismatch poisoned still end well.
  template <class Done, class Here, class What>
  void carry_until(lock& l, int rank, int timeout_ms, std::size_t number, Done done, Here here, What what) {
    const clock::time_point start = clock::now();
    while (!done()) {
      if (cause_.what != failure::none && number >= stop_at_) fail(l, rank);
      const int missing = first_missing(here);
      if (missing >= 0 && at(missing).gone) {
        poison({failure::gone, missing, -1, at(missing).how}, 0);
        fail(l, rank);
      }
      const bool bounded = missing >= 0 && timeout_ms > 0;  // when all have come, the rest is ours to do
      const clock::time_point end = start + std::chrono::milliseconds(bounded ? timeout_ms : 0);
      if (bounded && clock::now() >= end) {
        poison({failure::timeout, rank, missing, concat(timeout_ms, " ms in ", what())}, 0);
        fail(l, rank);
      }
      if (carry(l)) continue;
      sleep(l, at(rank), bounded ? &end : nullptr);
    }
    hand_on();
  }

  /// The first rank that has not come, one that is gone before others; -1: all have.
  template <class Here>
  int first_missing(Here here) {
    int missing = -1;
    for (int peer = 0; peer < size(); ++peer) {
      if (here(peer)) continue;
      if (at(peer).gone) return peer;
      if (missing < 0) missing = peer;
    }
    return missing;
  }

  /// Until somebody wakes it, or, if given, the end; wakes early at times.
  static void sleep(lock& l, rank_state& self, const clock::time_point* end) {
    self.asleep = true;
    if (end == nullptr) {
      self.waker.wait(l);
    } else if (under_thread_sanitizer()) {  // that of g++ 12 doesn't know the call behind a wait on the steady clock
      self.waker.wait_until(l, std::chrono::system_clock::now() + (*end - clock::now()));
    } else {
      self.waker.wait_until(l, *end);
    }
    self.asleep = false;
  }

  /// Records the first failure; blocks of batches from `stop_at` on are carried no more.
  void poison(failure cause, std::size_t stop_at) noexcept {
    if (cause_.what == failure::none) cause_ = std::move(cause);
    stop_at_ = (std::min)(stop_at_, stop_at);
    for (rank_state& r : ranks_) wake(r);
  }

  /// Throws the failure, when nobody copies to or from the caller's memory any more: batches older than a mismatch
  /// are carried to their end, of others the blocks in hand.
  [[noreturn]] void fail(lock& l, int rank) {
    while (first_job_ < stop_at_ && !jobs_.empty()) {
      if (!carry(l)) sleep(l, at(rank), nullptr);
    }
    idle_.wait(l, [&] { return carrying_ == 0; });
    cause_.rethrow(rank, size());
  }

  std::mutex mutex_;
  std::condition_variable idle_;  // nobody carries a block
  std::vector<rank_state> ranks_;
  const int workers_;  // most threads that carry at a time
  int carrying_ = 0;
  threads_work spare_work_;                        // empty, with room
  std::deque<std::shared_ptr<threads_job>> jobs_;  // those not done, by number
  std::size_t first_job_ = 0;                      // the number of the first of them
  std::size_t stop_at_ = everything;               // the first job that must not be carried
  std::array<round, 2> rounds_;
  std::size_t exchanged_ = 0;  // exchanges that are complete
  failure cause_;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
