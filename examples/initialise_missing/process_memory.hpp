// SPDX-License-Identifier: Apache-2.0
#pragma once  // process_memory.hpp: what the operating system counts: this process's peak, and what the machine has.

#include <cstddef>
#include <fstream>
#include <string>

namespace examples {

namespace detail {

/// The number after `key` in a file of /proc, in bytes; 0 where there is no such file or line.
inline std::size_t kilobytes_in(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    std::size_t kilobytes = 0;
    if (word == key && file >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

}  // namespace detail

/// Sets the process's peak back to what it has now. False where the system does not let us.
inline bool reset_process_peak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return static_cast<bool>(file);
}

/// The most resident memory since the last reset, in bytes; 0: unknown.
inline std::size_t process_peak() { return detail::kilobytes_in("/proc/self/status", "VmHWM:"); }

/// What the machine can still give, in bytes; 0: unknown.
inline std::size_t available_memory() { return detail::kilobytes_in("/proc/meminfo", "MemAvailable:"); }

}  // namespace examples
