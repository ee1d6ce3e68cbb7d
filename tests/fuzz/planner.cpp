// SPDX-License-Identifier: Apache-2.0
// Any list of sizes and any options give a plan that keeps its promises, or an unshard::error.
#include <unshard/unshard.hpp>
#include <vector>

#include "bytes.hpp"

namespace {

using namespace unshard;

struct parameter {
  index_t elements = 0;
  std::size_t size = 1;
  std::uint64_t group_ = 0, identity_ = 0;
  bool whole = false;

  flat_shard layout() const { return {{elements}, 2}; }
  std::size_t element_size() const { return size; }
  std::span<std::byte> shard() const { return {}; }
  std::uint64_t group() const { return group_; }
  std::uint64_t identity() const { return identity_; }
  bool indivisible() const { return whole; }
};

void check(const std::vector<parameter>& list, const options& o, const capabilities& c, const chunk_plan& plan) {
  const auto depth = static_cast<std::size_t>(o.in_flight);
  const std::size_t factor = c.regions ? depth : 2 * depth;
  require(plan.capacity() <= (o.budget - std::min(o.budget, c.staging)) / factor, "the capacity fits the budget");
  require(plan.summary().peak <= o.budget, "the peak fits the budget");
  std::vector<index_t> next(list.size(), 0);
  std::vector<std::size_t> home(list.size(), SIZE_MAX);
  std::vector<bool> seen(list.size(), false);
  std::size_t total = 0, largest = 0;
  for (std::size_t i = 0; i < plan.chunks(); ++i) {
    std::size_t used = 0;
    std::size_t before = 0;
    for (const planned_piece& p : plan.pieces(i, list)) {
      const parameter& h = list[p.parameter];
      require(p.parameter >= before, "pieces come in the caller's order");
      before = p.parameter;
      require(p.offset % o.alignment == 0 && p.offset >= used, "pieces are aligned and disjoint");
      require(p.offset <= plan.capacity() && p.bytes <= plan.capacity() - p.offset, "a chunk fits the capacity");
      require(p.bytes == static_cast<std::size_t>(p.elements) * h.size, "bytes are elements times size");
      require(p.first == next[p.parameter], "a parameter's pieces come in order, without a hole");
      require(p.elements > 0 || h.elements == 0, "an empty piece is an empty parameter");
      require(h.elements > 0 || !seen[p.parameter], "an empty parameter is one piece");
      const bool cut = p.elements != h.elements;
      require(!cut || (!h.whole && h.group_ == 0 && o.cut != cut::never), "what must stay whole is whole");
      seen[p.parameter] = true;
      home[p.parameter] = i;
      next[p.parameter] += p.elements;
      used = p.offset + p.bytes;
      total += p.bytes;
      if (p.bytes > 0) largest = std::max(largest, used);
    }
  }
  require(total == plan.summary().bytes, "the summary counts every byte once");
  require(largest == plan.summary().largest, "the summary knows the fullest chunk");
  for (std::size_t i = 0; i < list.size(); ++i) {
    bool tied = false;
    for (const auto& [index, first] : plan.ties()) {
      if (index == i) tied = true;
      require(first < index && list[index].identity_ == list[first].identity_, "ties are ties");
    }
    require(seen[i] != tied, "every parameter once, tied ones at the first's place");
    require(tied || next[i] == list[i].elements, "all elements of a parameter");
    if (i > 0 && !tied && seen[i - 1] && list[i].group_ != 0 && list[i].group_ == list[i - 1].group_)
      require(home[i] == home[i - 1], "a group stays in one chunk");
  }
}

/// A plan of 10^12 chunks is no mistake, but takes a while.
bool too_many_chunks(const std::vector<parameter>& list, const options& o, const capabilities& c) {
  if (o.in_flight < 1 || o.budget <= c.staging) return false;
  const double room = static_cast<double>(o.budget - c.staging) / o.in_flight / (c.regions ? 1 : 2);
  double bytes = 0;
  for (const parameter& p : list) bytes += static_cast<double>(p.elements) * static_cast<double>(p.size);
  return bytes > 10'000 * std::max(1.0, room - 2 * static_cast<double>(o.alignment));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz_bytes in(data, size);
  options o;
  o.packing = in.byte() % 2 == 0 ? packing::in_order : packing::best_fit;
  o.cut = static_cast<cut>(in.number(0, 2));
  o.alignment = in.byte() < 250 ? std::size_t{1} << in.number(0, 12) : static_cast<std::size_t>(in.size(INT64_MAX));
  o.in_flight = static_cast<int>(in.number(in.byte() < 250 ? 1 : -2, 4));
  o.budget = static_cast<std::size_t>(in.number(0, in.byte() < 200 ? 100'000 : -1));  // -1: any
  const capabilities c{.regions = in.byte() < 128,
                       .max_operations = static_cast<std::size_t>(in.number(0, 9)),
                       .max_bytes = 0,
                       .staging = in.byte() < 200 ? 0 : static_cast<std::size_t>(in.size(INT64_MAX))};
  std::vector<parameter> list;
  std::uint64_t group = 0;
  while (!in.empty() && list.size() < 200) {
    const std::uint8_t how = in.byte();
    parameter p;
    p.elements = in.size(INT64_MAX);
    p.size = how % 8 == 0 ? static_cast<std::size_t>(in.size(1 << 20)) : std::size_t{1} << (how % 4);
    if (how % 16 == 3) ++group;
    if (how % 4 == 3) p.group_ = group;
    p.identity_ = how % 8 == 5 ? in.number(1, 9) : 0;
    p.whole = how % 8 == 6;
    list.push_back(p);
  }
  if (too_many_chunks(list, o, c)) return 0;
  try {
    check(list, o, c, make_plan(list, o, c));
  } catch (const budget_too_small& e) {
    require(e.least > o.budget, "the least budget is more than what was too small");
    options enough = o;
    enough.budget = e.least;
    if (!too_many_chunks(list, enough, c)) check(list, enough, c, make_plan(list, enough, c));  // exactly it must work
  } catch (const error&) {
  }
  return 0;
}
