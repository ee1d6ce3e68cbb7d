// Tests of unshard-plan: its readers on good, damaged and hostile files, its figures, and the program as a whole.

#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <unshard/memory.hpp>

#include "report.hpp"

using namespace unshard_plan;  // NOLINT: a test of that namespace

namespace {

namespace fs = std::filesystem;

/// The bytes of a file with this header and so much data behind it.
std::string file_of(const std::string& header, std::size_t data, std::uint64_t announced) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(announced >> (8 * i) & 255);
  return bytes + header + std::string(data, '\0');
}
std::string file_of(const std::string& header, std::size_t data) { return file_of(header, data, header.size()); }

std::vector<tensor> read(const std::string& bytes) {
  std::istringstream in(bytes);
  return read_safetensors(in, bytes.size(), "file");
}

std::string refusal(const std::string& bytes) {
  try {
    read(bytes);
  } catch (const unreadable& e) {
    return e.what();
  }
  return "read without complaint";
}

std::string refusal_of_index(const std::string& text) {
  std::istringstream in(text);
  try {
    read_index(in, "index");
  } catch (const unreadable& e) {
    return e.what();
  }
  return "read without complaint";
}

/// A folder of this test's own, removed afterwards.
struct folder {
  fs::path path;
  folder() : path(fs::temp_directory_path() / "unshard-plan-XXXXXX") {
    std::string name = path.string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  folder(const folder&) = delete;
  folder& operator=(const folder&) = delete;
  ~folder() { fs::remove_all(path); }

  fs::path write(const char* name, const std::string& bytes) const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return path / name;
  }
};

struct result {
  std::string text;  // both streams
  int status;
};

result run(const std::string& arguments) {
  const char* program = std::getenv("UNSHARD_PLAN");
  REQUIRE_MESSAGE(program != nullptr, "run this by meson test");
  FILE* const pipe = popen((std::string(program) + ' ' + arguments + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  result r{{}, 0};
  std::array<char, 4096> part;
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) r.text += part.data();
  r.status = WEXITSTATUS(pclose(pipe));
  return r;
}

std::string manifest(const char* name) { return std::string(std::getenv("MANIFESTS")) + '/' + name + ".tsv"; }

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

const std::string two_tensors =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
    R"("b":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}  )";

}  // namespace

TEST_CASE("read_safetensors: names, dtypes and shapes come as the header has them, in its order") {
  const std::vector<tensor> list = read(file_of(two_tensors, 16));
  REQUIRE(list.size() == 2);
  CHECK(list[0].name == "a");
  CHECK(list[0].shape == unshard::extents{2, 3});
  CHECK(list[0].element_size == 2);
  CHECK(list[1].shape == unshard::extents{});
  CHECK(list[1].dtype == "F32");
}

TEST_CASE("read_safetensors: formats below a byte are counted in bytes along the last dimension") {
  const auto list = read(file_of(R"({"q":{"dtype":"F4","shape":[3,8],"data_offsets":[0,12]}})", 12));
  REQUIRE(list.size() == 1);
  CHECK(list[0].shape == unshard::extents{3, 4});
  CHECK(list[0].element_size == 1);
}

