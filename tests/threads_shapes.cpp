// comm/threads.hpp: regions of any shapes, held to a plain oracle that goes byte by byte.
#include <doctest/doctest.h>

#include <array>
#include <random>
#include <unshard/comm/threads.hpp>

namespace {

using namespace unshard;
using bytes = std::vector<std::byte>;

std::size_t index(int rank) { return static_cast<std::size_t>(rank); }

bytes pattern(std::size_t size, int seed) {
  bytes b(size);
  for (std::size_t i = 0; i < size; ++i) b[i] = static_cast<std::byte>(i * 7 + i / 251 + index(seed) * 31);
  return b;
}

/// Where the bytes of a list lie, in the order of the transfer.
template <class Region>
auto places(const std::vector<Region>& list) {
  std::vector<decltype(Region::base)> out;
  for (const Region& r : list) {
    extents at = r.size;
    for (int d = 0; d < at.dims(); ++d) at[d] = 0;
    for (index_t n = r.size.elements(); n > 0; --n) {
      index_t offset = 0;
      for (int d = 0; d < at.dims(); ++d) offset += at[d] * r.stride[d];
      out.push_back(r.base + offset);
      for (int d = at.dims() - 1; d >= 0 && ++at[d] == r.size[d]; --d) at[d] = 0;
    }
  }
  return out;
}

/// A rank's memory, handed out in random shapes with gaps between.
class arena {
 public:
  arena(std::size_t size, int seed) : bytes_(pattern(size, seed)) {}

  template <class Random>
  std::vector<region> list(std::size_t total, Random& random) {
    std::vector<region> out;
    do {
      const std::size_t part = random() % 3 == 0 ? total : random() % (total + 1);
      total -= part;
      index_t rest = static_cast<index_t>(part);
      std::vector<index_t> size;
      for (int d = part == 0 ? 0 : static_cast<int>(random() % 4); d > 0; --d) {
        const auto divisor = static_cast<index_t>(random() % (random() % 4 == 0 ? 200 : 6) + 1);
        if (rest % divisor != 0) continue;
        size.push_back(divisor);
        rest /= divisor;
      }
      size.push_back(rest);
      std::vector<index_t> stride(size.size(), 1);
      index_t span = rest;
      for (std::size_t d = size.size() - 1; d-- > 0; span = stride[d] * size[d])
        stride[d] = span + static_cast<index_t>(random() % 3);
      out.push_back({bytes_.data() + used_, extents(size), extents(stride)});
      used_ += static_cast<std::size_t>(span) + random() % 2;
      REQUIRE(used_ < bytes_.size());
    } while (total > 0);
    return out;
  }
  const bytes& all() const { return bytes_; }
  bytes& all() { return bytes_; }

 private:
  bytes bytes_;
  std::size_t used_ = 0;
};

std::vector<const_region> read_only(const std::vector<region>& list) { return {list.begin(), list.end()}; }

struct copy_case {
  int from_rank;
  int to_rank;
  std::vector<region> from;
  std::vector<region> to;
};

}  // namespace

TEST_CASE("threads_communicator: any shapes arrive as a byte-by-byte copy has them, and nothing else changes") {
  const std::uint32_t seed = 20261123;
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 60; ++round) {
    const int ranks = std::array{1, 2, 3, 4, 8}[index(round) % 5];
    std::vector<arena> memory;
    for (int r = 0; r < ranks; ++r) memory.emplace_back(std::size_t{1} << 19, r);
    // In three phases; the lists of the second start where those of the first ended, so that an order shows.
    std::vector<copy_case> before, transfers, after;
    for (int s = 0; s < ranks; ++s) {
      for (int r = 0; r < ranks; ++r) {
        for (std::size_t m = random() % 4; m > 0; --m) {
          const std::size_t size = random() % 2 == 0 ? random() % 50 : random() % 3000;
          const auto from = memory[index(s)].list(size, random);
          const auto to = memory[index(r)].list(size, random);
          transfers.push_back({s, r, from, to});
          if (random() % 3 == 0) before.push_back({s, s, memory[index(s)].list(size, random), from});
          if (random() % 3 == 0) after.push_back({r, r, to, memory[index(r)].list(size, random)});
        }
      }
    }
    std::vector<bytes> expected;
    for (arena& a : memory) expected.push_back(a.all());
    const auto moved = [&](std::byte* p, int rank) -> std::byte& {
      return expected[index(rank)][static_cast<std::size_t>(p - memory[index(rank)].all().data())];
    };
    for (const auto* phase : {&before, &transfers, &after}) {
      for (const copy_case& c : *phase) {
        const auto from = places(c.from);
        const auto to = places(c.to);
        for (std::size_t i = 0; i < from.size(); ++i) moved(to[i], c.to_rank) = moved(from[i], c.from_rank);
      }
    }
    run_ranks(ranks, [&](threads_communicator& c) {
      threads_batch b = c.open_batch();
      for (const copy_case& t : after) {
        if (t.to_rank == c.rank()) b.copy_after(read_only(t.from), t.to);
      }
      for (const copy_case& t : transfers) {
        if (t.to_rank == c.rank()) b.recv(t.to, t.from_rank);
        if (t.from_rank == c.rank()) b.send(read_only(t.from), t.to_rank);
      }
      for (const copy_case& t : before) {
        if (t.to_rank == c.rank()) b.copy_before(read_only(t.from), t.to);
      }
      c.launch(std::move(b)).wait(0);
    });
    for (int r = 0; r < ranks; ++r) CHECK(memory[index(r)].all() == expected[index(r)]);
  }
}

TEST_CASE("threads_communicator: long strided messages are cut anywhere, in the middle of rows too") {
  const std::uint32_t seed = 77;
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 8; ++round) {
    constexpr std::size_t size = 1'441'440;  // has many divisors
    arena source(std::size_t{1} << 23, 1), target(std::size_t{1} << 23, 2);
    const auto from = source.list(size, random);
    const auto to = target.list(size, random);
    bytes expected = target.all();
    const auto out = places(from);
    const auto in = places(to);
    for (std::size_t i = 0; i < size; ++i) expected[static_cast<std::size_t>(in[i] - target.all().data())] = *out[i];
    run_ranks(2, [&](threads_communicator& c) {
      threads_batch b = c.open_batch();
      if (c.rank() == 0) b.send(read_only(from), 1);
      if (c.rank() == 1) b.recv(to, 0);
      c.launch(std::move(b)).wait(0);
    });
    CHECK(target.all() == expected);
  }
}
