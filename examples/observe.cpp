// Watches a range from outside, by its `.observer`: a line of progress, a trace for chrome://tracing and
// ui.perfetto.dev, ranges for NVIDIA's profilers, and a picture of the memory. All are short headers in observers/.
//
// prints: progress: 100 %, 64.0 KiB of 64.0 KiB
// prints: trace.json: 4 ranks
// prints: timeline.svg: peak 32.0 KiB
// prints: nvtx: 24 ranges, 0 left open

#include <cstdio>
#include <fstream>
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

int main() {
  constexpr int ranks = 4;
  examples::trace trace;               // for all ranks
  examples::memory_timeline timeline;  // these three for the root
  examples::nvtx_ranges ranges;
  std::FILE* lines = std::tmpfile();  // a program of yours would take stdout
  if (lines == nullptr) return 1;
  examples::progress progress("progress:", 0, lines);

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
  std::rewind(lines);
  char line[200] = "";
  if (std::fgets(line, sizeof line, lines) != nullptr) {
    const std::string text = line;  // the rate and the time differ from run to run
    std::printf("%s\n", text.substr(0, text.find(',', text.find(',') + 1)).c_str());
  }
  std::fclose(lines);
  std::ofstream trace_file("trace.json");
  trace.write(trace_file);
  std::printf("trace.json: %d ranks\n", trace.ranks());
  std::ofstream svg_file("timeline.svg");
  const examples::memory_curve curve{"read_write, 4 buffers of 8 KiB", &timeline};
  examples::write_memory_svg(svg_file, "Eight tensors of 8 KiB", "what rank 0 holds of whole values, over time",
                             std::span(&curve, 1), 32 * unshard::KiB);
  std::printf("timeline.svg: peak %s\n", examples::readable(timeline.peak()).c_str());
  std::printf("nvtx: %zu ranges, %zu left open\n", ranges.begun(), ranges.open());
  return trace_file.flush() && svg_file.flush() ? 0 : 1;
}
