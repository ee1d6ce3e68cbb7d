// SPDX-License-Identifier: Apache-2.0
// cuda.cpp: the CUDA runtime's part of the test double.

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "internal.hpp"

namespace cuda_emulation {
namespace {

std::mutex registry;  // guards what follows
std::map<std::string, int> made;
std::vector<std::string> said;
struct block {
  std::size_t bytes;
  cudaMemoryType type;
};
std::map<std::uintptr_t, block> memory;

std::mutex ending_mutex;
std::vector<std::thread> ending;  // streams that were destroyed and run out

bool everything = false;

std::atomic<void*> captured{nullptr};
std::atomic<bool> captured_elsewhere{false};
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

std::atomic<std::uint64_t> random_state{0};

thread_local std::size_t calls_made = 0;
thread_local std::size_t fail_at = 0;
thread_local std::string fail_name;
thread_local bool group_fault = false;
thread_local int current_device = 0;

/// The state of an event outlives its handle: streams may still wait for it.
struct event_state {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t recorded = 0;
  std::uint64_t passed = 0;
};

struct event_handle {
  std::shared_ptr<event_state> state = std::make_shared<event_state>();
};

std::shared_ptr<event_state>& state_of(cudaEvent_t event) { return reinterpret_cast<event_handle*>(event)->state; }

void copy_rows(std::byte* to, std::size_t to_pitch, const std::byte* from, std::size_t from_pitch, std::size_t width,
               std::size_t height) {
  for (std::size_t row = 0; row < height; ++row) std::memcpy(to + row * to_pitch, from + row * from_pitch, width);
}

}  // namespace

void seed(std::uint64_t seed) { random_state = seed; }
std::uint64_t random_number() {
  std::uint64_t z = random_state.load(std::memory_order_relaxed);
  if (z == 0) return 0;
  z = random_state.fetch_add(0x9e3779b97f4a7c15ULL, std::memory_order_relaxed);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}
void dawdle() {
  const std::uint64_t r = random_number();
  if (r % 4 == 1) std::this_thread::sleep_for(std::chrono::microseconds(r / 4 % 300));
  if (r % 4 == 2) std::this_thread::yield();
}

void reach_everything(bool yes) {
  const std::lock_guard lock(registry);
  everything = yes;
}

void capture(void* stream, bool yes) { captured = yes ? stream : nullptr; }
void capture_elsewhere(bool yes) { captured_elsewhere = yes; }

void violation(const std::string& what) {
  const std::lock_guard lock(registry);
  said.push_back(what);
}
std::vector<std::string> violations() {
  const std::lock_guard lock(registry);
  return std::exchange(said, {});
}
void count_made(const char* what, int by) {
  const std::lock_guard lock(registry);
  made[what] += by;
}
std::string leaks() {
  {
    const std::lock_guard lock(ending_mutex);
    for (std::thread& t : ending) t.join();
    ending.clear();
  }
  const std::lock_guard lock(registry);
  std::string out;
  for (const auto& [what, n] : made)
    if (n != 0) out += std::to_string(n) + " x " + what + ' ';
  return out;
}

std::size_t calls() { return calls_made; }
void fail_call(std::size_t k) {
  fail_at = k == 0 ? 0 : calls_made + k;
  fail_name.clear();
}
std::string failed_call() { return fail_name; }
void fail_next_group() { group_fault = true; }
bool take_group_fault() { return std::exchange(group_fault, false); }
bool fails(const char* name) {
  if (++calls_made != fail_at) return false;
  fail_name = name;
  return true;
}

stream::stream() : worker_([this] { run(); }) {}
stream::~stream() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  worker_.join();
}
void stream::put(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(work));
  changed_.notify_all();
}
bool stream::idle() {
  const std::lock_guard lock(mutex_);
  return queue_.empty() && !busy_;
}
void stream::synchronize() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return queue_.empty() && !busy_; });
}
void stream::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const auto work = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    dawdle();
    work();
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

stream& stream_of(cudaStream_t handle) {
  static stream legacy;  // of all threads, and ordered against no other stream
  return handle == nullptr ? legacy : *reinterpret_cast<stream*>(handle);
}

void* obtain(std::size_t bytes, cudaMemoryType type) {
  void* p = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  std::memset(p, 0xCD, bytes);
  const std::lock_guard lock(registry);
  memory[reinterpret_cast<std::uintptr_t>(p)] = {bytes, type};
  ++made["memory"];
  return p;
}
bool give_back(void* p, cudaMemoryType type) {
  {
    const std::lock_guard lock(registry);
    const auto found = memory.find(reinterpret_cast<std::uintptr_t>(p));
    if (found == memory.end() || found->second.type != type) {
      said.push_back("freed what was not allocated, or by another function");
      return false;
    }
    std::memset(p, 0xDD, found->second.bytes);
    memory.erase(found);
    --made["memory"];
  }
  std::free(p);
  return true;
}

cudaMemoryType type_of(const void* p) {
  const std::lock_guard lock(registry);
  const cudaMemoryType unknown = everything ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  auto found = memory.upper_bound(at);
  if (found == memory.begin()) return unknown;
  --found;
  return at < found->first + found->second.bytes ? found->second.type : unknown;
}
bool known_to_device(const void* p) { return type_of(p) != cudaMemoryTypeUnregistered; }

}  // namespace cuda_emulation

using namespace cuda_emulation;

