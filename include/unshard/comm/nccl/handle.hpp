// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/nccl/handle.hpp: one ncclComm_t, non-blocking, from its making to its end. It includes <nccl.h>.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <unshard/comm/nccl/batch.hpp>
#include <unshard/comm/nccl/cuda_handles.hpp>
#include <unshard/error.hpp>
#include <utility>

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 18, 0)
#error "unshard/comm/nccl.hpp needs NCCL 2.18 or later: ncclCommSplit"
#endif

// What later libraries have is looked up when the program is loaded, so that one built with their headers runs with an
// older library, too: these are null there.
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
#pragma weak ncclCommWindowRegister
#pragma weak ncclCommWindowDeregister
#endif
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
#pragma weak ncclGather
#pragma weak ncclScatter
#endif

namespace unshard {
inline namespace v0 {
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
    throw device_failed(concat("nccl_communicator: ", call, " failed: ", ncclGetErrorString(code),
                               ". NCCL says: ", last == nullptr || *last == '\0' ? "nothing more" : last,
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

  /// One NCCL group, on `stream` as soon as the handle is settled.
  void group(std::span<const nccl_operation> operations, cudaStream_t stream) const {
    check(ncclGroupStart(), "ncclGroupStart");
    ncclResult_t code = ncclSuccess;
    for (const nccl_operation& o : operations) {
      code = call(o, stream);
      if (code != ncclSuccess && code != ncclInProgress) break;
    }
    const ncclResult_t end = ncclGroupEnd();  // always: the group is the calling thread's
    check(code, "a call in a group");
    check(end, "ncclGroupEnd");
  }

  // For nccl_memory: `windows` is collective, and null where the library has none.
  void* allocate(std::size_t bytes) const {
    void* p = nullptr;
    return ncclMemAlloc(&p, bytes) == ncclSuccess ? p : nullptr;
  }
  void deallocate(void* p) const noexcept { static_cast<void>(ncclMemFree(p)); }
  void* enroll(void* p, std::size_t bytes, [[maybe_unused]] bool windows, int timeout_ms) const {
    settle(timeout_ms, "an earlier group");
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
    if (windows && ncclCommWindowRegister != nullptr) {
      auto window = std::make_unique<ncclWindow_t>();
      check(ncclCommWindowRegister(get(), p, bytes, window.get(), NCCL_WIN_COLL_SYMMETRIC), "ncclCommWindowRegister");
      ncclWindow_t* at = window.release();  // NCCL writes there when it is through, perhaps after settle has thrown
      settle(timeout_ms, "ncclCommWindowRegister");
      window.reset(at);
      return *window;
    }
#endif
    void* enrolled = nullptr;
    check(ncclCommRegister(get(), p, bytes, &enrolled), "ncclCommRegister");
    return enrolled;
  }
  void dismiss(void* enrolled, [[maybe_unused]] bool windows) const noexcept {
    if (!made()) return;  // aborted: nothing is registered any more
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
    if (windows && enrolled != nullptr && ncclCommWindowDeregister != nullptr) {
      static_cast<void>(ncclCommWindowDeregister(get(), static_cast<ncclWindow_t>(enrolled)));
      return;
    }
#endif
    if (enrolled != nullptr) static_cast<void>(ncclCommDeregister(get(), enrolled));
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
  ncclResult_t call(const nccl_operation& o, cudaStream_t stream) const {
    using op = nccl_operation;
    switch (o.kind) {
      case op::send:
        return ncclSend(o.from, o.bytes, ncclInt8, o.peer, get(), stream);
      case op::recv:
        return ncclRecv(o.to, o.bytes, ncclInt8, o.peer, get(), stream);
      case op::all_gather:
        return ncclAllGather(o.from, o.to, o.bytes, ncclInt8, get(), stream);
      case op::broadcast:
        return ncclBroadcast(o.from, o.to, o.bytes, ncclInt8, o.peer, get(), stream);
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
      case op::gather:
        return ncclGather(o.from, o.to, o.bytes, ncclInt8, o.peer, get(), stream);
      case op::scatter:
        return ncclScatter(o.from, o.to, o.bytes, ncclInt8, o.peer, get(), stream);
#endif
      default:
        break;
    }
    return ncclInvalidUsage;
  }

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

}  // namespace detail
}  // namespace v0
}  // namespace unshard
