#pragma once  // progress.hpp: bytes, rate and time left; a bar on a terminal, plain lines elsewhere.

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>
#include <unshard/observe.hpp>

#include "readable.hpp"

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

namespace examples {

/// An observer for one rank (the others need none): a line a second, or a bar that is redrawn ten times a second where
/// `out` is a terminal. It counts over several ranges, too, where the sum of their bytes is given.
class progress {
 public:
  /// `total_bytes` 0: that of the range that it watches.
  explicit progress(std::string what, std::size_t total_bytes = 0, std::FILE* out = stdout)
      : what_(std::move(what)), total_(total_bytes), out_(out) {
#if __has_include(<unistd.h>)
    terminal_ = isatty(fileno(out)) == 1;
#endif
    every_ = terminal_ ? 0.1 : 1.0;
  }

  void operator()(const unshard::event& e) {
    if (e.kind == unshard::event_kind::failed) std::fprintf(out_, "\n%.*s\n", length(e), e.message.data());
    if (e.kind != unshard::event_kind::committed) return;
    if (total_ == 0) total_ = e.total_bytes;
    done_ += e.chunk_bytes;
    const double now = seconds();
    if (now - shown_ < every_ && done_ < total_) return;
    shown_ = now;
    print(now);
  }

  /// Since it was made.
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  static int length(const unshard::event& e) { return static_cast<int>(e.message.size()); }

  void print(double now) {
    const double rate = static_cast<double>(done_) / (now > 0 ? now : 1e-9);
    const double left = static_cast<double>(total_ - done_) / (rate > 0 ? rate : 1);
    const double share = total_ == 0 ? 1 : static_cast<double>(done_) / static_cast<double>(total_);
    char bar[32] = "";
    if (terminal_) {
      int at = std::snprintf(bar, sizeof bar, " [");
      for (int i = 0; i < 20; ++i) bar[at++] = i < share * 20 ? '#' : ' ';
      std::snprintf(bar + at, sizeof bar - static_cast<std::size_t>(at), "]");
    }
    std::fprintf(out_, "%s%s%s %3.0f %%, %s of %s, %s/s, %.1f s %s%s", terminal_ ? "\r" : "", what_.c_str(), bar,
                 share * 100, readable(done_).c_str(), readable(total_).c_str(), readable(rate).c_str(),
                 done_ < total_ ? left : now, done_ < total_ ? "left" : "taken",
                 terminal_ ? (done_ < total_ ? "\033[K" : "\033[K\n") : "\n");
    std::fflush(out_);
  }

  std::string what_;
  std::size_t total_;
  std::FILE* out_;
  bool terminal_ = false;
  double every_ = 1;  // seconds
  std::size_t done_ = 0;
  double shown_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace examples
