// SPDX-License-Identifier: Apache-2.0
// input.cpp: POSIX calls, since a stream can't tell a folder, a pipe without a writer, or a size not yet known.

#include "input.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace unshard_plan {
namespace {

using unshard::detail::concat;

std::string lower_extension(const std::string& path) {
  std::string text = std::filesystem::path(path).extension().string();
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

input::input(const std::string& path) : what_(path == "-" ? "standard input" : printable(path)) {
  extension_ = lower_extension(path);
  file_ = path == "-" ? dup(STDIN_FILENO) : open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (file_ < 0) {
    if (errno == ENOENT) throw unreadable(concat(what_, ": there is no such file."));
    throw unreadable(concat(what_, ": can't be opened: ", std::strerror(errno), '.'));
  }
  struct stat about {};
  try {
    if (fstat(file_, &about) != 0) throw unreadable(concat(what_, ": ", std::strerror(errno), '.'));
    if (S_ISDIR(about.st_mode)) {
      kind_ = kind::folder;
      return;
    }
    if (S_ISREG(about.st_mode)) size_ = static_cast<std::uint64_t>(about.st_size);
    if (path != "-") {
      if (S_ISFIFO(about.st_mode)) wait_for_writer();
      fcntl(file_, F_SETFL, 0);  // reads wait from here on
    }
    kind_ = kind_of(start());
  } catch (...) {
    close(file_);
    throw;
  }
}

input::~input() { close(file_); }

/// A pipe whose writer is there may take its time; one that nobody has open for writing would wait for ever.
void input::wait_for_writer() const {
  pollfd p{.fd = file_, .events = POLLIN, .revents = 0};
  if (poll(&p, 1, 2000) != 0) return;
  char byte = 0;  // nothing has come, and a read would say EAGAIN where there is a writer
  if (read(file_, &byte, 1) == 0) throw unreadable(concat(what_, ": is a named pipe, and nobody writes to it."));
}

bool input::fill() {
  char* const begin = buffer_.data();
  if (gptr() == egptr()) setg(begin, begin, begin);
  const auto room = static_cast<std::size_t>(begin + buffer_.size() - egptr());
  ssize_t got = -1;
  do {
    got = read(file_, egptr(), room);
  } while (got < 0 && errno == EINTR);
  if (got < 0) throw unreadable(concat(what_, ": can't be read: ", std::strerror(errno), '.'));
  setg(begin, gptr(), egptr() + got);
  return got > 0;
}

input::int_type input::underflow() { return fill() ? traits_type::to_int_type(*gptr()) : traits_type::eof(); }

std::string_view input::start() {
  constexpr std::ptrdiff_t enough = 512;
  setg(buffer_.data(), buffer_.data(), buffer_.data());
  while (egptr() - gptr() < enough && fill()) {
  }
  return {gptr(), static_cast<std::size_t>(egptr() - gptr())};
}

kind input::kind_of(std::string_view start) const {
  const auto refuse = [&](const char* is) { throw unreadable(concat(what_, ": is ", is)); };
  if (start.starts_with("version https://git-lfs"))
    refuse("a Git LFS pointer, not the file that it stands for. Fetch that with `git lfs pull`.");
  if (start.starts_with("GGUF") || extension_ == ".gguf")
    refuse("a GGUF file, which this program does not read. Take the .safetensors files of the same model.");
  if (start.starts_with("\x1f\x8b")) refuse("compressed. Give it unpacked: zcat FILE | unshard-plan - ...");
  const bool torch = extension_ == ".bin" || extension_ == ".pt" || extension_ == ".pth";
  if (start.starts_with("PK\x03\x04") || torch)
    refuse("a PyTorch checkpoint, which this program does not read. Convert it to .safetensors.");
  if (extension_ == ".safetensors" || (start.size() > 8 && start[8] == '{' && start.find('\0') < 8))
    return kind::safetensors;
  if (start.starts_with("\xef\xbb\xbf")) start.remove_prefix(3);
  const std::size_t first = start.find_first_not_of(" \t\r\n");
  if (extension_ == ".json" || (first != std::string_view::npos && start[first] == '{')) return kind::index;
  return kind::manifest;
}

}  // namespace unshard_plan
