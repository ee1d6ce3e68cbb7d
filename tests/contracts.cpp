// SPDX-License-Identifier: Apache-2.0
// What callers declare of a parameter is checked, or said where ranks differ in it: ties, groups, names.
#include "archetypes.hpp"
#include "small.hpp"

using namespace unshard;
using small::has;

namespace {

/// A handle with every optional trait, as data.
struct declared {
  std::span<std::byte> bytes;
  flat_shard where{{4}, 2};
  std::string_view called = "lm_head.weight";
  std::uint64_t tie = 0;
  std::uint64_t together = 0;
  bool uncut = false;
  const flat_shard& layout() const { return where; }
  std::size_t element_size() const { return 4; }
  std::span<std::byte> shard() const { return bytes; }
  std::string_view name() const { return called; }
  std::uint64_t identity() const { return tie; }
  std::uint64_t group() const { return together; }
  bool indivisible() const { return uncut; }
};

/// Two parameters; rank 1 changes its second one. What the ranks were told in the opening.
template <class Change>
small::outcome second_differs(Change change, const options& o = {.budget = 1024}) {
  return small::outcome_of(2, [&](threads_communicator& comm) {
    std::vector<std::byte> a(8), b(8);
    std::vector<declared> m{{a}, {b}};
    if (comm.rank() == 1) change(m);
    for (auto& c : chunks(m, comm, unshard::read, o)) static_cast<void>(c);
  });
}

}  // namespace

TEST_CASE("a mismatch says what differs, whatever it is, and however long the names are") {
  const std::string longest(300, 'x');
  const auto says = [](const small::outcome& o, std::initializer_list<const char*> parts) {
    for (int r : {0, 1}) {
      CHECK(o.is<plan_mismatch>(r));
      CHECK_MESSAGE(has(o.what(r), parts), o.what(r));
    }
  };
  for (const std::string& name : {std::string("w"), longest}) {
    CAPTURE(name);
    const auto with_name = [&](std::vector<declared>& m) { m[1].called = name; };
    const auto tied = second_differs([&](auto& m) {
      with_name(m);
      m[0].tie = m[1].tie = 7;
      m[1].bytes = m[0].bytes;
    });
    says(tied, {"parameter 1 differs", "tied to parameter 0"});
    const auto uncut = second_differs([&](auto& m) {
      with_name(m);
      m[1].uncut = true;
    });
    says(uncut, {"parameter 1 differs", "indivisible"});
    const auto grouped = second_differs([&](auto& m) {
      with_name(m);
      m[1].together = 12;
    });
    says(grouped, {"group 12"});
    const auto larger = second_differs([&](auto& m) {
      with_name(m);
      m[1].where = flat_shard({3}, 2);
    });
    says(larger, {"[4]", "[3]"});
  }
  const auto named = second_differs([](auto& m) { m[1].called = "model.lm_head.weight"; });
  says(named, {"\"lm_head.weight\"", "\"model.lm_head.weight\""});
  const std::string head = longest + ".3." + longest;
  const std::string tail = longest + "." + longest + ".bias";
  const auto ends = small::outcome_of(2, [&](threads_communicator& comm) {
    std::vector<std::byte> a(8);
    std::vector<declared> m{{a}};
    m[0].called = comm.rank() == 0 ? head : tail;
    for (auto& c : chunks(m, comm, unshard::read, {.budget = 1024})) static_cast<void>(c);
  });
  says(ends, {".bias", "..."});
}

TEST_CASE("a mismatch of layouts shows the boxes that differ") {
  const auto o = small::outcome_of(2, [](threads_communicator& comm) {
    std::vector<std::byte> a(16);
    const any_layout where =
        comm.rank() == 0 ? any_layout(flat_shard({4}, 2)) : any_layout(ragged_shard({4}, {0, 1, 4}));
    std::vector<parameter_view> m{{"w", where, 4, a}};
    for (auto& c : chunks(m, comm, unshard::read, {.budget = 1024})) static_cast<void>(c);
  });
  CHECK_MESSAGE(has(o.what(0), {"0 has offset [0] size [2]", "0 has offset [0] size [1]"}), o.what(0));
}

