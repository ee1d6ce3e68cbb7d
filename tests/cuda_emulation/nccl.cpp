// SPDX-License-Identifier: Apache-2.0
// nccl.cpp: NCCL's part of the test double.

#include <atomic>
#include <cstring>
#include <set>
#include <tuple>

#include "internal.hpp"

namespace cuda_emulation {
namespace {

/// Bytes on their way from one rank to another.
struct message {
  const std::byte* from = nullptr;
  std::size_t bytes = 0;
  bool registered = false;
  std::vector<std::byte> buffered;  // sometimes: then the sender is through before the receiver has come
  bool taken = false;
  bool withdrawn = false;  // the sender was aborted: its memory may be gone
};

/// What the ranks of a communicator share.
struct world {
  explicit world(int n) : ranks(n) {}
  const int ranks;
  std::mutex mutex;
  std::condition_variable changed;
  using channel = std::tuple<int, int, bool>;  // from, to, whether of a collective
  std::map<channel, std::deque<std::shared_ptr<message>>> messages;
  std::set<std::pair<int, int>> met;  // (rank, peer): this rank has had a group with that peer
  std::vector<std::shared_ptr<world>> splits;
  std::map<std::size_t, int> windows;  // how many have come to the n-th registration
  int joined = 0;                      // ranks that have made theirs
  int gone = 0;                        // ranks that have finalised or aborted
};

std::mutex ids_mutex;
std::map<std::string, std::shared_ptr<world>> ids;
int next_id = 0;
std::atomic<int> library_version{NCCL_VERSION_CODE};

struct operation {
  enum { send, recv, all_gather, broadcast, gather, scatter } kind;
  const std::byte* from;
  std::byte* to;
  std::size_t bytes;
  int peer;
};

}  // namespace
}  // namespace cuda_emulation

using namespace cuda_emulation;

struct ncclComm {
  std::shared_ptr<world> shared;
  int rank = 0;
  int device = 0;
  bool blocking = true;
  std::atomic<int> state{ncclSuccess};
  std::atomic<bool> stop{false};
  std::atomic<int> running{0};  // kernels that are enqueued and have not ended
  std::atomic<bool> freed{false};
  std::thread background;
  std::size_t splits = 0;
  std::size_t windows = 0;
  bool finalised = false;
  std::map<std::uintptr_t, std::size_t> registered;  // guarded by the world's mutex
  bool is_gone = false;
  std::string last_error;

  ~ncclComm() {
    if (background.joinable()) background.join();
  }

  /// Runs `work` as NCCL does: at once on a blocking communicator, else on a thread while the state is in progress.
  template <class Work>
  ncclResult_t run(Work work) {
    if (background.joinable()) background.join();
    if (blocking) return work();
    state = ncclInProgress;
    background = std::thread([this, work = std::move(work)] {
      dawdle();
      state = work();
    });
    return ncclInProgress;
  }
};

