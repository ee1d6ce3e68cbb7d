// comm/threads.hpp: regions of any shapes, held to a plain oracle that goes byte by byte.
#include <doctest/doctest.h>

#include <array>
#include <random>
#include <unshard/comm/threads.hpp>

#include "random_copies.hpp"

using namespace unshard;
using namespace engines;

TEST_CASE("threads_communicator: any shapes arrive as a byte-by-byte copy has them, and nothing else changes") {
  const std::uint32_t seed = 20261123;
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 60; ++round) {
    const int ranks = std::array{1, 2, 3, 4, 8}[index(round) % 5];
    const random_copies copies(ranks, 3000, random);
    const std::vector<bytes> expected = copies.moved();
    run_ranks(ranks, [&](threads_communicator& c) {
      threads_batch b = c.open_batch();
      copies.add_to(b, c.rank());
      c.launch(std::move(b)).wait(0);
    });
    for (int r = 0; r < ranks; ++r) CHECK(copies.memory(r) == expected[index(r)]);
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

TEST_CASE(
    "threads_communicator: a batch so large that it goes around the caches arrives whole, in rows of any length") {
  constexpr std::size_t total = detail::threads_work::streams_from + 4097;
  const bytes source = pattern(total, 3);
  for (const std::size_t row : {std::size_t{1000}, std::size_t{63}, std::size_t{4096}, total}) {
    CAPTURE(row);
    const std::size_t gap = row == total ? 0 : 5;
    const std::size_t rows = total / row;
    bytes target((row + gap) * rows + 1, std::byte{0xee});
    bytes expected = target;
    for (std::size_t i = 0; i < rows; ++i)
      std::copy_n(source.data() + i * row, row, expected.data() + 1 + i * (row + gap));
    const const_region from{source.data(), {static_cast<index_t>(rows * row)}, {1}};
    const region to{target.data() + 1,
                    {static_cast<index_t>(rows), static_cast<index_t>(row)},
                    {static_cast<index_t>(row + gap), 1}};
    run_ranks(2, [&](threads_communicator& c) {
      threads_batch b = c.open_batch();
      if (c.rank() == 0) b.send({&from, 1}, 1);
      if (c.rank() == 1) b.recv({&to, 1}, 0);
      c.launch(std::move(b)).wait(0);
    });
    CHECK((target == expected));  // not printed
  }
}
