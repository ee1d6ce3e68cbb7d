// SPDX-License-Identifier: Apache-2.0
#pragma once  // output_file.hpp: files that a program writes when its work is done: tried before it begins.

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "printable.hpp"

namespace examples {

/// Whether a file can be written there: tries it, and leaves all as it was.
inline bool can_be_written(const std::string& path) {
  std::error_code ignored;
  const bool fresh = !std::filesystem::exists(path, ignored);
  if (!std::ofstream(path, std::ios::app)) return false;
  if (fresh) std::filesystem::remove(path, ignored);
  return true;
}

[[noreturn]] inline void fail_to_write(const std::string& path) {
  throw std::runtime_error(in_quotes(path) + ": this file can't be written.");
}

/// Calls content(std::ostream&) into the file. Throws std::runtime_error where not all of it could be written.
template <class F>
void write_file(const std::string& path, F content) {
  std::ofstream file(path, std::ios::trunc);
  content(file);
  if (!file.flush()) fail_to_write(path);
}

}  // namespace examples
