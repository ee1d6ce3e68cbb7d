#pragma once  // mpi.hpp: ranks are processes of an MPI job, MPI 3 or later. The only header that includes <mpi.h>.

#include <mpi.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unshard/communicator.hpp>
#include <unshard/detail/pacer.hpp>
#include <unshard/detail/region_hull.hpp>
#include <unshard/error.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Throws device_failed with MPI's own words where `code`, which `call` returned, is an error.
inline void check_mpi(int code, std::string_view call, int rank) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw device_failed(concat("mpi_communicator: ", call, " failed: ",
                             std::string_view(text, static_cast<std::size_t>(length)), ". [rank ", rank, "]"));
}

/// A committed or intermediate MPI type, freed by its owner; MPI keeps what operations under way still need.
/// MPI_Type_* errors go to the caller's handler on MPI_COMM_WORLD, for no communicator of ours takes part.
class mpi_type {
 public:
  mpi_type() = default;
  mpi_type(mpi_type&& other) noexcept : type_(std::exchange(other.type_, MPI_DATATYPE_NULL)) {}
  mpi_type& operator=(mpi_type&& other) noexcept {
    std::swap(type_, other.type_);
    return *this;
  }
  ~mpi_type() {
    if (type_ != MPI_DATATYPE_NULL) MPI_Type_free(&type_);
  }

  MPI_Datatype get() const { return type_ == MPI_DATATYPE_NULL ? MPI_BYTE : type_; }

  /// `count` blocks of `bytes` bytes, `stride` bytes apart. MPI 3 counts in int: what is over goes in big blocks.
  static mpi_type blocks(index_t count, index_t bytes, index_t stride, int rank) {
    mpi_type made;
    if (count <= INT_MAX && bytes <= INT_MAX) {
      const auto n = static_cast<int>(count);
      check_mpi(MPI_Type_create_hvector(n, static_cast<int>(bytes), stride, MPI_BYTE, &made.type_),
                "MPI_Type_create_hvector", rank);
      return made;
    }
    return repeat(bytes <= INT_MAX ? blocks(1, bytes, bytes, rank) : repeat(mpi_type(), bytes, 1, rank), count, stride,
                  rank);
  }

  /// `count` of `inner`, `stride` bytes apart.
  static mpi_type repeat(const mpi_type& inner, index_t count, index_t stride, int rank) {
    constexpr index_t most = index_t{1} << 30;
    mpi_type made;
    if (count <= most) {
      check_mpi(MPI_Type_create_hvector(static_cast<int>(count), 1, stride, inner.get(), &made.type_),
                "MPI_Type_create_hvector", rank);
      return made;
    }
    const mpi_type big = repeat(inner, most, stride, rank);
    const mpi_type whole = repeat(big, count / most, most * stride, rank);
    const mpi_type rest = repeat(inner, count % most, stride, rank);
    const std::array<MPI_Aint, 2> at{0, count / most * most * stride};
    const std::array<MPI_Datatype, 2> types{whole.get(), rest.get()};
    return of_types(at, types, rank);
  }

  /// Byte runs at absolute addresses.
  static mpi_type of_runs(std::span<const MPI_Aint> at, std::span<const int> bytes, int rank) {
    mpi_type made;
    check_mpi(MPI_Type_create_hindexed(static_cast<int>(at.size()), bytes.data(), at.data(), MPI_BYTE, &made.type_),
              "MPI_Type_create_hindexed", rank);
    return made;
  }

  /// One of each type, at its address.
  static mpi_type of_types(std::span<const MPI_Aint> at, std::span<const MPI_Datatype> types, int rank) {
    mpi_type made;
    const std::vector<int> ones(at.size(), 1);
    check_mpi(MPI_Type_create_struct(static_cast<int>(at.size()), ones.data(), at.data(), types.data(), &made.type_),
              "MPI_Type_create_struct", rank);
    return made;
  }

  void commit(int rank) {
    if (type_ != MPI_DATATYPE_NULL) check_mpi(MPI_Type_commit(&type_), "MPI_Type_commit", rank);
  }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;  // null: stands for MPI_BYTE
};

/// A region without the dimensions that add nothing: `run` bytes, repeated by `levels`, the innermost first.
struct mpi_runs {
  struct level {
    index_t count, stride;
  };
  const std::byte* base;
  index_t run;
  int dims = 0;
  level levels[extents::max_dims] = {};

