// SPDX-License-Identifier: Apache-2.0
#pragma once  // base/sanitizers.hpp: which sanitizers run in this program, asked while it runs.

#include <cstddef>

// Not asked of the compiler: a unit that is sanitised and one that is not would then have different inline functions of
// one name, and the linker keeps either. The runtimes' functions are weak here: null where their runtime is not linked.
// Nor are the sanitizers' own headers needed, which not every compiler brings.
#if defined(__ELF__) && defined(__GNUC__)
#define UNSHARD_DETAIL_WEAK __attribute__((weak, visibility("default")))
// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {
UNSHARD_DETAIL_WEAK void __asan_poison_memory_region(const volatile void* p, std::size_t bytes);
UNSHARD_DETAIL_WEAK void __asan_unpoison_memory_region(const volatile void* p, std::size_t bytes);
UNSHARD_DETAIL_WEAK void __tsan_acquire(void* p);
}
// NOLINTEND(bugprone-reserved-identifier)
#endif

namespace unshard {
inline namespace v0 {
namespace detail {

/// Says to the address sanitizer, where there is one, that nobody may touch these bytes.
inline void poison([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(UNSHARD_DETAIL_WEAK)
  if (&__asan_poison_memory_region != nullptr) __asan_poison_memory_region(p, bytes);
#endif
}
/// Says to it that these bytes are in use again.
inline void unpoison([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if defined(UNSHARD_DETAIL_WEAK)
  if (&__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(p, bytes);
#endif
}

/// Whether the thread sanitizer watches this program.
inline bool under_thread_sanitizer() {
#if defined(UNSHARD_DETAIL_WEAK)
  return &__tsan_acquire != nullptr;
#else
  return false;
#endif
}

}  // namespace detail
}  // namespace v0
}  // namespace unshard

#undef UNSHARD_DETAIL_WEAK
