// SPDX-License-Identifier: Apache-2.0
#pragma once  // nccl.hpp: ranks are NCCL's, one GPU each; a batch is one NCCL group.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unshard/comm/nccl/batch.hpp>
#include <unshard/comm/nccl/cuda_handles.hpp>
#include <unshard/comm/nccl/flights.hpp>
#include <unshard/comm/nccl/handle.hpp>
#include <unshard/comm/nccl/host_exchange.hpp>  // IWYU pragma: export
#include <unshard/comm/nccl/memcpy_copier.hpp>  // IWYU pragma: export
#include <unshard/comm/nccl/memory.hpp>         // IWYU pragma: export
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// The type of `borrowed`.
struct borrowed_t {};
inline constexpr borrowed_t borrowed{};  ///< use the caller's ncclComm_t itself, and never abort it

/// What a communicator over NCCL may be told.
struct nccl_options {
  host_exchange exchange = {};        ///< how hosts agree; on every rank or on none. Without: a small NCCL communicator
  int timeout_ms = 600'000;           ///< bounds construction and destruction; 0: none
  std::size_t max_operations = 8192;  ///< most sends and receives in a group; NCCL hangs from about 15,000 on
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
    const detail::outside_capture calls;
    if (abandoned_) static_cast<void>(words_.release());  // freeing it may wait for kernels that never end
    if (!made_ || aborted_) return;  // not made: a constructor has thrown, peers need not have come, the handles abort
    try {
      const detail::device_guard guard(device_);
      if (!detail::poll(options_.timeout_ms, [&] { return flights_.advance() && flights_.idle(); }))
        detail::nccl_handle::late("a batch that was under way at the end", options_.timeout_ms);
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
    flights_.check_capture();
    detail::nccl_batch batch = flights_.fresh();
    batch.reset(rank_, size_, rooted_, pageable);
    return batch;
  }

