// SPDX-License-Identifier: Apache-2.0
#pragma once  // trace.hpp: what every rank does, as a trace that chrome://tracing and ui.perfetto.dev open.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>
#include <unshard/observe.hpp>
#include <vector>

namespace examples {

/// An observer for all ranks of a process at once (with MPI: one for each process, and a file for each). A rank is a
/// "process" of the trace and has five rows: chunk (from its first event to its last), gather, caller (the body of the
/// loop), vote, write-back. An observer is called by one thread at a time, ranks as threads are several: hence a lock.
class trace {
 public:
  void operator()(const unshard::event& e) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const double now = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start_).count();
    using enum unshard::event_kind;
    switch (e.kind) {
      case opened:
        instant(e, now, "opened");
        break;
      case gather_launched:
        open(e, row::chunk, now);
        open(e, row::gather, now);
        break;
      case gathered:
        close(e, row::gather, now);
        break;
      case chunk_begun:
        open(e, row::chunk, now);  // under overwrite it starts here
        open(e, row::caller, now);
        break;
      case vote_begun:
        close(e, row::caller, now);
        open(e, row::vote, now);
        break;
      case voted:
        close(e, row::vote, now);
        break;
      case write_back_launched:
        open(e, row::write_back, now);
        break;
      case committed:
        close_all(e, now, "committed");
        break;
      case discarded:
        close_all(e, now, "discarded");
        break;
      case failed:
        instant(e, now, "failed");
        break;
    }
  }

  int ranks() const { return ranks_; }  ///< of whom it has heard

  /// The whole trace, as JSON. Spans that are still open are left out.
  void write(std::ostream& out) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    out << "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
    std::string separator;
    for (int rank = 0; rank < ranks_; ++rank) {
      out << separator << R"({"ph":"M","name":"process_name","pid":)" << rank << R"(,"args":{"name":"rank )" << rank
          << "\"}}";
      separator = ",\n";
      for (int r = 0; r < rows; ++r)
        out << separator << R"({"ph":"M","name":"thread_name","pid":)" << rank << ",\"tid\":" << r
            << R"(,"args":{"name":")" << row_names[r] << "\"}}";
    }
    for (const std::string& line : lines_) {
      out << separator << line;
      separator = ",\n";
    }
    out << "\n]}\n";
  }

 private:
  enum class row { chunk, gather, caller, vote, write_back };
  static constexpr int rows = 5;
  static constexpr const char* row_names[rows] = {"chunk", "gather", "caller", "vote", "write-back"};

  struct span {
    int rank;
    std::size_t chunk;
    row where;
    double since;  // microseconds
  };

  void open(const unshard::event& e, row where, double now) {
    for (const span& s : open_) {
      if (s.rank == e.rank && s.chunk == e.chunk && s.where == where) return;
    }
    open_.push_back({e.rank, e.chunk, where, now});
  }

  void close(const unshard::event& e, row where, double now, std::string_view end = {}) {
    for (std::size_t i = 0; i < open_.size(); ++i) {
      const span s = open_[i];
      if (s.rank != e.rank || s.chunk != e.chunk || s.where != where) continue;
      open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(i));
      std::ostringstream args;
      args << R"("chunk":)" << s.chunk << R"(,"bytes":)" << e.chunk_bytes;
      if (!end.empty()) args << R"(,"end":)" << quoted(end);
      add(e, where, "X", row_names[static_cast<int>(where)], s.since, ",\"dur\":" + number(now - s.since), args.str());
      return;
    }
  }

  void close_all(const unshard::event& e, double now, std::string_view end) {
    for (row where : {row::gather, row::caller, row::vote, row::write_back}) close(e, where, now, end);
    close(e, row::chunk, now, end);
  }

  void instant(const unshard::event& e, double now, std::string_view name) {
    std::ostringstream args;
    args << R"("held_bytes":)" << e.held_bytes << R"(,"message":)" << quoted(e.message);
    add(e, row::chunk, "i", name, now, R"(,"s":"p")", args.str());
  }

  void add(const unshard::event& e, row where, std::string_view phase, std::string_view name, double at,
           const std::string& more, const std::string& args) {
    if (e.rank >= ranks_) ranks_ = e.rank + 1;
    std::ostringstream line;
    line << R"({"ph":)" << quoted(phase) << R"(,"name":)" << quoted(name) << R"(,"cat":"unshard","pid":)" << e.rank
         << R"(,"tid":)" << static_cast<int>(where) << R"(,"ts":)" << number(at) << more << R"(,"args":{)" << args
         << "}}";
    lines_.push_back(line.str());
  }

  static std::string number(double value) {
    char text[40];
    std::snprintf(text, sizeof text, "%.3f", value);
    return text;
  }

  /// A JSON string; bytes that are not ASCII become '?', for a message may hold a name in any encoding.
  static std::string quoted(std::string_view text) {
    std::string out(1, '"');
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '"' || c == '\\') {
        out += '\\';
        out += c;
      } else if (byte < 0x20) {
        out += ' ';
      } else {
        out += byte < 0x7f ? c : '?';
      }
    }
    out += '"';
    return out;
  }

  mutable std::mutex mutex_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  int ranks_ = 0;
  std::vector<span> open_;
  std::vector<std::string> lines_;
};

}  // namespace examples
