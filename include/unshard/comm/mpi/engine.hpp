// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/mpi/engine.hpp: launches, polls and waits over MPI, what they throw, and what an abort ends.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unshard/comm/mpi/batch.hpp>
#include <unshard/comm/mpi/pacer.hpp>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

template <class Mpi>
class mpi_engine;

/// A launched batch; see the concept `completion`. The communicator outlives it.
template <class Mpi>
class mpi_completion {
 public:
  bool ready() { return engine_->ready(*flight_); }
  void wait(int timeout_ms) { engine_->finish(*flight_, timeout_ms); }

 private:
  friend class mpi_engine<Mpi>;
  mpi_completion(mpi_engine<Mpi>* engine, std::shared_ptr<mpi_flight<Mpi>> flight)
      : engine_(engine), flight_(std::move(flight)) {}
  mpi_engine<Mpi>* engine_;
  std::shared_ptr<mpi_flight<Mpi>> flight_;
};

/// All that a communicator over MPI does, on a duplicate of its own; `Mpi` is how MPI is called (mpi_calls).
template <class Mpi>
class mpi_engine {
 public:
  mpi_engine() = default;
  mpi_engine(const mpi_engine&) = delete;
  mpi_engine& operator=(const mpi_engine&) = delete;
  ~mpi_engine() {
    if (comm_ != Mpi::no_comm() && !failure_ && flights_.empty()) Mpi::free_comm(comm_);
    if (words_ != nullptr && words_->busy) static_cast<void>(words_.release());
  }

  /// Once, before all else; collective over `comm`.
  void begin(typename Mpi::comm comm) {
    level_ = Mpi::level();
    check_thread("mpi_communicator");
    Mpi::duplicate(comm, comm_, rank_, size_);
    tag_ub_ = Mpi::largest_tag(tag_ub_);
    words_ = std::make_unique<words>();
    words_->all.resize(max_word * static_cast<std::size_t>(size_));
  }

  int rank() const { return rank_; }
  int size() const { return size_; }

  mpi_batch<Mpi> open_batch() {
    check("open_batch");
    return mpi_batch<Mpi>(rank_, size_);
  }

