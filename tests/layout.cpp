// Layouts: boxes, replicas, holders and digests against element-by-element lists; what is wrong is named.
#include <unshard/layout.hpp>

#include <doctest/doctest.h>

#include <map>
#include <set>

#include "oracle.hpp"

using namespace unshard;

namespace {

/// The flat numbers of a rank's elements, in the order of its boxes, by walking the boxes.
oracle::indices walked(const any_layout& l, int rank) {
  oracle::indices out;
  const extents space = l.space();
  for (const box& b : l.boxes_of(rank)) {
    for (index_t i = 0; i < b.size.elements(); ++i) {
      index_t rest = i;
      index_t flat = 0;
      index_t stride = 1;
      for (int d = space.dims() - 1; d >= 0; --d) {
        flat += (b.offset[d] + rest % b.size[d]) * stride;
        rest /= b.size[d];
        stride *= space[d];
      }
      out.push_back(flat);
    }
  }
  return out;
}

template <class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const bad_layout& e) {
    return e.what();
  }
  return "nothing";
}
bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("mesh_shard: replicas are those with equal boxes, whatever digits of the rank the mesh leaves out") {
  int meshes = 0;
  int with_gaps = 0;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    const int ranks = static_cast<int>(roll(1, 40));
    std::vector<mesh_dim> dims;
    for (auto d = roll(0, 3); d > 0; --d) {
      const auto size = static_cast<int>(roll(1, 4));
      dims.push_back({static_cast<int>(roll(0, 1)), size, static_cast<int>(roll.of<index_t>({1, 2, 3, 4, 6, 8, 12}))});
    }
    if (message_of([&] { mesh_shard({5, 7}, dims, ranks); }) != "nothing") continue;
    const mesh_shard mesh({5, 7}, dims, ranks);
    ++meshes;
    for (int r = 0; r < ranks; ++r) {
      std::vector<int> all;
      for (int q = 0; q < ranks; ++q) {
        if (detail::same_boxes(mesh, q, r)) all.push_back(q);
      }
      const rank_list said = mesh.replicas_of(r);
      REQUIRE(std::vector<int>(said.begin(), said.end()) == all);
      with_gaps += all.size() > 2 && all[1] - all[0] != all[2] - all[1] ? 1 : 0;
    }
  }
  REQUIRE(meshes > 300);
  REQUIRE(with_gaps > 300);
}

TEST_CASE("layouts: boxes hold what the framework's own rule says, in its order; replicas and holders are exact") {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    CAPTURE(seed);
    oracle::dice roll(seed);
    const int ranks = static_cast<int>(roll(1, 9));
    oracle::indices shape(static_cast<std::size_t>(roll(0, 3)));
    for (auto& s : shape) s = roll(0, 7);
    const oracle::placed p = oracle::some_layout(shape, ranks, roll);
    REQUIRE(p.layout.ranks() == ranks);
    REQUIRE(p.layout.shape().elements() == oracle::volume(shape));
    for (int r = 0; r < ranks; ++r) {
      REQUIRE(walked(p.layout, r) == p.held[static_cast<std::size_t>(r)]);
      int first = r;  // with the same boxes
      std::vector<int> all;
      for (int q = ranks - 1; q >= 0; --q) {
        if (detail::same_boxes(p.layout, q, r)) first = q, all.insert(all.begin(), q);
      }
      REQUIRE(p.layout.replica_of(r) == first);
      const rank_list said = p.layout.replicas_of(r);
      REQUIRE(std::vector<int>(said.begin(), said.end()) == all);
    }
    for (int tries = 0; tries < 5 && oracle::volume(shape) > 0; ++tries) {
      const index_t from = roll(0, oracle::volume(shape) - 1);
      const index_t to = roll(from + 1, oracle::volume(shape));
      std::vector<int> holders;
      for (int r = 0; r < ranks; ++r) {
        for (index_t i : p.held[static_cast<std::size_t>(r)]) {
          if (i >= from && i < to) {
            holders.push_back(r);
            break;
          }
        }
      }
      const rank_list said = p.layout.ranks_of(from, to - from);
      REQUIRE(std::vector<int>(said.begin(), said.end()) == holders);
    }
  }
}

TEST_CASE("dim_shard: ceil as torch.chunk, balanced as numpy.array_split") {
  const auto sizes = [](split how) {
    std::vector<index_t> out;
    for (int r = 0; r < 4; ++r) out.push_back(dim_shard({5}, 0, 4, how).boxes_of(r).begin()->size[0]);
    return out;
  };
  CHECK(sizes(split::ceil) == std::vector<index_t>{2, 2, 1, 0});
  CHECK(sizes(split::balanced) == std::vector<index_t>{2, 1, 1, 1});
}