  nccl_completion<nccl_communicator> launch(detail::nccl_batch&& batch) {
    return guarded([&] {
      flights_.check_capture();
      if (batch.messages() > options_.max_operations)
        throw batch_mismatch(detail::concat("nccl_communicator: a batch of ", batch.messages(),
                                            " sends and receives; at most ", options_.max_operations,
                                            " go in one. Ask capabilities(). [rank ", rank_, "]"));
      const std::uint64_t number = flights_.launch(std::move(batch));
      // A group that NCCL has in progress is mostly through at once; else wait() or the next call goes on with it.
      static_cast<void>(detail::poll(1, [&] { return flights_.advance(); }));
      return nccl_completion<nccl_communicator>(*this, number);
    });
  }

  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    guarded([&] {
      if (mine.size() > words::max_word || all.size() != mine.size() * static_cast<std::size_t>(size_))
        throw batch_mismatch(detail::concat("nccl_communicator: exchange of ", mine.size(), " bytes into ", all.size(),
                                            "; at most 256 a rank, and room for ", size_, ". [rank ", rank_, "]"));
      if (mine.empty()) {  // waits for the others like any other: a byte is sent that nobody looks at
        const std::byte word{};
        std::vector<std::byte> words_of_all(static_cast<std::size_t>(size_));
        return exchange_words({&word, 1}, words_of_all, timeout_ms);
      }
      exchange_words(mine, all, timeout_ms);
    });
  }

  /// Tells the host way, aborts NCCL's communicators, and waits until this rank's stream is empty: that may take as
  /// long as what the caller enqueued before the batches. Peers hear of it by the host way, else by their timeouts.
  void abort(std::string_view reason) noexcept {
    if (aborted_) return;
    aborted_ = true;
    const detail::outside_capture calls;
    try {
      poison_ = detail::concat("aborted: ", reason);
      const detail::device_guard guard(device_);
      options_.exchange.abort(reason);
      abandoned_ = borrowed_ && !flights_.idle();
    } catch (...) {  // no memory, or a device that is lost: what follows does not throw
      abandoned_ = borrowed_;
    }
    comm_.abort();
    if (words_ != nullptr) words_->abort();
    if (!abandoned_) flights_.synchronize();
  }

  /// After abort of a borrowed communicator: whether its kernels may still touch the buffers of unfinished batches.
  /// Those must be left allocated until the owner has aborted it.
  bool abandoned() const noexcept { return abandoned_; }

  const detail::nccl_handle& handle() const { return comm_; }  ///< for nccl_memory
  int device() const { return device_; }                       ///< number of the CUDA device
  int timeout_ms() const { return options_.timeout_ms; }       ///< as in its options
  cudaStream_t stream() const { return flights_.caller(); }    ///< the caller's

  /// Throws device_failed with the cause after a failure.
  void usable() const {
    if (aborted_)
      throw device_failed(detail::concat("nccl_communicator: it can't be used any more, ",
                                         poison_.empty() ? "aborted" : poison_, ". [rank ", rank_, "]"));
  }

 private:
  friend class nccl_completion<nccl_communicator>;
  using words = detail::device_words<detail::nccl_handle>;
  using flights = detail::nccl_flights<detail::nccl_handle, Copier>;

  static constexpr bool pageable = [] {
    if constexpr (requires { Copier::pageable; }) {
      return static_cast<bool>(Copier::pageable);
    } else {
      return false;
    }
  }();

  nccl_communicator(cudaStream_t stream, const nccl_options& options, Copier copier)
      : options_(options), flights_(comm_, stream, std::move(copier)) {
    detail::check_cuda(cudaGetDevice(&device_), "cudaGetDevice");
  }

  void check_device(ncclComm_t comm) const {
    int device = 0;
    detail::nccl_handle::check(comm, ncclCommCuDevice(comm, &device), "ncclCommCuDevice");
    if (device != device_)
      throw bad_options(detail::concat("nccl_communicator: made on device ", device_,
                                       ", over a communicator of device ", device, ". Call cudaSetDevice(", device,
                                       ") first."));
  }

  void begin() {
    comm_.check(ncclCommUserRank(comm_.get(), &rank_), "ncclCommUserRank");
    comm_.check(ncclCommCount(comm_.get(), &size_), "ncclCommCount");
    int version = 0;
    comm_.check(ncclGetVersion(&version), "ncclGetVersion");
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
    rooted_ = version >= NCCL_VERSION(2, 28, 0) && ncclGather != nullptr && ncclScatter != nullptr;
#endif
    if (!options_.exchange) words_ = std::make_unique<words>(comm_.get(), rank_, size_, options_.timeout_ms);
    made_ = true;
  }

  void exchange_words(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    // Peers may need what is launched here before they come, and nobody goes on with it while the host is away.
    if (!detail::poll(timeout_ms, [&] { return flights_.begin(); })) detail::nccl_handle::late("exchange", timeout_ms);
    if (words_ != nullptr) {
      words_->exchange(mine, all, timeout_ms);
    } else {
      options_.exchange(mine, all, timeout_ms);
    }
    static_cast<void>(comm_.settled("an operation of an earlier batch"));
  }

  bool ready(std::uint64_t number) {
    return aborted_ || guarded([&] { return flights_.ready(number); });
  }
  void wait(std::uint64_t number, int timeout_ms) {
    guarded([&] { flights_.wait(number, timeout_ms); });
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

  nccl_options options_;
  int device_ = 0;
  int rank_ = 0;
  int size_ = 1;
  bool made_ = false;  // all of it
  bool borrowed_ = false;
  bool rooted_ = false;  // ncclGather and ncclScatter are there
  bool aborted_ = false;
  bool abandoned_ = false;
  std::string poison_;
  detail::nccl_handle comm_;
  std::unique_ptr<words> words_;  // without a host way
  flights flights_;
};

}  // namespace v0
}  // namespace unshard
