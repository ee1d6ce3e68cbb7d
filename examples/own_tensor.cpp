// SPDX-License-Identifier: Apache-2.0
// Plugs in a tensor type that belongs to somebody else: one specialisation, once per engine, four functions and what is
// optional. Here an engine with float16 tensors, padded ZeRO-3 shards, and a copy that must follow every change.
//
// prints: layers.0.weight: 15 elements of 2 bytes
// prints: layers.0.bias: 5 elements of 2 bytes
// prints: rank 1 holds 8 and 3 elements with their padding; copies refreshed: 2

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace engine {  // not ours to change

struct float16 {
  std::uint16_t bits;
};
struct tensor {
  std::string label;
  std::vector<std::int64_t> sizes;
  int world;
  std::vector<float16> local;  // ceil(elements / world), the last rank's padded
  int stale_copies = 1;
};

}  // namespace engine

template <>
struct unshard::parameter_traits<engine::tensor> {
  static auto layout(const engine::tensor& t) { return unshard::flat_shard{extents(std::span(t.sizes)), t.world}; }
  static std::size_t element_size(const engine::tensor&) { return sizeof(engine::float16); }
  static std::span<std::byte> shard(engine::tensor& t) { return std::as_writable_bytes(std::span(t.local)); }
  static std::span<const std::byte> shard(const engine::tensor& t) { return std::as_bytes(std::span(t.local)); }
  // Optional: for messages, and to be told when a value has changed.
  static std::string_view name(const engine::tensor& t) { return t.label; }
  static void after_write(engine::tensor& t) { t.stale_copies = 0; }
};
static_assert(unshard::writable_parameter<engine::tensor>);         // the concept says what is missing
static_assert(!unshard::writable_parameter<const engine::tensor>);  // a const model can be read, not written

int main() {
  unshard::run_ranks(2, [](unshard::threads_communicator& comm) {
    std::vector<engine::tensor> model{
        {"layers.0.weight", {5, 3}, 2, std::vector<engine::float16>(8)},
        {"layers.0.bias", {5}, 2, std::vector<engine::float16>(3)},
    };
    for (auto& chunk : unshard::chunks(model, comm, unshard::overwrite, {.budget = 1 * unshard::KiB})) {
      for (auto piece : chunk) {
        for (engine::float16& x : piece.as<engine::float16>()) x.bits = 0x3c00;  // 1.0
        std::printf("%.*s: %td elements of 2 bytes\n", static_cast<int>(piece.name().size()), piece.name().data(),
                    piece.elements());
      }
    }
    if (comm.rank() == 1) {
      const auto fresh = std::count_if(model.begin(), model.end(), [](const auto& t) { return t.stale_copies == 0; });
      std::printf("rank 1 holds %zu and %zu elements with their padding; copies refreshed: %td\n",
                  model[0].local.size(), model[1].local.size(), fresh);
    }
  });
}
