// SPDX-License-Identifier: Apache-2.0
// The figures of unshard-plan, and the program as a whole: its table, JSON, picture, options and exit status.

#include <nlohmann/json.hpp>
#include <unshard/memory.hpp>

#include "testing.hpp"

TEST_CASE("make_report: the smallest budget is one that works, and a byte less is not") {
  for (const char* name : {"minimax-m3", "gpt2", "bert-base-classifier"}) {
    request what;
    what.model = manifest(name);
    what.options.budget = std::size_t{1} << 50;
    const report r = make_report(read_at(what.model), what);
    CHECK(r.chunks.size() == 1);
    what.options.budget = r.least_whole;
    CHECK(make_report(read_at(what.model), what).summary.peak <= r.least_whole);
    --what.options.budget;
    CHECK_THROWS_AS(make_report(read_at(what.model), what), bad_budget);
    what.options.budget = 512 * unshard::MiB;
    what.options.cut = unshard::cut::oversized;
    CHECK(make_report(read_at(what.model), what).summary.peak <= 512 * unshard::MiB);
  }
}

TEST_CASE("unshard-plan: the table has the plan, the peak, one gather and the smallest budget") {
  const result r = run(manifest("minimax-m3") + " --missing --budget 18GiB");
  CHECK(r.status == 0);
  CHECK(contains(r.text, "57 chunks of at most 18.0 GiB, 75 % full (lower bound 43)"));
  CHECK(contains(r.text, "769.5 GiB on every rank"));
  CHECK(contains(r.text, "13.5 GiB on rank 0, nothing on the others"));
  CHECK(contains(r.text, "9663676416 (9.0 GiB) with every tensor whole"));
}

TEST_CASE("unshard-plan: a budget below the largest tensor says what would do, with status 2") {
  const result r = run(manifest("minimax-m3") + " --budget 2GiB");
  CHECK(r.status == 2);
  CHECK(contains(r.text, "--budget 9663676416 or more, or --cut oversized."));
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
  CHECK(contains(run(manifest("gpt2") + " --budget 1GiB --layout dim:x").text, "--layout \"dim:x\": must be dim:N"));
  CHECK(contains(run(manifest("gpt2") + " --budget 1GiB --cut anywhere --packing best_fit").text, "in_order only"));
  CHECK(contains(run(manifest("gpt2") + " --budget 1GiB --cut sometimes").text,
                 "must be one of never, oversized, anywhere"));
  CHECK(contains(run(manifest("gpt2")).text,
                 "--budget (the bytes that a rank may hold, 8GiB say) or --gpu-memory is required"));
  CHECK(contains(run(manifest("gpt2") + " --bugdet 1GiB").text, "--bugdet"));
  CHECK(contains(run(manifest("gpt2") + " --budget 1GiB --missing").text, "no tensor of it is missing"));
  CHECK(run("nowhere.tsv --budget 1GiB").status == 3);
}

TEST_CASE("unshard-plan --budget: bytes with or without a unit, parts of one too, in upper or lower case") {
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
  CHECK(capacity("2G") == 2'147'483'648);
  CHECK(capacity("128mib") == 134'217'728);
  for (const char* wrong :
       {"-5", "2Q", "GiB", "1.5.5GiB", "0x10", "1e9", "\"\"", "9000000TiB", "9223372036854775808"}) {
    const result r = run(manifest("gpt2") + " --budget " + wrong);
    CAPTURE(r.text);
    CHECK(r.status > 100);
    CHECK((contains(r.text, "write bytes as") || contains(r.text, "2^63 - 1") || contains(r.text, "--budget")));
  }
}
