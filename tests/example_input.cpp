// What the programs read: the manifest reader, amounts with units, types of elements, text made fit for a terminal.

#include <doctest/doctest.h>

#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <unshard/unshard.hpp>
#include <vector>

#include "../examples/initialise_missing/model.hpp"
#include "../examples/manifest.hpp"
#include "../examples/printable.hpp"
#include "../examples/units.hpp"

using namespace examples;

namespace {

manifest read(const std::string& text) {
  std::istringstream in(text);
  return read_manifest(in, "list.tsv");
}

}  // namespace

TEST_CASE("read_manifest: names, types, shapes, ties and what is missing; comments and blank lines are skipped") {
  const manifest list =
      read("# head\n\na\tbfloat16\t128x6x2\t\t1\r\nb\tfloat32\t\t\t0\nc\tbfloat16\t128x6x2\ta\t0\n#buffer\tx");
  REQUIRE(list.size() == 3);
  CHECK(list[0].name == "a");
  CHECK(list[0].shape == unshard::extents{128, 6, 2});
  CHECK(list[0].element_size == 2);
  CHECK(list[0].missing);
  CHECK(list[1].shape == unshard::extents{});
  CHECK(list[1].bytes() == 4);
  CHECK(list[2].tied_to == 0);
  CHECK(bytes_of(list) == 128 * 6 * 2 * 2 + 4);
  CHECK(bytes_of(list, true) == 128 * 6 * 2 * 2);
}

TEST_CASE("read_manifest: a byte-order mark, either spelling of types, types below a byte, and over 8 dimensions") {
  const manifest list = read(
      "\xef\xbb\xbf"
      "a\tBF16\t3\t\t0\nb\ttorch.float8_e4m3fnuz\t3\t\t0\nc\tcomplex128\t3\t\t0\n"
      "d\tF4\t2x3\t\t0\ne\tF32\t1x1x1x1x1x1x1x2x3\t\t0\nf\tbfloat16\t3\ta\t0\n");
  const std::size_t bytes[] = {6, 3, 48, 3, 24, 6};
  REQUIRE(list.size() == 6);
  for (std::size_t i = 0; i < 6; ++i) CHECK(list[i].bytes() == bytes[i]);
  CHECK(list[0].name == "a");
  CHECK(list[5].tied_to == 0);  // BF16 and bfloat16 are one type
}

TEST_CASE("read_manifest: a malformed line is an error that has its number and says what is wrong") {
  const std::pair<const char*, const char*> lines[] = {
      {"a\tbfloat16\t3", "3 fields; 5 are needed"},
      {"a", "1 field; 5 are needed"},
      {"a\tbfloat16\t3\t\t0\t", "6 fields"},
      {"\tbfloat16\t3\t\t0", "name is empty"},
      {"a\x1b[2J\tbfloat16\t3\t\t0", "can't be printed"},
      {"a\tcomplex\t3\t\t0", "dtype \"complex\" is unknown"},
      {"a\tbfloat16\t3x\t\t0", "numbers with an x between"},
      {"a\tbfloat16\tx3\t\t0", "not a number"},
      {"a\tbfloat16\t-3\t\t0", "not a number"},
      {"a\xc2\x9b\tbfloat16\t3\t\t0", "can't be printed"},
      {"a\tF4\t3x3\t\t0", "9 elements of 4 bits are no whole bytes"},
      {"a\tbfloat16\t99999999999999999999\t\t0", "exceeds 2^63 - 1"},
      {"a\tbfloat16\t4294967296x4294967296\t\t0", "exceed 2^63 - 1"},
      {"a\tfloat32\t4611686018427387904\t\t0", "exceed 2^63 - 1"},
      {"a\tbfloat16\t3\tb\t0", "tied to \"b\", which no earlier line has"},
      {"a\tbfloat16\t3\tfirst\t0", "shape or dtype is another"},
      {"first\tbfloat16\t3\t\t0", "there twice"},
      {"a\tbfloat16\t3\t\tyes", "0 or 1 is needed"},
  };
  for (const auto& [line, what] : lines) {
    try {
      read(std::string("# head\nfirst\tbfloat16\t2\t\t0\n") + line + '\n');
      FAIL(line);
    } catch (const manifest_error& e) {
      CHECK(e.line == 3);
      CHECK(std::string(e.what()).find("list.tsv line 3: ") != std::string::npos);
      CHECK_MESSAGE(std::string(e.what()).find(what) != std::string::npos, e.what());
      CHECK(std::string(e.what()).find('\x1b') == std::string::npos);
    }
  }
  CHECK_THROWS_AS(read_manifest("/no/such/file.tsv"), manifest_error);
  CHECK_THROWS_AS(read_manifest("/"), manifest_error);
}

TEST_CASE("read_manifest: whatever the bytes, a list or a manifest_error; sizes add up in 63 bits") {
  const std::uint32_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  const std::string letters("ab\t\t\t01x29\n\r\0bfloat16", 22);
  for (int round = 0; round < 20'000; ++round) {
    std::string text = "a\tbfloat16\t3x4\t\t0\nb\tint8\t7\t\t1\nc\tint8\t7\tb\t1\n";
    for (auto edits = random() % 6; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      if (random() % 3 == 0)
        text.erase(at, 1);
      else if (random() % 2 == 0)
        text.insert(at, 1, static_cast<char>(random()));
      else
        text[at] = letters[random() % letters.size()];
      if (text.empty()) text.push_back('x');
    }
    try {
      const manifest list = read(text);
      CHECK(bytes_of(list) <= static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max()));
      for (std::size_t i = 0; i < list.size(); ++i) CHECK(list[i].tied_to <= i);
    } catch (const manifest_error&) {
    }
  }
}

