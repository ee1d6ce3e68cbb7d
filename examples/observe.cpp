// SPDX-License-Identifier: Apache-2.0
// Watches a range from outside, by its `.observer`: a bar of progress, a trace for chrome://tracing and
// ui.perfetto.dev, ranges for NVIDIA's profilers, and a picture of the memory. All are short headers in observers/.
// `observe [FOLDER]` writes its files into that folder, `observed` where none is named; the bar goes to stderr.
//
// prints: observed/trace.json: 4 ranks
// prints: observed/timeline.svg: a peak of 32.0 KiB
// prints: nvtx: 24 ranges, 0 left open

#include <cstdio>
#include <exception>
#include <filesystem>
#include <span>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "observers/memory_svg.hpp"
#include "observers/nvtx.hpp"
#include "observers/progress.hpp"
#include "observers/timeline.hpp"
#include "observers/trace.hpp"
#include "output_file.hpp"

namespace {

void run(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);  // throws where that can't be, before the work
  const std::string trace_file = (folder / "trace.json").string();
  const std::string svg_file = (folder / "timeline.svg").string();
  for (const std::string& file : {trace_file, svg_file}) {
    if (!examples::can_be_written(file)) examples::fail_to_write(file);
  }

  constexpr int ranks = 4;
  examples::trace trace;               // for all ranks
  examples::memory_timeline timeline;  // these three for the root
  examples::nvtx_ranges ranges;
  examples::progress progress("eight tensors", 0, stderr);

  unshard::run_ranks(ranks, [&](unshard::threads_communicator& comm) {
    std::vector<std::vector<float>> shards(8, std::vector<float>(512));
    std::vector<unshard::parameter_view> tensors;
    for (auto& s : shards)
      tensors.emplace_back("t", unshard::flat_shard{{2048}, ranks}, sizeof(float),
                           std::as_writable_bytes(std::span(s)));

    unshard::host_memory host;
    examples::memory_timeline unseen;
    examples::recorded_memory memory(host, comm.rank() == 0 ? timeline : unseen);
    auto all = [&](const unshard::event& e) {  // an observer is a view of any callable
      trace(e);
      if (e.rank != 0) return;
      progress(e);
      ranges(e);
    };
    const unshard::options options{.budget = 32 * unshard::KiB, .in_flight = 4, .observer = all};
    for (auto& chunk : unshard::chunks(tensors, comm, unshard::read_write, options, memory)) {
      for (auto piece : chunk) piece.as<float>()[0] += 1;
    }
  });

  timeline.end();
  examples::write_file(trace_file, [&](std::ostream& out) { trace.write(out); });
  std::printf("%s: %d ranks\n", trace_file.c_str(), trace.ranks());
  const examples::memory_curve curve{"read_write, 4 buffers of 8 KiB", &timeline};
  examples::write_file(svg_file, [&](std::ostream& out) {
    examples::write_memory_svg(out, "Eight tensors of 8 KiB", "what rank 0 holds of whole values, over time",
                               std::span(&curve, 1), 32 * unshard::KiB);
  });
  std::printf("%s: a peak of %s\n", svg_file.c_str(), examples::readable(timeline.peak()).c_str());
  std::printf("nvtx: %zu ranges, %zu left open\n", ranges.begun(), ranges.open());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string folder = argc > 1 ? argv[1] : "observed";
  if (argc > 2 || folder.empty() || folder.starts_with('-')) {
    std::puts(
        "usage: observe [FOLDER]\nRuns a small range on 4 ranks and writes trace.json and timeline.svg into FOLDER");
    std::puts("(default: observed), which it makes where there is none.");
    return folder == "--help" || folder == "-h" ? 0 : 2;
  }
  try {
    run(folder);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "observe: %s\n", e.what());
    return 1;
  }
}
