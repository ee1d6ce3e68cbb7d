// What the examples are made of: the generator, scaling and sharding, the observers' output.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <string>
#include <unshard/unshard.hpp>
#include <vector>

#include "../examples/initialise_missing/generator.hpp"
#include "../examples/initialise_missing/model.hpp"
#include "../examples/initialise_missing/table.hpp"
#include "../examples/manifest.hpp"
#include "../examples/observers/memory_svg.hpp"
#include "../examples/observers/nvtx.hpp"
#include "../examples/observers/progress.hpp"
#include "../examples/observers/trace.hpp"

using namespace examples;

namespace {

manifest read(const std::string& text) {
  std::istringstream in(text);
  return read_manifest(in, "list.tsv");
}

manifest real_model() { return read_manifest(UNSHARD_SOURCE "/examples/manifests/minimax-m3.tsv"); }

}  // namespace

TEST_CASE("generator: any part of a parameter has the bits that its elements have alone, whatever the element size") {
  for (const std::size_t size : {1u, 2u, 4u, 8u}) {
    CAPTURE(size);
    const generator values(7, "layers.0.w", size);
    std::vector<std::byte> whole(3001 * size);
    values.fill(0, 3001, whole.data());
    CHECK(values.agrees(0, 3001, whole.data()));
    for (const std::int64_t first : {0, 1, 3, 4, 255, 256, 1111}) {
      std::vector<std::byte> part(1500 * size);
      values.fill(first, 1500, part.data());
      CHECK(std::equal(part.begin(), part.end(), whole.begin() + first * static_cast<std::int64_t>(size)));
      std::vector<std::byte> one(8);
      values.element(first, one.data());
      CHECK(std::equal(one.begin(), one.begin() + static_cast<std::ptrdiff_t>(size), part.begin()));
    }
    whole[2000 * size] ^= std::byte{1};
    CHECK_FALSE(values.agrees(0, 3001, whole.data()));
  }
}

TEST_CASE("generator: seed, name and place decide; elements are in range and spread") {
  const auto floats = [](std::uint64_t seed, const char* name, std::int64_t first) {
    std::vector<float> out(4096);
    generator(seed, name, sizeof(float)).fill(first, out.size(), reinterpret_cast<std::byte*>(out.data()));
    return out;
  };
  const std::vector<float> values = floats(1, "a", 0);
  CHECK(values == floats(1, "a", 0));
  CHECK(values != floats(2, "a", 0));
  CHECK(values != floats(1, "b", 0));
  CHECK(values != floats(1, "a", std::int64_t{1} << 40));
  double sum = 0;
  double squares = 0;
  for (const float v : values) {
    REQUIRE((v >= -1.0F / 32 && v < 1.0F / 32));
    sum += v;
    squares += v * v;
  }
  CHECK(std::abs(sum / 4096) < 0.001);  // about 3.5 deviations of the mean
  CHECK(std::abs(std::sqrt(squares / 4096) - 1.0 / 32 / std::sqrt(3.0)) < 0.001);
}

TEST_CASE("scaled_to: about the size that was asked for, and MiniMax-M3 still lacks at least 95 % of it") {
  const manifest real = real_model();
  REQUIRE(real.size() == 1525);
  CHECK(bytes_of(real) == 854080265728);
  for (const std::size_t size : {16 * unshard::MiB, 512 * unshard::MiB, 4 * unshard::GiB}) {
    const manifest small = scaled_to(real, size);
    const auto all = static_cast<double>(bytes_of(small));
    CHECK(all <= static_cast<double>(size));
    if (size >= 512 * unshard::MiB) {
      CHECK(all > 0.98 * static_cast<double>(size));
      CHECK(static_cast<double>(bytes_of(small, true)) >= 0.95 * all);
    }
  }
  CHECK(bytes_of(scaled_to(real, ~std::size_t{0})) == bytes_of(real));
}

TEST_CASE("layouts_of: every way to shard gives each element to somebody, and runs are in the order of the value") {
  const manifest list = read(
      "m.experts.gate\tbfloat16\t6x10x7\t\t1\nm.experts.3.up\tbfloat16\t9x5\t\t1\nm."
      "norm\tfloat32\t13\t\t0\ns\tint8\t\t\t0\n");
  for (const sharding how : {sharding::zero3, sharding::fsdp2, sharding::ragged, sharding::experts}) {
    for (int ranks = 1; ranks <= 7; ++ranks) {
      const std::vector<unshard::any_layout> layouts = layouts_of(list, how, ranks);
      REQUIRE(layouts.size() == list.size());
      for (std::size_t i = 0; i < list.size(); ++i) {
        CHECK(layouts[i].shape() == list[i].shape);
        CHECK(layouts[i].ranks() == ranks);
        std::vector<int> holders(static_cast<std::size_t>(list[i].shape.elements()));
        for (int rank = 0; rank < ranks; ++rank) {
          unshard::index_t last = -1;
          for_each_run(layouts[i], rank, [&](unshard::index_t first, unshard::index_t count) {
            CHECK(first > last);
            for (last = first; last < first + count; ++last) ++holders[static_cast<std::size_t>(last)];
            --last;
          });
        }
        CHECK(std::all_of(holders.begin(), holders.end(), [](int h) { return h == 1; }));
      }
    }
  }
  CHECK(layouts_of(list, sharding::experts, 2)[1] == unshard::any_layout(unshard::owned({9, 5}, 1, 2)));
}

