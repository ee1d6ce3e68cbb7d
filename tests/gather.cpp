// Ordinary and odd uses of chunks() and gather_scope, one promise each.
#include <forward_list>
#include <memory_resource>
#include <numeric>
#include <random>
#if !defined(__clang__)  // clang 14 can't compile libstdc++ 12's views
#include <ranges>
#endif

#include "archetypes.hpp"
#include "small.hpp"

using namespace unshard;

namespace {

/// A layout of a user's own: blocks of `block` elements dealt to the ranks in turn. Nothing optional.
struct block_cyclic {
  extents whole;
  index_t block;
  int n;
  extents shape() const { return whole; }
  extents space() const { return {whole.elements()}; }
  int ranks() const { return n; }
  std::vector<box> boxes_of(int rank) const {
    std::vector<box> mine;
    for (index_t at = rank * block; at < whole.elements(); at += n * block)
      mine.push_back({{at}, {std::min(block, whole.elements() - at)}});
    return mine;
  }
  bool operator==(const block_cyclic&) const = default;
};

struct cyclic_tensor {
  block_cyclic where;
  std::vector<float> mine;
  const block_cyclic& layout() const { return where; }
  std::size_t element_size() const { return sizeof(float); }
  std::span<std::byte> shard() { return std::as_writable_bytes(std::span(mine)); }
};

void fill(const piece& p, float value) {
  for (float& f : p.as<float>()) f = value;
}

}  // namespace

TEST_CASE("in order with nothing cut, every budget gives the bits of no sharding at all, from one generator") {
  const std::vector<index_t> sizes{33, 128, 7, 64, 200, 1, 90};
  std::vector<std::vector<float>> whole;
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  for (index_t n : sizes) {
    normal.reset();
    std::vector<float> value(static_cast<std::size_t>(n));
    for (float& f : value) f = normal(generator);
    whole.push_back(value);
  }
  small::model first(3, sizes);
  std::size_t least = 0;
  try {
    static_cast<void>(make_plan(first.handles(0), {.budget = 1}));
  } catch (const budget_too_small& e) {
    least = e.least;
  }
  CHECK(least == 896);
  for (std::size_t budget = least; budget <= 3072; budget += 128) {
    for (int ranks : {1, 2, 3, 5}) {
      CAPTURE(budget);
      small::model m(ranks, sizes);
      run_ranks(ranks, [&](threads_communicator& comm) {
        std::mt19937 bits(7);
        std::normal_distribution<float> draw;
        for (auto& chunk : chunks(m.handles(comm.rank()), comm, overwrite, {.budget = budget})) {
          for (auto p : chunk) {
            draw.reset();
            for (float& f : p.as<float>()) f = draw(bits);
          }
        }
      });
      for (std::size_t p = 0; p < sizes.size(); ++p) {
        std::vector<float> joined;
        for (auto& rank : m.shards) joined.insert(joined.end(), rank[p].begin(), rank[p].end());
        CHECK(joined == whole[p]);
      }
    }
  }
}

TEST_CASE("a layout of the user's own goes through every access, with nothing optional") {
  for (int ranks : {1, 2, 3, 8}) {
    for (const residency on : {root(0), every_rank}) {
      std::vector<std::vector<float>> after(static_cast<std::size_t>(ranks));
      run_ranks(ranks, [&](threads_communicator& comm) {
        const block_cyclic where{{10, 13}, 7, ranks};
        std::size_t n = 0;
        for (const box& b : where.boxes_of(comm.rank())) n += static_cast<std::size_t>(b.size.elements());
        std::vector<cyclic_tensor> list(1, cyclic_tensor{where, std::vector<float>(n)});
        const options o{.budget = 256, .cut = cut::oversized, .on = on};
        for (auto& chunk : chunks(list, comm, overwrite, o)) {
          for (auto p : chunk) std::iota(p.as<float>().begin(), p.as<float>().end(), static_cast<float>(p.first()));
        }
        for (auto& chunk : chunks(list, comm, read_write, o)) {
          for (auto p : chunk) {
            for (float& f : p.as<float>()) f += 1;
          }
        }
        std::vector<float> seen;
        for (auto& chunk : chunks(list, comm, unshard::read, o)) {
          for (auto p : chunk) seen.insert(seen.end(), p.as<float>().begin(), p.as<float>().end());
        }
        after[static_cast<std::size_t>(comm.rank())] = seen;
      });
      std::vector<float> want(130);
      std::iota(want.begin(), want.end(), 1.0F);
      for (int r = 0; r < ranks; ++r)
        CHECK(after[static_cast<std::size_t>(r)] == (on.holds(r) ? want : std::vector<float>()));
    }
  }
}