TEST_CASE("options of many digits that differ at their end are shown to differ") {
  const auto o = small::outcome_of(2, [](threads_communicator& comm) {
    std::vector<std::byte> a(8);
    std::vector<declared> m{{a}};
    const options opt{.budget = std::size_t{1} << 61,
                      .packing = packing::best_fit,
                      .alignment = std::size_t{1} << 20,
                      .on = every_rank,
                      .verify = comm.rank() == 0};
    for (auto& c : chunks(m, comm, read_write, opt)) static_cast<void>(c);
  });
  CHECK_MESSAGE(has(o.what(0), {"verify on against verify off"}), o.what(0));
}

TEST_CASE("a message that takes in another rank's carries one rank's tag") {
  const auto o = small::outcome_of(2, [](threads_communicator& comm) {
    std::vector<std::byte> a(comm.rank() == 1 ? 4 : 8);
    std::vector<declared> m{{a}};
    for (auto& c : chunks(m, comm, unshard::read, {.budget = 1024})) static_cast<void>(c);
  });
  CHECK(o.is<bad_shard>(1));
  REQUIRE(o.is<peer_failed>(0));
  const std::string text = o.what(0);
  CHECK_MESSAGE(text.find("[rank") == text.rfind("[rank"), text);
  CHECK_MESSAGE(text.ends_with("[rank 0 of 2]"), text);
}

TEST_CASE("a declared tie whose memory is not one is aliased_parameters under .verify, in every access") {
  const auto run = [](auto access, bool verify) {
    return small::outcome_of(1, [&](threads_communicator& comm) {
      std::vector<std::byte> a(16), b(16);
      std::vector<declared> m{{a, flat_shard({4}, 1)}, {b, flat_shard({4}, 1)}};
      m[0].tie = m[1].tie = 7;
      for (auto& c : chunks(m, comm, access, {.budget = 1024, .verify = verify})) {
        for (auto p : c) {
          if constexpr (decltype(access)::writes) std::fill(p.bytes().begin(), p.bytes().end(), std::byte{1});
        }
      }
    });
  };
  for (const auto& o : {run(unshard::read, true), run(read_write, true), run(overwrite, true)})
    CHECK_MESSAGE((o.is<aliased_parameters>(0) && has(o.what(0), {"parameters 0", "identity", "Tie their memory"})),
                  o.what(0));
  CHECK(run(overwrite, false).what(0).empty());
}

TEST_CASE("a plan is stale where a tie is gone, a group is another, or indivisible has changed") {
  std::vector<std::byte> a(16), b(16);
  const std::vector<declared> before{{a, flat_shard({4}, 1), "a", 7, 3}, {a, flat_shard({4}, 1), "b", 7, 3}};
  const auto replay = [&](auto change) {
    return small::outcome_of(1, [&](threads_communicator& comm) {
      std::vector<declared> m = before;
      const auto plan = make_plan(m, {.budget = 1024});
      change(m);
      for (auto& c : chunks(plan, m, comm, unshard::read, {})) static_cast<void>(c);
    });
  };
  CHECK(replay([](auto&) {}).what(0).empty());
  const auto untied = replay([&](auto& m) { m[1].tie = 0, m[1].bytes = b; });
  CHECK((untied.is<stale_plan>(0) && has(untied.what(0), {"1 \"b\"", "tied to parameter 0 \"a\""})));
  CHECK(replay([&](auto& m) { m[1].tie = 8, m[1].bytes = b; }).is<stale_plan>(0));
  CHECK(replay([&](auto& m) { m[0].tie = m[1].tie = 9; }).what(0).empty());  // which number it is does not matter
  CHECK(replay([](auto& m) { m[0].together = 4; }).is<stale_plan>(0));
  CHECK(replay([](auto& m) { m[0].uncut = true; }).is<stale_plan>(0));
}

