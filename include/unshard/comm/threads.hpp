// SPDX-License-Identifier: Apache-2.0
#pragma once  // threads.hpp: ranks are threads of this process. The default where a program has no other engine.

#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>
#include <unshard/comm/threads/engine.hpp>
#include <unshard/communicator.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// A batch of the threads engine. It keeps copies of the lists, never of the bytes. Destroyed without launch, it moves
/// nothing. Throws bad_options for a peer that there is not, batch_mismatch for a copy whose two lists differ in
/// length.
class threads_batch {
 public:
  void send(std::span<const const_region> from, int peer) {
    check("send to", peer);
    side_.sends.push_back({peer, side_.from.keep(from)});
  }
  void recv(std::span<const region> to, int peer) {
    check("recv from", peer);
    side_.receives.push_back({peer, side_.to.keep(to)});
  }
  void copy_before(std::span<const const_region> from, std::span<const region> to) {
    copy("copy_before", from, to, side_.before);
  }
  void copy_after(std::span<const const_region> from, std::span<const region> to) {
    copy("copy_after", from, to, side_.after);
  }

 private:
  friend class threads_communicator;
  threads_batch(int rank, int ranks, detail::threads_side side) : side_(std::move(side)), rank_(rank), ranks_(ranks) {}

  void check(std::string_view what, int peer) const {
    if (peer < 0 || peer >= ranks_)
      throw bad_options(detail::concat("threads_batch: ", what, " rank ", peer, "; the ranks are 0 to ", ranks_ - 1,
                                       " [rank ", rank_, " of ", ranks_, ']'));
  }
  void copy(std::string_view what, std::span<const const_region> from, std::span<const region> to,
            std::vector<detail::threads_side::own_copy>& list) {
    const detail::threads_side::own_copy c{side_.from.keep(from), side_.to.keep(to)};
    if (c.from.bytes != c.to.bytes)
      throw batch_mismatch(detail::concat("threads_batch: ", what, " from ", c.from.bytes, " bytes to ", c.to.bytes,
                                          "; both lists must have equally many [rank ", rank_, " of ", ranks_, ']'));
    list.push_back(c);
  }

  detail::threads_side side_;
  int rank_;
  int ranks_;
};

/// A launched batch. It is done when every rank has launched and every byte, of all ranks, is in place.
/// To destroy it without wait is harmless for the others: the batch goes on, and the bytes must stay until it is done.
class threads_completion {
 public:
  /// A hint; moves nothing forward.
  bool ready() const { return engine_->ready(*job_); }

  /// Blocks, and carries bytes meanwhile, its own or not. Throws batch_mismatch, where two ranks' lists differ;
  /// peer_timeout, where a rank has not launched after timeout_ms (0: wait for ever); peer_failed, where one aborted,
  /// gave up or ended. When it throws, no thread touches the bytes any more, and the group is poisoned.
  void wait(int timeout_ms) { engine_->wait(rank_, *job_, timeout_ms); }

 private:
  friend class threads_communicator;
  threads_completion(std::shared_ptr<detail::threads_engine> engine, std::shared_ptr<detail::threads_job> job, int rank)
      : engine_(std::move(engine)), job_(std::move(job)), rank_(rank) {}

  std::shared_ptr<detail::threads_engine> engine_;
  std::shared_ptr<detail::threads_job> job_;
  int rank_;
};
static_assert(batch<threads_batch> && completion<threads_completion>);

/// One rank of a threads_group. Each byte is copied once, from the sender's regions to the receiver's; every rank
/// that waits, in wait or exchange, carries bytes, so that all cores copy; one with nothing to carry sleeps.
/// Batches in flight at the same time are carried in no certain order. Destroyed, the rank counts as gone: peers that
/// wait for it are told at once, and its batches that are not done fail. After any failure every call throws it.
class threads_communicator {
 public:
  threads_communicator(threads_communicator&&) noexcept = default;
  threads_communicator& operator=(threads_communicator&& other) noexcept {
    std::swap(engine_, other.engine_);
    std::swap(rank_, other.rank_);
    return *this;
  }
  /// Blocks only where a peer is copying a block of a batch that this rank left unfinished.
  ~threads_communicator() { leave("its communicator was destroyed"); }

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return engine_->size(); }
  unshard::capabilities capabilities() const noexcept { return {}; }

  threads_batch open_batch() { return threads_batch(rank_, size(), engine_->open(rank_)); }
  /// Does not block. The last rank to launch matches the two ends of every transfer.
  threads_completion launch(threads_batch b) {
    if (b.rank_ != rank_ || b.ranks_ != size())
      throw bad_options(detail::concat("threads_communicator: this batch was opened by rank ", b.rank_, " of ",
                                       b.ranks_, " [rank ", rank_, " of ", size(), ']'));
    return threads_completion(engine_, engine_->launch(rank_, std::move(b.side_)), rank_);
  }
  /// Throws as wait does; batch_mismatch where the ranks give words of different lengths.
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    if (mine.size() > detail::threads_engine::longest_word ||
        all.size() / static_cast<std::size_t>(size()) < mine.size())
      throw bad_options(detail::concat("threads_communicator: exchange of ", mine.size(), " bytes into ", all.size(),
                                       "; at most ", detail::threads_engine::longest_word, " a rank, of ", size(),
                                       " ranks [rank ", rank_, ']'));
    engine_->exchange(rank_, mine, all, timeout_ms);
  }
  void abort(std::string_view reason) noexcept { engine_->abort(rank_, reason); }

  /// This rank makes no more calls; `how` it ended goes into its peers' messages. The destructor does the same.
  void leave(std::string_view how) noexcept {
    if (engine_) engine_->leave(rank_, how);
  }

 private:
  friend class threads_group;
  threads_communicator(std::shared_ptr<detail::threads_engine> engine, int rank)
      : engine_(std::move(engine)), rank_(rank) {}

  std::shared_ptr<detail::threads_engine> engine_;
  int rank_;
};
static_assert(communicator<threads_communicator>);