TEST_CASE("const models can be read; forward-only ranges, and handles made on the fly, will do") {
  struct tensor {
    std::vector<float> values;
    flat_shard layout() const { return {{static_cast<index_t>(values.size())}, 1}; }
    std::size_t element_size() const { return 4; }
    std::span<const std::byte> shard() const { return std::as_bytes(std::span(values)); }
  };
  run_ranks(1, [](threads_communicator& comm) {
    const std::forward_list<tensor> list{{{1, 2, 3}}, {{4}}, {{}}};
    for (const packing how : {packing::in_order, packing::best_fit}) {
      std::vector<float> seen;
      for (auto& chunk : chunks(list, comm, unshard::read, {.budget = 128, .packing = how})) {
        for (auto p : chunk) seen.insert(seen.end(), p.as<float>().begin(), p.as<float>().end());
      }
      CHECK(seen == std::vector<float>{1, 2, 3, 4});
    }
#if !defined(__clang__)
    std::vector<std::vector<float>> values{{1, 2}, {3}, {4, 5, 6}};
    auto views =
        values | std::views::filter([](const auto& v) { return v.size() > 1; }) | std::views::transform([](auto& v) {
          return parameter_view("v", flat_shard({static_cast<index_t>(v.size())}, 1), 4,
                                std::as_writable_bytes(std::span(v)));
        });
    for (auto& chunk : chunks(views, comm, overwrite, {.budget = 4096})) {
      for (auto p : chunk) {
        CHECK(p.name() == "v");
        fill(p, 9);
      }
    }
    CHECK(values == std::vector<std::vector<float>>{{9, 9}, {3}, {9, 9, 9}});
#endif
  });
}

TEST_CASE("ties: initialised once, both see it; after_write is called for each") {
  struct handle {
    std::vector<float>* storage;
    int* written;
    flat_shard layout() const { return {{static_cast<index_t>(storage->size())}, 1}; }
    std::size_t element_size() const { return 4; }
    std::span<std::byte> shard() const { return std::as_writable_bytes(std::span(*storage)); }
    std::uint64_t identity() const { return reinterpret_cast<std::uintptr_t>(storage); }
    void after_write() const { ++*written; }
  };
  run_ranks(1, [](threads_communicator& comm) {
    std::vector<float> embedding(10), other(3);
    int a = 0, b = 0, c = 0;
    const std::vector<handle> list{{&embedding, &a}, {&other, &b}, {&embedding, &c}};
    int pieces = 0;
    for (auto& chunk : chunks(list, comm, overwrite, {.budget = 4096})) {
      for (auto p : chunk) fill(p, static_cast<float>(++pieces));
    }
    CHECK(pieces == 2);
    CHECK(embedding == std::vector<float>(10, 1.0F));
    CHECK(a == 1);
    CHECK(b == 1);
    CHECK(c == 1);
  });
}

TEST_CASE("memory: a caller's span and a std::pmr resource serve; what does not fit is refused") {
  small::model m(1, {100, 100});
  run_ranks(1, [&](threads_communicator& comm) {
    alignas(128) std::byte bytes[512];
    fixed_memory fixed(bytes);
    std::pmr::monotonic_buffer_resource pool;
    pmr_memory from_pool(static_cast<std::pmr::memory_resource*>(&pool));
    counted_memory counted;
    const options o{.budget = 512};
    for (auto& chunk : chunks(m.handles(0), comm, overwrite, o, fixed)) {
      for (auto p : chunk) {
        CHECK(reinterpret_cast<std::byte*>(p.bytes().data()) == bytes);
        fill(p, 1);
      }
    }
    for (auto& chunk : chunks(m.handles(0), comm, read_write, o, from_pool)) {
      for (auto p : chunk) fill(p, p.as<float>()[0] + 1);
    }
    for (auto& chunk : chunks(m.handles(0), comm, unshard::read, o, counted)) static_cast<void>(chunk);
    CHECK((counted.peak() == 512 && counted.held() == 0 && counted.allocations() == 1));
    CHECK(m.shards[0][1][99] == 2.0F);
    CHECK_THROWS_AS(static_cast<void>(fixed.allocate(513, 1)), out_of_memory);
  });
}

TEST_CASE("the least that each concept admits goes through every template") {
  std::vector<float> values(24, 3.0F);
  archetype::handle one(archetype::flat_layout{{4, 6}, 1}, std::as_writable_bytes(std::span(values)));
  const std::span<archetype::handle> list(std::addressof(one), 1);
  archetype::communicator comm;
  archetype::memory memory;
  const options o{.budget = 1024};
  for (auto& chunk : chunks(list, comm, overwrite, o, memory)) {
    for (auto p : chunk) fill(p, 5);
  }
  for (auto& chunk : chunks(list, comm, read_write, o)) {
    for (auto p : chunk) fill(p, p.as<float>()[23] * 2);
  }
  const auto plan = make_plan(list, o, capabilities_of(comm));
  gather_scope scope(plan, 0, list, comm, unshard::read, {});
  for (auto p : scope) CHECK(p.as<float>()[0] == 10.0F);
  scope.commit();
  CHECK(values.back() == 10.0F);
}

