// SPDX-License-Identifier: Apache-2.0
#pragma once
// pinned_new.hpp: `new` hands out pinned memory while it is turned on. The kit's buffers are std::vectors, and NCCL
// wants pinned memory. What was handed out is never used again.

#include <cstddef>

namespace pinned {
inline constexpr std::size_t room = std::size_t{1} << 30;
void give(void* arena);  // of `room` bytes
void turn(bool on);
}  // namespace pinned