TEST_CASE(
    "parse_bytes: with or without a unit, in upper or lower case; what is no amount is refused with what would do") {
  const std::pair<const char*, std::size_t> good[] = {
      {"0", 0},
      {"2147483648", 2147483648},
      {"7B", 7},
      {"64M", 64 * unshard::MiB},
      {"64Mi", 64 * unshard::MiB},
      {"64mib", 64 * unshard::MiB},
      {"64MB", 64'000'000},
      {"1.5GiB", 1536 * unshard::MiB},
      {"1.5gib", 1536 * unshard::MiB},
      {"1.25 GiB", 1280 * unshard::MiB},
      {"20gb", 20'000'000'000},
      {"2T", std::size_t{2} << 40},
      {"1k", 1024},
      {"9223372036854775807", 9223372036854775807},
  };
  for (const auto& g : good) CHECK_MESSAGE(parse_bytes(g.first) == g.second, g.first);
  for (const char* text : {"", "-5", "+5", "GiB", "1.5", "1.5.5GiB", "0x10", "1e9", "64Q", "64MiBs", "5 5", ".5G",
                           "nan", "9223372036854775808", "8388608T", "99999999999999999999"}) {
    CHECK_THROWS_AS_MESSAGE(parse_bytes(text), bad_amount, text);
  }
  CHECK_THROWS_WITH_AS(parse_bytes("5\x1b[2J"), doctest::Contains("\"5\\x1b[2J\": write bytes as"), bad_amount);
}

TEST_CASE("parse_rate, parse_seconds: bytes or bits a second, and times") {
  CHECK(parse_rate("50GB/s") == 50e9);
  CHECK(parse_rate("400Gb/s") == 50e9);
  CHECK(parse_rate("400Gbit/s") == 50e9);
  CHECK(parse_rate("1GiB/s") == 1073741824);
  CHECK(parse_rate("0.5 gB/s") == 5e8);
  for (const char* text : {"", "50GB", "50", "-1GB/s", "0GB/s", "GB/s", "50XB/s"})
    CHECK_THROWS_AS_MESSAGE(parse_rate(text), bad_amount, text);
  CHECK(parse_seconds("10us") == doctest::Approx(1e-5));
  CHECK(parse_seconds("1.5 ms") == doctest::Approx(1.5e-3));
  CHECK(parse_seconds("0s") == 0);
  for (const char* text : {"", "10", "-1us", "us", "3m"})
    CHECK_THROWS_AS_MESSAGE(parse_seconds(text), bad_amount, text);
}

TEST_CASE("printable: nothing that a terminal acts on, valid UTF-8, and the ends of a long name") {
  CHECK(printable("layers.3.w\xc3\xa9") == "layers.3.w\xc3\xa9");
  CHECK(printable("\x1b[2J\n\x7f") == "\\x1b[2J\\x0a\\x7f");
  CHECK(printable("\xc2\x9b") == "\\xc2\\x9b");                                      // C1
  CHECK(printable("\xe2\x80\xae") == "\\xe2\\x80\\xae");                             // right-to-left override
  CHECK(printable("\xff\xc3") == "\\xff\\xc3");                                      // no UTF-8
  CHECK(printable("\xed\xa0\x80\xef\xbf\xbf") == "\\xed\\xa0\\x80\\xef\\xbf\\xbf");  // a surrogate, a non-character
  const std::string name = "model.layers." + std::string(300, 'x') + ".gate_up_proj";
  CHECK(printable(name, 40).size() == 40);
  CHECK(printable(name, 40).starts_with("model.l"));
  CHECK(printable(name, 40).ends_with(".gate_up_proj"));
  std::string wide;
  for (int i = 0; i < 100; ++i) wide += "\xc3\xa9";
  for (std::size_t most = 20; most < 30; ++most) CHECK(printable(printable(wide, most), 99) == printable(wide, most));
}

TEST_CASE("bits_of_dtype, stored: either spelling; whole bytes and at most 8 dimensions come out") {
  for (const dtype_name& d : dtypes) {
    if (!d.safetensors.empty()) CHECK(bits_of_dtype(d.safetensors) == d.bits);
    if (!d.torch.empty()) CHECK(bits_of_dtype("torch." + std::string(d.torch)) == d.bits);
  }
  CHECK(bits_of_dtype("bf16") == 16);
  CHECK(bits_of_dtype("torch.") == 0);
  CHECK(bits_of_dtype("") == 0);
  const auto shape_of = [](std::vector<unshard::index_t> shape, int bits) { return stored(shape, bits).shape; };
  CHECK(shape_of({3, 8}, 4) == unshard::extents{3, 4});
  CHECK(shape_of({2, 3}, 4) == unshard::extents{3});  // rows of 12 bits
  CHECK(shape_of({4, 4}, 6) == unshard::extents{4, 3});
  CHECK(shape_of({1, 2, 1, 1, 1, 1, 1, 3, 1, 5}, 16) == unshard::extents{1, 2, 1, 1, 1, 1, 1, 15});
  CHECK(stored({}, 32).element_size == 4);
  CHECK_THROWS_AS(shape_of({3, 3}, 4), unshard::bad_layout);
}
