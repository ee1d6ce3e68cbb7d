// SPDX-License-Identifier: Apache-2.0
#pragma once  // progress.hpp: bytes, rate and time left; a bar in one line of a terminal, plain lines elsewhere.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>
#include <unshard/observe.hpp>
#include <utility>

#include "readable.hpp"

#if __has_include(<unistd.h>) && __has_include(<sys/ioctl.h>)
#include <sys/ioctl.h>
#include <unistd.h>
#endif

namespace examples {

/// How many columns the terminal has behind `out`; 0 where it is none.
inline int columns_of(std::FILE* out) {
#if __has_include(<unistd.h>) && __has_include(<sys/ioctl.h>)
  if (isatty(fileno(out)) != 1) return 0;
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
#else
  static_cast<void>(out);
  return 0;
#endif
}

/// An observer for one rank (the others need none). On a terminal one line, drawn anew ten times a second and at every
/// start, never wider than the terminal or 80 columns; elsewhere a line a second. It counts over several ranges, too,
/// where the sum of their bytes is given.
class progress {
 public:
  /// `total_bytes` 0: that of the range that it watches. `columns` 0: `out` is no terminal.
  progress(std::string what, std::size_t total_bytes, std::FILE* out, int columns)
      : what_(std::move(what)), total_(total_bytes), out_(out), columns_(std::min(columns, 80)) {}
  explicit progress(std::string what, std::size_t total_bytes = 0, std::FILE* out = stdout)
      : progress(std::move(what), total_bytes, out, columns_of(out)) {}
  progress(const progress&) = delete;  // ranges hold a view of it
  progress& operator=(const progress&) = delete;
  ~progress() { end_line(); }

  void operator()(const unshard::event& e) {
    using kind = unshard::event_kind;
    if (e.kind == kind::failed) {
      end_line();
      std::fprintf(out_, "%.*s\n", static_cast<int>(e.message.size()), e.message.data());
      return;
    }
    if (total_ == 0) total_ = e.total_bytes;
    if (e.kind == kind::committed) done_ += e.chunk_bytes;
    const bool over = e.kind == kind::committed && done_ >= total_;
    if (columns_ == 0 && e.kind != kind::committed) return;  // lines tell of chunks that are done
    const double now = seconds();
    const double every = columns_ > 0 ? 0.1 : 1.0;
    const char* const doing = doing_of(e.kind);
    const bool told = done_ > 0 || doing == doing_;  // until there are numbers, the line says what goes on
    doing_ = doing;
    if (!over && now - shown_ < every && (columns_ == 0 || told)) return;
    shown_ = now;
    print(line(now), over);
  }

  /// Since it was made.
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  static const char* doing_of(unshard::event_kind k) {
    using kind = unshard::event_kind;
    return k == kind::gather_launched       ? "gathering"
           : k == kind::write_back_launched ? "writing back"
           : k == kind::chunk_begun         ? "in the body"
                                            : "starting";
  }

  /// "chunks [#####     ]  42 %, 210 MiB of 494 MiB, 1.2 GiB/s, 0.2 s left"; in little room without bar and total.
  std::string line(double now) const {
    const auto columns = static_cast<std::size_t>(columns_);
    const bool brief = columns > 0 && what_.size() + 60 > columns;
    const double share = total_ == 0 ? 1 : static_cast<double>(done_) / static_cast<double>(total_);
    char numbers[120];
    int used = std::snprintf(numbers, sizeof numbers, " %3.0f %%, %s%s, ", share * 100, readable(done_).c_str(),
                             brief ? "" : (" of " + readable(total_)).c_str());
    const auto at = numbers + used;
    const auto room = sizeof numbers - static_cast<std::size_t>(used);
    if (done_ == 0 && total_ > 0) {
      std::snprintf(at, room, "%s", doing_);
    } else {
      const double rate = static_cast<double>(done_) / std::max(now, 1e-9);
      const double rest = static_cast<double>(total_ - std::min(done_, total_)) / std::max(rate, 1.0);
      const double s = done_ < total_ ? rest : now;
      std::snprintf(at, room, "%s/s, %.*f s %s", readable(rate).c_str(), s < 9.95 ? 1 : 0, s,
                    done_ < total_ ? "left" : "taken");
    }
    std::string text = what_;
    const std::size_t taken =
        what_.size() + (brief ? 45 : 57) + 4;  // the most that numbers take: the bar's width stays
    if (columns >= taken + 5) {
      const std::size_t width = std::min<std::size_t>(columns - taken, 20);
      const auto full = static_cast<std::size_t>(share * static_cast<double>(width));
      text += " [" + std::string(full, '#') + std::string(width - full, ' ') + ']';
    }
    text += numbers;
    if (columns > 0 && text.size() >= columns) text.resize(columns - 1);  // the last column may wrap
    return text;
  }

  void print(const std::string& text, bool over) {
    if (columns_ == 0) {
      std::fprintf(out_, "%s\n", text.c_str());
    } else {
      const std::size_t rest = drawn_ > text.size() ? drawn_ - text.size() : 0;
      std::fprintf(out_, "\r%s%*s", text.c_str(), static_cast<int>(rest), "");
      drawn_ = text.size();
      if (over) end_line();
    }
    std::fflush(out_);
  }
  void end_line() {
    if (drawn_ > 0) std::fputc('\n', out_);
    drawn_ = 0;
  }

  std::string what_;
  std::size_t total_;
  std::FILE* out_;
  int columns_;
  std::size_t done_ = 0;
  std::size_t drawn_ = 0;  // characters of the line that the cursor is in
  const char* doing_ = "";
  double shown_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace examples
