// SPDX-License-Identifier: Apache-2.0
// Two units of one program, PART 1 under the address sanitizer and PART 2 not, linked in this order: 2, 1. The inline
// functions that both have are one and the same, so that the linker may keep either: a slot is closed all the same.
#include <sanitizer/asan_interface.h>

#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>

#include "use.hpp"

// Static, as it is of the first unit only: whether the memory of a chunk is closed once the next one is there.
#if PART == 1
static bool closed_after_its_scope() {
  bool closed = false;
  unshard::run_ranks(1, [&](auto& comm) {
    std::vector<float> shards(128);
    std::vector<unshard::parameter_view> parameters;
    for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
      parameters.emplace_back("w", unshard::flat_shard{{64}, 1}, sizeof(float),
                              std::as_writable_bytes(std::span{shards}.subspan(64 * i, 64)));
    }
    const void* first = nullptr;
    for (auto& chunk : unshard::chunks(parameters, comm, unshard::read_write, {.budget = 512, .in_flight = 2})) {
      if (first != nullptr) closed = __asan_address_is_poisoned(first) != 0;
      for (auto piece : chunk) first = piece.bytes().data();
    }
  });
  return closed;
}
#endif

bool other();
#if PART == 1
int main() { return use() && other() && closed_after_its_scope() ? 0 : 1; }
#else
bool other() { return use(); }
#endif
