#pragma once  // nccl.hpp: ranks are NCCL's, one GPU each; a batch is one NCCL group. The only header with <nccl.h>.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unshard/communicator.hpp>
#include <unshard/detail/cuda_handles.hpp>
#include <unshard/detail/host_exchange.hpp>  // IWYU pragma: export
#include <unshard/detail/memcpy_copier.hpp>  // IWYU pragma: export
#include <unshard/detail/nccl_batch.hpp>
#include <unshard/error.hpp>
#include <utility>
#include <vector>

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 18, 0)
#error "unshard/comm/nccl.hpp needs NCCL 2.18 or later: ncclCommSplit"
#endif

namespace unshard {
inline namespace v0 {

/// Packs and unpacks on a stream: copies from[i] to to[i], regions of equal sizes, all of a batch in one call.
/// cuda::memcpy_copier and cuda::thrust_copier are models. Optional: `static constexpr bool pageable = true`, where it
/// also copies host memory that the device can't reach.
template <class C>
concept nccl_copier = std::movable<C> &&
    requires(C& c, std::span<const const_region> from, std::span<const region> to, cudaStream_t stream) {
  c.copy(from, to, stream);
};

struct borrowed_t {};
inline constexpr borrowed_t borrowed{};  ///< use the caller's ncclComm_t itself, and never abort it

struct nccl_options {
  host_exchange exchange = {};         ///< how hosts agree; on every rank or on none. Without: a small NCCL communicator
  int timeout_ms = 600'000;            ///< bounds construction and destruction; 0: none
  std::size_t max_operations = 8192;   ///< most sends and receives in a group; NCCL hangs from about 15,000 on
};

namespace detail {

/// One ncclComm_t that is made, polled, and closed or aborted once. Our own are non-blocking: no call of NCCL's then
/// waits for peers, and what it has in progress is polled with a deadline.
class nccl_handle {
 public:
  nccl_handle() = default;
  nccl_handle(const nccl_handle&) = delete;
  nccl_handle& operator=(const nccl_handle&) = delete;
  ~nccl_handle() { abort(); }

  ncclComm_t get() const { return *comm_; }
  bool made() const { return *comm_ != nullptr; }
  void borrow(ncclComm_t comm) { *comm_ = comm, own_ = false; }

  void init(const ncclUniqueId& id, int ranks, int rank, int timeout_ms) {
    ncclConfig_t config = ours();
    check(ncclCommInitRankConfig(comm_.get(), ranks, id, rank, &config), "ncclCommInitRankConfig");
    settle(timeout_ms, "ncclCommInitRankConfig");
  }
  /// Collective over the parent, on which nothing else may be under way. The ranks keep their numbers.
  void split(ncclComm_t parent, int rank, int timeout_ms) {
    ncclConfig_t config = ours();
    const ncclResult_t code = ncclCommSplit(parent, 0, rank, comm_.get(), &config);
    const bool in_time = poll(timeout_ms, [&] { return code != ncclInProgress || settled(parent, "ncclCommSplit"); });
    if (!in_time) {
      static_cast<void>(comm_.release());  // NCCL writes the handle there when it is through
      comm_ = std::make_unique<ncclComm_t>();
      late("ncclCommSplit", timeout_ms);
    }
    check(code, "ncclCommSplit");
    settle(timeout_ms, "ncclCommSplit");
  }

  /// Throws device_failed where NCCL has an error, even one of earlier work; false: still in progress.
  bool settled(std::string_view call) const { return settled(get(), call); }
  void settle(int timeout_ms, std::string_view call) const {
    if (!poll(timeout_ms, [&] { return settled(call); })) late(call, timeout_ms);
  }
  void check(ncclResult_t code, std::string_view call) const { check(get(), code, call); }
  static void check(ncclComm_t comm, ncclResult_t code, std::string_view call) {
    if (code == ncclSuccess || code == ncclInProgress) return;
    const char* last = ncclGetLastError(comm);
    throw device_failed(concat("nccl_communicator: ", call, " failed: ", ncclGetErrorString(code), ". NCCL says: ",
                               last == nullptr || *last == '\0' ? "nothing more" : last,
                               ". NCCL_DEBUG=WARN in the environment tells more."));
  }
  [[noreturn]] static void late(std::string_view what, int timeout_ms) {
    throw peer_timeout(concat("nccl_communicator: ", what, " took over ", timeout_ms,
                              " ms: a rank has not come, or is slow. NCCL does not say which."),
                       -1);
  }

  void all_gather(const std::byte* from, std::byte* to, std::size_t bytes, cudaStream_t stream) const {
    check(ncclAllGather(from, to, bytes, ncclInt8, get(), stream), "ncclAllGather");
  }

  /// Waits for the peers to close theirs, too, and frees; one that takes too long is aborted.
  void close(int timeout_ms) {
    if (!made() || !own_) return;
    check(ncclCommFinalize(get()), "ncclCommFinalize");
    settle(timeout_ms, "ncclCommFinalize");
    check(ncclCommDestroy(std::exchange(*comm_, nullptr)), "ncclCommDestroy");
  }
  /// Ends what is under way and frees; nothing the second time.
  void abort() noexcept {
    ncclComm_t comm = std::exchange(*comm_, nullptr);
    if (comm != nullptr && own_) static_cast<void>(ncclCommAbort(comm));
  }

 private:
  static ncclConfig_t ours() {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return config;
  }
  static bool settled(ncclComm_t comm, std::string_view call) {
    ncclResult_t state = ncclSuccess;
    check(comm, ncclCommGetAsyncError(comm, &state), "ncclCommGetAsyncError");
    check(comm, state, call);
    return state != ncclInProgress;
  }

  std::unique_ptr<ncclComm_t> comm_ = std::make_unique<ncclComm_t>();
  bool own_ = true;
};

/// A launched batch and how far it is: everything on a stream, once it is `enqueued`.
struct nccl_flight {
  enum { waiting, grouped, enqueued } at = waiting;
  nccl_batch batch;
  cuda_event submitted;  // on the caller's stream, when it was launched
  cuda_event done;       // on ours, behind all of it
};

}  // namespace detail

template <nccl_copier Copier>
class nccl_communicator;

/// A launched batch. The communicator outlives it.
template <class Copier>
class nccl_completion {
 public:
  bool ready() { return comm_->ready(number_); }
  /// Orders the caller's stream behind the batch; blocks the host where the batch touched host memory, or where a
  /// peer has not yet connected for the first time.
  void wait(int timeout_ms) { comm_->wait(number_, timeout_ms); }

 private:
  friend class nccl_communicator<Copier>;
  nccl_completion(nccl_communicator<Copier>* comm, std::uint64_t number) : comm_(comm), number_(number) {}
  nccl_communicator<Copier>* comm_;
  std::uint64_t number_;
};

/// The ranks of an NCCL communicator, each on the calling thread's current device, beside a stream of the caller's:
/// a batch starts after what the caller has enqueued there, and what the caller enqueues there after `wait` sees its
/// bytes. Sends and receives touch device or pinned memory. Making one is collective; so is the destructor, which
/// waits up to .timeout_ms for operations and peers, then aborts, or does neither where abort came before. Not movable.
/// Any error, a peer_timeout included, aborts it. docs/devices.md says what that does to peers and to memory.
template <nccl_copier Copier = cuda::memcpy_copier>
class nccl_communicator {
 public:
  /// On a communicator split off `parent`, which is blocking or not, has nothing under way, and is never aborted.
  nccl_communicator(ncclComm_t parent, cudaStream_t stream, const nccl_options& options = {}, Copier copier = {})
      : nccl_communicator(stream, options, std::move(copier)) {
    check_device(parent);
    int rank = 0;
    detail::nccl_handle::check(parent, ncclCommUserRank(parent, &rank), "ncclCommUserRank");
    comm_.split(parent, rank, options.timeout_ms);
    begin();
  }
  /// On one of its own, of all who call this with the id that ncclGetUniqueId gave one of them.
  nccl_communicator(const ncclUniqueId& id, int ranks, int rank, cudaStream_t stream, const nccl_options& options = {},
                    Copier copier = {})
      : nccl_communicator(stream, options, std::move(copier)) {
    comm_.init(id, ranks, rank, options.timeout_ms);
    begin();
  }
  /// On the caller's own, which nobody else uses meanwhile. It is neither aborted nor freed: after a failure its
  /// kernels may still run and touch the buffers of unfinished batches, until the caller aborts it; see `abandoned`.
  nccl_communicator(borrowed_t, ncclComm_t comm, cudaStream_t stream, const nccl_options& options = {},
                    Copier copier = {})
      : nccl_communicator(stream, options, std::move(copier)) {
    comm_.borrow(comm);
    borrowed_ = true;
    check_device(comm);
    begin();
  }
  nccl_communicator(const nccl_communicator&) = delete;
  nccl_communicator& operator=(const nccl_communicator&) = delete;
  ~nccl_communicator() {
    if (aborted_) {
      if (abandoned_) static_cast<void>(words_.release());  // freeing it may wait for kernels that never end
      return;
    }
    try {
      const detail::device_guard guard(device_);
      if (!detail::poll(options_.timeout_ms, [&] { return advance() && idle(); }))
        return abort("destroyed with batches that did not end");
      if (words_ != nullptr) words_->comm.close(options_.timeout_ms);
      comm_.close(options_.timeout_ms);
    } catch (const std::exception& e) {
      abort(e.what());
    }
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  unshard::capabilities capabilities() const { return {.regions = false, .max_operations = options_.max_operations}; }

  detail::nccl_batch open_batch() {
    usable();
    detail::nccl_batch batch = spare_.empty() ? detail::nccl_batch() : std::move(spare_.back());
    if (!spare_.empty()) spare_.pop_back();
    batch.reset(rank_, size_, rooted_, pageable);
    return batch;
  }

  nccl_completion<Copier> launch(detail::nccl_batch&& batch) {
    return guarded([&] {
      if (batch.messages() > options_.max_operations)
        throw batch_mismatch(detail::concat("nccl_communicator: a batch of ", batch.messages(),
                                            " sends and receives; at most ", options_.max_operations,
                                            " go in one. Ask capabilities(). [rank ", rank_, "]"));
      flights_.emplace_back();
      flights_.back().batch = std::move(batch);
      flights_.back().submitted.record(caller_);
      // A group that NCCL has in progress is mostly through at once; else wait() or the next call goes on with it.
      static_cast<void>(detail::poll(1, [&] { return advance(); }));
      return nccl_completion<Copier>(this, first_ + flights_.size() - 1);
    });
  }

  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    guarded([&] {
      if (mine.size() > words::max_word || all.size() != mine.size() * static_cast<std::size_t>(size_))
        throw batch_mismatch(detail::concat("nccl_communicator: exchange of ", mine.size(), " bytes into ", all.size(),
                                            "; at most 256 a rank, and room for ", size_, ". [rank ", rank_, "]"));
      if (mine.empty()) return;
      // Peers may need what is launched here before they come, and nobody goes on with it while the host is away.
      if (!detail::poll(timeout_ms, [&] { return advance() || flights_.back().at != detail::nccl_flight::waiting; }))
        detail::nccl_handle::late("exchange", timeout_ms);
      if (words_ != nullptr) {
        words_->exchange(mine, all, timeout_ms);
      } else {
        options_.exchange(mine, all, timeout_ms);
      }
      static_cast<void>(comm_.settled("an operation of an earlier batch"));
    });
  }

  /// Tells the host way, aborts NCCL's communicators, and waits until this rank's stream is empty: that may take as
  /// long as what the caller enqueued before the batches. Peers hear of it by the host way, else by their timeouts.
  void abort(std::string_view reason) noexcept {
    if (aborted_) return;
    aborted_ = true;
    try {
      poison_ = detail::concat("aborted: ", reason);
      const detail::device_guard guard(device_);
      options_.exchange.abort(reason);
      abandoned_ = borrowed_ && !idle();
    } catch (...) {  // no memory, or a device that is lost: what follows does not throw
      abandoned_ = borrowed_;
    }
    comm_.abort();
    if (words_ != nullptr) words_->abort();
    if (!abandoned_) static_cast<void>(cudaStreamSynchronize(own_.get()));
  }

  /// After abort of a borrowed communicator: whether its kernels may still touch the buffers of unfinished batches.
  /// Those must be left allocated until the owner has aborted it.
  bool abandoned() const noexcept { return abandoned_; }

  ncclComm_t native() const { return comm_.get(); }  ///< null after an abort
  cudaStream_t stream() const { return caller_; }    ///< the caller's
  void usable() const {                              ///< throws device_failed with the cause after a failure
    if (aborted_)
      throw device_failed(detail::concat("nccl_communicator: it can't be used any more, ",
                                         poison_.empty() ? "aborted" : poison_, ". [rank ", rank_, "]"));
  }

 private:
  friend class nccl_completion<Copier>;
  template <class>
  friend class nccl_memory;
  using words = detail::device_words<detail::nccl_handle>;
  using flight = detail::nccl_flight;

  static constexpr bool pageable = [] {
    if constexpr (requires { Copier::pageable; }) {
      return static_cast<bool>(Copier::pageable);
    } else {
      return false;
    }
  }();

  nccl_communicator(cudaStream_t stream, const nccl_options& options, Copier copier)
      : options_(options), caller_(stream), copier_(std::move(copier)) {
    detail::check_cuda(cudaGetDevice(&device_), "cudaGetDevice");
  }

  void check_device(ncclComm_t comm) const {
    int device = 0;
    detail::nccl_handle::check(comm, ncclCommCuDevice(comm, &device), "ncclCommCuDevice");
    if (device != device_)
      throw bad_options(detail::concat("nccl_communicator: made on device ", device_, ", over a communicator of device ",
                                       device, ". Call cudaSetDevice(", device, ") first."));
  }

  void begin() {
    comm_.check(ncclCommUserRank(comm_.get(), &rank_), "ncclCommUserRank");
    comm_.check(ncclCommCount(comm_.get(), &size_), "ncclCommCount");
    int version = 0;
    comm_.check(ncclGetVersion(&version), "ncclGetVersion");
    rooted_ = NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0) && version >= NCCL_VERSION(2, 28, 0);
    if (!options_.exchange) words_ = std::make_unique<words>(comm_.get(), rank_, size_, options_.timeout_ms);
  }

  /// Runs f on the device; what it throws ends the communicator, so that nothing touches memory behind the error.
  template <class F>
  auto guarded(F f) {
    usable();
    try {
      const detail::device_guard guard(device_);
      return f();
    } catch (const std::exception& e) {
      abort(e.what());
      throw;
    }
  }

  /// Enqueues what it can without blocking: true when that is everything. Nothing may be put on our stream while NCCL
  /// has a group in progress, for its kernels would come behind it.
  bool advance() {
    for (std::size_t i = enqueued_; i < flights_.size(); ++i, ++enqueued_) {
      flight& f = flights_[i];
      if (f.at == flight::waiting) {
        if (!comm_.settled("an earlier group")) return false;
        f.submitted.order(own_.get());
        if (!f.batch.before().empty()) copier_.copy(f.batch.before().from, f.batch.before().to, own_.get());
        if (!f.batch.operations().empty()) group(f.batch.operations());
        f.at = flight::grouped;
      }
      if (!comm_.settled("a group")) return false;
      if (!f.batch.after().empty()) copier_.copy(f.batch.after().from, f.batch.after().to, own_.get());
      f.done.record(own_.get());
      f.at = flight::enqueued;
    }
    return true;
  }

  void group(std::span<const detail::nccl_operation> operations) {
    comm_.check(ncclGroupStart(), "ncclGroupStart");
    ncclResult_t code = ncclSuccess;
    for (const detail::nccl_operation& o : operations) {
      code = call(o);
      if (code != ncclSuccess && code != ncclInProgress) break;
    }
    const ncclResult_t end = ncclGroupEnd();  // always: the group is the calling thread's
    comm_.check(code, "a call in a group");
    comm_.check(end, "ncclGroupEnd");
  }

  ncclResult_t call(const detail::nccl_operation& o) const {
    using op = detail::nccl_operation;
    switch (o.kind) {
      case op::send:
        return ncclSend(o.from, o.bytes, ncclInt8, o.peer, comm_.get(), own_.get());
      case op::recv:
        return ncclRecv(o.to, o.bytes, ncclInt8, o.peer, comm_.get(), own_.get());
      case op::all_gather:
        return ncclAllGather(o.from, o.to, o.bytes, ncclInt8, comm_.get(), own_.get());
      case op::broadcast:
        return ncclBroadcast(o.from, o.to, o.bytes, ncclInt8, o.peer, comm_.get(), own_.get());
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
      case op::gather:
        return ncclGather(o.from, o.to, o.bytes, ncclInt8, o.peer, comm_.get(), own_.get());
      case op::scatter:
        return ncclScatter(o.from, o.to, o.bytes, ncclInt8, o.peer, comm_.get(), own_.get());
#else
      default:
        break;
#endif
    }
    return ncclInvalidUsage;
  }

  bool idle() const {
    const cudaError_t code = cudaStreamQuery(own_.get());
    if (code != cudaErrorNotReady) detail::check_cuda(code, "cudaStreamQuery");
    return code == cudaSuccess;
  }

  bool ready(std::uint64_t number) {
    if (aborted_ || number < first_) return true;
    return guarded([&] {
      static_cast<void>(advance());
      const flight& f = flights_[number - first_];
      return f.at == flight::enqueued && f.done.passed();
    });
  }

  void wait(std::uint64_t number, int timeout_ms) {
    guarded([&] {
      if (number < first_) return;
      flight& f = flights_[number - first_];
      const bool in_time = detail::poll(timeout_ms, [&] {
        static_cast<void>(advance());
        if (f.at != flight::enqueued) return false;
        return !f.batch.host() || (comm_.settled("a batch") && f.done.passed());
      });
      if (!in_time) detail::nccl_handle::late("a batch", timeout_ms);
      f.done.order(caller_);
      static_cast<void>(comm_.settled("a batch"));
      for (; first_ <= number; ++first_, --enqueued_) {
        spare_.push_back(std::move(flights_.front().batch));
        flights_.pop_front();
      }
    });
  }

  nccl_options options_;
  cudaStream_t caller_;
  Copier copier_;
  int device_ = 0;
  int rank_ = 0;
  int size_ = 1;
  bool borrowed_ = false;
  bool rooted_ = false;  // ncclGather and ncclScatter are there
  bool aborted_ = false;
  bool abandoned_ = false;
  std::string poison_;
  detail::nccl_handle comm_;
  std::unique_ptr<words> words_;  // without a host way
  detail::cuda_stream own_;
  std::deque<flight> flights_;  // launched and not waited for, in the order of launches
  std::uint64_t first_ = 0;     // the number of the first of them
  std::size_t enqueued_ = 0;    // how many of them are on the stream
  std::vector<detail::nccl_batch> spare_;
};

/// Device memory from ncclMemAlloc, registered with the communicator for as long as it is out: NCCL may then move
/// bytes without copies of its own. Deallocation waits for the caller's stream. Use it with ranges over that
/// communicator only, which outlives it.
template <class Communicator>
class nccl_memory {
 public:
  static constexpr bool host = false;

