// SPDX-License-Identifier: Apache-2.0
#pragma once  // nvtx.hpp: chunks as ranges in NVIDIA's profilers, where <nvtx3/nvToolsExt.h> is there; else nothing.

#include <cstddef>
#include <cstdint>
#include <string>
#include <unshard/observe.hpp>
#include <utility>
#include <vector>

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define EXAMPLES_HAVE_NVTX 1
#else
#define EXAMPLES_HAVE_NVTX 0
#endif

namespace examples {

/// An observer, one for each rank. A chunk's range goes from its first event to its last; inside it there is one for
/// the gather and one for the body. Ranges of chunks in flight overlap, so they are started and ended by id, not pushed
/// and popped. What it costs where no profiler is attached: a call through a pointer per event.
class nvtx_ranges {
 public:
  static constexpr bool available = EXAMPLES_HAVE_NVTX == 1;

  nvtx_ranges() = default;
  nvtx_ranges(const nvtx_ranges&) = delete;
  nvtx_ranges& operator=(const nvtx_ranges&) = delete;
  ~nvtx_ranges() {
    while (!open_.empty()) end(open_.back().chunk, open_.back().what);
  }

  void operator()(const unshard::event& e) {
    using enum unshard::event_kind;
    switch (e.kind) {
      case gather_launched:
        begin(e.chunk, "chunk");
        begin(e.chunk, "gather");
        break;
      case gathered:
        end(e.chunk, "gather");
        break;
      case chunk_begun:
        begin(e.chunk, "chunk");  // under overwrite it starts here
        begin(e.chunk, "body");
        break;
      case vote_begun:
        end(e.chunk, "body");
        break;
      case committed:
      case discarded:
        for (const char* what : {"gather", "body", "chunk"}) end(e.chunk, what);
        break;
      case opened:
      case voted:
      case write_back_launched:
      case failed:
        break;
    }
  }

  std::size_t open() const { return open_.size(); }  ///< ranges begun and not ended
  std::size_t begun() const { return begun_; }       ///< ranges so far

 private:
  struct range {
    std::size_t chunk;
    std::string what;
    std::uint64_t id;
  };

  void begin(std::size_t chunk, const char* what) {
    for (const range& r : open_) {
      if (r.chunk == chunk && r.what == what) return;
    }
    std::uint64_t id = 0;
#if EXAMPLES_HAVE_NVTX
    id = nvtxRangeStartA(("unshard " + std::string(what) + ' ' + std::to_string(chunk)).c_str());
#endif
    open_.push_back({chunk, what, id});
    ++begun_;
  }

  void end(std::size_t chunk, const std::string& what) {
    for (std::size_t i = 0; i < open_.size(); ++i) {
      if (open_[i].chunk != chunk || open_[i].what != what) continue;
#if EXAMPLES_HAVE_NVTX
      nvtxRangeEnd(open_[i].id);
#endif
      open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    }
  }

  std::vector<range> open_;
  std::size_t begun_ = 0;
};

}  // namespace examples