namespace {

struct plain : parameter_view {
  using parameter_view::parameter_view;
};
struct shard_by_value : plain {
  std::vector<std::byte> shard() const { return {}; }
};
struct shard_by_reference : plain {
  std::vector<std::byte>& shard() const {
    static std::vector<std::byte> one;
    return one;
  }
};
struct shard_of_floats : plain {
  std::span<float> shard() const { return {}; }
};
struct name_by_value : plain {
  std::string name() const { return "w"; }
};
struct name_by_reference : plain {
  const std::string& name() const {
    static const std::string one;
    return one;
  }
};
struct name_as_pointer : plain {
  const char* name() const { return "w"; }
};
struct name_of_nothing : plain {
  void name() const {}
};
struct identity_as_pointer : plain {
  const void* identity() const { return nullptr; }
};
struct identity_as_enum : plain {
  enum class which { none, first };
  which identity() const { return which::first; }
};
struct identity_as_double : plain {
  double identity() const { return 1; }
};
struct group_as_text : plain {
  std::string_view group() const { return ""; }
};
struct indivisible_as_pointer : plain {
  const char* indivisible() const { return "no"; }
};
struct identity_not_const : plain {
  using plain::plain;
  std::uint64_t identity() { return 5; }
};
static_assert(parameter_handle<shard_by_reference> && writable_parameter<shard_by_reference>);
static_assert(!parameter_handle<shard_by_value> && !parameter_handle<shard_of_floats>);
static_assert(parameter_handle<name_by_reference> && parameter_handle<name_as_pointer>);
static_assert(!parameter_handle<name_by_value> && !parameter_handle<name_of_nothing>);
static_assert(parameter_handle<identity_as_enum>);
static_assert(!parameter_handle<identity_as_pointer> && !parameter_handle<identity_as_double>);
static_assert(!parameter_handle<group_as_text> && !parameter_handle<indivisible_as_pointer>);

}  // namespace

TEST_CASE("a trait that is a member without const is seen, not left out in silence") {
  std::vector<std::byte> a(16);
  std::vector<identity_not_const> m;
  for (int i = 0; i < 2; ++i) m.emplace_back("w", flat_shard({4}, 1), 4, a);
  CHECK(make_plan(m, {.budget = 64, .alignment = 16}).summary().bytes == 16);
}

// A user's own helpers by the names of the library's, found where a call is not qualified.
namespace theirs {
struct tensor : declared {};
template <class P>
int name_of(P&) {
  return 0;
}
template <class P>
int size_of(P&) {
  return 0;
}
template <class P>
int identity_of(P&) {
  return 0;
}
template <class P>
int group_of(P&) {
  return 0;
}
template <class P>
int indivisible_of(P&) {
  return 0;
}
struct layout : archetype::flat_layout {
  bool operator==(const layout&) const = default;
};
template <class L>
int digest_of(const L&) {
  return 0;
}
template <class L>
int held_of(const L&, int, index_t, index_t) {
  return 0;
}
template <class L>
int ranks_of(const L&, index_t, index_t) {
  return 0;
}
template <class L>
int replica_of(const L&, int) {
  return 0;
}
template <class L>
int replicas_of(const L&, int, index_t, index_t) {
  return 0;
}
template <class L>
int same_boxes(const L&, int, int) {
  return 0;
}
struct own : parameter_view {
  using parameter_view::parameter_view;
  theirs::layout where;
  const theirs::layout& layout() const { return where; }
};
template <class... T>
int make_plan(const T&...) {
  return 0;
}
}  // namespace theirs

TEST_CASE("a user's own name_of, size_of and their like are not found") {
  run_ranks(2, [](threads_communicator& comm) {
    std::vector<std::byte> a(8);
    std::vector<theirs::tensor> list{{{a}}};
    std::vector<theirs::own> own;
    own.emplace_back("w", flat_shard({4}, 2), 4, a);
    own[0].where.whole = {4};
    own[0].where.n = 2;
    std::size_t seen = 0;
    for (auto& c : chunks(list, comm, unshard::read, {.budget = 1024})) seen += c.bytes();
    for (auto& c : chunks(own, comm, read_write, {.budget = 1024, .on = every_rank})) seen += c.bytes();
    CHECK(seen == 32);
  });
}

namespace {
int heard = 0;
void on_event(const event& e) { heard += e.kind == event_kind::committed ? 1 : 0; }
int on_event_too(const event& e) noexcept { return heard += e.kind == event_kind::committed ? 1 : 0; }
}  // namespace

TEST_CASE("a plain function observes a range: by name, by address, whatever it returns; nothing is kept of a pointer") {
  run_ranks(1, [](threads_communicator& comm) {
    std::vector<std::byte> a(16);
    std::vector<const_parameter_view> list{{"w", flat_shard({4}, 1), 4, a}};
    void (*const pointer)(const event&) = on_event;
    for (const observer o : {observer(on_event), observer(&on_event), observer(on_event_too), observer(pointer)}) {
      heard = 0;
      for (auto& c : chunks(list, comm, unshard::read, {.budget = 64, .alignment = 16, .observer = o}))
        static_cast<void>(c);
      CHECK(heard == 1);
    }
    heard = 0;
    for (auto& c : chunks(list, comm, unshard::read, {.budget = 128, .observer = on_event})) static_cast<void>(c);
    CHECK(heard == 1);
  });
}