  /// `windows`: registers symmetric windows (NCCL 2.27; before that as without). That is collective: every rank
  /// must allocate as often and as much, which takes every_rank and equal budgets.
  explicit nccl_memory(Communicator& comm, bool windows = false) : comm_(&comm), windows_(windows) {}

  void* allocate(std::size_t bytes, std::size_t alignment) {
    comm_->usable();
    const detail::device_guard guard(comm_->device_);
    block b;
    if (ncclMemAlloc(&b.at, bytes) != ncclSuccess || b.at == nullptr)
      throw out_of_memory(detail::concat("nccl_memory: no ", detail::in_bytes(bytes), " bytes. Lower .budget."), bytes);
    try {
      if (reinterpret_cast<std::uintptr_t>(b.at) % alignment != 0)
        throw bad_options(detail::concat("nccl_memory: NCCL does not align to ", alignment, ". Lower .alignment."));
      detail::nccl_handle& comm = comm_->comm_;
      comm.settle(comm_->options_.timeout_ms, "an earlier group");
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
      if (windows_) {
        comm.check(ncclCommWindowRegister(comm.get(), b.at, bytes, &b.window, NCCL_WIN_COLL_SYMMETRIC),
                   "ncclCommWindowRegister");
        comm.settle(comm_->options_.timeout_ms, "ncclCommWindowRegister");
      }
#endif
      if (!windows_) comm.check(ncclCommRegister(comm.get(), b.at, bytes, &b.handle), "ncclCommRegister");
      blocks_.push_back(b);
    } catch (...) {
      static_cast<void>(ncclMemFree(b.at));
      throw;
    }
    return b.at;
  }

  void deallocate(void* p, std::size_t, std::size_t) noexcept {
    static_cast<void>(cudaStreamSynchronize(comm_->caller_));
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      if (blocks_[i].at != p) continue;
      ncclComm_t comm = comm_->comm_.get();  // null after an abort, which ended what was registered
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
      if (comm != nullptr && blocks_[i].window != nullptr)
        static_cast<void>(ncclCommWindowDeregister(comm, blocks_[i].window));
#endif
      if (comm != nullptr && blocks_[i].handle != nullptr)
        static_cast<void>(ncclCommDeregister(comm, blocks_[i].handle));
      blocks_[i] = blocks_.back();
      blocks_.pop_back();
      break;
    }
    static_cast<void>(ncclMemFree(p));
  }

 private:
  struct block {
    void* at = nullptr;
    void* handle = nullptr;
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
    ncclWindow_t window = nullptr;
#endif
  };
  Communicator* comm_;
  bool windows_;
  std::vector<block> blocks_;
};

}  // namespace v0
}  // namespace unshard