  explicit mpi_runs(const const_region& r) : base(r.base) {
    const int inner = r.size.dims() - 1;
    run = inner < 0 ? 1 : r.size[inner];
    for (int d = inner - 1; d >= 0; --d) {
      if (r.size[d] == 1) continue;
      level* top = dims == 0 ? nullptr : &levels[dims - 1];
      if (top == nullptr && r.stride[d] == run) {
        run *= r.size[d];
      } else if (top != nullptr && r.stride[d] == top->count * top->stride) {
        top->count *= r.size[d];
      } else {
        levels[dims++] = {r.size[d], r.stride[d]};
      }
    }
  }

  mpi_type type(int rank) const {
    if (dims == 0) return mpi_type::blocks(1, run, run, rank);
    mpi_type made = mpi_type::blocks(levels[0].count, run, levels[0].stride, rank);
    for (int d = 1; d < dims; ++d) made = mpi_type::repeat(made, levels[d].count, levels[d].stride, rank);
    return made;
  }
};

/// One send or receive, in MPI's terms: a single run as bytes, all else as a derived type, so that nothing is staged.
struct mpi_message {
  void* base = nullptr;
  int count = 0;
  mpi_type type;
  int peer = 0;
  std::size_t bytes = 0;
  bool sends = false;

  mpi_message(std::span<const const_region> list, int to_or_from, bool is_send, int rank)
      : peer(to_or_from), sends(is_send) {
    std::vector<mpi_runs> parts;
    parts.reserve(list.size());
    bool flat = true;
    for (const const_region& r : list) {
      if (bytes_of(r) == 0) continue;
      bytes += bytes_of(r);
      const mpi_runs next(r);
      if (next.dims == 0 && !parts.empty() && parts.back().dims == 0 &&
          parts.back().base + parts.back().run == next.base) {
        parts.back().run += next.run;  // neighbours in memory are one run
      } else {
        parts.push_back(next);
      }
    }
    for (const mpi_runs& part : parts) flat = flat && part.dims == 0 && part.run <= INT_MAX;
    if (parts.size() <= 1) {
      if (parts.empty()) return;
      base = const_cast<std::byte*>(parts[0].base);  // MPI's receives take void*; what sends only is never written
      count = flat ? static_cast<int>(parts[0].run) : 1;
      if (!flat) type = parts[0].type(rank);
    } else {
      base = MPI_BOTTOM;
      count = 1;
      type = flat ? runs(parts, rank) : mixed(parts, rank);
    }
    type.commit(rank);
  }

 private:
  static MPI_Aint address(const mpi_runs& part, int rank) {
    MPI_Aint at = 0;
    check_mpi(MPI_Get_address(part.base, &at), "MPI_Get_address", rank);
    return at;
  }
  static mpi_type runs(const std::vector<mpi_runs>& parts, int rank) {
    std::vector<MPI_Aint> at;
    std::vector<int> lengths;
    at.reserve(parts.size());
    lengths.reserve(parts.size());
    for (const mpi_runs& part : parts) {
      at.push_back(address(part, rank));
      lengths.push_back(static_cast<int>(part.run));
    }
    return mpi_type::of_runs(at, lengths, rank);
  }
  static mpi_type mixed(const std::vector<mpi_runs>& parts, int rank) {
    std::vector<MPI_Aint> at;
    std::vector<mpi_type> owners;
    std::vector<MPI_Datatype> types;
    for (const mpi_runs& part : parts) {
      at.push_back(address(part, rank));
      owners.push_back(part.type(rank));
      types.push_back(owners.back().get());
    }
    return mpi_type::of_types(at, types, rank);
  }
};

struct mpi_copy {
  std::vector<const_region> from;
  std::vector<region> to;
};

/// A launched batch: its requests, shared by the completion and the communicator, which must end it in abort.
struct mpi_flight {
  std::vector<MPI_Request> requests;
  std::vector<mpi_message> messages;  // as many, in the same order
  std::vector<mpi_copy> after;
  std::size_t number = 0;    // of the launch, the same on every rank
  std::size_t ended = 0;     // of the requests, in their order
  std::exception_ptr error;  // what ready() found; wait() throws it
};

}  // namespace detail

