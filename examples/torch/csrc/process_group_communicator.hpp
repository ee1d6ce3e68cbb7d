// SPDX-License-Identifier: Apache-2.0
#pragma once  // process_group_communicator.hpp: unshard over torch's own transport, a c10d::ProcessGroup.

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <utility>
#include <vector>

#include "transfers.hpp"

namespace unshard_torch {

/// Ranks of a process group, over its backend for host memory (gloo, or any other that sends and receives CPU
/// tensors). Nothing is copied where a fragment of a transfer lies in one contiguous run: the tensor that torch sends
/// aliases the caller's memory. The other fragments go through staging of this class, which `capabilities()` declares.
///
/// A transfer is cut into fragments of equal length on both ends, each one message with a tag of its own, numbered for
/// each pair of ranks. So neither end needs to know how the other's regions look. The length of the transfer is in the
/// tag, too: ends that differ never meet, and time out.
///
/// Give it a group that nothing else uses (`torch.distributed.new_group`): an abort closes the group's connections.
class process_group_communicator {
  using clock = std::chrono::steady_clock;

 public:
  class batch {
   public:
    void send(std::span<const unshard::const_region> from, int peer) {
      auto t = std::make_unique<transfer>();
      t->regions.assign(from.begin(), from.end());
      ops_->add(std::move(t), peer, true, cuts_);
    }
    void recv(std::span<const unshard::region> to, int peer) {
      auto t = std::make_unique<transfer>();
      t->regions.assign(to.begin(), to.end());
      t->writable.assign(to.begin(), to.end());
      ops_->add(std::move(t), peer, false, cuts_);
    }
    void copy_before(std::span<const unshard::const_region> from, std::span<const unshard::region> to) {
      ops_->before.push_back({{from.begin(), from.end()}, {to.begin(), to.end()}});
    }
    void copy_after(std::span<const unshard::const_region> from, std::span<const unshard::region> to) {
      ops_->after.push_back({{from.begin(), from.end()}, {to.begin(), to.end()}});
    }

   private:
    friend class process_group_communicator;
    explicit batch(const fragments& cuts) : cuts_(cuts), ops_(std::make_shared<operations>()) {}

    fragments cuts_;
    std::shared_ptr<operations> ops_;
  };

  class completion {
   public:
    bool ready() const { return ops_ == nullptr; }  // gloo tells only those who wait
    /// Moves staged fragments, waits for all, then copies. Throws peer_timeout, device_failed.
    void wait(int timeout_ms) {
      if (ops_ != nullptr) comm_->finish(*ops_, timeout_ms);
      ops_ = nullptr;
    }

   private:
    friend class process_group_communicator;
    completion(process_group_communicator* comm, std::shared_ptr<operations> ops) : comm_(comm), ops_(std::move(ops)) {}
    process_group_communicator* comm_;
    std::shared_ptr<operations> ops_;
  };

  /// Local. Throws bad_options where the group has no backend for host memory.
  explicit process_group_communicator(c10::intrusive_ptr<c10d::ProcessGroup> group)
      : group_(std::move(group)), rank_(group_->getRank()), size_(group_->getSize()) {
    try {
      backend_ = group_->getBackend(c10::DeviceType::CPU);
      store_ = group_->getStore();
    } catch (const std::exception& e) {
      if (backend_ == nullptr)
        throw unshard::bad_options(
            "process_group_communicator: the process group has no backend for CPU tensors. Make one with "
            "torch.distributed.new_group(backend=\"gloo\"). [" +
            std::string(e.what()) + "]");
    }
    limit_staging(4 * 1024 * 1024);
    sent_.resize(static_cast<std::size_t>(size_));
    received_.resize(static_cast<std::size_t>(size_));
  }
  process_group_communicator(const process_group_communicator&) = delete;
  process_group_communicator& operator=(const process_group_communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  unshard::capabilities capabilities() const { return {.regions = true, .staging = staging_bytes()}; }

  /// Before a range opens; on every rank the same. Short fragments cost time: a message each.
  void limit_staging(std::size_t bytes) {
    cut({std::bit_floor(std::clamp(bytes / std::max<std::size_t>(1, slots()), least_fragment, most_fragment))});
  }
  /// The same for ranges whose transfers consist of contiguous regions, of the same lengths on both ends: fragments end
  /// where regions do, however short, and nothing is staged.
  void stage_nothing() { cut({most_fragment, true}); }

  batch open_batch() const { return batch(cuts_); }

  /// Starts what needs no staging, and as much of the rest as staging holds; sends first, so that peers can fetch while
  /// this rank copies. Doesn't block. Throws device_failed.
  completion launch(batch b) {
    usable();
    const bool sends_first = b.ops_->sends_are_apart();
    if (sends_first) start(*b.ops_, true);
    for (const own_copy& c : b.ops_->before) c.run();
    if (!sends_first) start(*b.ops_, true);
    start(*b.ops_, false);
    running_.push_back(b.ops_);
    if (running_.size() == 1) stage(*b.ops_);
    return completion(this, std::move(b.ops_));
  }

  /// All-gather of a few bytes. Throws peer_timeout, device_failed.
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    usable();
    if (size_ == 1) {
      std::copy(mine.begin(), mine.end(), all.begin());
      return;
    }
    // Tensors of torch's own: after a timeout its thread may still touch them.
    const auto bytes = static_cast<std::int64_t>(mine.size());
    std::vector<at::Tensor> in{at::empty({bytes}, at::kByte)};
    std::vector<std::vector<at::Tensor>> out(1);
    for (int r = 0; r < size_; ++r) out[0].push_back(at::empty({bytes}, at::kByte));
    std::memcpy(in[0].data_ptr(), mine.data(), mine.size());
    const auto deadline = deadline_of(timeout_ms);
    try {
      c10d::AllgatherOptions options;
      options.timeout = left(deadline);
      backend_->allgather(out, in, options)->wait(left(deadline));
    } catch (const std::exception& e) {
      fail("exchange", -1, deadline, timeout_ms, e);
    }
    for (std::size_t r = 0; r < out[0].size(); ++r)
      std::memcpy(all.data() + r * mine.size(), out[0][r].data_ptr(), mine.size());
  }

  /// Leaves the reason in the group's store, then closes all connections of this rank: what peers wait for fails. When
  /// it returns, torch touches no memory of the caller's.
  void abort(std::string_view reason) noexcept {
    if (aborted_ || size_ == 1) {
      aborted_ = true;
      return;
    }
    try {
      tell("rank " + std::to_string(rank_) + ": " + std::string(reason));
    } catch (...) {  // no memory for the words
    }
    poison();
  }

 private:
  static constexpr std::size_t most_fragment = 1024 * 1024;
  static constexpr std::size_t least_fragment = 4 * 1024;
  static constexpr const char* reason_key = "unshard/aborted";
  static constexpr const char* late_mark = "too late: ";

  /// One for each direction and peer at least.
  std::size_t slots() const { return 2 * static_cast<std::size_t>(size_ - 1); }
  std::size_t staging_bytes() const { return cuts_.at_regions ? 0 : slots() * cuts_.bytes; }
  void cut(const fragments& cuts) {
    const std::size_t before = staging_bytes();
    cuts_ = cuts;
    if (staging_bytes() != before) staging_ = std::make_unique_for_overwrite<std::byte[]>(staging_bytes());
  }

  static clock::time_point deadline_of(int timeout_ms) {
    return timeout_ms > 0 ? clock::now() + std::chrono::milliseconds(timeout_ms) : clock::time_point::max();
  }
  /// Milliseconds until then, at least 1 (0 means for ever to torch), at most what gloo's clock arithmetic bears.
  static std::chrono::milliseconds left(clock::time_point deadline) {
    constexpr std::chrono::milliseconds most{std::chrono::hours{24 * 20}};
    if (deadline == clock::time_point::max()) return most;
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock::now());
    return std::clamp(ms, std::chrono::milliseconds{1}, most);
  }

  void usable() const {
    if (aborted_)
      throw unshard::device_failed(
          "process_group_communicator: it was aborted after a failure. Make a new group. [rank " +
          std::to_string(rank_) + " of " + std::to_string(size_) + "]");
  }

  /// Numbers the messages of one direction, and starts the direct ones.
  void start(operations& ops, bool outgoing) {
    for (message_queue& q : ops.queues) {
      if (q.outgoing != outgoing) continue;
      std::uint32_t& tag = (outgoing ? sent_ : received_)[static_cast<std::size_t>(q.peer)];
      for (message& m : q.messages) {
        m.tag = static_cast<int>((tag++ & 0xffffu) << 14 | m.of->mark());
        if (m.direct != nullptr) start(q, m, m.direct);
      }
    }
  }
  void start(const message_queue& q, message& m, std::byte* memory) {
    std::vector<at::Tensor> tensor{at::from_blob(memory, {static_cast<std::int64_t>(m.bytes)}, at::kByte)};
    try {
      m.work = q.outgoing ? backend_->send(tensor, q.peer, m.tag) : backend_->recv(tensor, q.peer, m.tag);
    } catch (const std::exception& e) {
      fail(q.outgoing ? "send" : "recv", q.peer, clock::time_point::max(), 0, e);
    }
  }

