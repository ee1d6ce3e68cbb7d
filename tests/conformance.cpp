// The kit passes the project's own communicators and layouts, and catches each wrong one by name.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <unshard/comm/threads.hpp>
#include <unshard/testing/conformance.hpp>
#include <unshard/testing/mock.hpp>
#include <vector>

#include "mailbox.hpp"

using namespace unshard;

namespace {

std::string text_of(const std::vector<finding>& findings) {
  std::string out;
  for (const finding& f : findings) out += f.check + " -- " + f.what + "\n";
  return out;
}

// Wrong engines: the mailbox, with one mistake each. W<communicator> is made of a mailbox and a rank.

template <class Batch>
struct mistaken : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  Batch open_batch() { return Batch{{}, rank(), size()}; }
  auto launch(Batch b) { return mailbox_communicator::launch(std::move(b)); }
};

struct basic_batch : mailbox_communicator::batch {
  basic_batch(mailbox_communicator::batch b, int r, int s)
      : mailbox_communicator::batch(std::move(b)), rank(r), size(s) {}
  int rank, size;
};

struct short_batch : basic_batch {
  using basic_batch::basic_batch;
  void send(std::span<const const_region> f, int peer) {
    const_region r = f[0];
    --r.size[0];
    basic_batch::send({&r, 1}, peer);
  }
  void recv(std::span<const region> t, int peer) {
    region r = t[0];
    --r.size[0];
    basic_batch::recv({&r, 1}, peer);
  }
};
using drops_a_byte = mistaken<short_batch>;

struct swapped_batch : basic_batch {
  using basic_batch::basic_batch;
  int other(int peer) const {  // of three ranks or more: one of the two others for the other
    const int p = peer - rank;
    return (rank - p + size) % size;
  }
  void send(std::span<const const_region> f, int peer) { basic_batch::send(f, other(peer)); }
};
using swaps_peers = mistaken<swapped_batch>;

struct reversed_batch : basic_batch {
  using basic_batch::basic_batch;
  void send(std::span<const const_region> f, int peer) {
    basic_batch::send(f, peer);
    std::rotate(list.begin(), list.end() - 1, list.end());
  }
};
using reverses_messages = mistaken<reversed_batch>;

struct impatient_batch : basic_batch {
  using basic_batch::basic_batch;
  void copy_after(std::span<const const_region> f, std::span<const region> t) { basic_batch::copy_before(f, t); }
};
using unpacks_too_early = mistaken<impatient_batch>;

struct launches_early : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  struct batch : mailbox_communicator::batch {
    launches_early* engine;
    void send(std::span<const const_region> f, int peer) {
      mailbox_communicator::batch now;
      now.send(f, peer);
      static_cast<void>(engine->mailbox_communicator::launch(std::move(now)));
    }
  };
  batch open_batch() { return {{}, this}; }
  done launch(batch b) { return mailbox_communicator::launch(std::move(b)); }
};

struct waits_for_nothing : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  struct done {
    mailbox_communicator::done inner;
    bool ready() const { return true; }
    void wait(int) {}
  };
  done launch(batch b) { return {mailbox_communicator::launch(std::move(b))}; }
};

struct returns_early : mailbox_communicator {
  returns_early(mailbox& box, int rank) : mailbox_communicator(box, rank), shared(&box) {}
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int) {
    const std::lock_guard lock(shared->mutex);
    shared->check();
    shared->words[static_cast<std::size_t>(rank())].assign(mine.begin(), mine.end());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto& word = shared->words[i / mine.size()];
      if (i % mine.size() < word.size()) all[i] = word[i % mine.size()];
    }
  }
  mailbox* shared;
};

struct reversed_words : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    mailbox_communicator::exchange(mine, all, timeout_ms);
    std::reverse(all.begin(), all.end());
  }
};

struct aborts_alone : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  void abort(std::string_view) noexcept {}
};

struct forgets_why : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  void abort(std::string_view) noexcept { mailbox_communicator::abort("something"); }
};

struct blames_the_device : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    try {
      mailbox_communicator::exchange(mine, all, timeout_ms);
    } catch (const peer_timeout& e) {
      throw device_failed(e.what());
    }
  }
};

struct blames_a_peer : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    try {
      mailbox_communicator::exchange(mine, all, timeout_ms);
    } catch (const peer_timeout& e) {
      throw peer_failed(e.what(), 0);
    }
  }
};

struct everyone_is_first : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  int rank() const { return 0; }
};