/// Operations of one launch; see the concept `batch`. MPI types are made as operations are added, so that what fails
/// there fails before anything moves. Throws bad_options for a peer that there is not, batch_mismatch for a copy whose
/// lists differ in length, device_failed.
class mpi_batch {
 public:
  void send(std::span<const const_region> from, int peer) { add(from, peer, true); }
  void recv(std::span<const region> to, int peer) {
    const std::vector<const_region> list(to.begin(), to.end());
    add(list, peer, false);
  }
  void copy_before(std::span<const const_region> from, std::span<const region> to) {
    before_.push_back(copy(from, to));
  }
  void copy_after(std::span<const const_region> from, std::span<const region> to) { after_.push_back(copy(from, to)); }

 private:
  friend class mpi_communicator;
  mpi_batch(int rank, int size) : rank_(rank), size_(size) {}

  detail::mpi_copy copy(std::span<const const_region> from, std::span<const region> to) const {
    if (bytes_of(from) != bytes_of(to))
      throw batch_mismatch(detail::concat("mpi_batch: a copy from ", bytes_of(from), " bytes to ", bytes_of(to),
                                          "; both lists must have equally many. [rank ", rank_, " of ", size_, "]"));
    return {{from.begin(), from.end()}, {to.begin(), to.end()}};
  }
  void add(std::span<const const_region> list, int peer, bool sends) {
    if (peer < 0 || peer >= size_)
      throw bad_options(detail::concat("mpi_batch: ", sends ? "send to" : "recv from", " rank ", peer,
                                       "; the ranks are 0 to ", size_ - 1, ". [rank ", rank_, " of ", size_, "]"));
    messages_.emplace_back(list, peer, sends, rank_);
    if (sends) sent_.insert(sent_.end(), list.begin(), list.end());
  }

  /// Whether no copy_before writes what a send reads: then peers may fetch while this rank copies. May say no where
  /// it is so.
  bool independent() const {
    detail::region_hull sent;
    detail::region_hull written;
    for (const detail::region_hull& h : sent_) sent.add(h);
    for (const detail::mpi_copy& c : before_) {
      for (const region& r : c.to) written.add(detail::region_hull(r));
    }
    const auto apart = [](const auto& list, const detail::region_hull& from) {
      return std::none_of(list.begin(), list.end(), [&](const auto& r) { return detail::region_hull(r).meets(from); });
    };
    return apart(sent_, written) ||
           std::all_of(before_.begin(), before_.end(), [&](const detail::mpi_copy& c) { return apart(c.to, sent); });
  }

  int rank_;
  int size_;
  std::vector<detail::mpi_message> messages_;
  std::vector<detail::region_hull> sent_;  // of each region that is sent
  std::vector<detail::mpi_copy> before_;
  std::vector<detail::mpi_copy> after_;
};
static_assert(batch<mpi_batch>);

class mpi_communicator;

/// A launched batch; see the concept `completion`. The communicator outlives it.
class mpi_completion {
 public:
  bool ready();
  void wait(int timeout_ms);

 private:
  friend class mpi_communicator;
  mpi_completion(mpi_communicator* comm, std::shared_ptr<detail::mpi_flight> flight)
      : comm_(comm), flight_(std::move(flight)) {}
  mpi_communicator* comm_;
  std::shared_ptr<detail::mpi_flight> flight_;
};
static_assert(completion<mpi_completion>);