TEST_CASE("sharded_model: agrees only where every missing element is right and no other was touched") {
  sharded_model model(read("a\tfloat32\t10x3\t\t1\nb\tfloat32\t11\t\t0\n"), sharding::zero3, 2);
  model.allocate();
  const auto generator_of = [](std::string_view name, std::size_t size) { return generator(5, name, size); };
  for (int rank = 0; rank < 2; ++rank) {
    model.spoil(rank);
    CHECK_FALSE(model.agrees(rank, generator_of));
    std::vector<tensor> missing = model.missing(rank);
    REQUIRE(missing.size() == 1);
    generator(5, "a", 4).fill(15 * rank, 15, missing[0].shard().data());
    CHECK(model.agrees(rank, generator_of));
    missing[0].shard()[59] ^= std::byte{1};
    CHECK_FALSE(model.agrees(rank, generator_of));
    missing[0].shard()[59] ^= std::byte{1};
    missing[0].shard().data()[64] ^= std::byte{1};  // b's first byte: shards start at multiples of 64
    CHECK_FALSE(model.agrees(rank, generator_of));
  }
}

TEST_CASE("trace: hostile text in a message stays inside its JSON string") {
  trace t;
  const std::string text = "a \"quoted\" \\ name\n\x01\xff";
  t({.kind = unshard::event_kind::failed,
     .rank = 0,
     .chunk = 0,
     .chunks = 1,
     .chunk_bytes = 0,
     .total_bytes = 0,
     .held_bytes = 0,
     .message = text});
  std::ostringstream out;
  t.write(out);
  CHECK(out.str().find(R"("message":"a \"quoted\" \\ name  ?")") != std::string::npos);
}

TEST_CASE("nvtx_ranges: a range that ends early leaves nothing open") {
  nvtx_ranges ranges;
  const auto tell = [&](unshard::event_kind kind) {
    ranges({.kind = kind,
            .rank = 0,
            .chunk = 3,
            .chunks = 9,
            .chunk_bytes = 1,
            .total_bytes = 9,
            .held_bytes = 1,
            .message = {}});
  };
  tell(unshard::event_kind::gather_launched);
  CHECK(ranges.open() == 2);
  tell(unshard::event_kind::discarded);
  CHECK(ranges.open() == 0);
  CHECK(ranges.begun() == 2);
}

TEST_CASE("write_memory_svg: a curve of no steps, one of many, and a budget above them all") {
  memory_timeline empty;
  empty.end();
  memory_timeline busy;
  for (std::size_t i = 0; i < 10'000; ++i) busy.note(i % 2 == 0 ? 1000 + i : 0);
  busy.end();
  const memory_curve curves[] = {{"empty", &empty}, {"busy", &busy}};
  for (const std::size_t budget : {std::size_t{0}, std::size_t{50}, std::size_t{1} << 40}) {
    std::ostringstream out;
    write_memory_svg(out, "title", "subtitle", curves, budget);
    CHECK(out.str().find("nan") == std::string::npos);
    CHECK(out.str().find("inf") == std::string::npos);
    CHECK(out.str().ends_with("</svg>\n"));
    CHECK(out.str().size() < 100'000);
  }
}

TEST_CASE("progress: in a terminal one line that fits it, from the first event on; elsewhere lines of chunks done") {
  const auto written = [](int columns, const char* what, std::size_t chunks) {
    std::FILE* const out = std::tmpfile();
    REQUIRE(out != nullptr);
    {
      progress p(what, 0, out, columns);
      unshard::event e{.kind = unshard::event_kind::opened,
                       .rank = 0,
                       .chunk = 0,
                       .chunks = chunks,
                       .chunk_bytes = 0,
                       .total_bytes = chunks * 1023 * unshard::MiB,
                       .held_bytes = 0,
                       .message = {}};
      p(e);
      e.chunk_bytes = 1023 * unshard::MiB;
      for (e.chunk = 0; e.chunk < chunks; ++e.chunk) {
        for (auto kind : {unshard::event_kind::gather_launched, unshard::event_kind::chunk_begun,
                          unshard::event_kind::write_back_launched, unshard::event_kind::committed}) {
          e.kind = kind;
          p(e);
        }
      }
    }
    std::rewind(out);
    std::string text;
    for (int c = std::fgetc(out); c != EOF; c = std::fgetc(out)) text += static_cast<char>(c);
    std::fclose(out);
    return text;
  };
  for (const int columns : {80, 200, 60, 20}) {
    for (const char* what :
         {"chunks", "one gather of everything", "a name that is longer than any terminal should be"}) {
      const std::string text = written(columns, what, 1);
      CAPTURE(text);
      CHECK(text.front() == '\r');
      CHECK(std::count(text.begin(), text.end(), '\n') == 1);
      CHECK(text.ends_with('\n'));
      std::istringstream updates(text.substr(1));
      for (std::string update; std::getline(updates, update, '\r');) {
        if (update.ends_with('\n')) update.pop_back();
        CHECK(update.size() < static_cast<std::size_t>(std::min(columns, 80)));
      }
      if (columns >= 80 && std::string(what).size() < 30) {
        for (const char* word : {"starting", "gathering", "in the body", "writing back", "100 %", " taken\n"})
          CHECK(text.find(word) != std::string::npos);
      }
    }
  }
  const std::string plain = written(0, "chunks", 3);
  CHECK(plain.find("chunks 100 %, 3.0 GiB of 3.0 GiB, ") == 0);
  CHECK(std::count(plain.begin(), plain.end(), '\n') == 1);
}

TEST_CASE("speed, number_of: in words") {
  CHECK(speed(2.5, 1) == "2.5 times slower");
  CHECK(speed(1, 8.8) == "8.8 times faster");
  CHECK(speed(1, 1.01) == "as fast");
  CHECK(number_of(1, "rank") == "1 rank");
  CHECK(number_of(2, "rank") == "2 ranks");
}
