// SPDX-License-Identifier: Apache-2.0
#pragma once  // manifest_files.hpp: the manifests of real models that the tests have.

#include <filesystem>
#include <vector>

/// Those of the examples, of the tests, and the one that the build unpacks: ten.
inline std::vector<std::filesystem::path> manifest_files() {
  std::vector<std::filesystem::path> files;
  for (const char* folder : {UNSHARD_SOURCE "/examples/manifests", UNSHARD_SOURCE "/tests/manifests", UNSHARD_BUILD}) {
    for (const auto& f : std::filesystem::directory_iterator(folder)) {
      if (f.path().extension() == ".tsv") files.push_back(f.path());
    }
  }
  return files;
}