struct promises_regions : mailbox_communicator {  // and then takes the first of a list
  using mailbox_communicator::mailbox_communicator;
  struct batch : mailbox_communicator::batch {
    void send(std::span<const const_region> f, int peer) { mailbox_communicator::batch::send(f.first(1), peer); }
    void recv(std::span<const region> t, int peer) { mailbox_communicator::batch::recv(t.first(1), peer); }
  };
  unshard::capabilities capabilities() const { return {}; }
  batch open_batch() { return {}; }
  done launch(batch b) { return mailbox_communicator::launch(std::move(b)); }
};

struct one_operation : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  unshard::capabilities capabilities() const { return {.max_operations = 1}; }
};

struct takes_any_length : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  struct batch : mailbox_communicator::batch {
    void recv(std::span<const region> t, int peer) {
      region r = t[0];
      if (r.size[0] == 9) r.size[0] = 8;
      mailbox_communicator::batch::recv({&r, 1}, peer);
    }
  };
  batch open_batch() { return {}; }
  done launch(batch b) { return mailbox_communicator::launch(std::move(b)); }
};

struct matches_by_length : mailbox_communicator {  // messages of one pair, whatever their order
  using mailbox_communicator::mailbox_communicator;
  done launch(batch b) {
    const auto copies = [](const operation& o) { return o.to < 0 && o.from < 0; };
    const auto length = [](const operation& o) { return o.to >= 0 ? bytes_of(o.source) : bytes_of(o.target); };
    if (std::none_of(b.list.begin(), b.list.end(), copies))
      std::stable_sort(b.list.begin(), b.list.end(),
                       [&](const operation& x, const operation& y) { return length(x) < length(y); });
    return mailbox_communicator::launch(std::move(b));
  }
};

struct wrong_root : mailbox_communicator {  // its broadcast comes from rank 0, always
  using mailbox_communicator::mailbox_communicator;
  struct batch : mailbox_communicator::batch {
    int rank, size;
    void broadcast(std::byte* buffer, std::size_t bytes, int) {
      const region run{buffer, {static_cast<index_t>(bytes)}, {1}};
      const const_region from = run;
      for (int r = 1; r < size && rank == 0; ++r) send({&from, 1}, r);
      if (rank != 0) recv({&run, 1}, 0);
    }
  };
  batch open_batch() { return {{}, rank(), size()}; }
  done launch(batch b) { return mailbox_communicator::launch(std::move(b)); }
};

template <class C>
auto many = [](int n, auto f) {
  mailbox box(n);
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r) {
    threads.emplace_back([&, r] {
      C comm(box, r);
      f(comm);
    });
  }
  for (std::thread& t : threads) t.join();
};

struct wrong_engine {
  const char* caught_by;
  std::vector<finding> (*check)();
};
template <class C>
wrong_engine wrong(const char* caught_by) {
  return {caught_by, [] { return check_communicator(many<C>, 200); }};
}

// Wrong layouts: rows of a matrix over three ranks, with one mistake each.

struct rows {
  index_t n = 9;
  int shift = 0;  // of the box of rank 1
  int grow = 0;
  extents shape() const { return {n, index_t{4}}; }
  extents space() const { return shape(); }
  int ranks() const { return 3; }
  std::vector<box> boxes_of(int r) const {
    return {{{n / 3 * r + (r == 1 ? shift : 0), index_t{0}}, {n / 3 + (r == 1 ? grow : 0), index_t{4}}}};
  }
  bool operator==(const rows&) const = default;
};
struct wrong_space : rows {
  extents space() const { return {n, index_t{5}}; }
  bool operator==(const wrong_space&) const = default;
};
struct random_digest : rows {
  std::uint64_t digest() const { return ++count; }
  bool operator==(const random_digest&) const { return true; }
  static inline std::uint64_t count = 0;
};
struct lone_replica : rows {
  int replica_of(int) const { return 0; }
  bool operator==(const lone_replica&) const = default;
};
struct lonely_replicas : rows {
  std::vector<int> replicas_of(int r) const { return {r, (r + 1) % 3}; }
  bool operator==(const lonely_replicas&) const = default;
};
struct forgets_a_rank : rows {
  std::vector<int> ranks_of(index_t, index_t) const { return {0, 1}; }
  bool operator==(const forgets_a_rank&) const = default;
};
struct unequal : rows {
  bool operator==(const unequal&) const { return false; }
};
struct throws : rows {
  std::vector<box> boxes_of(int) const { throw error("no"); }
  bool operator==(const throws&) const = default;
};

template <class L>
void layout_caught(const L& l, const char* check) {
  static_assert(shard_layout<L>);
  const auto findings = check_layout(l);
  INFO(text_of(findings));
  CHECK(found(findings, check));
}

struct tensor {
  flat_shard layout_{{index_t{10}}, 3};
  std::vector<std::byte> bytes = std::vector<std::byte>(16);
  std::string text = "w";
  mutable int asked = 0;
  bool moving = false, fickle = false;
  std::size_t element = 4;

