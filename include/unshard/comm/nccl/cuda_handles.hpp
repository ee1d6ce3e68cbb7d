// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/nccl/cuda_handles.hpp: what the NCCL engine needs of the CUDA runtime: streams, events, the
              // device, waiting.

#include <cuda_runtime_api.h>

#include <chrono>
#include <thread>
#include <unshard/comm/nccl/memcpy_copier.hpp>
#include <utility>

namespace unshard {
inline namespace v0 {
namespace detail {

/// Allows the calling thread what another thread's stream capture forbids to all (cudaStreamCaptureModeGlobal, the
/// default of a capture): to query events and streams that are in no capture, ours.
class outside_capture {
 public:
  outside_capture() noexcept { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  outside_capture(const outside_capture&) = delete;
  outside_capture& operator=(const outside_capture&) = delete;
  ~outside_capture() { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/// Makes a device current for the calling thread, and the former one again at the end.
class device_guard {
 public:
  explicit device_guard(int device) {
    check_cuda(cudaGetDevice(&former_), "cudaGetDevice");
    if (former_ == device) former_ = -1;
    if (former_ >= 0) check_cuda(cudaSetDevice(device), "cudaSetDevice");
  }
  device_guard(const device_guard&) = delete;
  device_guard& operator=(const device_guard&) = delete;
  ~device_guard() {
    if (former_ >= 0) static_cast<void>(cudaSetDevice(former_));
  }

 private:
  outside_capture calls_;
  int former_ = -1;  // -1: nothing to restore
};

/// A stream that is not ordered against the legacy default stream. Destroying it does not wait for its work.
class cuda_stream {
 public:
  cuda_stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  cuda_stream(const cuda_stream&) = delete;
  cuda_stream& operator=(const cuda_stream&) = delete;
  ~cuda_stream() { static_cast<void>(cudaStreamDestroy(stream_)); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// An event without a time. It may be destroyed before what it marks has come to pass.
class cuda_event {
 public:
  cuda_event() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }
  cuda_event(cuda_event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  cuda_event& operator=(cuda_event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~cuda_event() {
    if (event_ != nullptr) static_cast<void>(cudaEventDestroy(event_));
  }

  void record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  void order(cudaStream_t later) const { check_cuda(cudaStreamWaitEvent(later, event_, 0), "cudaStreamWaitEvent"); }
  bool passed() const {
    const cudaError_t code = cudaEventQuery(event_);
    if (code != cudaErrorNotReady) check_cuda(code, "cudaEventQuery");
    return code == cudaSuccess;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Where an address lies, as far as an engine must know.
enum class memory_kind { device, pinned, pageable };

inline memory_kind kind_of(const void* p) {
  cudaPointerAttributes attributes = {};
  check_cuda(cudaPointerGetAttributes(&attributes, p), "cudaPointerGetAttributes");
  if (attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged) return memory_kind::device;
  return attributes.type == cudaMemoryTypeHost ? memory_kind::pinned : memory_kind::pageable;
}

/// Calls `done()` until it is true or `timeout_ms` (0: none) have passed; false: it timed out. It yields at first,
/// then sleeps, a millisecond at most, so that ranks that wait for a peer's body leave the processor to it.
template <class Done>
bool poll(int timeout_ms, Done done) {
  using clock = std::chrono::steady_clock;
  const auto start = clock::now();
  for (int turn = 0; !done(); ++turn) {
    const auto waited = clock::now() - start;
    if (timeout_ms > 0 && waited >= std::chrono::milliseconds(timeout_ms)) return done();
    if (turn < 32) {
      std::this_thread::yield();
    } else {
      const auto eighth = waited / 8;
      std::this_thread::sleep_for(eighth < std::chrono::milliseconds(1) ? eighth : std::chrono::milliseconds(1));
    }
  }
  return true;
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard
