// SPDX-License-Identifier: Apache-2.0
// Fuzzes the readers of unshard-plan: whatever the bytes, they give tensors or throw unreadable, and nothing else.
// The first byte picks the reader. Built alone, so that it needs no library: it includes their sources.

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>

#include "../../tools/unshard-plan/input.cpp"
#include "../../tools/unshard-plan/model.cpp"
#include "../../tools/unshard-plan/safetensors.cpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::istringstream in(bytes);
  try {
    if (data[0] % 4 == 0) {
      static_cast<void>(unshard_plan::read_index(in, "fuzz"));
    } else if (data[0] % 4 == 1) {
      static_cast<void>(unshard_plan::read_manifest(in, "fuzz"));
    } else if (data[0] % 4 == 2) {
      static_cast<void>(unshard_plan::read_safetensors(in, bytes.size(), "fuzz"));
    } else {  // a header of the right length, with any amount of data behind it
      std::string whole(8, '\0');
      for (std::size_t i = 0; i < 8; ++i) whole[i] = static_cast<char>(bytes.size() >> (8 * i) & 255);
      std::istringstream good(whole + bytes);
      static_cast<void>(unshard_plan::read_safetensors(good, whole.size() + bytes.size() + data[0] / 4, "fuzz"));
    }
  } catch (const unshard_plan::unreadable&) {
  }
  return 0;
}
