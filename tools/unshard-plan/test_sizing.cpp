// SPDX-License-Identifier: Apache-2.0
// unshard-plan for whole models: figures worked out by hand, layouts, whether it fits, how long it takes, advice.

#include <nlohmann/json.hpp>
#include <unshard/memory.hpp>

#include "placement.hpp"
#include "testing.hpp"

namespace {

nlohmann::json planned(const std::string& arguments, int status = 0) {
  const result r = run(arguments + " --json");
  REQUIRE_MESSAGE(r.status == status, r.text);
  return nlohmann::json::parse(r.text);
}

void check_80_columns(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) CHECK_MESSAGE(line.size() <= 80, line);
}

/// Llama 3.1 405B by its public configuration: 126 layers of width 16384, 53248 within, 8 key-value heads of 128.
std::string llama_405b() {
  std::string list = "model.embed_tokens.weight\tBF16\t128256x16384\t\t0\n";
  const auto add = [&](const std::string& name, const char* shape) {
    list += name + ".weight\tBF16\t" + shape + "\t\t0\n";
  };
  for (int i = 0; i < 126; ++i) {
    const std::string layer = "model.layers." + std::to_string(i);
    add(layer + ".self_attn.q_proj", "16384x16384");
    add(layer + ".self_attn.k_proj", "1024x16384");
    add(layer + ".self_attn.v_proj", "1024x16384");
    add(layer + ".self_attn.o_proj", "16384x16384");
    add(layer + ".mlp.gate_proj", "53248x16384");
    add(layer + ".mlp.up_proj", "53248x16384");
    add(layer + ".mlp.down_proj", "16384x53248");
    add(layer + ".input_layernorm", "16384");
    add(layer + ".post_attention_layernorm", "16384");
  }
  add("model.norm", "16384");
  add("lm_head", "128256x16384");
  return list;
}

std::vector<tensor> listed(const std::string& text) {
  std::istringstream in(text);
  return read_manifest(in, "list");
}

}  // namespace

TEST_CASE("unshard-plan: a Hugging Face folder of an index and 3 files") {
  const folder f;
  // 1024 + 2048 + 16 + 4096 = 7184 bytes of values.
  f.write("model-00001-of-00003.safetensors",
          file_of(R"({"embed":{"dtype":"BF16","shape":[64,8],"data_offsets":[0,1024]}})", 1024));
  f.write("model-00002-of-00003.safetensors",
          file_of(R"({"layers.0.w":{"dtype":"F32","shape":[32,16],"data_offsets":[0,2048]},)"
                  R"("layers.0.norm":{"dtype":"BF16","shape":[8],"data_offsets":[2048,2064]}})",
                  2064));
  f.write("model-00003-of-00003.safetensors",
          file_of(R"({"head":{"dtype":"F8_E4M3","shape":[64,64],"data_offsets":[0,4096]}})", 4096));
  f.write("model.safetensors.index.json",
          R"({"metadata":{"total_size":7184},"weight_map":{"embed":"model-00001-of-00003.safetensors",)"
          R"("layers.0.w":"model-00002-of-00003.safetensors","layers.0.norm":"model-00002-of-00003.safetensors",)"
          R"("head":"model-00003-of-00003.safetensors"}})");
  const auto plan = planned(f.path.string() + " --budget 4096 --ranks 4");
  CHECK(plan["bytes"] == 7184);
  CHECK(plan["tensors"] == 4);
  CHECK(plan["bytes_at_rest_on_rank_0"] == 7184 / 4);
  CHECK(plan["smallest_budget"] == 4096);
  // In order: 1024 + 2048 + 16 (128 with its alignment) are 3200 of 4096; the head fills a chunk of its own.
  REQUIRE(plan["chunks"].size() == 2);
  CHECK(plan["chunks"][0]["bytes"] == 3088);
  CHECK(plan["chunks"][1]["bytes"] == 4096);
  CHECK(plan["peak"] == 4096);

  // The same by way of its files, and of standard input.
  CHECK(planned(f.path.string() + "/model-0000?-of-00003.safetensors --budget 4KiB --ranks 4")["bytes"] == 7184);
  CHECK(planned("- --budget 4KiB < " + f.path.string() + "/model-00003-of-00003.safetensors")["bytes"] == 4096);
}

