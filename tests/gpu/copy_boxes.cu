// SPDX-License-Identifier: Apache-2.0
// copy_boxes.cu: thrust_copier on a GPU: right against a loop on the host, and how fast against one device-to-device
// memcpy of the same bytes. Prints figures; the goals are 0.90 from rows of 4 KiB on and for 20,000 pieces, 0.75 for
// rows of 512 bytes. Exits 1 on wrong bytes or a missed goal.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <unshard/cuda/copy_boxes.hpp>
#include <vector>

namespace {

using unshard::const_region;
using unshard::extents;
using unshard::index_t;
using unshard::region;

int failures = 0;

void must(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  std::printf("%s: %s\n", call, cudaGetErrorString(code));
  std::exit(1);
}

struct lists {
  const char* name;
  double goal;  // 0: reported only
  std::size_t room;
  std::vector<const_region> from;  // offsets from null
  std::vector<region> to;
};

std::byte* at(std::size_t offset) { return reinterpret_cast<std::byte*>(offset); }

lists rows(const char* name, double goal, std::size_t width, std::size_t bytes, std::size_t skew = 0) {
  const auto w = static_cast<index_t>(width);
  const auto n = static_cast<index_t>(bytes / width);
  lists out{name, goal, 2 * bytes + 64, {}, {}};
  out.from.emplace_back(at(skew), extents{n, w}, extents{2 * w, index_t{1}});
  out.to.push_back({at(0), extents{n, w}, extents{w, index_t{1}}});
  return out;
}

lists pieces(const char* name, double goal, std::size_t count) {
  lists out{name, goal, 0, {}, {}};
  std::mt19937_64 bits(1);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t n = (4096 + bits() % (60 * 1024)) / 16 * 16;
    out.from.emplace_back(at(out.room), extents{static_cast<index_t>(n)}, extents{index_t{1}});
    out.to.push_back({at(out.room), extents{static_cast<index_t>(n)}, extents{index_t{1}}});
    out.room += n;
  }
  return out;
}

/// Median of 20 runs, in milliseconds of device time.
template <class F>
double median(cudaStream_t stream, F f) {
  cudaEvent_t start, stop;
  must(cudaEventCreate(&start), "cudaEventCreate");
  must(cudaEventCreate(&stop), "cudaEventCreate");
  std::vector<float> times(20);
  for (int i = 0; i < 3; ++i) f();
  for (float& t : times) {
    cudaEventRecord(start, stream);
    f();
    cudaEventRecord(stop, stream);
    must(cudaEventSynchronize(stop), "cudaEventSynchronize");
    cudaEventElapsedTime(&t, start, stop);
  }
  std::sort(times.begin(), times.end());
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  return times[10];
}

void measure(const lists& l, cudaStream_t stream) {
  std::byte *source, *target;
  must(cudaMalloc(&source, l.room), "cudaMalloc");
  must(cudaMalloc(&target, l.room), "cudaMalloc");
  std::vector<std::byte> host(l.room), back(l.room), wanted(l.room, std::byte{0xEE});
  std::mt19937_64 bits(2);
  for (std::size_t i = 0; i + 8 <= l.room; i += 8) {
    const std::uint64_t b = bits();
    std::memcpy(host.data() + i, &b, 8);
  }
  must(cudaMemcpy(source, host.data(), l.room, cudaMemcpyDefault), "cudaMemcpy");
  must(cudaMemset(target, 0xEE, l.room), "cudaMemset");
  const auto moved = [](auto list, std::byte* base) {
    for (auto& r : list) r.base = base + reinterpret_cast<std::uintptr_t>(r.base);
    return list;
  };
  const auto from = moved(l.from, source);
  const auto to = moved(l.to, target);
  unshard::copy_regions(moved(l.from, host.data()), moved(l.to, wanted.data()));
  unshard::cuda::thrust_copier copier;
  copier.copy(from, to, stream);
  must(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  must(cudaMemcpy(back.data(), target, l.room, cudaMemcpyDefault), "cudaMemcpy");
  const bool right = back == wanted;
  const std::size_t bytes = unshard::bytes_of(std::span<const region>(to));
  const double mine = median(stream, [&] { copier.copy(from, to, stream); });
  const double bare = median(stream, [&] { cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream); });
  const double ratio = bare / mine;
  const bool good = right && ratio >= l.goal;
  failures += good ? 0 : 1;
  std::printf("%-28s %12zu %8.3f %8.3f %8.1f %7.2f %5.2f %s\n", l.name, bytes, mine, bare,
              static_cast<double>(bytes) / mine / 1e6, ratio, l.goal,
              !right ? "WRONG BYTES"
              : good ? "ok"
                     : "MISSED");
  cudaFree(source);
  cudaFree(target);
}

}  // namespace

int main() {
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  std::printf("# copy_boxes: thrust_copier over one device-to-device memcpy of as many bytes; medians of 20\n");
  std::printf("# %-26s %12s %8s %8s %8s %7s %5s\n", "lists", "(B)", "(ms)", "bare", "(GB/s)", "ratio", "goal");
  constexpr std::size_t size = std::size_t{256} << 20;
  measure(rows("rows of 64 KiB", 0.90, 65536, size), stream);
  measure(rows("rows of 4 KiB", 0.90, 4096, size), stream);
  measure(rows("rows of 512 B", 0.75, 512, size), stream);
  measure(rows("rows of 64 B", 0, 64, size), stream);
  measure(rows("rows of 4 KiB, 4 B off", 0, 4096, size, 4), stream);
  measure(rows("rows of 4 KiB, 1 B off", 0, 4096, size / 4, 1), stream);
  measure(pieces("20000 pieces of 4-64 KiB", 0.90, 20'000), stream);
  cudaStreamDestroy(stream);
  return failures == 0 ? 0 : 1;
}
