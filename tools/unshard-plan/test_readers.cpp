// SPDX-License-Identifier: Apache-2.0
// The readers of unshard-plan on good, damaged and hostile files.

#include "testing.hpp"

TEST_CASE("read_safetensors: names, dtypes and shapes come as the header has them, in its order") {
  const std::vector<tensor> list = read(file_of(two_tensors, 16));
  REQUIRE(list.size() == 2);
  CHECK(list[0].name == "a");
  CHECK(list[0].shape == unshard::extents{2, 3});
  CHECK(list[0].element_size == 2);
  CHECK(list[1].shape == unshard::extents{});
  CHECK(list[1].dtype == "F32");
}

TEST_CASE("read_safetensors: all types of the format, null metadata, over 8 dimensions, and no elements of any shape") {
  const auto size = [](const char* dtype, const char* shape, std::size_t bytes) {
    const auto list = read(file_of(std::string(R"({"__metadata__":null,"w":{"dtype":")") + dtype + R"(","shape":)" +
                                       shape + R"(,"data_offsets":[0,)" + std::to_string(bytes) + "]}}",
                                   bytes));
    REQUIRE(list.size() == 1);
    return static_cast<std::size_t>(list[0].shape.elements()) * list[0].element_size;
  };
  for (const char* dtype : {"F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E4M3", "F8_E5M2", "F8_E8M0", "BOOL", "U8", "I8"})
    CHECK(size(dtype, "[3,5]", 15) == 15);
  for (const char* dtype : {"BF16", "F16", "U16", "I16"}) CHECK(size(dtype, "[3,5]", 30) == 30);
  for (const char* dtype : {"F64", "U64", "I64", "C64"}) CHECK(size(dtype, "[3,5]", 120) == 120);
  for (const char* dtype : {"F6_E2M3", "F6_E3M2"}) CHECK(size(dtype, "[2,2]", 3) == 3);
  CHECK(size("F4", "[2,3]", 3) == 3);  // rows of 12 bits
  CHECK(size("F4", "[0,3]", 0) == 0);
  CHECK(size("F32", "[1,1,1,1,1,1,1,1,2]", 8) == 8);
  CHECK(size("F32", "[0,18446744073709551615]", 0) == 0);
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
      {tensor_with(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"), "exceeds 2^64 bits"},
      {tensor_with(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"), "exceeds 2^64 bits"},
      {tensor_with(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4])"), "its shape is not"},
      {tensor_with(R"("dtype":"F4","shape":[3,3],"data_offsets":[0,4])"), "9 elements of dtype F4 are no whole bytes"},
      {tensor_with(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), "two dtypes"},
      {tensor_with(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4])"), "two data_offsets"},
      {tensor_with(R"("dtype":"bfloat16","shape":[2],"data_offsets":[0,4])"), "has dtype \"bfloat16\""},
      {file_of(std::string("{}") + '\0' + "{]", 0), "has a NUL byte"},
      {file_of(" {}", 0), "does not begin with '{'"},
      {file_of(R"({"__metadata__":{"n":0}})", 0), "no object of strings"},
      {file_of(R"({"__metadata__":{"n":null}})", 0), "no object of strings"},
      {file_of(R"({"__metadata__":{"n":{}}})", 0), "no object of strings"},
      {file_of(R"({"__metadata__":[]})", 0), "no object of strings"},
      {file_of(R"({"__metadata__":"text"})", 0), "no object of strings"},
      {file_of(R"({"__metadata__":true})", 0), "no object of strings"},
      {file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "two __metadata__"},
      {file_of(R"({"e":{"dtype":"F32","shape":[0],"data_offsets":[2,2]},)"
               R"("w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
               4),
       "overlaps the one before"},
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
    std::string deep = R"({"t":{"x":)";
    for (int i = 0; i < 1'000'000; ++i) deep += open;
    CHECK(contains(refusal(file_of(deep, 0)), "nested more than 127 deep"));
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
  const auto list = read_at(index);
  REQUIRE(list.size() == 3);
  CHECK(list[0].name == "c");
  CHECK(list[2].name == "b");  // in a file, though not in the index
  CHECK(list[1].shape == unshard::extents{2, 3});

  CHECK_THROWS_WITH_AS(read_at(f.write("bad.json", R"({"weight_map":{"z":"one.safetensors"}})")),
                       doctest::Contains("whose header has no such name"), unreadable);
  CHECK_THROWS_WITH_AS(read_at(f.write("gone.json", R"({"weight_map":{"z":"none.safetensors"}})")),
                       doctest::Contains("\"none.safetensors\" is not beside it"), unreadable);
  CHECK_THROWS_WITH_AS(read_at(f.path / "nothing"), doctest::Contains("there is no such file"), unreadable);
}

TEST_CASE("read_model: an index that lists less than its files hold says so") {
  const folder f;
  f.write("one.safetensors", file_of(two_tensors, 16));
  notes odd;
  read_model({f.write("model.safetensors.index.json", R"({"weight_map":{"a":"one.safetensors"}})").string()}, odd);
  REQUIRE(odd.size() == 1);
  CHECK(contains(odd[0], "hold 1 tensor that it does not list, \"b\" first; all are counted"));
}

TEST_CASE("read_model: a folder is read by its index, its single file, or all its files") {
  const folder f;
  const std::string c = file_of(R"({"c":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}})", 5);
  CHECK_THROWS_WITH_AS(read_at(f.path), doctest::Contains("holds no .safetensors file."), unreadable);
  f.write("pytorch_model.bin", "PK");
  CHECK_THROWS_WITH_AS(read_at(f.path), doctest::Contains("but PyTorch checkpoints"), unreadable);
  f.write("model-00001-of-00003.safetensors", file_of(two_tensors, 16));
  f.write("model-00002-of-00003.safetensors", c);
  CHECK_THROWS_WITH_AS(read_at(f.path), doctest::Contains("holds 2 of the 3 files"), unreadable);
  f.write("model-00003-of-00003.safetensors", file_of("{}", 0));
  CHECK(read_at(f.path).size() == 3);
  f.write("x.safetensors.index.json", R"({"weight_map":{"c":"model-00002-of-00003.safetensors"}})");
  CHECK(read_at(f.path).size() == 1);
  f.write("y.safetensors.index.json", R"({"weight_map":{}})");
  CHECK_THROWS_WITH_AS(read_at(f.path), doctest::Contains("holds 2 indices"), unreadable);
  f.write("model.safetensors.index.json", R"({"weight_map":{"a":"model-00001-of-00003.safetensors"}})");
  CHECK(read_at(f.path).size() == 2);
}

TEST_CASE("read_model: several inputs are one model; a tensor that two of them have is an error") {
  const folder f;
  const std::string one = f.write("one.safetensors", file_of(two_tensors, 16)).string();
  const std::string list = f.write("list.tsv", "x\tbfloat16\t3\t\t0\ny\ttorch.bfloat16\t3\tx\t0\n").string();
  notes odd;
  const std::vector<tensor> all = read_model({one, list}, odd);
  REQUIRE(all.size() == 4);
  CHECK(all[3].tied_to == 2);
  CHECK_THROWS_WITH_AS(read_model({one, one}, odd), doctest::Contains("tensor \"a\" is in "), unreadable);
}

TEST_CASE("read_model: files of other kinds are named as what they are") {
  const folder f;
  const auto says = [&](const char* name, const std::string& bytes, const char* what) {
    CHECK_THROWS_WITH_AS(read_at(f.write(name, bytes)), doctest::Contains(what), unreadable);
  };
  says("a.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer");
  says("a.tsv", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer");
  says("a.gguf", "GGUF", "GGUF file");
  says("b", "GGUF\x03", "GGUF file");
  says("a.tsv.gz", "\x1f\x8b\x08", "compressed");
  says("a.pt", "PK\x03\x04", "PyTorch checkpoint");
  says("empty.safetensors", "", "too short");
  says("config.json", R"({"hidden_size":1})", "no weight_map");
  CHECK(read_at(f.write("A.SAFETENSORS", file_of(two_tensors, 16))).size() == 2);
  CHECK(read_at(f.write("no-extension", file_of(two_tensors, 16))).size() == 2);
}

TEST_CASE("mark_missing: what the checkpoint lacks, by name and shape; one name of a tie is enough") {
  const auto list = [](const char* text) {
    std::istringstream in(text);
    return read_manifest(in, "list");
  };
  auto model = list("a\tBF16\t3\t\t0\nb\tBF16\t3\ta\t0\nc\tBF16\t4\t\t1\nd\tBF16\t5\t\t1\ne\tBF16\t5\td\t0\n");
  notes odd;
  mark_missing(model, list("b\tF32\t3\t\t0\nc\tBF16\t2x2\t\t0\nz\tBF16\t1\t\t0\n"), odd);
  const bool missing[] = {false, false, true, true, true};
  for (std::size_t i = 0; i < 5; ++i) CHECK(model[i].missing == missing[i]);
  REQUIRE(odd.size() == 2);
  CHECK(contains(odd[0], "1 tensor in another shape, \"c\" first"));
  CHECK(contains(odd[1], "1 tensor that the model does not have"));
}