  flat_shard layout() const { return fickle && ++asked % 2 == 0 ? flat_shard({index_t{11}}, 3) : layout_; }
  std::size_t element_size() const { return element; }
  std::span<std::byte> shard() { return std::span(bytes).subspan(moving && ++asked % 2 == 0 ? 1 : 0); }
  std::string_view name() const { return text; }
};

}  // namespace

TEST_CASE("check_communicator: the mailbox keeps all promises") {
  const auto findings = check_communicator(many<mailbox_communicator>);
  CHECK_MESSAGE(findings.empty(), text_of(findings));
}

TEST_CASE("check_communicator: the threads communicator keeps all promises, as run_ranks and as a group") {
  auto findings = check_communicator([](int n, auto f) { run_ranks(n, f); });
  CHECK_MESSAGE(findings.empty(), text_of(findings));
  findings = check_communicator([](int n) { return threads_group(n); });
  CHECK_MESSAGE(findings.empty(), text_of(findings));
}

TEST_CASE("check_communicator: where ranks are processes, make() gives this one's, and so it does for threads") {
  run_ranks(3, [](threads_communicator& outer) {
    // Group number k of three, made together by whoever comes first.
    static std::mutex mutex;
    static std::vector<std::unique_ptr<threads_group>> groups;
    std::size_t k = 0;
    const auto findings = check_communicator([&] {
      const std::lock_guard lock(mutex);
      if (groups.size() == k) groups.push_back(std::make_unique<threads_group>(3));
      return groups[k++]->communicator(outer.rank());
    });
    CHECK_MESSAGE(findings.empty(), text_of(findings));
  });
}

TEST_CASE("check_communicator: a mock over an engine is an engine") {
  auto findings = check_communicator([](int n, auto f) {
    run_ranks(n, [&](threads_communicator& c) {
      mock_communicator mock(c);
      f(mock);
    });
  });
  CHECK_MESSAGE(findings.empty(), text_of(findings));
}

TEST_CASE("check_communicator: each wrong engine is caught by name") {
  constexpr const char* exchange = "communicator: exchange gives every word, in the order of the ranks";
  constexpr const char* arrives = "communicator: what is sent arrives, at the right rank, and nothing else changes";
  constexpr const char* aborted = "communicator: abort wakes the others with the reason, and then every call throws";
  constexpr const char* numbered = "communicator: ranks are numbered and capabilities agree";
  const wrong_engine engines[] = {
      wrong<drops_a_byte>(arrives),
      wrong<swaps_peers>(arrives),
      wrong<reverses_messages>("communicator: messages between two ranks keep their order"),
      wrong<unpacks_too_early>("communicator: copies run before and after the transfers"),
      wrong<launches_early>("communicator: nothing moves before launch"),
      wrong<waits_for_nothing>("communicator: wait waits for the bytes"),
      wrong<returns_early>(exchange),
      wrong<reversed_words>(exchange),
      wrong<aborts_alone>(aborted),
      wrong<forgets_why>(aborted),
      wrong<blames_the_device>("communicator: exchange throws peer_timeout, and then every call throws"),
      wrong<blames_a_peer>("communicator: exchange throws peer_timeout, and then every call throws"),
      wrong<everyone_is_first>(numbered),
      wrong<one_operation>(numbered),
      wrong<promises_regions>("communicator: strided regions keep their row-major order"),
      wrong<takes_any_length>("communicator: two ends of different length are an error"),
      wrong<matches_by_length>("communicator: two messages whose lengths are swapped at one end are an error"),
      wrong<wrong_root>("communicator: the optional collectives do what they say"),
  };
  // All at once: they spend their time waiting.
  std::vector<std::vector<finding>> findings(std::size(engines));
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < std::size(engines); ++i)
    threads.emplace_back([&, i] { findings[i] = engines[i].check(); });
  for (std::thread& t : threads) t.join();
  for (std::size_t i = 0; i < std::size(engines); ++i)
    CHECK_MESSAGE(found(findings[i], engines[i].caught_by), engines[i].caught_by << "\n" << text_of(findings[i]));
}

TEST_CASE("check_communicator: bodies that run elsewhere, whose findings would be lost, are a finding") {
  const auto findings = check_communicator([](int, auto) {}, 200);
  REQUIRE(!findings.empty());
  CHECK_MESSAGE(findings[0].what.find("on 0 of the ranks") != std::string::npos, text_of(findings));
}