namespace cuda_emulation {
namespace {

/// Communicators are never really freed, so that their use afterwards is seen.
std::mutex graveyard_mutex;
std::vector<std::unique_ptr<ncclComm>> all_comms;

ncclComm* make_comm(std::shared_ptr<world> shared, int rank, bool blocking) {
  auto comm = std::make_unique<ncclComm>();
  comm->shared = std::move(shared);
  comm->rank = rank;
  comm->blocking = blocking;
  static_cast<void>(cudaGetDevice(&comm->device));
  ncclComm* out = comm.get();
  const std::lock_guard lock(graveyard_mutex);
  all_comms.push_back(std::move(comm));
  count_made("communicator", 1);
  return out;
}

template <class Done>
bool wait_in(ncclComm* comm, std::unique_lock<std::mutex>& lock, Done done) {
  comm->shared->changed.wait(lock, [&] { return comm->stop || done(); });
  return !comm->stop;
}

/// Every rank has come; a blocking call waits here.
ncclResult_t join(ncclComm* comm) {
  world& w = *comm->shared;
  std::unique_lock lock(w.mutex);
  ++w.joined;
  w.changed.notify_all();
  return wait_in(comm, lock, [&] { return w.joined >= w.ranks; }) ? ncclSuccess : ncclInternalError;
}

bool usable(ncclComm* comm, const char* who) {
  if (comm == nullptr || comm->freed) {
    violation(std::string(who) + " on a communicator that was freed");
    return false;
  }
  if (comm->state == ncclInProgress) {
    violation(std::string(who) + " on a communicator with something in progress");
    return false;
  }
  return true;
}

/// Whether all of it is registered with the communicator; the world's mutex is held.
bool is_registered(ncclComm* comm, const void* p) {
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  auto found = comm->registered.upper_bound(at);
  if (found == comm->registered.begin()) return false;
  --found;
  return at < found->first + found->second;
}
void enrol(ncclComm* comm, void* p, std::size_t bytes) {
  comm->registered[reinterpret_cast<std::uintptr_t>(p)] = bytes;
  count_made("registration", 1);
}
void dismiss(ncclComm* comm, void* p, const char* who) {
  if (comm == nullptr || comm->freed) return violation(std::string(who) + " on a communicator that was freed");
  const std::lock_guard lock(comm->shared->mutex);
  if (comm->registered.erase(reinterpret_cast<std::uintptr_t>(p)) == 0)
    return violation(std::string(who) + " of what was not registered");
  count_made("registration", -1);
}

/// A group as one kernel: posts its sends, takes its receives, waits until what it sent was taken.
void kernel(ncclComm* comm, const std::vector<operation>& list) {
  world& w = *comm->shared;
  const int me = comm->rank;
  std::vector<std::shared_ptr<message>> posted;
  struct due {
    int from;
    bool collective;
    std::byte* to;
    std::size_t bytes;
  };
  std::vector<due> dues;
  std::unique_lock lock(w.mutex);
  struct withdrawal {  // whichever way this ends, with the lock held
    std::vector<std::shared_ptr<message>>& list;
    ~withdrawal() {
      for (const auto& m : list) m->withdrawn = true;
    }
  } const at_end{posted};
  const auto post = [&](int peer, bool collective, const std::byte* from, std::size_t bytes) {
    auto m = std::make_shared<message>();
    m->from = from;
    m->bytes = bytes;
    m->registered = is_registered(comm, from);
    if (random_number() % 2 == 1 && bytes <= 65'536) m->buffered.assign(from, from + bytes);
    w.messages[{me, peer, collective}].push_back(m);
    posted.push_back(std::move(m));
  };
  for (const operation& o : list) {
    const auto part = [&](auto* p, int r) { return p + static_cast<std::size_t>(r) * o.bytes; };
    const bool root = o.peer == me;
    switch (o.kind) {
      case operation::send:
        post(o.peer, false, o.from, o.bytes);
        break;
      case operation::recv:
        dues.push_back({o.peer, false, o.to, o.bytes});
        break;
      case operation::all_gather:
        for (int r = 0; r < w.ranks; ++r) post(r, true, o.from, o.bytes);
        for (int r = 0; r < w.ranks; ++r) dues.push_back({r, true, part(o.to, r), o.bytes});
        break;
      case operation::broadcast:
        for (int r = 0; root && r < w.ranks; ++r) post(r, true, o.from, o.bytes);
        dues.push_back({o.peer, true, o.to, o.bytes});
        break;
      case operation::gather:
        post(o.peer, true, o.from, o.bytes);
        for (int r = 0; root && r < w.ranks; ++r) dues.push_back({r, true, part(o.to, r), o.bytes});
        break;
      case operation::scatter:
        for (int r = 0; root && r < w.ranks; ++r) post(r, true, part(o.from, r), o.bytes);
        dues.push_back({o.peer, true, o.to, o.bytes});
        break;
    }
  }
  w.changed.notify_all();
  for (const due& d : dues) {
    auto& queue = w.messages[{d.from, me, d.collective}];
    if (!wait_in(comm, lock, [&] { return !queue.empty(); })) return;
    const auto m = queue.front();
    queue.pop_front();
    if (m->bytes != d.bytes) {
      violation("rank " + std::to_string(d.from) + " sends " + std::to_string(m->bytes) + " bytes, rank " +
                std::to_string(me) + " receives " + std::to_string(d.bytes));
      wait_in(comm, lock, [] { return false; });
      return;
    }
    if (m->registered != is_registered(comm, d.to))
      violation("rank " + std::to_string(d.from) + (m->registered ? " sends registered" : " sends unregistered") +
                " memory, rank " + std::to_string(me) + " receives into other memory");
    lock.unlock();
    dawdle();
    lock.lock();
    if (m->withdrawn && m->buffered.empty()) {
      wait_in(comm, lock, [] { return false; });
      return;
    }
    const std::byte* from = m->buffered.empty() ? m->from : m->buffered.data();
    if (from != d.to) std::memcpy(d.to, from, d.bytes);
    m->taken = true;
    w.changed.notify_all();
  }
  for (const auto& m : posted)
    if (!wait_in(comm, lock, [&] { return m->taken || !m->buffered.empty(); })) return;
}

thread_local int depth = 0;
thread_local std::vector<std::tuple<ncclComm*, cudaStream_t, operation>> grouped;

/// The first group with a peer connects to it, which takes both of them.
ncclResult_t connect(ncclComm* comm, const std::vector<operation>& list) {
  world& w = *comm->shared;
  std::unique_lock lock(w.mutex);
  std::set<int> peers;
  for (const operation& o : list) {
    if (o.kind == operation::send || o.kind == operation::recv) peers.insert(o.peer);
  }
  for (const int p : peers) w.met.insert({comm->rank, p});
  w.changed.notify_all();
  for (const int p : peers)
    if (!wait_in(comm, lock, [&] { return w.met.count({p, comm->rank}) > 0; })) return ncclInternalError;
  return ncclSuccess;
}

ncclResult_t start_group() {
  const auto list = std::exchange(grouped, {});
  ncclResult_t result = ncclSuccess;
  std::map<std::pair<ncclComm*, cudaStream_t>, std::vector<operation>> kernels;
  for (const auto& [comm, stream, o] : list) kernels[{comm, stream}].push_back(o);
  for (const auto& [where, operations] : kernels) {
    const auto [comm, stream] = where;
    std::size_t messages = 0;
    for (const operation& o : operations) messages += o.kind == operation::send || o.kind == operation::recv ? 1 : 0;
    if (messages > max_group) violation("a group of " + std::to_string(messages) + " sends and receives");
    if (take_group_fault()) {
      comm->last_error = "the test double was told to fail this group";
      ++comm->running;  // a kernel that never ends by itself
      stream_of(stream).put([comm = comm] {
        std::unique_lock lock(comm->shared->mutex);
        comm->shared->changed.wait(lock, [&] { return comm->stop.load(); });
        --comm->running;
        comm->shared->changed.notify_all();
      });
      comm->state = ncclRemoteError;
      continue;
    }
    result = comm->run([comm = comm, stream = stream, operations = operations]() -> ncclResult_t {
      const ncclResult_t connected = connect(comm, operations);
      if (connected != ncclSuccess) return connected;
      ++comm->running;
      stream_of(stream).put([comm, operations] {
        if (!comm->stop) kernel(comm, operations);
        const std::lock_guard lock(comm->shared->mutex);
        --comm->running;
        comm->shared->changed.notify_all();
      });
      return ncclSuccess;
    });
  }
  return result;
}

ncclResult_t add(const char* name, ncclComm* comm, cudaStream_t stream, const operation& o) {
  if (fails(name)) {
    if (comm != nullptr) comm->last_error = std::string("the test double failed ") + name;
    return ncclSystemError;
  }
  if (!usable(comm, name)) return ncclInvalidUsage;
  if (comm->state != ncclSuccess) return static_cast<ncclResult_t>(comm->state.load());
  for (const void* p : {static_cast<const void*>(o.from), static_cast<const void*>(o.to)}) {
    if (p != nullptr && !known_to_device(p)) {
      violation(std::string(name) + " with memory that the device does not know");
      return ncclInvalidArgument;
    }
  }
  grouped.push_back({comm, stream, o});
  return depth > 0 ? ncclSuccess : start_group();
}

operation made(decltype(operation::kind) kind, const void* from, void* to, std::size_t bytes, int peer) {
  return {kind, static_cast<const std::byte*>(from), static_cast<std::byte*>(to), bytes, peer};
}

void leave(ncclComm* comm) {
  const std::lock_guard lock(comm->shared->mutex);
  comm->shared->gone += comm->is_gone ? 0 : 1;
  comm->is_gone = true;
  comm->shared->changed.notify_all();
}

}  // namespace

void set_version(int version) { library_version = version; }

}  // namespace cuda_emulation

#define MAY_FAIL(name) \
  if (fails(name)) return ncclSystemError

extern "C" {

const char* ncclGetErrorString(ncclResult_t code) { return code == ncclSuccess ? "no error" : "an error"; }
const char* ncclGetLastError(ncclComm_t comm) { return comm == nullptr ? "" : comm->last_error.c_str(); }
ncclResult_t ncclGetVersion(int* version) {
  MAY_FAIL("ncclGetVersion");
  *version = library_version;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard lock(ids_mutex);
  std::memset(id, 0, sizeof *id);
  std::memcpy(id->internal, &++next_id, sizeof next_id);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* out, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  MAY_FAIL("ncclCommInitRankConfig");
  std::shared_ptr<world> shared;
  {
    const std::lock_guard lock(ids_mutex);
    auto& slot = ids[std::string(id.internal, sizeof id.internal)];
    if (slot == nullptr) slot = std::make_shared<world>(ranks);
    shared = slot;
  }
  ncclComm* comm = make_comm(shared, rank, config == nullptr || config->blocking != 0);
  *out = comm;
  return comm->run([comm] { return join(comm); });
}
ncclResult_t ncclCommSplit(ncclComm_t parent, int, int, ncclComm_t* out, ncclConfig_t* config) {
  MAY_FAIL("ncclCommSplit");
  if (!usable(parent, "ncclCommSplit")) return ncclInvalidUsage;
  std::shared_ptr<world> shared;
  {
    const std::lock_guard lock(parent->shared->mutex);
    auto& splits = parent->shared->splits;
    if (parent->splits == splits.size()) splits.push_back(std::make_shared<world>(parent->shared->ranks));
    shared = splits[parent->splits++];
  }
  const bool blocking = config == nullptr ? parent->blocking : config->blocking != 0;
  ncclComm* child = make_comm(shared, parent->rank, blocking);
  return parent->run([child, out, parent] {
    world& w = *child->shared;
    std::unique_lock lock(w.mutex);
    ++w.joined;
    w.changed.notify_all();
    w.changed.wait(lock, [&] { return child->stop || parent->stop || w.joined >= w.ranks; });
    if (child->stop || parent->stop) return ncclInternalError;
    *out = child;  // only now, as NCCL does it
    return ncclSuccess;
  });
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  MAY_FAIL("ncclCommGetAsyncError");
  if (comm == nullptr || comm->freed) {
    violation("ncclCommGetAsyncError on a communicator that was freed");
    return ncclInvalidArgument;
  }
  *state = static_cast<ncclResult_t>(comm->state.load());
  return ncclSuccess;
}
ncclResult_t ncclCommCount(const ncclComm_t comm, int* n) {
  MAY_FAIL("ncclCommCount");
  *n = comm->shared->ranks;
  return ncclSuccess;
}
ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
  MAY_FAIL("ncclCommCuDevice");
  *device = comm->device;
  return ncclSuccess;
}
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  MAY_FAIL("ncclCommUserRank");
  *rank = comm->rank;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  MAY_FAIL("ncclCommFinalize");
  if (!usable(comm, "ncclCommFinalize")) return ncclInvalidUsage;
  comm->finalised = true;
  leave(comm);
  return comm->run([comm] {
    std::unique_lock lock(comm->shared->mutex);
    const bool all =
        wait_in(comm, lock, [&] { return comm->running == 0 && comm->shared->gone >= comm->shared->ranks; });
    return all ? ncclSuccess : ncclInternalError;
  });
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (!usable(comm, "ncclCommDestroy")) return ncclInvalidUsage;
  if (!comm->finalised) violation("ncclCommDestroy without ncclCommFinalize");
  comm->freed = true;
  count_made("communicator", -1);
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr || comm->freed.exchange(true)) {
    violation("ncclCommAbort on a communicator that was freed");
    return ncclInvalidArgument;
  }
  leave(comm);
  {
    const std::lock_guard lock(comm->shared->mutex);
    comm->stop = true;
    comm->shared->changed.notify_all();
  }
  if (comm->background.joinable()) comm->background.join();
  std::unique_lock lock(comm->shared->mutex);
  comm->shared->changed.wait(lock, [&] { return comm->running == 0; });
  count_made("registration", -static_cast<int>(std::exchange(comm->registered, {}).size()));  // ended with it
  count_made("communicator", -1);
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  MAY_FAIL("ncclGroupStart");
  ++depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (--depth > 0) return ncclSuccess;
  if (fails("ncclGroupEnd")) {
    grouped.clear();
    return ncclSystemError;
  }
  return start_group();
}
ncclResult_t ncclSend(const void* from, size_t n, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add("ncclSend", comm, stream, made(operation::send, from, nullptr, n, peer));
}
ncclResult_t ncclRecv(void* to, size_t n, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  return add("ncclRecv", comm, stream, made(operation::recv, nullptr, to, n, peer));
}
ncclResult_t ncclAllGather(const void* from, void* to, size_t n, ncclDataType_t, ncclComm_t comm, cudaStream_t stream) {
  return add("ncclAllGather", comm, stream, made(operation::all_gather, from, to, n, -1));
}
ncclResult_t ncclBroadcast(const void* from, void* to, size_t n, ncclDataType_t, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return add("ncclBroadcast", comm, stream, made(operation::broadcast, from, to, n, root));
}
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0) && !defined(OLD_LIBRARY)
ncclResult_t ncclGather(const void* from, void* to, size_t n, ncclDataType_t, int root, ncclComm_t comm,
                        cudaStream_t stream) {
  if (library_version < NCCL_VERSION(2, 28, 0)) violation("ncclGather, which this library has not");
  return add("ncclGather", comm, stream, made(operation::gather, from, to, n, root));
}
ncclResult_t ncclScatter(const void* from, void* to, size_t n, ncclDataType_t, int root, ncclComm_t comm,
                         cudaStream_t stream) {
  if (library_version < NCCL_VERSION(2, 28, 0)) violation("ncclScatter, which this library has not");
  return add("ncclScatter", comm, stream, made(operation::scatter, from, to, n, root));
}
#endif