TEST_CASE("events come in order, with bytes") {
  small::model m(2, {128, 128});
  run_ranks(2, [&](threads_communicator& comm) {
    std::vector<event_kind> kinds;
    std::size_t bytes = 0;
    auto log = [&](const event& e) {
      kinds.push_back(e.kind);
      CHECK((e.rank == comm.rank() && e.chunks == 2 && e.total_bytes == 1024));
      if (e.kind == event_kind::committed) bytes += e.chunk_bytes;
      if (e.kind == event_kind::chunk_begun) CHECK(e.held_bytes == (comm.rank() == 0 ? 512u : 0u));
    };
    for (auto& chunk : chunks(m.handles(comm.rank()), comm, read_write, {.budget = 512, .observer = log}))
      static_cast<void>(chunk);
    using enum event_kind;
    CHECK(kinds == std::vector{opened, gather_launched, gathered, chunk_begun, vote_begun, voted, write_back_launched,
                               event_kind::committed, gather_launched, gathered, chunk_begun, vote_begun, voted,
                               write_back_launched, event_kind::committed});
    CHECK(bytes == 1024);
  });
}

TEST_CASE("spread: each rank has a chunk of its own in every round, none where there is none; events tell of both") {
  small::model m(3, {64, 64, 64, 64});  // one a chunk: rounds of three and one
  std::vector<std::vector<std::size_t>> seen(3);
  run_ranks(3, [&](threads_communicator& comm) {
    const auto rank = static_cast<std::size_t>(comm.rank());
    auto log = [&](const event& e) {
      if (e.kind != event_kind::chunk_begun) return;
      CHECK(e.chunks == 2);
      CHECK(e.round_bytes == (e.chunk == 0 ? 768u : 256u));
      CHECK(e.chunk_bytes == (e.chunk == 0 || rank == 0 ? 256u : 0u));
    };
    auto range = chunks(m.handles(comm.rank()), comm, read_write, {.budget = 256, .on = spread, .observer = log});
    for (auto& chunk : range) {
      CHECK(chunk.bytes() == (chunk.empty() ? 0u : 256u));
      for (auto p : chunk) {
        seen[rank].push_back(p.index());
        for (float& f : p.as<float>()) f += 1;
      }
    }
    CHECK(range.committed() == 2);
    CHECK(range.plan().rounds() == 2);
  });
  CHECK(seen == std::vector<std::vector<std::size_t>>{{0, 3}, {1}, {2}});
  for (std::size_t r = 0; r < 3; ++r) {
    for (const auto& shard : m.shards[r]) CHECK(shard[0] == (r == 0 ? 1.0F : r == 1 ? 23.0F : 45.0F));
  }
}

TEST_CASE("spread: a plan runs with the residency that it was made for; an empty list is one round of nothing") {
  small::model m(2, {64, 64});
  const auto spread_plan = make_plan(m.handles(0), {.budget = 256, .on = spread});
  const auto plan = make_plan(m.handles(0), {.budget = 256});
  run_ranks(2, [&](threads_communicator& comm) {
    const auto list = m.handles(comm.rank());
    CHECK_THROWS_AS(static_cast<void>(chunks(spread_plan, list, comm, unshard::read, {.on = every_rank})), bad_options);
    CHECK_THROWS_AS(static_cast<void>(chunks(plan, list, comm, unshard::read, {.on = spread})), bad_options);
    const std::vector<parameter_view> nothing;
    int rounds = 0;
    for (auto& chunk : chunks(nothing, comm, overwrite, {.budget = 256, .on = spread})) {
      CHECK(chunk.empty());
      ++rounds;
    }
    CHECK(rounds == 1);
  });
}

TEST_CASE("agreed_budget: the least of the ranks'") {
  run_ranks(3, [](threads_communicator& comm) {
    CHECK(agreed_budget(comm, 100 - static_cast<std::size_t>(comm.rank())) == 98);
  });
}

TEST_CASE("more ranks than elements, no elements, seven dimensions, scalars") {
  for (int ranks : {1, 4, 9}) {
    std::vector<std::vector<float>> shards(static_cast<std::size_t>(ranks));
    run_ranks(ranks, [&](threads_communicator& comm) {
      std::vector<extents> shapes{{3}, {}, {0, 8}, {2, 1, 3, 1, 2, 1, 2}};
      std::vector<std::vector<float>> mine;
      std::vector<parameter_view> list;
      for (const extents& s : shapes) {
        const flat_shard where(s, ranks);
        mine.emplace_back(static_cast<std::size_t>(where.boxes_of(comm.rank()).begin()->size[0]));
      }
      for (std::size_t i = 0; i < shapes.size(); ++i)
        list.emplace_back("p", flat_shard(shapes[i], ranks), 4, std::as_writable_bytes(std::span(mine[i])));
      for (auto& chunk : chunks(list, comm, overwrite, {.budget = 128, .cut = cut::anywhere, .on = every_rank})) {
        for (auto p : chunk) fill(p, static_cast<float>(p.index() + 1));
      }
      for (std::size_t i = 0; i < mine.size(); ++i) {
        for (float f : mine[i]) CHECK(f == static_cast<float>(i + 1));
      }
    });
  }
}