/// The ranks of an MPI communicator, on a duplicate of it, so that nothing here meets the application's messages and
/// the application's error handler stays as it is. Making one is collective over `comm`; so is destroying it, before
/// MPI_Finalize or after, unless it was poisoned: then the destructor leaves the duplicate to MPI. Not movable:
/// completions point to it. Throws device_failed where MPI is not running or its thread level is too low.
/// docs/mpi.md says how it waits and what is left after a failure.
class mpi_communicator {
 public:
  explicit mpi_communicator(MPI_Comm comm) {
    int running = 0;
    int ended = 0;
    MPI_Initialized(&running);
    MPI_Finalized(&ended);
    if (running == 0 || ended != 0)
      throw device_failed(detail::concat("mpi_communicator: MPI is ", ended != 0 ? "finalised" : "not initialised",
                                         ". Call MPI_Init or MPI_Init_thread first."));
    MPI_Query_thread(&level_);
    check_thread("mpi_communicator");
    int between = 0;
    if (comm != MPI_COMM_NULL) MPI_Comm_test_inter(comm, &between);
    if (comm == MPI_COMM_NULL || between != 0)
      throw device_failed(detail::concat("mpi_communicator: asked for over ",
                                         between != 0 ? "an inter-communicator" : "MPI_COMM_NULL",
                                         ". Give it the intra-communicator of the ranks that take part."));
    MPI_Comm_rank(comm, &rank_);
    MPI_Comm_size(comm, &size_);
    detail::check_mpi(MPI_Comm_dup(comm, &comm_), "MPI_Comm_dup", rank_);
    detail::check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", rank_);
    int* tag_ub = nullptr;
    int found = 0;
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, static_cast<void*>(&tag_ub), &found);
    if (found != 0) tag_ub_ = *tag_ub;
    words_ = std::make_unique<words>();
    words_->all.resize(max_word * static_cast<std::size_t>(size_));
  }
  mpi_communicator(const mpi_communicator&) = delete;
  mpi_communicator& operator=(const mpi_communicator&) = delete;
  ~mpi_communicator() {
    int ended = 0;
    MPI_Finalized(&ended);
    if (ended == 0 && !failure_ && flights_.empty()) MPI_Comm_free(&comm_);
    if (words_ != nullptr && words_->busy) static_cast<void>(words_.release());
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  unshard::capabilities capabilities() const { return {.regions = true}; }

  mpi_batch open_batch() {
    check("open_batch");
    return mpi_batch(rank_, size_);
  }

  /// Sends are posted first, so that peers can fetch while this rank copies.
  mpi_completion launch(mpi_batch batch) {
    check("launch");
    listen("launch", false);
    auto flight = std::make_shared<detail::mpi_flight>();
    flight->number = launches_++;
    flight->messages = std::move(batch.messages_);
    flight->after = std::move(batch.after_);
    flight->requests.assign(flight->messages.size(), MPI_REQUEST_NULL);
    flights_.push_back(flight);
    const bool sends_first = batch.independent();
    if (sends_first) post(*flight, true);
    for (const detail::mpi_copy& copy : batch.before_) copy_regions(copy.from, copy.to);
    if (!sends_first) post(*flight, true);
    post(*flight, false);
    return {this, std::move(flight)};
  }

  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    check("exchange");
    if (mine.size() > max_word || all.size() / static_cast<std::size_t>(size_) < mine.size())
      throw bad_options(detail::concat("mpi_communicator: exchange of ", mine.size(), " bytes into ", all.size(),
                                       "; at most ", max_word, " a rank, of ", size_, " ranks. [rank ", rank_, "]"));
    if (mine.empty()) return;
    std::memcpy(words_->mine, mine.data(), mine.size());
    const auto n = static_cast<int>(mine.size());
    MPI_Request request = MPI_REQUEST_NULL;
    failed(MPI_Iallgather(words_->mine, n, MPI_BYTE, words_->all.data(), n, MPI_BYTE, comm_, &request),
           "MPI_Iallgather");
    words_->busy = true;
    detail::pacer pacer(timeout_ms);
    for (int here = 0;;) {
      const auto polled = detail::pacer::clock::now();
      failed(MPI_Test(&request, &here, MPI_STATUS_IGNORE), "MPI_Iallgather");
      if (here != 0) break;
      idle(pacer, polled, "exchange", timeout_ms, nullptr);
    }
    words_->busy = false;
    listen("exchange", true);  // words that come late may meet a peer that gave up
    ++exchanges_;
    std::memcpy(all.data(), words_->all.data(), mine.size() * static_cast<std::size_t>(size_));
  }

  /// Tells the peers, then cancels what can be cancelled and gives the rest `abort_ms` to end.
  void abort(std::string_view reason) noexcept {
    if (aborted_) return;
    aborted_ = true;
    try {
      if (!failure_) {
        const std::string text = detail::concat("mpi_communicator: rank ", rank_, " aborted: ", reason);
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

 private:
  friend class mpi_completion;
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
    if (level_ >= MPI_THREAD_SERIALIZED) return;
    int main_thread = 0;
    MPI_Is_thread_main(&main_thread);
    if (main_thread != 0) return;
    throw device_failed(detail::concat(
        "mpi_communicator: ", call, " on another thread than the one that initialised MPI, which provides MPI_THREAD_",
        level_ == MPI_THREAD_SINGLE ? "SINGLE" : "FUNNELED",
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
    if (code == MPI_SUCCESS) return;
    try {
      detail::check_mpi(code, call, rank_);
    } catch (const device_failed& e) {
      fail(e);
    }
  }

  void post(detail::mpi_flight& flight, bool sends) {
    for (std::size_t i = 0; i < flight.messages.size(); ++i) {
      detail::mpi_message& m = flight.messages[i];
      if (m.sends != sends) continue;
      const int tag = tag_of(flight.number, m.bytes);
      failed(sends ? MPI_Isend(m.base, m.count, m.type.get(), m.peer, tag, comm_, &flight.requests[i])
                   : MPI_Irecv(m.base, m.count, m.type.get(), m.peer, tag, comm_, &flight.requests[i]),
             sends ? "MPI_Isend" : "MPI_Irecv");
      m.type = {};
    }
  }

  /// One poll, of the first operation that is left: MPI moves all of them in any call. Not MPI_Testsome: MPICH gives
  /// its errors to the handler of MPI_COMM_WORLD. True where an operation ended; throws where one failed.
  bool poll(detail::mpi_flight& flight) {
    bool moved = false;
    for (; flight.ended < flight.requests.size(); ++flight.ended) {
      if (!poll(flight, flight.ended)) return moved;
      moved = true;
    }
    return moved;
  }

  bool poll(detail::mpi_flight& flight, std::size_t at) {
    if (flight.requests[at] == MPI_REQUEST_NULL) return true;
    const detail::mpi_message& m = flight.messages[at];
    int ended = 0;
    MPI_Status status;
    failed(MPI_Test(&flight.requests[at], &ended, &status),
           detail::concat(m.sends ? "a send to" : "a receive from", " rank ", m.peer));
    if (ended != 0 && !m.sends && received(status) != static_cast<MPI_Count>(m.bytes)) differ(m, status);
    return ended != 0;
  }

  static MPI_Count received(const MPI_Status& status) {
    MPI_Count bytes = 0;
    MPI_Get_elements_x(&status, MPI_BYTE, &bytes);
    return bytes;
  }
  [[noreturn]] void differ(const detail::mpi_message& m, const MPI_Status& status) {
    fail(batch_mismatch(detail::concat("mpi_communicator: rank ", rank_, " expected ", m.bytes, " bytes from rank ",
                                       m.peer, ", which sent ", received(status),
                                       ". Give both ends of a transfer equally many bytes.")));
  }

  /// The tag of a message says its launch and its length, so that one of another length is never received: MPI writes
  /// past the end or ends the process (Open MPI 4.1, MPICH 4.0) where it is longer than its receive.
  int tag_of(std::size_t launch, std::size_t bytes) const {
    const auto lengths = static_cast<std::size_t>(tag_ub_ / launches_told_apart);
    return static_cast<int>(launch % launches_told_apart * lengths + bytes % (lengths - 1)) + 1;
  }

  /// All receives of a launch are posted at once, so what came for it and found none has another length.
  void check_lengths(const detail::mpi_flight& flight) {
    for (std::size_t i = flight.ended; i < flight.messages.size(); ++i) {
      const detail::mpi_message& m = flight.messages[i];
      if (m.sends || flight.requests[i] == MPI_REQUEST_NULL) continue;
      int here = 0;
      MPI_Status status;
      failed(MPI_Iprobe(m.peer, MPI_ANY_TAG, comm_, &here, &status), "MPI_Iprobe");
      const int first = tag_of(flight.number, 0);
      const int next = first + tag_ub_ / launches_told_apart;
      if (here != 0 && status.MPI_TAG >= first && status.MPI_TAG < next) differ(m, status);
    }
  }

  /// Throws where a peer aborted: peer_timeout, where it did so as it had waited too long, unless for this rank. One
  /// that aborted after the exchange in hand does no harm to that; then the next call throws.
  void listen(std::string_view call, bool in_exchange) {
    int here = 0;
    MPI_Status status;
    failed(MPI_Iprobe(MPI_ANY_SOURCE, abort_tag, comm_, &here, &status), "MPI_Iprobe");
    if (here == 0) return;
    notice n;
    const int from = status.MPI_SOURCE;
    failed(MPI_Recv(&n, static_cast<int>(sizeof n), MPI_BYTE, from, abort_tag, comm_, &status), "MPI_Recv");
    told_ = true;
    const std::string text =
        detail::concat("mpi_communicator: ", call, ": rank ", from, " aborted: ", static_cast<const char*>(n.reason),
                       " [rank ", rank_, " of ", size_, "]");
    failure_ = n.timed_out != 0 && n.missing != rank_ ? std::make_exception_ptr(peer_timeout(text, n.missing))
                                                      : std::make_exception_ptr(peer_failed(text, from));
    if (!in_exchange || n.exchanges <= exchanges_) std::rethrow_exception(failure_);
  }

  /// Between two polls of a wait: paces, and ends the wait at its deadline or where a peer aborted.
  void idle(detail::pacer& pacer, detail::pacer::clock::time_point polled, std::string_view call, int timeout_ms,
            detail::mpi_flight* flight) {
    if (!pacer.pause(polled)) return;
    listen(call, flight == nullptr);
    if (flight != nullptr) check_lengths(*flight);
    if (!pacer.expired()) return;
    int missing = -1;
    for (std::size_t i = 0; flight != nullptr && missing < 0 && i < flight->requests.size(); ++i) {
      if (!poll(*flight, i)) missing = flight->messages[i].peer;
    }
    const std::string who = missing < 0 ? std::string("some rank") : detail::concat("rank ", missing);
    timed_out_ = true;
    missing_ = missing;
    fail(peer_timeout(
        detail::concat("mpi_communicator: ", call, ": ", who, " did not come within ", timeout_ms,
                       " ms; it may be slow, or dead. Look for its own error, or raise .timeout_ms. [rank ", rank_,
                       " of ", size_, "]"),
        missing));
  }

  void finish(detail::mpi_flight& flight, int timeout_ms) {
    if (flight.error) std::rethrow_exception(flight.error);
    check("wait");
    detail::pacer pacer(timeout_ms);
    while (flight.ended < flight.requests.size()) {
      const auto polled = detail::pacer::clock::now();
      if (poll(flight)) {
        pacer.moved();
      } else {
        idle(pacer, polled, "wait", timeout_ms, &flight);
      }
    }
    for (const detail::mpi_copy& copy : flight.after) copy_regions(copy.from, copy.to);
    std::erase_if(flights_, [&](const auto& other) { return other.get() == &flight; });
  }

  void end_all(std::string_view reason) {
    std::vector<MPI_Request> open;
    if (!told_) {
      notice& last = words_->last;
      last.timed_out = timed_out_ ? 1 : 0;
      last.missing = missing_;
      last.exchanges = exchanges_;
      last.reason[reason.copy(last.reason, max_word - 1)] = 0;
      for (int peer = 0; peer < size_; ++peer) {
        if (peer == rank_) continue;
        MPI_Request request = MPI_REQUEST_NULL;
        MPI_Isend(&last, static_cast<int>(sizeof last), MPI_BYTE, peer, abort_tag, comm_, &request);
        open.push_back(request);
      }
    }
    const std::size_t notices = open.size();
    for (const auto& flight : flights_) {
      for (std::size_t i = 0; i < flight->requests.size(); ++i) {
        if (flight->requests[i] == MPI_REQUEST_NULL) continue;
        if (!flight->messages[i].sends) MPI_Cancel(&flight->requests[i]);  // not sends: no MPI does it reliably
        open.push_back(flight->requests[i]);
      }
    }
    detail::pacer pacer(abort_ms);
    const auto all_null = [&] {
      return std::all_of(open.begin(), open.end(), [](MPI_Request r) { return r == MPI_REQUEST_NULL; });
    };
    while (!all_null() && !pacer.expired()) {
      const auto polled = detail::pacer::clock::now();
      for (MPI_Request& request : open) {
        int ended = 0;
        if (request != MPI_REQUEST_NULL) MPI_Test(&request, &ended, MPI_STATUS_IGNORE);
      }
      pacer.pause(polled);
    }
    for (std::size_t i = 0; i < open.size(); ++i) {
      if (open[i] == MPI_REQUEST_NULL) continue;
      words_->busy = words_->busy || i < notices;
      abandoned_ = abandoned_ || i >= notices;
    }
    for (const auto& flight : flights_) flight->error = failure_;
    if (words_->busy) static_cast<void>(words_.release());
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 0;
  int level_ = MPI_THREAD_SINGLE;
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
  std::vector<std::shared_ptr<detail::mpi_flight>> flights_;  // launched and not waited for
};

inline bool mpi_completion::ready() {
  try {
    if (!flight_->error) comm_->poll(*flight_);
  } catch (...) {
    flight_->error = std::current_exception();
  }
  return flight_->ended == flight_->requests.size() || flight_->error;
}
inline void mpi_completion::wait(int timeout_ms) { comm_->finish(*flight_, timeout_ms); }

static_assert(communicator<mpi_communicator>);

}  // namespace v0
}  // namespace unshard
