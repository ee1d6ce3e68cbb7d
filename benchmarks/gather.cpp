// SPDX-License-Identifier: Apache-2.0
// benchmarks/gather: ranges of chunks over threads. The floor is the same copies, from and to the same addresses, split
// evenly over min(ranks, cores) plain threads. Opening, votes and, but for replays, planning are in our time.
//   gather [--part sizes,layouts,small,overlap,verify,ranks,parameters,budgets] [--ranks 2,4,8] [--chunk BYTES] [--to
//   BYTES]
//          [--runs N] [--seconds S] [--json FILE]
// Lines that start with # are comments; #wrong > 0, or a peak over the budget, fails the run.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "../examples/command_line.hpp"
#include "bench.hpp"
#include "cases.hpp"
#include "floor.hpp"
#include "side.hpp"

namespace {

using namespace unshard;
using bench::equal_parts;
using bench::for_each_access;
using bench::row;
using bench::variant;

/// Parameters, their shards on all ranks, and buffers where chunks are held.
class model {
 public:
  model(const std::vector<any_layout>& layouts, const options& o) {
    for (int r = 0; r < layouts.front().ranks(); ++r) sides_.push_back(std::make_unique<bench::side>(layouts, r, o));
    const chunk_plan plan = make_plan(sides_[0]->handles(), o);
    summary_ = plan.summary();
    parts_ = bench::parts_of(plan, sides_[0]->handles(), layouts, bench::element);
    for (auto& s : sides_) {
      s->keep_buffer(summary_.peak);
      s->fill(parts_);
      shards_.push_back(s->shards());
      buffers_.push_back(s->buffer());
    }
  }

  int ranks() const { return static_cast<int>(sides_.size()); }
  const plan_summary& summary() const { return summary_; }
  bench::side& of(const threads_communicator& comm) { return *sides_[static_cast<std::size_t>(comm.rank())]; }

  template <class A, class... More>
  void pass(threads_communicator& comm, A access, More... more) {
    of(comm).pass(comm, access, more...);
  }
  template <class A>
  std::size_t wrong(threads_communicator& comm, A access) {
    return of(comm).wrong(comm, access, parts_);
  }

  template <class A>
  std::vector<std::vector<bench::copy>> copies(A) const {
    std::vector<std::vector<bench::copy>> lists;
    for (const auto& chunk : parts_) {
      if (A::gathers) lists.push_back(bench::gather_copies(chunk, shards_, buffers_));
      if (A::writes) lists.push_back(bench::write_copies(chunk, shards_, buffers_));
    }
    return lists;
  }

  std::size_t peak() const {
    std::size_t most = 0;
    for (const auto& s : sides_) most = std::max(most, s->peak());
    return most;
  }

 private:
  plan_summary summary_;
  std::vector<std::unique_ptr<bench::side>> sides_;
  std::vector<std::byte*> shards_, buffers_;
  std::vector<std::vector<bench::part>> parts_;
};

/// The largest of all ranks' numbers; a barrier.
double most(threads_communicator& comm, double mine) {
  std::vector<double> all(static_cast<std::size_t>(comm.size()));
  comm.exchange(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)), 0);
  return *std::max_element(all.begin(), all.end());
}

row row_of(const std::string& what, const model& m, std::size_t params, const options& o) {
  return {what, m.ranks(), m.summary().bytes, params, m.summary().chunks, o.budget, 0, 0, {}};
}

/// A model against its floor.
template <class A>
row against_floor(const std::string& what, A access, const std::vector<any_layout>& layouts, const options& o,
                  const bench::effort& effort) {
  model m(layouts, o);
  row result = row_of(what, m, layouts.size(), o);
  const auto threads = std::min<std::size_t>(static_cast<std::size_t>(m.ranks()), std::thread::hardware_concurrency());
  bench::copiers bare(threads, m.copies(access));
  std::atomic<std::size_t> wrong{0};
  run_ranks(m.ranks(), [&](threads_communicator& comm) {
    std::vector<variant> variants;
    variants.push_back({"ours", [&] { m.pass(comm, access); }});
    variants.push_back({"copies by plain threads", [&] {
                          if (comm.rank() == 0) bare.run();
                        }});
    bench::alternate(variants, effort, [&](double mine) { return most(comm, mine); });
    wrong += m.wrong(comm, access);
    if (comm.rank() == 0) result.variants = std::move(variants);
  });
  result.peak = m.peak();
  result.wrong = wrong;
  return result;
}

/// 20,000 parameters of 4 to 64 KiB, and the same bytes in 208.
row small_pieces(int ranks, const bench::effort& effort) {
  const options o{.budget = 128 * MiB};
  const auto many = bench::small_parts(ranks);
  model small(many, o), large(equal_parts(bench::small_bytes, 208, ranks), o);
  row result = row_of("20,000 small, read_write root", small, many.size(), o);
  std::atomic<std::size_t> wrong{0};
  run_ranks(ranks, [&](threads_communicator& comm) {
    std::vector<variant> variants;
    variants.push_back({"ours", [&] { small.pass(comm, read_write); }});
    variants.push_back({"ours, 208 large", [&] { large.pass(comm, read_write); }});
    bench::alternate(variants, effort, [&](double mine) { return most(comm, mine); });
    wrong += small.wrong(comm, read_write);
    if (comm.rank() == 0) result.variants = std::move(variants);
  });
  result.peak = small.peak();
  result.wrong = wrong;
  return result;
}