/// Ranks that can talk to each other. The communicators keep what they share alive; the group itself may go.
class threads_group {
 public:
  /// `cores`: how many ranks copy at a time, 0: as many as the machine has cores. Throws bad_options for no ranks, or
  /// fewer than no cores.
  explicit threads_group(int ranks, int cores = 0) {
    if (ranks < 1) throw bad_options(detail::concat("threads_group: ", ranks, " ranks; give at least 1."));
    if (cores < 0)
      throw bad_options(detail::concat("threads_group: ", cores, " cores; give at least 1, or 0 for all."));
    engine_ = std::make_shared<detail::threads_engine>(ranks, cores);
  }

  int size() const noexcept { return engine_->size(); }

  /// A rank's communicator, to be had once. Each belongs to one thread at a time. Throws bad_options.
  threads_communicator communicator(int rank) {
    if (rank < 0 || rank >= size() || !engine_->take(rank))
      throw bad_options(detail::concat("threads_group: communicator(", rank, ") of ", size(),
                                       " ranks: out of range, or taken already."));
    return threads_communicator(engine_, rank);
  }

 private:
  std::shared_ptr<detail::threads_engine> engine_;
};

namespace detail {

/// The first failure of several threads; that of a peer only where there is nothing else.
class first_failure {
 public:
  void add(std::exception_ptr failure, bool of_a_peer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::exception_ptr& slot = of_a_peer ? of_peer_ : own_;
    if (!slot) slot = std::move(failure);
  }
  void rethrow() const {
    if (own_) std::rethrow_exception(own_);
    if (of_peer_) std::rethrow_exception(of_peer_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr own_;
  std::exception_ptr of_peer_;
};

/// f as one rank; what it throws is kept, then the peers are told.
template <class F>
void run_rank(F& f, threads_communicator c, first_failure& failure) {
  try {
    f(c);
    c.leave("its function has returned");
  } catch (const peer_failed& e) {
    failure.add(std::current_exception(), true);
    c.leave(concat("its function ended with: ", e.what()));
  } catch (const peer_timeout& e) {
    failure.add(std::current_exception(), true);
    c.leave(concat("its function ended with: ", e.what()));
  } catch (const std::exception& e) {
    failure.add(std::current_exception(), false);
    c.leave(concat("its function ended with: ", e.what()));
  } catch (...) {
    failure.add(std::current_exception(), false);
    c.leave("its function ended with an exception");
  }
}

}  // namespace detail

/// Calls f(threads_communicator&) on so many threads, as the ranks of one group, and returns when all have ended. Then
/// throws the first failure in time, a peer_failed or peer_timeout only where there is nothing else. A rank whose
/// function has ended counts as gone at once.
template <class F>
void run_ranks(int ranks, F&& f) {
  threads_group group(ranks);
  detail::first_failure failure;
  std::vector<threads_communicator> waiting;  // those whose thread is not started
  std::vector<std::thread> threads;
  waiting.reserve(static_cast<std::size_t>(ranks));
  threads.reserve(static_cast<std::size_t>(ranks));
  for (int r = ranks; r-- > 0;) waiting.push_back(group.communicator(r));
  try {
    while (!waiting.empty()) {
      threads.emplace_back([&](threads_communicator c) { detail::run_rank(f, std::move(c), failure); },
                           std::move(waiting.back()));
      waiting.pop_back();
    }
  } catch (...) {  // no more threads to be had: to the others these ranks are gone
    failure.add(std::current_exception(), false);
    waiting.clear();
  }
  for (std::thread& t : threads) t.join();
  failure.rethrow();
}

}  // namespace v0
}  // namespace unshard