TEST_CASE("unshard-plan: MiniMax-M3 on 64 GPUs of 80 GB does not fit with a budget of 80 GB") {
  const std::string model = manifest("minimax-m3") + " --ranks 64 --gpu-memory 80GB";
  const auto none = planned(model + " --budget 80GB", 1);
  // 854,080,265,728 bytes over 64 ranks are 13,345,004,152, and some bytes where elements do not divide.
  const auto rest = none["bytes_at_rest_on_fullest_rank"].get<std::size_t>();
  CHECK(rest >= 13'345'004'152);
  CHECK(rest < 13'345'004'152 + 1525 * 2);
  const std::size_t engine = std::size_t{1} << 30;
  CHECK(none["gpu_memory"]["engine"] == engine);
  CHECK(none["gpu_memory"]["needed"] == rest + none["peak"].get<std::size_t>() + engine);
  CHECK(none["gpu_memory"]["fits"] == false);
  const auto largest = none["gpu_memory"]["largest_budget"].get<std::size_t>();
  CHECK(largest == (80'000'000'000 - rest - engine) / 128 * 128);

  const auto some = planned(model + " --budget " + std::to_string(largest));
  CHECK(some["gpu_memory"]["fits"] == true);
  CHECK(planned(model)["budget"] == largest);  // the default
  CHECK(planned(model + " --engine 30GB")["budget"] == (50'000'000'000 - rest) / 128 * 128);
  const result text = run(model + " --budget 80GB");
  CHECK(text.status == 1);
  CHECK(contains(text.text, "it does NOT fit"));
  CHECK(contains(text.text, "largest budget   " + std::to_string(largest)));
  check_80_columns(text.text);
  const result nothing = run(manifest("minimax-m3") + " --ranks 8 --gpu-memory 80GB");
  CHECK(nothing.status == 2);
  CHECK(contains(nothing.text, "leave nothing of --gpu-memory"));
  CHECK(run(manifest("minimax-m3") + " --ranks 8 --gpu-memory 80GB --budget 10GiB").status == 1);
}

TEST_CASE("unshard-plan: a 405B on a 2-D mesh") {
  const folder f;
  const std::string list = f.write("llama-405b.tsv", llama_405b()).string();
  // 405,853,388,800 parameters; 253 norms of 16384 are vectors, cut 16 ways by FSDP and not by the 8 of TP.
  const std::size_t all = 405'853'388'800;
  const std::size_t norms = std::size_t{253} * 16384;
  const std::size_t at_rest = 2 * ((all - norms) / 128 + norms / 16);
  CHECK(at_rest == 6'341'912'576);
  const auto plan = planned(list + " --ranks 128 --layout fsdp-tp:8 --budget 8GiB --link 50GB/s --latency 10us");
  CHECK(plan["bytes"] == 2 * all);
  CHECK(plan["bytes_at_rest_on_fullest_rank"] == at_rest);
  CHECK(plan["bytes_at_rest_on_rank_0"] == at_rest);
  CHECK(plan["smallest_budget"] == std::size_t{2} * 128256 * 16384);
  // The root's link takes all but what the root holds, and as many messages as others hold parts.
  const double bytes_s = static_cast<double>(2 * all - at_rest) / 50e9;
  CHECK(plan["seconds"]["read"] > bytes_s);
  CHECK(plan["seconds"]["read"] < bytes_s + 1138 * 127 * 10e-6 + 1);
  CHECK(plan["seconds"]["read_write"] > 1.9 * bytes_s);
  // Rows cut by both, without the rule for row-parallel matrices, come to equal bytes: all divides evenly.
  const auto mesh = planned(list + " --ranks 128 --layout mesh:0/16,1/8 --budget 8GiB");
  CHECK(mesh["bytes_at_rest_on_fullest_rank"] == at_rest);
  // HSDP: 4 replicas of 32 shards.
  const auto hsdp = planned(list + " --ranks 128 --layout hsdp:32 --budget 8GiB");
  CHECK(hsdp["bytes_at_rest_on_fullest_rank"] == 2 * all / 32);
}

TEST_CASE("placement: every layout gives each element to somebody, and the fullest rank is the fullest") {
  const std::vector<tensor> model = listed(
      "embed\tBF16\t40x6\t\t0\nlayers.0.mlp.experts.gate_up_proj\tBF16\t5x7x6\t\t0\nlayers.0.o_proj\tF32\t9x10\t\t0\n"
      "layers.1.mlp.experts.3.w1.weight\tBF16\t5x3\t\t0\nlayers.1.norm\tF32\t13\t\t0\nlayers.3.x\tU8\t\t\t0\n"
      "lm_head\tBF16\t40x6\tembed\t0\n");
  const std::pair<const char*, int> words[] = {{"flat", 12},
                                               {"dim:0", 12},
                                               {"dim:1", 12},
                                               {"hsdp:4", 12},
                                               {"fsdp-tp:3", 12},
                                               {"experts:4", 12},
                                               {"mesh:-/2,0/3,1/2", 12},
                                               {"ragged", 12},
                                               {"owned", 12},
                                               {"replicated", 12},
                                               {"flat", 1},
                                               {"experts:1", 1}};
  for (const auto& [word, ranks] : words) {
    for (const int stages : {1, 2, 4}) {
      if (ranks % stages != 0 || (stages > 1 && std::string(word).find(':') != std::string::npos && stages != 2))
        continue;
      std::string text = word;
      if (stages == 2 && text == "mesh:-/2,0/3,1/2") text = "mesh:0/3,1/2";
      if (stages == 2 && text == "hsdp:4") text = "hsdp:2";
      if (stages == 2 && text == "experts:4") text = "experts:3";
      CAPTURE(text);
      CAPTURE(stages);
      const placement p(text, ranks, stages);
      const auto layouts = p.layouts_of(model);
      REQUIRE(layouts.size() == model.size());
      std::vector<std::size_t> bytes(static_cast<std::size_t>(ranks), 0);
      for (std::size_t i = 0; i < model.size(); ++i) {
        CHECK(layouts[i].ranks() == ranks);
        unshard::index_t held = 0;
        for (int rank = 0; rank < ranks; ++rank) {
          unshard::index_t here = 0;
          for (const unshard::box& b : layouts[i].boxes_of(rank)) here += b.size.elements();
          if (layouts[i].replica_of(rank) == rank) held += here;
          if (model[i].tied_to == tensor::none)
            bytes[static_cast<std::size_t>(rank)] += static_cast<std::size_t>(here) * model[i].element_size;
        }
        CHECK(held == model[i].shape.elements());
      }
      const auto rest = p.bytes_at_rest(model, layouts);
      CHECK(rest.fullest == *std::max_element(bytes.begin(), bytes.end()));
      CHECK(rest.rank_0 == bytes[0]);
    }
  }
}

TEST_CASE("placement: stages and experts are on their ranks alone") {
  const std::vector<tensor> model = listed(
      "embed\tBF16\t8x8\t\t0\nlayers.0.mlp.experts.5.w\tBF16\t8x8\t\t0\nlayers.3.w\tBF16\t8x8\t\t0\nlm_"
      "head\tBF16\t8x8\t\t0\n");
  const auto layouts = placement("experts:4", 16, 2).layouts_of(model);
  const auto holders = [&](std::size_t i) {
    std::vector<int> ranks;
    for (int r : layouts[i].ranks_of(0, 64)) ranks.push_back(r);
    return ranks;
  };
  CHECK(holders(0) == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(holders(1) == std::vector<int>{1, 5});  // expert 5 of 4 ranks, halved over the others of the stage
  CHECK(holders(2) == std::vector<int>{8, 9, 10, 11, 12, 13, 14, 15});
  CHECK(holders(3) == holders(2));
}

TEST_CASE(
    "placement: fsdp-tp cuts the columns of row-parallel matrices, the rows of the others, and vectors by FSDP alone") {
  const std::vector<tensor> model =
      listed("layers.0.q_proj.weight\tBF16\t8x16\t\t0\nlayers.0.o_proj.weight\tBF16\t8x16\t\t0\nnorm\tBF16\t8\t\t0\n");
  const auto layouts = placement("fsdp-tp:2", 4, 1).layouts_of(model);
  const unshard::extents sizes[] = {{2, 16}, {4, 8}, {4}};
  for (std::size_t i = 0; i < 3; ++i) CHECK((*layouts[i].boxes_of(0).begin()).size == sizes[i]);
}

TEST_CASE("unshard-plan --layout, --stages: what can't be is an error that says why") {
  const std::string model = manifest("gpt2") + " --budget 1GiB --ranks 12 ";
  const std::pair<const char*, const char*> wrong[] = {
      {"--layout rows", "must be flat, dim:N"},          {"--layout dim:8", "must be dim:N with a number"},
      {"--layout hsdp:5", "5 shards do not divide 12"},  {"--layout fsdp-tp:0", "0 does not divide"},
      {"--layout mesh:0/4,1/2", "its mesh has 8 ranks"}, {"--layout mesh:0", "write a mesh as"},
      {"--layout mesh:0/12,", "write a mesh as"},        {"--layout experts:x", "must be experts:N"},
      {"--stages 5", "--stages 5 does not divide"},      {"--stages 12 --layout hsdp:2", "must be hsdp:N"}};
  for (const auto& [words, says] : wrong) {
    const result r = run(model + words);
    CHECK_MESSAGE(r.status > 100, r.text);
    CHECK_MESSAGE(contains(r.text, says), r.text);
  }
  CHECK(contains(run(manifest("gpt2") + " --budget 1GiB --ranks 24 --stages 24").text, "the model has 12 layers"));
}

TEST_CASE("unshard-plan: advice that helps, in its own words; a tiny budget is refused with the count") {
  const result too_small = run(manifest("minimax-m3") + " --budget 2GiB");
  CHECK(!contains(too_small.text, "unshard::"));
  CHECK(!contains(too_small.text, "make_plan"));
  check_80_columns(too_small.text);
  const auto advises_cut = [](const std::string& arguments) {
    const result r = run(arguments);
    CHECK_MESSAGE(r.status == 2, r.text);
    return contains(r.text, "or --cut oversized");
  };
  CHECK(advises_cut(manifest("minimax-m3") + " --budget 2GiB"));
  CHECK(advises_cut(manifest("minimax-m3") + " --budget 4GiB --in-flight 2"));
  CHECK(!advises_cut(manifest("minimax-m3") + " --budget 64"));                  // under the alignment
  CHECK(!advises_cut(manifest("minimax-m3") + " --budget 64 --cut oversized"));  // it is given
  CHECK(!advises_cut(manifest("minimax-m3") + " --budget 64 --cut anywhere"));
  const folder f;
  const std::string one = f.write("one.tsv", "w\tcomplex128\t\t\t0\n").string();
  CHECK(!advises_cut(one + " --budget 100"));  // one element
  for (const char* cut : {"oversized", "anywhere"}) {
    const result tiny = run(manifest("minimax-m3") + " --budget 512 --cut " + cut);
    CHECK(tiny.status == 2);
    CHECK(contains(tiny.text, "at least 1668125519 chunks of 512 bytes"));
    CHECK(contains(tiny.text, "512MiB?"));
  }
}

TEST_CASE("unshard-plan --missing, --checkpoint: the plan is of what is missing, at rest is the whole model") {
  const auto missing = planned(manifest("minimax-m3") + " --missing --budget 18GiB");
  const auto all = planned(manifest("minimax-m3") + " --budget 18GiB");
  CHECK(missing["tensors"] == 114);
  CHECK(missing["bytes_at_rest_on_rank_0"] == all["bytes_at_rest_on_rank_0"]);
  CHECK(missing["bytes"] < all["bytes"]);
  // The same from two inputs: the list without its packed experts stands for the checkpoint.
  const folder f;
  std::ifstream in(manifest("minimax-m3"));
  std::string kept;
  for (std::string line; std::getline(in, line);) kept += line.ends_with("\t1") ? "" : line + '\n';
  const auto two =
      planned(manifest("minimax-m3") + " --budget 18GiB --checkpoint " + f.write("kept.tsv", kept).string());
  CHECK(two["tensors"] == 114);
  CHECK(two["chunks"] == missing["chunks"]);
}

TEST_CASE(
    "unshard-plan: a pipe without a writer is an error, one with a slow writer is read, and so is standard input") {
  const folder f;
  const std::string pipe = (f.path / "pipe").string();
  REQUIRE(std::system(("mkfifo " + pipe).c_str()) == 0);
  const result none = run(pipe + " --budget 1GiB");
  CHECK(none.status == 3);
  CHECK(contains(none.text, "nobody writes to it"));
  const std::string feed = "(sleep 0.3; cat " + manifest("gpt2") + ") > " + pipe + " & ";
  REQUIRE(std::system(("(" + feed + ") 2>/dev/null").c_str()) == 0);
  CHECK(run(pipe + " --budget 1GiB").status == 0);
  CHECK(run("- --budget 1GiB < " + manifest("gpt2")).status == 0);
  CHECK(run("- --budget 1GiB < /dev/null").status == 3);
}

TEST_CASE("unshard-plan: names and paths reach terminal, SVG and JSON without what acts on them, in 80 columns") {
  const folder f;
  const std::string header = "{\"a\xc2\x9b\\u001b[2J<&>'\\\"\\uffff\xe2\x80\xae" + std::string(300, 'x') +
                             "\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}";
  const std::string path = f.write("p\x1b[31m.safetensors", file_of(header, 16)).string();
  const std::string quoted = "'" + path + "'";
  const std::string svg = (f.path / "a.svg").string();
  for (const std::string& more : {std::string(" --svg ") + svg, std::string(" --json"), std::string(" --layout x")}) {
    const result r = run(quoted + " --budget 1KiB" + more);
    CHECK(!contains(r.text, "\x1b"));
    CHECK(!contains(r.text, "\xc2\x9b"));
    CHECK(!contains(r.text, "\xe2\x80\xae"));
    if (more != " --json") check_80_columns(r.text.substr(r.text.find('\n') + 1));
  }
  CHECK(!contains(run("'\x1b[31m' --budget 1KiB").text, "\x1b"));
  CHECK(!contains(run("x --budget 1KiB '--\x1b[31m'").text, "\x1b"));
  CHECK(std::system(("python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' " + svg).c_str()) == 0);
}

TEST_CASE("unshard-plan: a file that can't be written is an error before the work; --help fits 80 columns") {
  const result r = run("nowhere.tsv --budget 1GiB --svg /nowhere/a.svg");
  CHECK(r.status > 100);
  CHECK(contains(r.text, "--svg: \"/nowhere/a.svg\": this file can't be written."));
  const result help = run("--help");
  CHECK(help.status == 0);
  check_80_columns(help.text);
  CHECK(contains(help.text, "(default: 8)"));
}
