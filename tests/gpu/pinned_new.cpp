// SPDX-License-Identifier: Apache-2.0
// pinned_new.cpp: the replaced operators, apart from nvcc, which takes them for device code.

#include "pinned_new.hpp"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<bool> is_on{false};
std::atomic<std::byte*> arena{nullptr};
std::atomic<std::size_t> used{0};
}  // namespace

namespace pinned {
void give(void* p) { arena = static_cast<std::byte*>(p); }
void turn(bool on) { is_on = on; }
}  // namespace pinned

void* operator new(std::size_t bytes) {
  void* p = nullptr;
  if (is_on) {
    const std::size_t rounded = (bytes + 63) / 64 * 64;
    const std::size_t at = used.fetch_add(rounded);
    if (at + rounded <= pinned::room) p = arena + at;
  } else {
    p = std::malloc(bytes == 0 ? 1 : bytes);
  }
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept {
  const std::byte* at = static_cast<std::byte*>(p);
  const std::byte* first = arena;
  if (first == nullptr || at < first || at >= first + pinned::room) std::free(p);
}
void operator delete(void* p, std::size_t) noexcept { operator delete(p); }