#define MAY_FAIL(name) \
  if (fails(name)) return cudaErrorUnknown

// As cudaStreamCaptureModeGlobal forbids it to every thread that has not exchanged its mode for the relaxed one.
#define NOT_WHILE_CAPTURED(name)                                                  \
  if (captured_elsewhere && capture_mode != cudaStreamCaptureModeRelaxed) {       \
    violation(name " while another thread captures a stream in the global mode"); \
    return cudaErrorStreamCaptureUnsupported;                                     \
  }

extern "C" {

const char* cudaGetErrorName(cudaError_t code) { return code == cudaSuccess ? "cudaSuccess" : "cudaErrorUnknown"; }
const char* cudaGetErrorString(cudaError_t code) { return code == cudaSuccess ? "no error" : "the test double failed"; }

cudaError_t cudaGetDevice(int* device) {
  MAY_FAIL("cudaGetDevice");
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  MAY_FAIL("cudaSetDevice");
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  MAY_FAIL("cudaStreamCreateWithFlags");
  *out = reinterpret_cast<cudaStream_t>(new stream);
  count_made("stream", 1);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  // What is in it still runs, and the caller does not wait.
  const std::lock_guard lock(ending_mutex);
  ending.emplace_back([handle] {
    delete reinterpret_cast<stream*>(handle);
    count_made("stream", -1);
  });
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, capture_mode);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  MAY_FAIL("cudaStreamIsCapturing");
  *status = handle != nullptr && handle == captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  NOT_WHILE_CAPTURED("cudaStreamSynchronize");
  stream_of(handle).synchronize();
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  MAY_FAIL("cudaStreamQuery");
  NOT_WHILE_CAPTURED("cudaStreamQuery");
  return stream_of(handle).idle() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  MAY_FAIL("cudaEventCreateWithFlags");
  *out = reinterpret_cast<cudaEvent_t>(new event_handle);
  count_made("event", 1);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<event_handle*>(event);
  count_made("event", -1);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  MAY_FAIL("cudaEventRecord");
  const auto state = state_of(event);
  std::uint64_t mine = 0;
  {
    const std::lock_guard lock(state->mutex);
    mine = ++state->recorded;
  }
  stream_of(handle).put([state, mine] {
    const std::lock_guard lock(state->mutex);
    if (state->passed < mine) state->passed = mine;
    state->changed.notify_all();
  });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  MAY_FAIL("cudaEventQuery");
  NOT_WHILE_CAPTURED("cudaEventQuery");
  const auto state = state_of(event);
  const std::lock_guard lock(state->mutex);
  return state->passed >= state->recorded ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  MAY_FAIL("cudaStreamWaitEvent");
  const auto state = state_of(event);
  std::uint64_t until = 0;
  {
    const std::lock_guard lock(state->mutex);
    until = state->recorded;
  }
  if (until == 0) return cudaSuccess;
  stream_of(handle).put([state, until] {
    std::unique_lock lock(state->mutex);
    state->changed.wait(lock, [&] { return state->passed >= until; });
  });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t handle) {
  MAY_FAIL("cudaMemcpyAsync");
  stream_of(handle).put([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t handle) {
  MAY_FAIL("cudaMemcpy2DAsync");
  if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
  stream_of(handle).put([=] {
    copy_rows(static_cast<std::byte*>(to), to_pitch, static_cast<const std::byte*>(from), from_pitch, width, height);
  });
  return cudaSuccess;
}
cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms* p, cudaStream_t handle) {
  MAY_FAIL("cudaMemcpy3DAsync");
  const cudaMemcpy3DParms all = *p;
  if (all.extent.width > all.srcPtr.pitch || all.extent.width > all.dstPtr.pitch ||
      all.extent.height > all.srcPtr.ysize || all.extent.height > all.dstPtr.ysize)
    return cudaErrorInvalidPitchValue;
  stream_of(handle).put([=] {
    for (std::size_t z = 0; z < all.extent.depth; ++z)
      copy_rows(static_cast<std::byte*>(all.dstPtr.ptr) + z * all.dstPtr.pitch * all.dstPtr.ysize, all.dstPtr.pitch,
                static_cast<const std::byte*>(all.srcPtr.ptr) + z * all.srcPtr.pitch * all.srcPtr.ysize,
                all.srcPtr.pitch, all.extent.width, all.extent.height);
  });
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t f, void* data) {
  MAY_FAIL("cudaLaunchHostFunc");
  stream_of(handle).put([=] { f(data); });
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** out, size_t bytes, cudaStream_t) {
  MAY_FAIL("cudaMallocAsync");
  *out = obtain(bytes, cudaMemoryTypeDevice);
  return cudaSuccess;
}
cudaError_t cudaMallocFromPoolAsync(void** out, size_t bytes, cudaMemPool_t, cudaStream_t handle) {
  return cudaMallocAsync(out, bytes, handle);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t handle) {
  if (p != nullptr) stream_of(handle).put([=] { give_back(p, cudaMemoryTypeDevice); });
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) {
  MAY_FAIL("cudaHostAlloc");
  *out = obtain(bytes, cudaMemoryTypeHost);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  if (p != nullptr) give_back(p, cudaMemoryTypeHost);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* p) {
  MAY_FAIL("cudaPointerGetAttributes");
  *out = {};
  out->type = type_of(p);
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

}  // extern "C"
