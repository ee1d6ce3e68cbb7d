// SPDX-License-Identifier: Apache-2.0
#pragma once
// ranks.hpp: ranks as threads over the test double, each with a stream of its own.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <utility>
#include <vector>

#include "emulation.hpp"

namespace ranks {

using unshard::index_t;

/// A stream that waits for its work before it goes.
class stream {
 public:
  stream() { cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking); }
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;
  ~stream() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Bytes on the device, or in pinned host memory.
class buffer {
 public:
  buffer(std::size_t bytes, cudaStream_t stream) : bytes_(bytes), stream_(stream) {
    void* p = nullptr;
    cudaMallocAsync(&p, bytes == 0 ? 1 : bytes, stream);
    at_ = static_cast<std::byte*>(p);
  }
  explicit buffer(std::size_t bytes) : bytes_(bytes), pinned_(true) {
    void* p = nullptr;
    cudaHostAlloc(&p, bytes == 0 ? 1 : bytes, cudaHostAllocDefault);
    at_ = static_cast<std::byte*>(p);
  }
  buffer(const buffer&) = delete;
  buffer& operator=(const buffer&) = delete;
  ~buffer() {
    if (pinned_) {
      cudaFreeHost(at_);
    } else {
      cudaFreeAsync(at_, stream_);
    }
  }
  std::byte* data() const { return at_; }
  std::size_t size() const { return bytes_; }

 private:
  std::byte* at_ = nullptr;
  std::size_t bytes_;
  cudaStream_t stream_ = nullptr;
  bool pinned_ = false;
};

/// A contiguous run as a region.
inline unshard::region run(std::byte* at, std::size_t bytes) {
  return {at, unshard::extents{static_cast<index_t>(bytes)}, unshard::extents{1}};
}
inline unshard::const_region crun(const std::byte* at, std::size_t bytes) {
  return run(const_cast<std::byte*>(at), bytes);
}

template <class B>
void send(B& b, const std::byte* at, std::size_t bytes, int peer) {
  const unshard::const_region r = crun(at, bytes);
  b.send({&r, 1}, peer);
}
template <class B>
void recv(B& b, std::byte* at, std::size_t bytes, int peer) {
  const unshard::region r = run(at, bytes);
  b.recv({&r, 1}, peer);
}

/// Work of a caller's: fills a buffer on its stream, when the stream gets there.
inline void fill(cudaStream_t stream, std::byte* at, std::size_t bytes, unsigned seed) {
  struct job {
    std::byte* at;
    std::size_t bytes;
    unsigned seed;
  };
  cudaLaunchHostFunc(
      stream,
      [](void* p) {
        auto* j = static_cast<job*>(p);
        for (std::size_t i = 0; i < j->bytes; ++i) j->at[i] = static_cast<std::byte>(i * 7 + j->seed);
        delete j;
      },
      new job{at, bytes, seed});
}
inline bool filled(const std::byte* at, std::size_t bytes, unsigned seed) {
  for (std::size_t i = 0; i < bytes; ++i)
    if (at[i] != static_cast<std::byte>(i * 7 + seed)) return false;
  return true;
}

/// f(rank) on n threads. What they threw, in the order of ranks.
template <class F>
std::vector<std::exception_ptr> run_all(int n, F f) {
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(n));
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r)
    threads.emplace_back([&, r] {
      try {
        f(r);
      } catch (...) {
        thrown[static_cast<std::size_t>(r)] = std::current_exception();
      }
    });
  for (std::thread& t : threads) t.join();
  return thrown;
}

inline ncclUniqueId new_id() {
  ncclUniqueId id;
  ncclGetUniqueId(&id);
  return id;
}

/// The caller's own communicator.
inline ncclComm_t parent(const ncclUniqueId& id, int n, int rank, bool blocking = true) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = blocking ? 1 : 0;
  ncclComm_t comm = nullptr;
  ncclResult_t state = ncclCommInitRankConfig(&comm, n, id, rank, &config);
  while (state == ncclInProgress) {
    std::this_thread::yield();
    ncclCommGetAsyncError(comm, &state);
  }
  return comm;
}

/// A host way for exchanges: ranks meet under a lock. Endless waits: for tests in which all come.
class meeting {
 public:
  explicit meeting(int n) : n_(n) {}
  struct way {
    meeting* m;
    int rank;
    void operator()(std::span<const std::byte> mine, std::span<std::byte> all, int) const {
      m->exchange(rank, mine, all);
    }
  };
  way of(int rank) { return {this, rank}; }

 private:
  void exchange(int rank, std::span<const std::byte> mine, std::span<std::byte> all) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return leaving_ == 0; });
    words_.resize(static_cast<std::size_t>(n_) * mine.size());
    std::copy(mine.begin(), mine.end(), words_.begin() + rank * static_cast<std::ptrdiff_t>(mine.size()));
    if (++come_ == n_) {
      leaving_ = n_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return leaving_ > 0; });
    std::copy(words_.begin(), words_.end(), all.begin());
    if (--leaving_ == 0) {
      come_ = 0;
      changed_.notify_all();
    }
  }
  int n_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte> words_;
  int come_ = 0;
  int leaving_ = 0;
};

}  // namespace ranks