  /// Gives the oldest batch all slots, an equal share to each queue, and starts what it can. A later batch that took
  /// some would keep the peers, who wait for the oldest first, from ever getting there; and a ring of ranks, each with
  /// its slots full for another peer, would stand still.
  void stage(operations& ops) {
    const auto sharing = static_cast<std::size_t>(
        std::ranges::count_if(ops.queues, [](const message_queue& q) { return q.staged > 0; }));
    std::byte* slot = staging_.get();
    for (message_queue& q : ops.queues) {
      if (q.staged == 0) continue;
      for (std::size_t i = 0; i < slots() / sharing; ++i, slot += cuts_.bytes) q.slots.push_back(slot);
      stage(q);
    }
  }
  void stage(message_queue& q) {
    for (; q.started < q.messages.size(); ++q.started) {
      message& m = q.messages[q.started];
      if (m.direct != nullptr) continue;
      if (q.slots.empty()) return;
      m.slot = q.slots.back();
      q.slots.pop_back();
      if (q.outgoing) m.pack();
      start(q, m, m.slot);
    }
  }

  void finish(operations& ops, int timeout_ms) {
    usable();
    const auto deadline = deadline_of(timeout_ms);
    for (bool more = true; more;) {  // one message of each queue in turn: their peers work at the same time
      more = false;
      for (message_queue& q : ops.queues) {
        if (q.waited == q.messages.size()) continue;
        message& m = q.messages[q.waited++];
        try {
          m.work->wait(left(deadline));
        } catch (const std::exception& e) {
          fail(q.outgoing ? "send" : "recv", q.peer, deadline, timeout_ms, e);
        }
        m.work.reset();
        if (m.slot != nullptr) {
          if (!q.outgoing) m.unpack();
          q.slots.push_back(m.slot);
          stage(q);
        }
        more = true;
      }
    }
    for (const own_copy& c : ops.after) c.run();
    running_.pop_front();
    if (!running_.empty()) stage(*running_.front());
  }

  /// Throws what torch's exception means. Closes this rank's connections first, so that all others wake up: an exchange
  /// goes round in a ring, and not every rank hears of the one that gave up.
  [[noreturn]] void fail(const char* what, int peer, clock::time_point deadline, int timeout_ms,
                         const std::exception& e) {
    std::string text = "process_group_communicator: " + std::string(what);
    if (peer >= 0) text += (std::string_view(what) == "send" ? " to rank " : " from rank ") + std::to_string(peer);
    const std::string here = " [rank " + std::to_string(rank_) + " of " + std::to_string(size_) + "]";
    const bool late = clock::now() >= deadline;
    if (late) {
      text += " did not end within " + std::to_string(timeout_ms) + " ms; a slow rank can't be told from a dead one" +
              (peer >= 0 ? ", nor from one that moves another number of bytes" : "") +
              ". Raise .timeout_ms if it was slow.";
      tell(late_mark + ("rank " + std::to_string(rank_)) + ": " + text);
      poison();
      throw unshard::peer_timeout(text + here, peer);
    }
    const std::string reason = told();
    if (reason.empty()) text += std::string(" failed: ") + e.what();
    if (reason.empty()) tell("rank " + std::to_string(rank_) + ": " + text);
    poison();
    if (reason.empty()) throw unshard::device_failed(text + here);
    text += ": a rank gave up: " + reason + here;
    if (reason.starts_with(late_mark)) throw unshard::peer_timeout(text, peer);
    throw unshard::device_failed(text);
  }

  /// Leaves a reason for the peers, if it is the first.
  void tell(const std::string& reason) const noexcept {
    try {
      if (store_ != nullptr) store_->compareSet(reason_key, std::string(), reason);
    } catch (...) {  // the store may be gone with its process; the peers then learn of a closed connection only
    }
  }
  /// The first reason that a rank left; connections may close a little before it is there.
  std::string told() const {
    try {
      for (int i = 0; store_ != nullptr && i < 20; ++i) {
        if (store_->check({reason_key})) return store_->get_to_str(reason_key);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    } catch (const std::exception&) {  // the process that served the store has ended
    }
    return {};
  }

  /// gloo closes all connections of a group when a wait for one of its messages times out, and then has let go of every
  /// buffer; it has no other way to cancel. The message asked for is one that nobody sends, from a peer whose
  /// connection is still open; where none is, nothing is left to close.
  void poison() noexcept {
    aborted_ = true;
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      try {
        std::vector<at::Tensor> nothing{at::empty({1}, at::kByte)};
        backend_->recv(nothing, peer, 0x7fffffff)->wait(std::chrono::milliseconds{1});
      } catch (...) {  // it timed out, or was closed before
      }
    }
    running_.clear();
  }

  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  c10::intrusive_ptr<c10d::Backend> backend_;
  c10::intrusive_ptr<c10d::Store> store_;
  int rank_;
  int size_;
  fragments cuts_;
  std::unique_ptr<std::byte[]> staging_;
  std::vector<std::uint32_t> sent_, received_;       // messages so far, for each peer
  std::deque<std::shared_ptr<operations>> running_;  // launched and not waited for, oldest first
  bool aborted_ = false;
};

static_assert(unshard::communicator<process_group_communicator>);

}  // namespace unshard_torch
