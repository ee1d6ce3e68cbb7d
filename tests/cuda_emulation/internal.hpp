// SPDX-License-Identifier: Apache-2.0
#pragma once
// internal.hpp: what cuda.cpp and nccl.cpp of the test double share.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "emulation.hpp"

namespace cuda_emulation {

/// A stream: a thread that runs what is put in its queue, in order, with random pauses.
class stream {
 public:
  stream();
  ~stream();  // after all of it has run
  void put(std::function<void()> work);
  bool idle();
  void synchronize();

 private:
  void run();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool busy_ = false;
  bool ending_ = false;
  std::thread worker_;
};

stream& stream_of(cudaStream_t handle);

/// Counts a call of this thread; true: it must fail.
bool fails(const char* name);
void violation(const std::string& what);
/// A short random pause of the calling thread, often none.
void dawdle();
std::uint64_t random_number();
bool take_group_fault();
bool known_to_device(const void* p);
void count_made(const char* what, int by);
/// Host memory that stands for memory of that kind, filled with rubbish.
void* obtain(std::size_t bytes, cudaMemoryType type);
bool give_back(void* p, cudaMemoryType type);

}  // namespace cuda_emulation