  /// Sends are posted first, so that peers can fetch while this rank copies.
  mpi_completion<Mpi> launch(mpi_batch<Mpi> batch) {
    check("launch");
    listen("launch", false);
    auto flight = std::make_shared<mpi_flight<Mpi>>();
    flight->number = launches_++;
    flight->messages = std::move(batch.messages_);
    flight->after = std::move(batch.after_);
    flight->requests.assign(flight->messages.size(), Mpi::no_request());
    flights_.push_back(flight);
    const bool sends_first = batch.independent();
    if (sends_first) post(*flight, true);
    for (const mpi_copy& copy : batch.before_) copy_regions(copy.from, copy.to);
    if (!sends_first) post(*flight, true);
    post(*flight, false);
    return {this, std::move(flight)};
  }

  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    check("exchange");
    if (mine.size() > max_word || all.size() / static_cast<std::size_t>(size_) < mine.size())
      throw bad_options(concat("mpi_communicator: exchange of ", mine.size(), " bytes into ", all.size(), "; at most ",
                               max_word, " a rank, of ", size_, " ranks. [rank ", rank_, "]"));
    const int sent = mine.empty() ? 1 : static_cast<int>(mine.size());  // MPI need not wait where nothing is sent
    std::copy(mine.begin(), mine.end(), words_->mine);
    typename Mpi::request request = Mpi::no_request();
    failed(Mpi::iallgather(words_->mine, words_->all.data(), sent, comm_, request), "MPI_Iallgather");
    words_->busy = true;
    pacer pace(timeout_ms);
    for (bool here = false;;) {
      const auto polled = pacer::clock::now();
      failed(Mpi::test(request, here), "MPI_Iallgather");
      if (here) break;
      idle(pace, polled, "exchange", timeout_ms, nullptr);
    }
    words_->busy = false;
    listen("exchange", true);  // words that come late may meet a peer that gave up
    ++exchanges_;
    std::copy_n(words_->all.data(), mine.size() * static_cast<std::size_t>(size_), all.data());
  }

  /// Tells the peers, then cancels what can be cancelled and gives the rest `abort_ms` to end.
  void abort(std::string_view reason) noexcept {
    if (aborted_) return;
    aborted_ = true;
    try {
      if (!failure_) {
        const std::string text = concat("mpi_communicator: rank ", rank_, " aborted: ", reason);
        failure_ = std::make_exception_ptr(peer_failed(text, rank_));
      }
      check_thread("abort");
      end_all(reason);
    } catch (...) {  // no memory, or the wrong thread: nothing was ended
      abandoned_ = !flights_.empty();
    }
  }

  /// After abort: whether operations could not be ended, so that MPI may still touch their buffers. Those must then
  /// be left allocated; only the end of the process frees them.
  bool abandoned() const noexcept { return abandoned_; }

  bool ready(mpi_flight<Mpi>& flight) {
    try {
      if (!flight.error) poll(flight);
    } catch (...) {
      flight.error = std::current_exception();
    }
    return flight.ended == flight.requests.size() || flight.error;
  }
  void finish(mpi_flight<Mpi>& flight, int timeout_ms) {
    if (flight.error) std::rethrow_exception(flight.error);
    check("wait");
    pacer pace(timeout_ms);
    while (flight.ended < flight.requests.size()) {
      const auto polled = pacer::clock::now();
      if (poll(flight)) {
        pace.moved();
      } else {
        idle(pace, polled, "wait", timeout_ms, &flight);
      }
    }
    for (const mpi_copy& copy : flight.after) copy_regions(copy.from, copy.to);
    std::erase_if(flights_, [&](const auto& other) { return other.get() == &flight; });
  }

 private:
  static constexpr std::size_t max_word = 256;
  static constexpr int abort_tag = 0;  // those of data are above
  static constexpr int launches_told_apart = 16;
  static constexpr int abort_ms = 1000;

  struct notice {  // what abort tells the peers
    int timed_out = 0;
    int missing = -1;
    std::size_t exchanges = 0;  // that this rank has ended
    char reason[max_word] = {};
  };

  struct words {  // what exchanges and aborts have under way: left to MPI where they can't be ended
    std::byte mine[max_word];
    std::vector<std::byte> all;
    notice last;
    bool busy = false;
  };

  /// MPI_THREAD_SINGLE and FUNNELED: only the thread that initialised MPI may call it.
  void check_thread(std::string_view call) const {
    if (level_ >= Mpi::serialized()) return;
    if (Mpi::on_main_thread()) return;
    throw device_failed(concat(
        "mpi_communicator: ", call, " on another thread than the one that initialised MPI, which provides MPI_THREAD_",
        level_ == Mpi::single() ? "SINGLE" : "FUNNELED",
        ". Ask MPI_Init_thread for MPI_THREAD_SERIALIZED, or MPI_THREAD_MULTIPLE where threads call MPI at once."));
  }

  /// Every call throws what ended the communicator.
  void check(std::string_view call) const {
    if (failure_) std::rethrow_exception(failure_);
    check_thread(call);
  }

  template <class E>
  [[noreturn]] void fail(const E& e) {
    failure_ = std::make_exception_ptr(e);
    throw e;
  }

  void failed(int code, std::string_view call) {
    try {
      Mpi::check(code, call, rank_);
    } catch (const device_failed& e) {
      fail(e);
    }
  }

  void post(mpi_flight<Mpi>& flight, bool sends) {
    std::vector<std::size_t> before(static_cast<std::size_t>(size_));  // messages to or from each peer so far
    for (std::size_t i = 0; i < flight.messages.size(); ++i) {
      mpi_message<Mpi>& m = flight.messages[i];
      if (m.sends != sends) continue;
      const int tag = tag_of(flight.number, before[static_cast<std::size_t>(m.peer)]++, m.bytes);
      failed(sends ? Mpi::isend(m.base, m.count, m.type.get(), m.peer, tag, comm_, flight.requests[i])
                   : Mpi::irecv(m.base, m.count, m.type.get(), m.peer, tag, comm_, flight.requests[i]),
             sends ? "MPI_Isend" : "MPI_Irecv");
      m.type = {};
    }
  }

  /// One poll, of the first operation that is left: MPI moves all of them in any call. Not MPI_Testsome: MPICH gives
  /// its errors to the handler of MPI_COMM_WORLD. True where an operation ended; throws where one failed.
  bool poll(mpi_flight<Mpi>& flight) {
    bool moved = false;
    for (; flight.ended < flight.requests.size(); ++flight.ended) {
      if (!poll(flight, flight.ended)) return moved;
      moved = true;
    }
    return moved;
  }

  bool poll(mpi_flight<Mpi>& flight, std::size_t at) {
    if (flight.requests[at] == Mpi::no_request()) return true;
    const mpi_message<Mpi>& m = flight.messages[at];
    bool ended = false;
    typename Mpi::status status;
    failed(Mpi::test(flight.requests[at], ended, status),
           concat(m.sends ? "a send to" : "a receive from", " rank ", m.peer));
    if (ended && !m.sends && Mpi::bytes(status) != static_cast<index_t>(m.bytes)) differ(m, status);
    return ended;
  }

  [[noreturn]] void differ(const mpi_message<Mpi>& m, const typename Mpi::status& status) {
    fail(batch_mismatch(concat("mpi_communicator: rank ", rank_, " expected ", m.bytes, " bytes from rank ", m.peer,
                               ", which sent ", Mpi::bytes(status),
                               ". Give both ends of a transfer equally many bytes.")));
  }

  /// The tag of a message says its launch, its place among those of one pair of ranks, and its length, so that one of
  /// another length or place is never received: MPI writes past the end or ends the process (Open MPI 4.1, MPICH 4.0)
  /// where it is longer than its receive.
  int tag_of(std::size_t launch, std::size_t place, std::size_t bytes) const {
    constexpr std::size_t apart = 40'503;  // tags of one length at neighbouring places
    const auto tags = static_cast<std::size_t>(tag_ub_ / launches_told_apart);
    return static_cast<int>(launch % launches_told_apart * tags + (bytes + place * apart) % (tags - 1)) + 1;
  }

  /// All receives of a launch are posted at once, so what came for it and found none has another length.
  void check_lengths(const mpi_flight<Mpi>& flight) {
    for (std::size_t i = flight.ended; i < flight.messages.size(); ++i) {
      const mpi_message<Mpi>& m = flight.messages[i];
      if (m.sends || flight.requests[i] == Mpi::no_request()) continue;
      bool here = false;
      typename Mpi::status status;
      failed(Mpi::iprobe(m.peer, Mpi::any_tag(), comm_, here, status), "MPI_Iprobe");
      const int first = tag_of(flight.number, 0, 0);
      const int next = first + tag_ub_ / launches_told_apart;
      if (here && Mpi::tag(status) >= first && Mpi::tag(status) < next) differ(m, status);
    }
  }

  /// Throws where a peer aborted: peer_timeout, where it did so as it had waited too long, unless for this rank. One
  /// that aborted after the exchange in hand does no harm to that; then the next call throws.
  void listen(std::string_view call, bool in_exchange) {
    bool here = false;
    typename Mpi::status status;
    failed(Mpi::iprobe(Mpi::any_source(), abort_tag, comm_, here, status), "MPI_Iprobe");
    if (!here) return;
    notice n;
    const int from = Mpi::source(status);
    failed(Mpi::recv(&n, static_cast<int>(sizeof n), from, abort_tag, comm_), "MPI_Recv");
    told_ = true;
    const std::string text =
        concat("mpi_communicator: ", call, ": rank ", from, " aborted: ", static_cast<const char*>(n.reason), " [rank ",
               rank_, " of ", size_, "]");
    failure_ = n.timed_out != 0 && n.missing != rank_ ? std::make_exception_ptr(peer_timeout(text, n.missing))
                                                      : std::make_exception_ptr(peer_failed(text, from));
    if (!in_exchange || n.exchanges <= exchanges_) std::rethrow_exception(failure_);
  }

  /// Between two polls of a wait: paces, and ends the wait at its deadline or where a peer aborted.
  void idle(pacer& pace, pacer::clock::time_point polled, std::string_view call, int timeout_ms,
            mpi_flight<Mpi>* flight) {
    if (!pace.pause(polled)) return;
    listen(call, flight == nullptr);
    if (flight != nullptr) check_lengths(*flight);
    if (!pace.expired()) return;
    int missing = -1;
    for (std::size_t i = 0; flight != nullptr && missing < 0 && i < flight->requests.size(); ++i) {
      if (!poll(*flight, i)) missing = flight->messages[i].peer;
    }
    const std::string who = missing < 0 ? std::string("some rank") : concat("rank ", missing);
    timed_out_ = true;
    missing_ = missing;
    fail(peer_timeout(concat("mpi_communicator: ", call, ": ", who, " did not come within ", timeout_ms,
                             " ms; it may be slow, or dead. Look for its own error, or raise .timeout_ms. [rank ",
                             rank_, " of ", size_, "]"),
                      missing));
  }

  void end_all(std::string_view reason) {
    std::vector<typename Mpi::request> open;
    if (!told_) {
      notice& last = words_->last;
      last.timed_out = timed_out_ ? 1 : 0;
      last.missing = missing_;
      last.exchanges = exchanges_;
      last.reason[reason.copy(last.reason, max_word - 1)] = 0;
      for (int peer = 0; peer < size_; ++peer) {
        if (peer == rank_) continue;
        typename Mpi::request request = Mpi::no_request();
        Mpi::isend(&last, static_cast<int>(sizeof last), Mpi::byte(), peer, abort_tag, comm_, request);
        open.push_back(request);
      }
    }
    const std::size_t notices = open.size();
    for (const auto& flight : flights_) {
      for (std::size_t i = 0; i < flight->requests.size(); ++i) {
        if (flight->requests[i] == Mpi::no_request()) continue;
        if (!flight->messages[i].sends) Mpi::cancel(flight->requests[i]);  // not sends: no MPI does it reliably
        open.push_back(flight->requests[i]);
      }
    }
    pacer pace(abort_ms);
    const auto all_null = [&] {
      return std::all_of(open.begin(), open.end(), [](typename Mpi::request r) { return r == Mpi::no_request(); });
    };
    while (!all_null() && !pace.expired()) {
      const auto polled = pacer::clock::now();
      for (typename Mpi::request& request : open) {
        bool ended = false;
        if (request != Mpi::no_request()) Mpi::test(request, ended);
      }
      pace.pause(polled);
    }
    for (std::size_t i = 0; i < open.size(); ++i) {
      if (open[i] == Mpi::no_request()) continue;
      words_->busy = words_->busy || i < notices;
      abandoned_ = abandoned_ || i >= notices;
    }
    for (const auto& flight : flights_) flight->error = failure_;
    if (words_->busy) static_cast<void>(words_.release());
  }

  typename Mpi::comm comm_ = Mpi::no_comm();
  int rank_ = 0;
  int size_ = 0;
  int level_ = Mpi::single();
  int tag_ub_ = 32767;
  std::size_t launches_ = 0;
  std::size_t exchanges_ = 0;
  std::exception_ptr failure_;  // what every call throws, once there is one
  bool told_ = false;           // a peer aborted and told everybody
  bool timed_out_ = false;      // this rank waited too long, for missing_, -1: nobody knows for whom
  int missing_ = -1;
  bool aborted_ = false;
  bool abandoned_ = false;
  std::unique_ptr<words> words_;
  std::vector<std::shared_ptr<mpi_flight<Mpi>>> flights_;  // launched and not waited for
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