TEST_CASE("read_safetensors: a damaged or hostile file is refused with what was found") {
  const auto tensor_with = [](const char* fields) { return file_of(std::string(R"({"t":{)") + fields + "}}", 4); };
  struct {
    std::string bytes;
    const char* says;
  } const cases[] = {
      {"", "too short"},
      {"1234567", "too short"},
      {file_of("{}", 0, std::uint64_t{1} << 63), "announce a header of 9223372036854775808 bytes"},
      {file_of("{}", 0, ~std::uint64_t{0}), "announce a header of 18446744073709551615 bytes"},
      {file_of("{}", 0, 50), "It is cut short"},
      {file_of("", 0), "does not begin with '{'"},
      {file_of("[]", 0), "does not begin with '{'"},
      {file_of("{", 0), "not valid JSON at byte"},
      {file_of("{}x", 0), "not valid JSON at byte"},
      {file_of(R"({"t")", 0), "not valid JSON at byte"},
      {file_of(two_tensors, 15), "ends at byte 16 of the data; the file has 15"},
      {file_of(two_tensors, 17), "take 16 bytes of data; the file has 17"},
      {file_of(R"({"t":3})", 0), "is no object"},
      {file_of(R"({"t":[]})", 0), "is an array"},
      {tensor_with(R"("dtype":"F32","shape":[1])"), "lacks a dtype, a shape or data_offsets"},
      {tensor_with(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])"), "has dtype \"F33\""},
      {tensor_with(R"("dtype":4,"shape":[1],"data_offsets":[0,4])"), "its dtype is not what the format says"},
      {tensor_with(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])"), "its shape is not"},
      {tensor_with(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), "its shape is not"},
      {tensor_with(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), "its shape is nested"},
      {tensor_with(R"("dtype":"F32","shape":{},"data_offsets":[0,4])"), "its shape is nested"},
      {tensor_with(R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])"), "two shapes"},
      {tensor_with(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"), "exceeds 2^63 - 1"},
      {tensor_with(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"), "exceeds 2^63 - 1"},
      {tensor_with(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"), "more than 8 dimensions"},
      {tensor_with(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), "its shape and dtype take 4 bytes"},
      {tensor_with(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), "its shape and dtype take 4 bytes"},
      {tensor_with(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])"), "more than two data_offsets"},
      {tensor_with(R"("dtype":"F32","shape":[0],"data_offsets":[0,0])"), "take 0 bytes of data; the file has 4"},
      {file_of(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
           4),
       "\"a\" is listed twice"},
      {file_of(
           R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
           4),
       "overlaps the one before"},
      {file_of(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
           4),
       "bytes 1 to 2 of the data belong to no tensor"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.bytes);
    CHECK_MESSAGE(contains(refusal(c.bytes), c.says), refusal(c.bytes));
  }
}

TEST_CASE("read_safetensors: nesting ends at a limit, not at the end of the stack") {
  for (const char* open : {"[", "{\"x\":"}) {
    std::string deep = R"({"__metadata__":)";
    for (int i = 0; i < 1'000'000; ++i) deep += open;
    CHECK(contains(refusal(file_of(deep, 0)), "nested more than 16 deep"));
  }
}

TEST_CASE("read_safetensors: what a name says to a terminal does not reach it") {
  const std::string what = refusal(file_of("{\"\\u001b[2J\":3}", 0));
  CHECK(contains(what, "\\x1b[2J"));
  CHECK(!contains(what, "\x1b"));
}

TEST_CASE("read_index: a file beside the index, and nowhere else") {
  CHECK(contains(refusal_of_index(R"({"weight_map":{"a":"../b.safetensors"}})"), "only a file beside the index"));
  CHECK(contains(refusal_of_index(R"({"weight_map":{"a":"/etc/passwd"}})"), "only a file beside the index"));
  CHECK(contains(refusal_of_index(R"({"weight_map":{"a":""}})"), "only a file beside the index"));
  CHECK(contains(refusal_of_index(R"({"weight_map":{"a":["b"]}})"), "not one object of names"));
  CHECK(contains(refusal_of_index(R"({"weight_map":[]})"), "not one object of names"));
  CHECK(contains(refusal_of_index(R"({"weight_map":7})"), "not one object of names"));
  CHECK(contains(refusal_of_index(R"({"weight_map":{"a":"b","a":"c"}})"), "listed twice"));
  CHECK(contains(refusal_of_index(R"({"metadata":{}})"), "no weight_map"));
  CHECK(contains(refusal_of_index("nonsense"), "not valid JSON"));
}

TEST_CASE("read_model: an index takes each tensor from the header of its file, in the index's order") {
  const folder f;
  f.write("one.safetensors", file_of(two_tensors, 16));
  f.write("two.safetensors", file_of(R"({"c":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}})", 5));
  const auto index =
      f.write("model.safetensors.index.json",
              R"({"metadata":{"total_size":21},"weight_map":{"c":"two.safetensors","a":"one.safetensors"}})");
  const auto list = read_model(index);
  REQUIRE(list.size() == 2);
  CHECK(list[0].name == "c");
  CHECK(list[1].shape == unshard::extents{2, 3});

  CHECK_THROWS_WITH_AS(read_model(f.write("bad.json", R"({"weight_map":{"z":"one.safetensors"}})")),
                       doctest::Contains("whose header has no such name"), unreadable);
  CHECK_THROWS_WITH_AS(read_model(f.write("gone.json", R"({"weight_map":{"z":"none.safetensors"}})")),
                       doctest::Contains("\"none.safetensors\" is not beside it"), unreadable);
  CHECK_THROWS_WITH_AS(read_model(f.path), doctest::Contains("is a folder"), unreadable);
  CHECK_THROWS_WITH_AS(read_model(f.path / "nothing"), doctest::Contains("there is no such file"), unreadable);
}

TEST_CASE("make_report: the smallest budget is one that works, and a byte less is not") {
  for (const char* name : {"minimax-m3", "gpt2", "bert-base-classifier"}) {
    request what;
    what.model = manifest(name);
    what.options.budget = std::size_t{1} << 50;
    const report r = make_report(read_model(what.model), what);
    CHECK(r.chunks.size() == 1);
    what.options.budget = r.least_whole;
    CHECK(make_report(read_model(what.model), what).summary.peak <= r.least_whole);
    --what.options.budget;
    CHECK_THROWS_AS(make_report(read_model(what.model), what), unshard::budget_too_small);
    what.options.budget = 512 * unshard::MiB;
    what.options.cut = unshard::cut::oversized;
    CHECK(make_report(read_model(what.model), what).summary.peak <= 512 * unshard::MiB);
  }
}

TEST_CASE("unshard-plan: the table has the plan, the peak, one gather and the smallest budget") {
  const result r = run(manifest("minimax-m3") + " --missing --budget 18GiB");
  CHECK(r.status == 0);
  CHECK(contains(r.text, "57 chunks of at most 18.0 GiB"));
  CHECK(contains(r.text, "769.5 GiB on every rank"));
  CHECK(contains(r.text, "13.5 GiB on rank 0, nothing on the others"));
  CHECK(contains(r.text, "9663676416 (9.0 GiB) with every tensor whole"));
}

TEST_CASE("unshard-plan: a budget below the largest tensor says what would do, with status 2") {
  const result r = run(manifest("minimax-m3") + " --budget 2GiB");
  CHECK(r.status == 2);
  CHECK(contains(r.text, "--budget 9663676416 or --cut oversized"));
}

TEST_CASE("unshard-plan --json: every byte of every tensor is in one piece of one chunk") {
  const result r = run(manifest("gpt2") + " --budget 16MiB --cut oversized --ranks 3 --layout dim:0 --json");
  REQUIRE(r.status == 0);
  const auto plan = nlohmann::json::parse(r.text);
  std::size_t bytes = 0;
  for (const auto& chunk : plan["chunks"]) {
    for (const auto& piece : chunk["pieces"]) {
      CHECK(piece["offset"].get<std::size_t>() + piece["bytes"].get<std::size_t>() <= plan["capacity"]);
      bytes += piece["bytes"].get<std::size_t>();
    }
  }
  CHECK(bytes == plan["bytes"]);
  CHECK(plan["peak"] <= plan["budget"]);
}

TEST_CASE("unshard-plan --svg: one row a chunk") {
  const folder f;
  const result r =
      run(manifest("gpt2") + " --budget 100MiB --packing best_fit --svg " + (f.path / "plan.svg").string());
  CHECK(r.status == 0);
  std::ifstream in(f.path / "plan.svg");
  const std::string svg(std::istreambuf_iterator<char>(in), {});
  CHECK(svg.starts_with("<svg "));
  CHECK(svg.ends_with("</svg>\n"));
  std::size_t rows = 0;
  for (std::size_t at = svg.find("class='room' x='56' y"); at != std::string::npos; ++rows)
    at = svg.find("class='room' x='56' y", at + 1);
  CHECK(contains(r.text, std::to_string(rows) + " chunks"));
}

TEST_CASE("unshard-plan: a wrong option or file is an error with a reason, not a plan") {
  CHECK(run(manifest("gpt2")).status > 100);
  CHECK(run(manifest("gpt2") + " --budget 1GiB --cut sometimes").status > 100);
  CHECK(run(manifest("gpt2") + " --budget 1GiB --ranks 0").status > 100);
  CHECK(contains(run(manifest("gpt2") + " --budget 1GiB --layout dim:x").text, "--layout \"dim:x\": must be flat"));
  CHECK(contains(run(manifest("gpt2") + " --budget 1GiB --cut anywhere --packing best_fit").text, "in_order only"));
  CHECK(contains(run(manifest("gpt2") + " --budget 1GiB --cut sometimes").text,
                 "must be one of never|oversized|anywhere"));
  CHECK(contains(run(manifest("gpt2")).text, "--budget (the bytes that a rank may hold, 8GiB say) is required"));
  CHECK(contains(run(manifest("gpt2") + " --bugdet 1GiB").text, "--bugdet"));
  CHECK(contains(run(manifest("gpt2") + " --budget 1GiB --missing").text, "marks no tensor as missing"));
  CHECK(run("nowhere.tsv --budget 1GiB").status == 1);
}

TEST_CASE(
    "unshard-plan --budget: bytes with or without a unit, parts of one too; what may mean two things is refused") {
  const auto capacity = [](const std::string& budget) {
    const result r = run(manifest("gpt2") + " --json --budget " + budget);
    REQUIRE_MESSAGE(r.status == 0, r.text);
    return nlohmann::json::parse(r.text)["budget"].get<std::uint64_t>();
  };
  CHECK(capacity("300000000") == 300'000'000);
  CHECK(capacity("1GiB") == 1'073'741'824);
  CHECK(capacity("1.5GiB") == 1'610'612'736);
  CHECK(capacity("\"1.25 GiB\"") == 1'342'177'280);
  CHECK(capacity("2GB") == 2'000'000'000);
  for (const char* wrong :
       {"-5", "2G", "GiB", "1.5.5GiB", "0x10", "1e9", "\"\"", "9000000TiB", "9223372036854775808"}) {
    const result r = run(manifest("gpt2") + " --budget " + wrong);
    CAPTURE(r.text);
    CHECK(r.status > 100);
    CHECK((contains(r.text, "say bytes") || contains(r.text, "2^63 - 1") || contains(r.text, "--budget")));
  }
}
