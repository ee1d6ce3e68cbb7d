// SPDX-License-Identifier: Apache-2.0
#pragma once  // testing.hpp: files made by hand, and the program as a whole, for the tests of unshard-plan.

#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "report.hpp"

using namespace unshard_plan;  // NOLINT: tests of that namespace

namespace fs = std::filesystem;

/// The bytes of a file with this header and so much data behind it.
inline std::string file_of(const std::string& header, std::size_t data, std::uint64_t announced) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(announced >> (8 * i) & 255);
  return bytes + header + std::string(data, '\0');
}
inline std::string file_of(const std::string& header, std::size_t data) { return file_of(header, data, header.size()); }

inline std::vector<tensor> read(const std::string& bytes) {
  std::istringstream in(bytes);
  return read_safetensors(in, bytes.size(), "file");
}

/// What read_model makes of one path.
inline std::vector<tensor> read_at(const fs::path& path) {
  notes odd;
  return read_model({path.string()}, odd);
}

inline std::string refusal(const std::string& bytes) {
  try {
    read(bytes);
  } catch (const unreadable& e) {
    return e.what();
  }
  return "read without complaint";
}

inline std::string refusal_of_index(const std::string& text) {
  std::istringstream in(text);
  try {
    read_index(in, "index");
  } catch (const unreadable& e) {
    return e.what();
  }
  return "read without complaint";
}

/// A folder of this test's own, removed afterwards.
struct folder {
  fs::path path;
  folder() : path(fs::temp_directory_path() / "unshard-plan-XXXXXX") {
    std::string name = path.string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  folder(const folder&) = delete;
  folder& operator=(const folder&) = delete;
  ~folder() { fs::remove_all(path); }

  fs::path write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return path / name;
  }
};

struct result {
  std::string text;  // both streams
  int status;
};

inline result run(const std::string& arguments) {
  const char* program = std::getenv("UNSHARD_PLAN");
  REQUIRE_MESSAGE(program != nullptr, "run this by meson test");
  FILE* const pipe = popen((std::string(program) + ' ' + arguments + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  result r{{}, 0};
  std::array<char, 4096> part;
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) r.text += part.data();
  r.status = WEXITSTATUS(pclose(pipe));
  return r;
}

inline std::string manifest(const char* name) { return std::string(std::getenv("MANIFESTS")) + '/' + name + ".tsv"; }

inline bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

inline const std::string two_tensors =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
    R"("b":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}  )";