ncclResult_t ncclMemAlloc(void** out, size_t bytes) {
  MAY_FAIL("ncclMemAlloc");
  *out = obtain(bytes, cudaMemoryTypeDevice);
  return ncclSuccess;
}
ncclResult_t ncclMemFree(void* p) { return give_back(p, cudaMemoryTypeDevice) ? ncclSuccess : ncclInvalidArgument; }
ncclResult_t ncclCommRegister(const ncclComm_t comm, void* p, size_t bytes, void** handle) {
  MAY_FAIL("ncclCommRegister");
  if (!usable(comm, "ncclCommRegister")) return ncclInvalidUsage;
  const std::lock_guard lock(comm->shared->mutex);
  enrol(comm, p, bytes);
  *handle = p;
  return ncclSuccess;
}
ncclResult_t ncclCommDeregister(const ncclComm_t comm, void* p) {
  dismiss(comm, p, "ncclCommDeregister");
  return ncclSuccess;
}
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0) && !defined(OLD_LIBRARY)
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void* p, size_t bytes, ncclWindow_t* window, int) {
  MAY_FAIL("ncclCommWindowRegister");
  if (!usable(comm, "ncclCommWindowRegister")) return ncclInvalidUsage;
  return comm->run([comm, p, bytes, window] {
    std::unique_lock lock(comm->shared->mutex);
    int& come = comm->shared->windows[comm->windows++];
    ++come;
    comm->shared->changed.notify_all();
    if (!wait_in(comm, lock, [&] { return come >= comm->shared->ranks; })) return ncclInternalError;
    *window = static_cast<ncclWindow_t>(p);
    enrol(comm, p, bytes);
    return ncclSuccess;
  });
}
ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window) {
  dismiss(comm, window, "ncclCommWindowDeregister");
  return ncclSuccess;
}
#endif

}  // extern "C"
