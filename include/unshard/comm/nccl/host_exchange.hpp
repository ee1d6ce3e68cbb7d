// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/nccl/host_exchange.hpp: words between hosts, for engines whose own way to do that is a device.

#include <concepts>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <unshard/comm/nccl/cuda_handles.hpp>

namespace unshard {
inline namespace v0 {

/// A view of what exchanges words between hosts: a callable of (mine, all, timeout_ms), a plain function too, or an
/// object with such an `exchange`, an mpi_communicator for one, whose `abort`, if any, is called, too. The object
/// outlives the view.
class host_exchange {
  using words = std::span<const std::byte>;
  using room = std::span<std::byte>;
  template <class F>
  static constexpr bool function_pointer = std::is_pointer_v<F>&& std::is_function_v<std::remove_pointer_t<F>>;

 public:
  constexpr host_exchange() = default;
  template <class F>
  requires(!std::same_as<std::remove_cvref_t<F>, host_exchange> && std::is_object_v<F> && !function_pointer<F>)
      host_exchange(F& way)  // NOLINT(google-explicit-constructor): a view, like std::span of an array
      : object_(&way), call_([](const host_exchange& self, words mine, room all, int timeout_ms) {
          F& there = *static_cast<F*>(self.object_);
          if constexpr (requires { there.exchange(mine, all, timeout_ms); }) {
            there.exchange(mine, all, timeout_ms);
          } else {
            there(mine, all, timeout_ms);
          }
        }) {
    if constexpr (requires(F & f, std::string_view reason) { f.abort(reason); })
      abort_ = [](void* object, std::string_view reason) { static_cast<F*>(object)->abort(reason); };
  }
  template <class F>
  requires(std::is_function_v<F>&& std::invocable<F&, std::span<const std::byte>, std::span<std::byte>, int>)
      host_exchange(F* function)  // NOLINT(google-explicit-constructor)
      : function_(reinterpret_cast<void (*)()>(function)),
        call_([](const host_exchange& self, words mine, room all, int timeout_ms) {
          reinterpret_cast<F*>(self.function_)(mine, all, timeout_ms);
        }) {}

  explicit operator bool() const { return call_ != nullptr; }
  void operator()(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) const {
    call_(*this, mine, all, timeout_ms);
  }
  void abort(std::string_view reason) const {
    if (abort_ != nullptr) abort_(object_, reason);
  }

 private:
  void* object_ = nullptr;
  void (*function_)() = nullptr;
  void (*call_)(const host_exchange&, words, room, int) = nullptr;
  void (*abort_)(void*, std::string_view) = nullptr;
};

namespace detail {

/// Words between hosts over a small communicator and a stream of its own, so that they pass what batches wait for.
/// Two copies, an all-gather and a poll for each exchange. Handle is nccl_handle.
template <class Handle>
struct device_words {
  static constexpr std::size_t max_word = 256;

  template <class Comm>
  device_words(Comm parent, int rank, int ranks, int timeout_ms) : room(max_word * static_cast<unsigned>(ranks + 1)) {
    comm.split(parent, rank, timeout_ms);
    void* p = nullptr;
    check_cuda(cudaHostAlloc(&p, room, cudaHostAllocDefault), "cudaHostAlloc");
    host = static_cast<std::byte*>(p);
    const cudaError_t code = cudaMallocAsync(&p, room, stream.get());
    if (code != cudaSuccess) static_cast<void>(cudaFreeHost(host));
    check_cuda(code, "cudaMallocAsync");
    device = static_cast<std::byte*>(p);
  }
  device_words(const device_words&) = delete;
  device_words& operator=(const device_words&) = delete;
  /// After close or abort.
  ~device_words() {
    static_cast<void>(cudaFreeAsync(device, stream.get()));
    static_cast<void>(cudaStreamSynchronize(stream.get()));
    static_cast<void>(cudaFreeHost(host));
  }

  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    std::memcpy(host, mine.data(), mine.size());
    check_cuda(cudaMemcpyAsync(device, host, mine.size(), cudaMemcpyDefault, stream.get()), "cudaMemcpyAsync");
    comm.all_gather(device, device + max_word, mine.size(), stream.get());
    bool back = false;
    const bool in_time = poll(timeout_ms, [&] {
      if (!comm.settled("an exchange's ncclAllGather")) return false;
      if (!back) {  // not before NCCL has put its part on the stream
        check_cuda(cudaMemcpyAsync(host + max_word, device + max_word, all.size(), cudaMemcpyDefault, stream.get()),
                   "cudaMemcpyAsync");
        done.record(stream.get());
        back = true;
      }
      return done.passed();
    });
    if (!in_time) Handle::late("exchange", timeout_ms);
    std::memcpy(all.data(), host + max_word, all.size());
  }
  void abort() noexcept {
    comm.abort();
    static_cast<void>(cudaStreamSynchronize(stream.get()));
  }

  std::size_t room;
  Handle comm;
  cuda_stream stream;
  cuda_event done;
  std::byte* host = nullptr;    // pinned; max_word for what goes, then what comes
  std::byte* device = nullptr;  // the same
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