TEST_CASE("digests: equal for equal layouts, different for different ones; any_layout has the one it holds") {
  const std::vector<any_layout> some{flat_shard({4, 6}, 2),
                                     flat_shard({6, 4}, 2),
                                     flat_shard({4, 6}, 3),
                                     dim_shard({4, 6}, 0, 2),
                                     dim_shard({4, 6}, 1, 2),
                                     dim_shard({4, 6}, 0, 2, split::balanced),
                                     ragged_shard({4, 6}, {0, 3, 24}),
                                     ragged_shard({4, 6}, {0, 4, 24}),
                                     owned({4, 6}, 0, 2),
                                     owned({4, 6}, 1, 2),
                                     replicated({4, 6}, 2),
                                     mesh_shard({4, 6}, {{0, 2, 1}}, 2),
                                     mesh_shard({4, 6}, {{1, 2, 1}}, 2),
                                     mesh_shard({4, 6}, {{1, 2, 1}}, 4),
                                     box_shard({4, 6}, {{box{{0, 0}, {4, 6}}}, {}}),
                                     box_shard({4, 6}, {{}, {box{{0, 0}, {4, 6}}}}),
                                     on_ranks(flat_shard({4, 6}, 2), 0, 2, 4),
                                     on_ranks(flat_shard({4, 6}, 2), 1, 2, 4),
                                     on_ranks(flat_shard({4, 6}, 2), 0, 1, 4)};
  std::map<std::uint64_t, std::size_t> seen;
  for (std::size_t i = 0; i < some.size(); ++i) {
    const any_layout copy = some[i];
    CHECK(copy == some[i]);
    CHECK(copy.digest() == some[i].digest());
    CHECK_MESSAGE(seen.emplace(some[i].digest(), i).second, "layout ", i, " has the digest of another");
    for (std::size_t j = 0; j < i; ++j) CHECK(some[i] != some[j]);
  }
  CHECK(any_layout(flat_shard({4, 6}, 2)).digest() == flat_shard({4, 6}, 2).digest());
  CHECK(any_layout(on_ranks(on_ranks(flat_shard({8}, 2), 0, 1, 2), 1, 2, 4)) ==
        any_layout(on_ranks(flat_shard({8}, 2), 1, 2, 4)));
  CHECK(any_layout(on_ranks(any_layout(flat_shard({8}, 2)), 1, 2, 4)) ==
        any_layout(on_ranks(flat_shard({8}, 2), 1, 2, 4)));
}

TEST_CASE("box_shard: a hole, an overlap and a box out of range are named, when it is made") {
  using list = std::vector<std::vector<box>>;
  CHECK(has(message_of([] {
              box_shard({4, 4}, list{{box{{0, 0}, {2, 4}}}, {box{{2, 0}, {2, 3}}}});
            }),
            "element [2, 3]"));
  CHECK(has(message_of([] {
              box_shard({4, 4}, list{{box{{0, 0}, {3, 4}}}, {box{{2, 0}, {2, 4}}}});
            }),
            "rank 0's box offset [0, 0] size [3, 4] and rank 1's box offset [2, 0] size [2, 4] overlap"));
  CHECK(has(message_of([] { box_shard({4, 4}, list{{box{{0, 0}, {4, 4}}, box{{4, 0}, {1, 1}}}}); }), "out of range"));
  CHECK(has(message_of([] { box_shard({4}, list{{box{{0, 0}, {4, 1}}}}); }), "out of range"));
  CHECK(message_of([] {
          box_shard({4}, list{{box{{0}, {4}}}, {box{{0}, {4}}}, {box{{4}, {0}}}});
        }) == "nothing");  // a replica, and an empty box
}

TEST_CASE("layouts that contradict themselves are bad_layout") {
  CHECK(has(message_of([] { flat_shard({4}, 0); }), "at least 1"));
  CHECK(has(message_of([] { dim_shard({4}, 1, 2); }), "dimension 1"));
  CHECK(has(message_of([] { ragged_shard({4}, {0, 3, 2, 4}); }), "offset 2 is 2, below the one before, 3"));
  CHECK(has(message_of([] { ragged_shard({4}, {0, 3}); }), "from 0 to 4"));
  CHECK(has(message_of([] { owned({4}, 2, 2); }), "owner 2"));
  CHECK(has(message_of([] { mesh_shard({4}, {{0, 4, 1}}, 2); }), "holes"));
  CHECK(has(message_of([] { mesh_shard({4, 4}, {{0, 2, 1}, {1, 2, 1}}, 2); }), "holes"));
  CHECK(has(message_of([] { on_ranks(flat_shard({4}, 3), 1, 2, 5); }), "do not fit into 5"));
  CHECK(has(message_of([] { static_cast<void>(extents{1, -1}); }), "-1 is negative"));
  CHECK(has(message_of([] { static_cast<void>(extents{1, 1, 1, 1, 1, 1, 1, 1, 1}); }), "9 dimensions"));
}

TEST_CASE("extents: from any integers or a span; constexpr") {
  constexpr extents e{2, 3, 4};
  static_assert(e.dims() == 3 && e[1] == 3 && e.elements() == 24);
  static_assert(extents{}.dims() == 0 && extents{}.elements() == 1);
  const std::size_t n = 7;
  CHECK(extents{n, n} == extents{7, 7});
  const std::vector<index_t> v{2, 3, 4};
  CHECK(extents(v) == e);
  CHECK(extents(std::span<const index_t>(v)) == e);
}
