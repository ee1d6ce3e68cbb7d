// SPDX-License-Identifier: Apache-2.0
#pragma once  // memory.hpp: where chunk buffers come from. Only a memory resource allocates data.

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <unshard/error.hpp>

namespace unshard {
inline namespace v0 {

inline constexpr std::size_t KiB = std::size_t{1} << 10;  ///< 1024 bytes
inline constexpr std::size_t MiB = std::size_t{1} << 20;  ///< 1024 KiB
inline constexpr std::size_t GiB = std::size_t{1} << 30;  ///< 1024 MiB

/// Hands out the bytes that a range or scope holds.
///   m.allocate(bytes, alignment) -> void*   at least `bytes`, aligned to a power of two; throws, never null
///   m.deallocate(p, bytes, alignment)       noexcept, with the numbers that p was asked for with
/// Neither is called for 0 bytes. Optional: `static constexpr bool host = false` says that the host can't touch the
/// memory: then the library doesn't, and .verify neither paints nor sums it.
/// Not checkable here: the memory stays valid until deallocate. A resource is used by one rank at a time.
template <class M>
concept memory_resource = requires(M& m, void* p, std::size_t bytes, std::size_t alignment) {
  { m.allocate(bytes, alignment) } -> std::same_as<void*>;
  { m.deallocate(p, bytes, alignment) }
  noexcept;
};

/// Whether the host may read and write what M hands out: M::host where it is there, else true.
template <class M>
inline constexpr bool is_host_memory = [] {
  if constexpr (requires { M::host; }) {
    return static_cast<bool>(M::host);
  } else {
    return true;
  }
}();

/// The default: aligned operator new. Throws out_of_memory.
class host_memory {
 public:
  void* allocate(std::size_t bytes, std::size_t alignment) {
    void* p = ::operator new (bytes, std::align_val_t{alignment}, std::nothrow);
    if (p == nullptr)
      throw out_of_memory(detail::concat("host_memory: no ", detail::in_bytes(bytes, " bytes"), ". Lower .budget."),
                          bytes);
    return p;
  }
  void deallocate(void* p, std::size_t bytes, std::size_t alignment) noexcept {
#if defined(__cpp_sized_deallocation)
    ::operator delete (p, bytes, std::align_val_t{alignment});
#else
    static_cast<void>(bytes);
    ::operator delete (p, std::align_val_t{alignment});
#endif
  }
};
static_assert(memory_resource<host_memory>);

/// A caller's own bytes: one allocation at a time, at the span's first aligned byte. The caller keeps the span
/// alive for as long as a range or scope uses it. Throws out_of_memory where it is too short or in use.
class fixed_memory {
 public:
  explicit fixed_memory(std::span<std::byte> bytes) : bytes_(bytes) {}

  void* allocate(std::size_t bytes, std::size_t alignment) {
    const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(bytes_.data()) & (alignment - 1);
    const std::size_t skip = misaligned == 0 ? 0 : alignment - misaligned;
    if (in_use_)
      throw out_of_memory("fixed_memory: its span is in use. Give each range or scope a span of its own.", bytes);
    if (bytes_.size() < skip || bytes_.size() - skip < bytes)
      throw out_of_memory(detail::concat("fixed_memory: ", bytes, " bytes asked for, aligned to ", alignment,
                                         "; the span has ", bytes_.size(), ". Lower .budget or give a longer span."),
                          bytes);
    in_use_ = true;
    return bytes_.data() + skip;
  }
  void deallocate(void*, std::size_t, std::size_t) noexcept { in_use_ = false; }

 private:
  std::span<std::byte> bytes_;
  bool in_use_ = false;
};
static_assert(memory_resource<fixed_memory>);

/// Any std::pmr::memory_resource, or whatever has its two members; the caller owns it and keeps it alive.
/// Throws what the resource throws.
template <class Resource>
class pmr_memory {
 public:
  explicit pmr_memory(Resource* resource) : resource_(resource) {}
  void* allocate(std::size_t bytes, std::size_t alignment) { return resource_->allocate(bytes, alignment); }
  void deallocate(void* p, std::size_t bytes, std::size_t alignment) noexcept {
    resource_->deallocate(p, bytes, alignment);
  }

 private:
  Resource* resource_;
};

/// Wraps a resource and counts what it hands out. Counters may be read from any thread.
template <memory_resource M = host_memory>
class counted_memory {
 public:
  static constexpr bool host = is_host_memory<M>;

  counted_memory() = default;
  explicit counted_memory(M upstream) : upstream_(static_cast<M&&>(upstream)) {}

  void* allocate(std::size_t bytes, std::size_t alignment) {
    void* p = upstream_.allocate(bytes, alignment);
    allocations_.fetch_add(1, std::memory_order_relaxed);
    const std::size_t now = held_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::size_t peak = peak_.load(std::memory_order_relaxed);
    while (peak < now && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
    return p;
  }
  void deallocate(void* p, std::size_t bytes, std::size_t alignment) noexcept {
    upstream_.deallocate(p, bytes, alignment);
    held_.fetch_sub(bytes, std::memory_order_relaxed);
  }

  std::size_t held() const noexcept { return held_.load(std::memory_order_relaxed); }  ///< bytes out now
  std::size_t peak() const noexcept { return peak_.load(std::memory_order_relaxed); }  ///< most bytes ever out
  std::size_t allocations() const noexcept { return allocations_.load(std::memory_order_relaxed); }  ///< calls so far

 private:
  M upstream_{};
  std::atomic<std::size_t> held_{0};
  std::atomic<std::size_t> peak_{0};
  std::atomic<std::size_t> allocations_{0};
};
static_assert(memory_resource<counted_memory<>>);

}  // namespace v0
}  // namespace unshard
