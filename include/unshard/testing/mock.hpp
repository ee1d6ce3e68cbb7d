// SPDX-License-Identifier: Apache-2.0
#pragma once  // mock.hpp: a communicator that logs, checks, limits, delays and breaks another one; memory that fails.

#include <deque>
#include <optional>
#include <unshard/communicator.hpp>
#include <unshard/memory.hpp>
#include <unshard/observe.hpp>
#include <unshard/testing/mock_world.hpp>  // IWYU pragma: export

namespace unshard {
inline namespace v0 {

/// Wraps any communicator, which it neither owns nor copies, and is one itself. What the wrapped one can do, this one
/// can: capabilities and the optional functions of its batches are found by concept and passed on.
///   run_ranks(4, [&](auto& engine) {
///     mock_communicator comm(engine, world);                     // mock_world world{4}, shared by the ranks
///     for (auto& chunk : chunks(handles, comm, read_write, {.budget = MiB, .observer = comm})) ...
///   });
/// Without a world, as where ranks are processes, it records, counts, refuses and breaks its own rank, and the time is
/// the engine's; a `delay` of an exchange or a wait is a deadline that passes (peer_timeout), elsewhere it is nothing.
/// With a world the deadlines that it is given are the mock's; the engine gets `engine_limit_ms` instead, so that an
/// engine that loses something ends a test instead of hanging it.
/// One thread at a time, like the engine; neither copied nor moved.
template <class C>
class mock_communicator {
  using inner_batch = std::remove_cvref_t<decltype(std::declval<C&>().open_batch())>;
  using inner_done = std::remove_cvref_t<decltype(std::declval<C&>().launch(std::declval<C&>().open_batch()))>;
  using outcome = mock_world::outcome;
  using state = mock_world::state;
  using wish = mock_world::wish;
  using seat = mock_world::seat;

 public:
  static constexpr int engine_limit_ms = 60'000;

  explicit mock_communicator(C& engine) : engine_(engine), own_(std::in_place, engine.size()), world_(&*own_) {
    self().state = state::running;
  }
  /// Throws bad_options where the world is for another number of ranks.
  mock_communicator(C& engine, mock_world& world) : engine_(engine), world_(&world) {
    if (world.seats_.size() != static_cast<std::size_t>(engine.size()))
      throw bad_options(detail::concat("mock_communicator: a world of ", world.seats_.size(),
                                       " ranks for an engine of ", engine.size(),
                                       ". Make it with mock_world world{comm.size()}."));
    const std::lock_guard lock(world_->mutex_);
    self().state = state::running;
  }
  mock_communicator(const mock_communicator&) = delete;
  mock_communicator& operator=(const mock_communicator&) = delete;
  ~mock_communicator() {
    const std::lock_guard lock(world_->mutex_);
    if (self().state != state::dead) self().state = state::gone;
    if (shared()) world_->settle();
  }

  /// From here on says it can do no more than `most` (0: what the engine can), and refuses what exceeds that with
  /// device_failed: operations over max_bytes, batches over max_operations, lists where there are no regions.
  void limit(const unshard::capabilities& most) { limits_ = most; }
  mock_world& world() { return *world_; }                               ///< the shared one, or its own
  std::vector<mock_record> log() const { return world_->log(rank()); }  ///< what this rank has done so far
  mock_counts counts() const { return world_->counts(rank()); }         ///< how much that was
  /// This rank does something else for a while, by the mock's clock: in a loop's body, a body that takes that long.
  void sleep_ms(int ms) {
    std::unique_lock lock(world_->mutex_);
    if (shared()) static_cast<void>(world_->block(lock, rank(), wish::nothing, 0, ms));
  }
  /// As a range's observer the mock learns which chunk an operation belongs to.
  void operator()(const event& e) {
    const std::lock_guard lock(world_->mutex_);
    seat& s = self();
    s.observed = true;
    const bool launched = e.kind == event_kind::gather_launched || e.kind == event_kind::write_back_launched;
    if (e.kind == event_kind::vote_begun || e.kind == event_kind::chunk_begun) s.chunk = e.chunk;
    if (!launched || s.launches == 0) return;
    s.chunk_of_batch.back() = e.chunk;
    for (std::size_t i = s.log.size(); i-- > 0;) {
      if (s.log[i].batch == s.launches - 1) s.log[i].chunk = e.chunk;
    }
  }

  /// What open_batch returns; concept batch.
  class batch {
   public:
    void send(std::span<const const_region> from, int peer) { transfer(mock_op::send, from, peer); }
    void recv(std::span<const region> to, int peer) { transfer(mock_op::recv, to, peer); }
    void copy_before(std::span<const const_region> from, std::span<const region> to) {
      mock_->run(mock_op::copy_before, -1, bytes_of(to), &lines_, [&](auto&) { inner_.copy_before(from, to); });
    }
    void copy_after(std::span<const const_region> from, std::span<const region> to) {
      mock_->run(mock_op::copy_after, -1, bytes_of(to), &lines_, [&](auto& fault) {
        inner_.copy_after(from, to);
        note_corruption(fault, to);
      });
    }
    void all_gather(const std::byte* from, std::byte* to, std::size_t bytes) requires requires(inner_batch& b) {
      b.all_gather(from, to, bytes);
    }
    {
      collective(mock_op::all_gather, -1, bytes, to, bytes * ranks(), [&] { inner_.all_gather(from, to, bytes); });
    }
    void broadcast(std::byte* buffer, std::size_t bytes, int root) requires requires(inner_batch& b) {
      b.broadcast(buffer, bytes, root);
    }
    {
      std::byte* const to = root == mock_->rank() ? nullptr : buffer;
      collective(mock_op::broadcast, root, bytes, to, bytes, [&] { inner_.broadcast(buffer, bytes, root); });
    }
    void gather(const std::byte* from, std::byte* to, std::size_t bytes, int root) requires requires(inner_batch& b) {
      b.gather(from, to, bytes, root);
    }
    {
      collective(mock_op::gather, root, bytes, to, bytes * ranks(), [&] { inner_.gather(from, to, bytes, root); });
    }
    void scatter(const std::byte* from, std::byte* to, std::size_t bytes, int root) requires requires(inner_batch& b) {
      b.scatter(from, to, bytes, root);
    }
    {
      collective(mock_op::scatter, root, bytes, to, bytes, [&] { inner_.scatter(from, to, bytes, root); });
    }

   private:
    friend class mock_communicator;
    struct corruption {
      std::byte* at;
    };

    batch(mock_communicator& mock, inner_batch&& inner) : mock_(&mock), inner_(std::move(inner)) {}

    std::size_t ranks() const { return static_cast<std::size_t>(mock_->size()); }
    template <class Region>
    void transfer(mock_op op, std::span<const Region> list, int peer) {
      mock_->run(op, peer, bytes_of(list), &lines_, [&](auto& fault) {
        mock_->refuse(list, ++operations_);
        if constexpr (std::is_same_v<Region, region>) {
          inner_.recv(list, peer);
          note_corruption(fault, list);
        } else {
          inner_.send(list, peer);
        }
      });
    }
    template <class F>
    void collective(mock_op op, int root, std::size_t bytes, std::byte* to, std::size_t to_bytes, F f) {
      mock_->run(op, root, bytes, &lines_, [&](auto& fault) {
        f();
        if (fault && fault->kind == fault_kind::corrupt && to != nullptr && to_bytes > 0)
          corrupted_.push_back({to + fault->byte % to_bytes});
      });
    }
    void note_corruption(const std::optional<mock_fault>& fault, std::span<const region> to) {
      if (!fault || fault->kind != fault_kind::corrupt || bytes_of(to) == 0) return;
      corrupted_.push_back({detail::region_cursor<region>(to, fault->byte % bytes_of(to)).data()});
    }

    mock_communicator* mock_;
    inner_batch inner_;
    std::vector<std::size_t> lines_;  // of the log, that learn their batch when it is launched
    std::vector<corruption> corrupted_;
    std::size_t operations_ = 0;
  };

  /// What launch returns; concept completion.
  class completion {
   public:
    completion(completion&& other) noexcept : mock_(std::exchange(other.mock_, nullptr)), number_(other.number_) {}
    completion& operator=(completion&& other) noexcept {
      std::swap(mock_, other.mock_);
      std::swap(number_, other.number_);
      return *this;
    }
    ~completion() {
      if (mock_ != nullptr) mock_->drop(number_);
    }
    bool ready() { return mock_->ready(number_); }
    void wait(int timeout_ms) { mock_->wait(number_, timeout_ms); }

   private:
    friend class mock_communicator;
    completion(mock_communicator& mock, std::size_t number) : mock_(&mock), number_(number) {}
    mock_communicator* mock_;
    std::size_t number_;
  };

  int rank() const { return engine_.rank(); }
  int size() const { return engine_.size(); }

  unshard::capabilities capabilities() const {
    const auto least = [](std::size_t a, std::size_t b) { return a == 0 || (b != 0 && b < a) ? b : a; };
    unshard::capabilities c = unshard::capabilities_of(std::as_const(engine_));
    c.regions = c.regions && limits_.regions;
    c.max_operations = least(c.max_operations, limits_.max_operations);
    c.max_bytes = least(c.max_bytes, limits_.max_bytes);
    c.staging += limits_.staging;
    return c;
  }

  batch open_batch() {
    std::optional<inner_batch> b;
    run(mock_op::open_batch, -1, 0, nullptr, [&](auto&) { b.emplace(engine_.open_batch()); });
    return batch(*this, std::move(*b));
  }

  completion launch(batch b) {
    std::size_t bytes = 0;
    {
      const std::lock_guard lock(world_->mutex_);
      for (std::size_t line : b.lines_) {
        const mock_record& r = self().log[line];
        if (r.op == mock_op::send || r.op == mock_op::recv) bytes += r.bytes;
      }
      b.lines_.push_back(self().log.size());  // the launch's own line, next
    }
    std::size_t number = 0;
    run(mock_op::launch, -1, bytes, nullptr, [&](auto&) { number = start(b); });
    return completion(*this, number);
  }

  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    run(mock_op::exchange, -1, mine.size(), nullptr, [&](auto& fault) {
      if (fault && fault->kind == fault_kind::time_out) time_out("exchange", -1);
      const std::size_t number = meet(mine.size(), timeout_ms);
      {
        const exchange_end at_end{*this};
        forward([&] { engine_.exchange(mine, all, engine_timeout(timeout_ms)); });
      }
      together(wish::exchange_ends, number);
      if (fault && fault->kind == fault_kind::corrupt && !all.empty()) all[fault->byte % all.size()] ^= std::byte{0x55};
    });
  }

  /// Never a place for a fault; a rank that died keeps silent.
  void abort(std::string_view reason) noexcept {
    bool dead = false;
    {
      const std::lock_guard lock(world_->mutex_);
      self().log.push_back({.op = mock_op::abort, .chunk = self().chunk});
      dead = self().state == state::dead;
    }
    if (dead) return;
    engine_.abort(reason);
    const std::lock_guard lock(world_->mutex_);
    world_->aborted_ = true;
    if (shared()) world_->settle();
  }

 private:
  struct slot {
    std::optional<inner_batch> held;  // out of order: not yet with the engine
    std::optional<inner_done> done;
    std::vector<typename batch::corruption> corrupted;
    bool waited = false;
    bool lost = false;  // launched after a rank had died: the bytes never come
  };

  /// Says at its end that this rank is out of an exchange, also where the engine throws: the others must not wait for
  /// it. Not local to exchange: clang 16 to 19 do not emit the destructor of a class in a generic lambda.
  struct exchange_end {
    mock_communicator& mock;
    ~exchange_end() {
      const std::lock_guard lock(mock.world_->mutex_);
      ++mock.self().exchanges_ended;
      if (mock.shared()) mock.world_->settle();
    }
  };

  bool shared() const { return !own_; }
  seat& self() { return world_->at(engine_.rank()); }
  int engine_timeout(int timeout_ms) const { return shared() ? engine_limit_ms : timeout_ms; }

  /// One operation: log, faults before, the work, faults after.
  template <class F>
  void run(mock_op op, int peer, std::size_t bytes, std::vector<std::size_t>* lines, F work) {
    std::optional<mock_fault> fault;
    std::size_t number = 0;
    {
      std::unique_lock lock(world_->mutex_);
      seat& s = self();
      if (s.state == state::dead) throw rank_died(detail::concat("mock: rank ", rank(), " died"));
      number = s.counts.operations++;
      count(s.counts, op, bytes);
      if (lines != nullptr) lines->push_back(s.log.size());
      s.log.push_back({op, peer, bytes, mock_record::none, s.chunk});
      for (const mock_fault& f : world_->script_) {
        if (f.kind != fault_kind::out_of_order && f.rank == rank() && f.operation == number) fault = f;
      }
      if (fault && fault->kind == fault_kind::delay && shared())
        static_cast<void>(world_->block(lock, rank(), wish::nothing, 0, fault->delay_ms));
    }
    if (fault && fault->kind == fault_kind::delay && !shared() && (op == mock_op::exchange || op == mock_op::wait))
      fault->kind = fault_kind::time_out;
    if (fault && fault->kind == fault_kind::fail_before) fail(op, number, "before");
    if (fault && fault->kind == fault_kind::die) die();
    work(fault);
    if (fault && fault->kind == fault_kind::fail_after) fail(op, number, "after");
  }

  [[noreturn]] void fail(mock_op op, std::size_t number, const char* when) {
    throw injected_failure(detail::concat("mock: injected ", when, " operation ", number, " (",
                                          mock_op_names[static_cast<std::size_t>(op)], ") of rank ", rank()),
                           rank(), number);
  }
  [[noreturn]] void die() {
    {
      const std::lock_guard lock(world_->mutex_);
      self().state = state::dead;
    }
    // The engine lets go of this rank's memory, which is about to go; what it tells the peers, `forward` hides.
    if (shared()) engine_.abort("mock: a rank died");
    const std::lock_guard lock(world_->mutex_);
    if (shared()) world_->settle();
    throw rank_died(detail::concat("mock: rank ", rank(), " died"));
  }
  [[noreturn]] void time_out(const char* what, int missing) const {
    throw peer_timeout(
        detail::concat("mock: ", what, " on rank ", rank(), ": the deadline passed",
                       missing < 0 ? "" : ", missing: rank ", missing < 0 ? "" : std::to_string(missing)),
        missing);
  }

  /// Calls the engine; what it says once a rank has died is what a deadline that passes would say.
  template <class F>
  void forward(F f) {
    try {
      f();
    } catch (...) {
      int dead = -1;
      {
        const std::lock_guard lock(world_->mutex_);
        dead = world_->first_dead();
      }
      if (dead >= 0) time_out("a call", dead);
      throw;
    }
  }

  /// Until every rank has come to this exchange; its number.
  std::size_t meet(std::size_t bytes, int timeout_ms) {
    std::unique_lock lock(world_->mutex_);
    seat& s = self();
    const std::size_t number = s.exchanges_begun++;
    s.exchange_bytes = bytes;
    if (!s.observed && number > 0) s.chunk = number;  // the vote of chunk `number - 1` is this one
    if (!shared()) return number;
    const outcome how = world_->block(lock, rank(), wish::exchange_begins, number, timeout_ms);
    if (how == outcome::expired || how == outcome::hung)
      give_up(how, "exchange", world_->first_missing(&seat::exchanges_begun, number));
    if (how == outcome::met) {
      for (int r = 0; r < size(); ++r) {
        const std::size_t theirs = world_->at(r).exchange_bytes;
        if (theirs == bytes) continue;
        ++s.exchanges_ended;
        world_->settle();
        throw batch_mismatch(detail::concat("mock: exchange ", number, ": rank ", rank(), " brings ", bytes,
                                            " bytes, rank ", r, " brings ", theirs));
      }
    }
    return number;
  }
  /// Until every rank has come out of it, too, so that a death after it can't reach back into it.
  void together(wish what, std::size_t number) {
    std::unique_lock lock(world_->mutex_);
    if (shared()) static_cast<void>(world_->block(lock, rank(), what, number, 0));
  }
  [[noreturn]] void give_up(outcome how, const char* what, int missing) const {
    if (how == outcome::expired) time_out(what, missing);
    throw mock_hang(detail::concat("mock: every rank waits and no deadline can pass; rank ", rank(), " in ", what,
                                   ", missing: rank ", missing));
  }

  std::size_t start(batch& b) {
    bool late = false;
    bool lost = false;
    std::size_t number = 0;
    {
      const std::lock_guard lock(world_->mutex_);
      seat& s = self();
      number = s.launches++;
      s.chunk_of_batch.push_back(s.chunk);
      for (std::size_t line : b.lines_) s.log[line].batch = number;
      for (const mock_fault& f : world_->script_) late |= f.kind == fault_kind::out_of_order && f.operation == number;
      lost = shared() && world_->first_dead() >= 0;
      if (shared()) world_->settle();
    }
    slot& mine = slots_.emplace_back();
    mine.corrupted = std::move(b.corrupted_);
    mine.lost = lost;
    if (lost) return number;
    mine.held.emplace(std::move(b.inner_));
    if (!late) hand_over(number);
    if (number > 0 && slots_[number - 1].held) hand_over(number - 1);
    return number;
  }
  /// Gives a batch to the engine.
  void hand_over(std::size_t number) {
    slot& s = slots_[number];
    try {
      s.done.emplace(engine_.launch(std::move(*s.held)));
    } catch (...) {
      s.held.reset();
      const std::lock_guard lock(world_->mutex_);
      if (world_->first_dead() < 0 || !shared()) throw;
      s.lost = true;
      return;
    }
    s.held.reset();
    order_.push_back(number);
  }

  bool ready(std::size_t number) {
    slot& s = slots_[number];
    return s.waited || (s.done && s.done->ready());
  }

  void wait(std::size_t number, int timeout_ms) {
    run(mock_op::wait, -1, 0, nullptr, [&](auto& fault) {
      std::size_t waits = 0;
      bool released = false;
      {
        std::unique_lock lock(world_->mutex_);
        seat& s = self();
        s.log.back().batch = number;
        s.log.back().chunk = s.chunk_of_batch[number];
        if (fault && fault->kind == fault_kind::time_out) time_out("wait", -1);
        if (number != s.waits_begun)
          throw device_failed(detail::concat("mock: rank ", rank(), " waits for batch ", number, " and not for batch ",
                                             s.waits_begun, ": wait for every launch, in their order"));
        waits = s.waits_begun++;
        if (shared()) {
          const outcome how = world_->block(lock, rank(), wish::wait_begins, waits, timeout_ms);
          if (how == outcome::expired || how == outcome::hung)
            give_up(how, "wait", world_->first_missing(&seat::waits_begun, waits));
          released = s.released;
        }
      }
      slot& s = slots_[number];
      const auto leave = [&] {
        const std::lock_guard lock(world_->mutex_);
        ++self().waits_ended;
        if (shared()) world_->settle();
      };
      try {
        forward([&] {
          if (s.lost) time_out("wait", world_->first_dead());
          if (s.held) hand_over(number);
          while (!s.waited) wait_for_next(timeout_ms);
        });
      } catch (...) {
        leave();
        throw;
      }
      leave();
      if (!released) together(wish::wait_ends, waits);
      for (const auto& c : s.corrupted) *c.at ^= std::byte{0x55};
    });
  }
  /// The engine wants its batches waited for in the order of its launches.
  void wait_for_next(int timeout_ms) {
    slot& s = slots_[order_.front()];
    order_.pop_front();
    if (!s.done) return;
    s.done->wait(engine_timeout(timeout_ms));
    s.done.reset();
    s.waited = true;
  }
  void drop(std::size_t number) {
    slot& s = slots_[number];
    s.held.reset();
    s.done.reset();
  }

  template <class Region>
  void refuse(std::span<const Region> list, std::size_t operations) const {
    const unshard::capabilities c = capabilities();
    const std::size_t bytes = bytes_of(list);
    if (c.max_bytes != 0 && bytes > c.max_bytes)
      throw device_failed(detail::concat("mock: an operation of ", bytes, " bytes; the most is ", c.max_bytes,
                                         ". [rank ", rank(), ']'));
    if (c.max_operations != 0 && operations > c.max_operations)
      throw device_failed(
          detail::concat("mock: a batch of more than ", c.max_operations, " operations. [rank ", rank(), ']'));
    if (list.empty()) throw device_failed(detail::concat("mock: an empty list. [rank ", rank(), ']'));
    if (!c.regions && (list.size() != 1 || list[0].size.dims() != 1 || bytes == 0))
      throw device_failed(detail::concat("mock: a list of ", list.size(),
                                         " regions, for an engine that takes one contiguous run. [rank ", rank(), ']'));
  }

  static void count(mock_counts& c, mock_op op, std::size_t bytes) {
    if (op == mock_op::launch) ++c.batches;
    if (op == mock_op::wait) ++c.waits;
    if (op == mock_op::exchange) ++c.exchanges, c.exchange_bytes += bytes;
    if (op == mock_op::send) ++c.sends, c.bytes_sent += bytes;
    if (op == mock_op::recv) ++c.receives, c.bytes_received += bytes;
  }

  C& engine_;
  std::optional<mock_world> own_;  // of a mock without a shared world
  mock_world* world_;
  unshard::capabilities limits_;
  std::deque<slot> slots_;         // by number of launch; references stay valid
  std::deque<std::size_t> order_;  // launches that the engine has and was not waited for, in its order
};

/// Wraps a memory resource: allocation number `at` (from 0) throws out_of_memory, the others pass. Counts what is out.
/// One rank at a time, like any resource.
template <memory_resource M = host_memory>
class failing_memory {
 public:
  static constexpr bool host = is_host_memory<M>;
  static constexpr std::size_t never = static_cast<std::size_t>(-1);  ///< no allocation fails

  explicit failing_memory(std::size_t at = never, M upstream = M{}) : upstream_(std::move(upstream)), at_(at) {}

  /// Which of the allocations to come fails: the next one is 0.
  void fail_at(std::size_t at) { at_ = at == never ? never : allocations_ + at; }
  std::size_t allocations() const { return allocations_; }  ///< calls so far, the failed ones included
  std::size_t held() const { return held_; }                ///< bytes out now: 0 once all is over

  void* allocate(std::size_t bytes, std::size_t alignment) {
    if (allocations_++ == at_)
      throw out_of_memory(detail::concat("failing_memory: allocation ", at_, ", of ", bytes, " bytes, fails as asked"),
                          bytes);
    void* p = upstream_.allocate(bytes, alignment);
    held_ += bytes;
    return p;
  }
  void deallocate(void* p, std::size_t bytes, std::size_t alignment) noexcept {
    upstream_.deallocate(p, bytes, alignment);
    held_ -= bytes;
  }

 private:
  M upstream_;
  std::size_t at_;
  std::size_t allocations_ = 0;
  std::size_t held_ = 0;
};
static_assert(memory_resource<failing_memory<>>);

}  // namespace v0
}  // namespace unshard
