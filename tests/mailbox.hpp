// SPDX-License-Identifier: Apache-2.0
#pragma once  // mailbox.hpp: the least engine that goes through everything: no regions, no capabilities, no
              // collectives.

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <unshard/communicator.hpp>
#include <utility>
#include <vector>

/// What the ranks, threads of this process, share: a box of messages for each pair of them.
struct mailbox {
  explicit mailbox(int n) : ranks(n), words(static_cast<std::size_t>(n)) {}

  /// Waits for `f`, or throws: the reason of an abort, or peer_timeout.
  template <class F>
  void await(std::unique_lock<std::mutex>& lock, int timeout_ms, const char* who, F f) {
    const auto done = [&] { return f() || !reason.empty(); };
    if (timeout_ms <= 0) {
      changed.wait(lock, done);
    } else if (!changed.wait_until(lock, std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms),
                                   done)) {  // g++ 12's thread sanitizer does not know the steady clock's call
      late = true;
      fail(std::string(who) + ": timed out");
    }
    check();
  }
  void check() const {
    if (!reason.empty() && late) throw unshard::peer_timeout("mailbox: " + reason, -1);
    if (!reason.empty()) throw unshard::device_failed("mailbox: " + reason);
  }
  void fail(std::string why) {
    if (reason.empty()) reason = why.empty() ? "aborted" : std::move(why);
    changed.notify_all();
  }

  int ranks;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> letters;  // from, to
  std::vector<std::vector<std::byte>> words;                                  // of the exchange under way
  int arrived = 0;
  int leaving = 0;
  std::string reason;  // of the first failure, which poisons the box
  bool late = false;   // it was a deadline
};

class mailbox_communicator {
 public:
  mailbox_communicator(mailbox& box, int rank) : box_(&box), rank_(rank) {}

  struct operation {
    bool after;  // a copy_after
    int to;      // a rank, or -1: a copy
    int from;
    std::vector<unshard::const_region> source;
    std::vector<unshard::region> target;
  };
  struct batch {
    std::vector<operation> list;
    void send(std::span<const unshard::const_region> f, int peer) {
      list.push_back({false, peer, -1, {f.begin(), f.end()}, {}});
    }
    void recv(std::span<const unshard::region> t, int peer) {
      list.push_back({false, -1, peer, {}, {t.begin(), t.end()}});
    }
    void copy_before(std::span<const unshard::const_region> f, std::span<const unshard::region> t) {
      list.push_back({false, -1, -1, {f.begin(), f.end()}, {t.begin(), t.end()}});
    }
    void copy_after(std::span<const unshard::const_region> f, std::span<const unshard::region> t) {
      list.push_back({true, -1, -1, {f.begin(), f.end()}, {t.begin(), t.end()}});
    }
  };
  /// Letters are written when a batch is launched, so only receives wait.
  class done {
   public:
    done(mailbox* box, int rank, batch b) : box_(box), rank_(rank), batch_(std::move(b)) {}
    bool ready() const { return false; }
    void wait(int timeout_ms) {
      std::unique_lock lock(box_->mutex);
      box_->check();
      for (const operation& o : batch_.list) {
        if (o.from < 0) continue;
        auto& letters = box_->letters[{o.from, rank_}];
        box_->await(lock, timeout_ms, "wait", [&] { return !letters.empty(); });
        if (letters.front().size() != unshard::bytes_of(std::span(o.target))) {
          box_->fail("rank " + std::to_string(rank_) + " expects " +
                     std::to_string(unshard::bytes_of(std::span(o.target))) + " bytes of rank " +
                     std::to_string(o.from) + ", which sent " + std::to_string(letters.front().size()));
          throw unshard::batch_mismatch(box_->reason);
        }
        const auto n = static_cast<unshard::index_t>(letters.front().size());
        const unshard::const_region whole{letters.front().data(), {n}, {1}};
        unshard::copy_regions({&whole, 1}, o.target);
        letters.pop_front();
      }
      for (const operation& o : batch_.list) {
        if (o.after) unshard::copy_regions(o.source, o.target);
      }
    }

   private:
    mailbox* box_;
    int rank_;
    batch batch_;
  };

  int rank() const { return rank_; }
  int size() const { return box_->ranks; }
  batch open_batch() { return {}; }

  done launch(batch b) {
    const std::lock_guard lock(box_->mutex);
    box_->check();
    for (const operation& o : b.list) {
      if (o.to < 0 && o.from < 0 && !o.after) unshard::copy_regions(o.source, o.target);
    }
    for (const operation& o : b.list) {
      if (o.to < 0) continue;
      std::vector<std::byte> letter(unshard::bytes_of(o.source));
      const unshard::region whole{letter.data(), {static_cast<unshard::index_t>(letter.size())}, {1}};
      unshard::copy_regions(o.source, {&whole, 1});
      box_->letters[{rank_, o.to}].push_back(std::move(letter));
    }
    box_->changed.notify_all();
    return {box_, rank_, std::move(b)};
  }

  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    std::unique_lock lock(box_->mutex);
    box_->await(lock, timeout_ms, "exchange", [&] { return box_->leaving == 0; });
    box_->words[static_cast<std::size_t>(rank_)].assign(mine.begin(), mine.end());
    if (++box_->arrived == box_->ranks) box_->leaving = box_->ranks;
    box_->changed.notify_all();
    box_->await(lock, timeout_ms, "exchange", [&] { return box_->leaving > 0; });
    std::size_t at = 0;
    for (const auto& word : box_->words) {
      for (std::byte b : word) all[at++] = b;
    }
    if (--box_->leaving == 0) box_->arrived = 0;
    box_->changed.notify_all();
  }

  void abort(std::string_view reason) noexcept {
    const std::lock_guard lock(box_->mutex);
    box_->fail(std::string(reason));
  }

 private:
  mailbox* box_;
  int rank_;
};
static_assert(unshard::communicator<mailbox_communicator>);

/// Calls f(comm) on n threads; the first exception that is no peer_failed or peer_timeout, else the first, comes out.
template <class F>
void run_mailbox(int n, F f) {
  mailbox box(n);
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(n));
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r) {
    threads.emplace_back([&, r] {
      mailbox_communicator comm(box, r);
      try {
        f(comm);
      } catch (...) {
        thrown[static_cast<std::size_t>(r)] = std::current_exception();
        comm.abort("a rank's function threw");
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (const auto& e : thrown) {
    if (e) std::rethrow_exception(e);
  }
}
