// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/nccl/flights.hpp: batches under way on a communication stream, ordered against the caller's by
              // events.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unshard/comm/nccl/batch.hpp>
#include <unshard/comm/nccl/cuda_handles.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// The batches that were launched and not waited for, in the order of launches. Handle is nccl_handle: what it has in
/// progress it may still put on the stream from a thread of its own, so nothing else goes there until it is settled.
template <class Handle, class Copier>
class nccl_flights {
 public:
  nccl_flights(const Handle& comm, cudaStream_t caller, Copier copier)
      : comm_(comm), caller_(caller), copier_(std::move(copier)) {}

  /// An empty batch, with the memory of a former one.
  nccl_batch fresh() {
    if (spare_.empty()) return {};
    nccl_batch batch = std::move(spare_.back());
    spare_.pop_back();
    return batch;
  }

  /// Marks where the caller's stream is now. Returns the batch's number.
  std::uint64_t launch(nccl_batch&& batch) {
    flights_.emplace_back();
    flights_.back().batch = std::move(batch);
    flights_.back().submitted.record(caller_);
    return first_ + flights_.size() - 1;
  }

  /// Enqueues what it can without blocking: true when that is everything.
  bool advance() {
    for (; enqueued_ < flights_.size(); ++enqueued_) {
      flight& f = flights_[enqueued_];
      if (!f.begun) {
        if (!comm_.settled("an earlier group")) return false;
        f.submitted.order(own_.get());
        copy(f.batch.before());
        if (!f.batch.operations().empty()) comm_.group(f.batch.operations(), own_.get());
        f.begun = true;
      }
      if (!comm_.settled("a group")) return false;
      copy(f.batch.after());
      f.done.record(own_.get());
    }
    return true;
  }

  /// Enqueues until every group is at least in progress: then it goes on without the host.
  bool begin() { return advance() || flights_.back().begun; }

  bool ready(std::uint64_t number) {
    if (number < first_) return true;
    static_cast<void>(advance());
    return number - first_ < enqueued_ && flights_[number - first_].done.passed();
  }

  /// Where the batch touches host memory until it is done; else until it is enqueued, and the caller's stream after it.
  void wait(std::uint64_t number, int timeout_ms) {
    if (number < first_) return;
    const flight& f = flights_[number - first_];
    const bool in_time = poll(timeout_ms, [&] {
      static_cast<void>(advance());
      if (number - first_ >= enqueued_) return false;
      return !f.batch.host() || (comm_.settled("a batch") && f.done.passed());
    });
    if (!in_time) Handle::late("a batch", timeout_ms);
    f.done.order(caller_);
    static_cast<void>(comm_.settled("a batch"));
    for (; first_ <= number; ++first_, --enqueued_) {
      spare_.push_back(std::move(flights_.front().batch));
      flights_.pop_front();
    }
  }

  /// Throws bad_options while the caller's stream is captured into a graph: hosts could not agree when it is replayed.
  void check_capture() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(caller_, &status), "cudaStreamIsCapturing");
    if (status != cudaStreamCaptureStatusNone)
      throw bad_options(
          "nccl_communicator: its stream is being captured into a graph, whose replay no other rank would learn of. "
          "End the capture before a range or scope, and capture the work inside the body alone.");
  }

  /// Whether nothing is running on the stream.
  bool idle() const {
    const cudaError_t code = cudaStreamQuery(own_.get());
    if (code != cudaErrorNotReady) check_cuda(code, "cudaStreamQuery");
    return code == cudaSuccess;
  }
  void synchronize() const noexcept { static_cast<void>(cudaStreamSynchronize(own_.get())); }
  cudaStream_t caller() const { return caller_; }

 private:
  struct flight {
    nccl_batch batch;
    bool begun = false;    // up to its group
    cuda_event submitted;  // on the caller's stream, when it was launched
    cuda_event done;       // on ours, behind all of it
  };

  void copy(const paired_regions& pairs) {
    if (!pairs.empty()) copier_.copy(pairs.from, pairs.to, own_.get());
  }

  const Handle& comm_;
  cudaStream_t caller_;
  cuda_stream own_;
  Copier copier_;  // after the stream: it may free on it
  std::deque<flight> flights_;
  std::uint64_t first_ = 0;   // the number of the first of them
  std::size_t enqueued_ = 0;  // how many of them are on the stream, all of each
  std::vector<nccl_batch> spare_;
};

}  // namespace detail

/// A launched batch of an nccl_communicator, which outlives it.
template <class Communicator>
class nccl_completion {
 public:
  nccl_completion(Communicator& comm, std::uint64_t number) : comm_(&comm), number_(number) {}
  bool ready() { return comm_->ready(number_); }
  /// Orders the caller's stream behind the batch; blocks the host where the batch touched host memory, or where a
  /// peer has not yet connected for the first time.
  void wait(int timeout_ms) { comm_->wait(number_, timeout_ms); }

 private:
  Communicator* comm_;
  std::uint64_t number_;
};

}  // namespace v0
}  // namespace unshard