/// What .verify costs; the body fills what it overwrites.
template <class A>
row verified(A access, residency on, std::size_t chunk, const bench::effort& effort) {
  const options with{.budget = chunk, .on = on}, without{.budget = chunk, .on = on, .verify = false};
  model m(equal_parts(chunk, 1, 2), with);
  row result = row_of("verify, " + std::string(A::name) + (on.all() ? " everywhere" : " root"), m, 1, with);
  run_ranks(2, [&](threads_communicator& comm) {
    const auto body = [](auto& c) {
      if constexpr (!A::gathers) {
        for (auto piece : c) std::memset(piece.bytes().data(), 1, piece.bytes().size());
      }
    };
    std::vector<variant> variants;
    variants.push_back({"ours", [&] { m.pass(comm, access, with, body); }});
    variants.push_back({"without", [&] { m.pass(comm, access, without, body); }});
    bench::alternate(variants, effort, [&](double mine) { return most(comm, mine); });
    if (comm.rank() == 0) result.variants = std::move(variants);
  });
  result.peak = m.peak();
  return result;
}

/// A root that computes for as long as a gather takes: two chunks in flight against one.
row overlap(int ranks, std::size_t chunk, const bench::effort& effort) {
  const std::size_t count = 16;
  const options one{.budget = chunk}, two{.budget = 2 * chunk, .in_flight = 2};
  model a(equal_parts(count * chunk, count, ranks), one), b(equal_parts(count * chunk, count, ranks), two);
  row result = row_of("in_flight 2 / 1, read root", b, count, two);
  result.variants.resize(2);
  run_ranks(ranks, [&](threads_communicator& comm) {
    const auto all = [&](double mine) { return most(comm, mine); };
    std::vector<variant> gathers;
    gathers.push_back({"gather", [&] { a.pass(comm, unshard::read); }});
    bench::alternate(gathers, effort, all);
    const double compute = gathers[0].seconds.median() / static_cast<double>(count);
    const auto body = [&](auto&) {
      for (const auto start = bench::clock::now(); bench::seconds_since(start) < compute;) {
      }
    };
    std::vector<variant> variants;
    variants.push_back({"ours", [&] { b.pass(comm, unshard::read, two, body); }});
    variants.push_back({"in_flight 1", [&] { a.pass(comm, unshard::read, one, body); }});
    bench::alternate(variants, effort, all);
    if (comm.rank() == 0) {
      result.variants = std::move(variants);
      result.more["body_us"] = compute * 1e6;
    }
  });
  result.peak = b.peak();
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> parts{"sizes", "layouts", "small", "overlap", "verify", "ranks", "parameters", "budgets"};
  std::vector<int> ranks{2, 4, 8};
  std::size_t chunk = 128 * MiB, to = GiB;
  bench::effort effort;
  std::string json;
  CLI::App app{"Ranges of chunks over threads against the same copies by plain threads."};
  examples::prepare(app);
  app.add_option("--part", parts, "which parts, by comma")->delimiter(',');
  app.add_option("--ranks", ranks, "how many threads, by comma")->delimiter(',');
  examples::add_bytes(app, "--chunk", chunk, "bytes of a chunk");
  examples::add_bytes(app, "--to", to, "largest size, bytes");
  app.add_option("--runs", effort.least, "least runs of each");
  app.add_option("--seconds", effort.seconds, "most seconds for a row that varies");
  examples::add_output(app, "--json", json, "file");
  CLI11_PARSE(app, argc, argv);
  const std::set<std::string> wanted(parts.begin(), parts.end());
  bench::table table("gather", "ranges of chunks over threads; floor: the same copies by plain threads", argc, argv);
  const options plain{.budget = chunk, .verify = false};

  for (const int n : ranks) {
    for (std::size_t size = 4 * KiB; wanted.contains("sizes") && size <= to; size *= 4) {
      options o = plain;
      o.budget = size;
      table.add(against_floor("size, flat read_write root", read_write, equal_parts(size, 1, n), o, effort));
    }
  }
  for (const int n : ranks) {
    if (!wanted.contains("layouts")) break;
    bench::for_each_case(chunk, n, [&](const std::string& what, const any_layout& layout, auto access, residency on) {
      options o = plain;
      o.on = on;
      table.add(against_floor(what, access, {layout}, o, effort));
    });
  }
  for (const int n : ranks) {
    if (wanted.contains("small")) table.add(small_pieces(n, effort));
    if (wanted.contains("overlap")) table.add(overlap(n, chunk, effort));
  }
  if (wanted.contains("verify")) {
    for_each_access([&](auto access) {
      table.add(verified(access, root(0), chunk, effort));
      table.add(verified(access, every_rank, chunk, effort));
    });
  }
  const std::size_t model_bytes = 2 * chunk;
  for (int n = 2; wanted.contains("ranks") && n <= 64; n *= 2) {
    options o = plain;
    o.budget = chunk / 8;
    table.add(against_floor("growth, ranks", read_write, equal_parts(model_bytes, 64, n), o, effort));
  }
  for (std::size_t params = 100; wanted.contains("parameters") && params <= 1'000'000; params *= 10) {
    options o = plain;
    o.alignment = 4;
    table.add(against_floor("growth, parameters", read_write, equal_parts(model_bytes, params, 2), o, effort));
  }
  for (const int share : {1000, 300, 100, 30, 10, 3, 1}) {
    if (!wanted.contains("budgets")) break;
    options o = plain;
    o.budget = model_bytes / static_cast<std::size_t>(share);
    o.cut = cut::anywhere;
    table.add(against_floor("growth, budget", read_write, equal_parts(model_bytes, 256, 2), o, effort));
  }
  return table.finish(json);
}