namespace {

/// A right engine whose abort may overtake a word, as over sockets; rank 1 is slow.
struct overtaking {
  threads_communicator& c;
  std::atomic<bool>& aborted;
  int rank() const { return c.rank(); }
  int size() const { return c.size(); }
  auto capabilities() const { return c.capabilities(); }
  auto open_batch() { return c.open_batch(); }
  template <class B>
  auto launch(B b) {
    return c.launch(std::move(b));
  }
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int ms) {
    try {
      c.exchange(mine, all, ms);
    } catch (...) {
      aborted = true;
      throw;
    }
    if (rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(60));
    if (aborted) throw peer_failed("a peer aborted: the reason why", -1);
  }
  void abort(std::string_view reason) noexcept {
    aborted = true;
    c.abort(reason);
  }
};

}  // namespace

TEST_CASE("check_communicator: an abort that overtakes the kit's own words is no finding") {
  const auto findings = check_communicator([](int n, auto f) {
    std::atomic<bool> aborted{false};
    run_ranks(n, [&](threads_communicator& c) {
      overtaking o{c, aborted};
      f(o);
    });
  });
  CHECK_MESSAGE(findings.empty(), text_of(findings));
}

TEST_CASE("check_layout: the ready-made layouts keep all promises") {
  const extents shape{7, 5, 3};
  const auto passes = [](const any_layout& l) {
    const auto findings = check_layout(l);
    CHECK_MESSAGE(findings.empty(), text_of(findings));
  };
  for (int n : {1, 2, 3, 5, 8}) {
    CAPTURE(n);
    passes(flat_shard(shape, n));
    passes(owned(shape, n - 1, n));
    passes(replicated(shape, n));
    passes(dim_shard(shape, 0, n, split::ceil));
    passes(dim_shard(shape, 1, n, split::balanced));
    std::vector<index_t> cuts(static_cast<std::size_t>(n) + 1);
    for (int r = 0; r <= n; ++r) cuts[static_cast<std::size_t>(r)] = r == n ? 105 : r * 105 / n / 2;
    passes(ragged_shard(shape, cuts));
    passes(on_ranks(flat_shard(shape, n), 1, 2, 2 * n + 1));
  }
  passes(mesh_shard(shape, {{0, 2, 1}, {1, 2, 2}}, 4));
  passes(mesh_shard(shape, {{0, 2, 1}}, 6));
  passes(mesh_shard(shape, {{0, 3, 2}, {0, 2, 1}}, 12));
  passes(box_shard(extents{4, 4}, {{{{0, 0}, {2, 4}}}, {{{2, 0}, {2, 2}}, {{2, 2}, {2, 2}}}}));
  passes(flat_shard(extents{index_t{0}, index_t{4}}, 3));
  passes(flat_shard(extents{}, 3));
  CHECK(check_layout(rows{}).empty());
}

TEST_CASE("check_layout: each wrong layout is caught by name") {
  layout_caught(rows{.shift = 1}, "layout: boxes are disjoint");
  layout_caught(rows{.shift = -1}, "layout: boxes are disjoint");
  layout_caught(rows{.grow = -1}, "layout: boxes leave no hole");
  layout_caught(rows{.grow = 1}, "layout: boxes are disjoint");
  layout_caught(rows{.shift = 7}, "layout: boxes are inside the space");
  layout_caught(rows{.n = 10}, "layout: boxes leave no hole");
  layout_caught(wrong_space{}, "layout: space and shape have equally many elements");
  layout_caught(random_digest{}, "layout: equal layouts have equal digests");
  layout_caught(lone_replica{}, "layout: replica_of is the first rank with the same boxes");
  layout_caught(lonely_replicas{}, "layout: replicas_of is all ranks with the same boxes");
  layout_caught(forgets_a_rank{}, "layout: ranks_of is the ranks that hold some of the interval");
  layout_caught(unequal{}, "layout: a copy is equal");
  layout_caught(throws{}, "layout: its functions don't throw");
}

TEST_CASE("check_handle: a handle that keeps all promises, and each that breaks one, by name") {
  tensor good;
  CHECK(check_handle(good).empty());
  CHECK(check_handle(good, 2).empty());
  std::array<std::byte, 16> bytes{};
  CHECK(check_handle(parameter_view("w", flat_shard({index_t{4}}, 1), 4, bytes)).empty());

  tensor t;
  t.bytes.resize(7);
  CHECK(found(check_handle(t), "handle: the shard holds its boxes"));
  t.bytes.resize(12);
  CHECK(check_handle(t, 2).empty());
  CHECK(found(check_handle(t, 0), "handle: the shard holds its boxes"));
  CHECK(found(check_handle(good, 3), "handle: the layout knows this rank"));
  t = {};
  t.moving = true;
  CHECK(found(check_handle(t), "handle: shard is the same bytes every time"));
  t = {};
  t.fickle = true;
  CHECK(found(check_handle(t), "handle: layout answers the same twice"));
  t = {};
  t.element = 0;
  CHECK(found(check_handle(t), "handle: element_size is at least 1"));
}
