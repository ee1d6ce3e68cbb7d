// SPDX-License-Identifier: Apache-2.0
#pragma once  // input.hpp: opens what the command line names, never hangs on it, and tells what kind of file it is.

#include <array>
#include <cstdint>
#include <optional>
#include <streambuf>
#include <string>
#include <string_view>

#include "model.hpp"

namespace unshard_plan {

enum class kind { manifest, safetensors, index, folder };

/// A file, a pipe or standard input ("-"), opened for reading. Throws unreadable for what can't be opened, a named pipe
/// that nobody writes to, and files of a kind that this program does not read.
class input : private std::streambuf {
 public:
  explicit input(const std::string& path);
  input(const input&) = delete;
  input& operator=(const input&) = delete;
  ~input() override;

  kind is() const { return kind_; }
  std::streambuf* bytes() { return this; }
  /// Of a regular file; a pipe's are not known.
  std::optional<std::uint64_t> size() const { return size_; }
  const std::string& what() const { return what_; }  // its name in messages

 private:
  int_type underflow() override;
  bool fill();  // one read behind what the buffer has; false at the end
  std::string_view start();
  void wait_for_writer() const;
  kind kind_of(std::string_view start) const;

  std::string what_;
  std::string extension_;  // in lower case
  int file_ = -1;
  std::optional<std::uint64_t> size_;
  kind kind_ = kind::manifest;
  std::array<char, 1 << 16> buffer_{};
};

}  // namespace unshard_plan
