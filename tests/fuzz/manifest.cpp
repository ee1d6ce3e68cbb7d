// SPDX-License-Identifier: Apache-2.0
// Any bytes are a manifest, or manifest_error with a line. What is read is consistent: sizes fit, ties point back.
#include <sstream>

#include "../../examples/manifest.hpp"
#include "bytes.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::istringstream in(std::string(data, data + size));
  try {
    const examples::manifest list = examples::read_manifest(in, "input");
    std::size_t total = 0;
    for (std::size_t i = 0; i < list.size(); ++i) {
      require(list[i].tied_to <= i && list[list[i].tied_to].tied_to == list[i].tied_to, "a tie points at its first");
      require(list[i].bytes() <= SIZE_MAX / 2 - total, "the total fits in 63 bits");
      total += list[i].bytes();
    }
  } catch (const examples::manifest_error& e) {
    for (const char* c = e.what(); *c != '\0'; ++c)
      require(static_cast<unsigned char>(*c) >= 0x20, "a message can be printed");
    require(e.line > 0, "a line is named");
  }
  return 0;
}
