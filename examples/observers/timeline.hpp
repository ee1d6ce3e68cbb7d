// SPDX-License-Identifier: Apache-2.0
#pragma once  // timeline.hpp: how much memory one rank holds over time, recorded where it is allocated.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <unshard/memory.hpp>
#include <unshard/observe.hpp>
#include <utility>
#include <vector>

namespace examples {

/// Steps of one rank's memory. Fed by recorded_memory below, exactly; or by a range, as its `.observer`, which knows
/// what it holds but can't tell when the range ends: say note(0) there. One thread at a time.
class memory_timeline {
 public:
  struct step {
    double seconds;     // since the timeline was made
    std::size_t bytes;  // held from then on
  };

  void note(std::size_t bytes) {
    if (!steps_.empty() && steps_.back().bytes == bytes) return;
    steps_.push_back({now(), bytes});
  }
  void operator()(const unshard::event& e) { note(e.held_bytes); }

  /// Time goes on without a change, for the drawing.
  void end() { end_ = now(); }

  const std::vector<step>& steps() const { return steps_; }
  double seconds() const { return end_ > 0 || steps_.empty() ? end_ : steps_.back().seconds; }
  std::size_t peak() const {
    std::size_t most = 0;
    for (const step& s : steps_) most = std::max(most, s.bytes);
    return most;
  }

 private:
  double now() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double end_ = 0;
  std::vector<step> steps_;
};

/// A memory resource around another one that tells a timeline what is held. Both outlive it.
template <unshard::memory_resource M>
class recorded_memory {
 public:
  static constexpr bool host = unshard::is_host_memory<M>;

  recorded_memory(M& upstream, memory_timeline& timeline) : upstream_(&upstream), timeline_(&timeline) {}

  void* allocate(std::size_t bytes, std::size_t alignment) {
    void* p = upstream_->allocate(bytes, alignment);
    timeline_->note(held_ += bytes);
    return p;
  }
  void deallocate(void* p, std::size_t bytes, std::size_t alignment) noexcept {
    upstream_->deallocate(p, bytes, alignment);
    timeline_->note(held_ -= bytes);
  }

 private:
  M* upstream_;
  memory_timeline* timeline_;
  std::size_t held_ = 0;
};

}  // namespace examples
