// SPDX-License-Identifier: Apache-2.0
#pragma once  // testing/check_communicator.hpp: the single checks of a communicator, as functions of one rank's
              // communicator.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <thread>
#include <unshard/communicator.hpp>
#include <unshard/error.hpp>
#include <unshard/testing/check_handle.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// What a check on one rank works with, whatever the engine: who it is, how long peers may take, where findings go.
class check_context {
 public:
  using bytes = std::vector<std::byte>;

  check_context(int rank, int ranks, int patience, std::vector<finding>& findings, std::string_view promise)
      : me(rank), n(ranks), patience_ms(patience), findings_(findings), check_(promise) {}

  void expect(bool holds, const char* what, std::string_view more = {}) {
    if (!holds) findings_.push_back({std::string(check_), concat("rank ", me, " of ", n, ": ", what, more)});
  }
  void expect_bytes(const std::byte* got, const bytes& wanted, const char* what, int number = -1) {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      if (got[i] == wanted[i]) continue;
      expect(false, what,
             concat(' ', number < 0 ? std::string() : std::to_string(number), ": byte ", i, " of ", wanted.size(),
                    " is ", static_cast<int>(got[i]), ", not ", static_cast<int>(wanted[i])));
      return;
    }
  }
  static bytes pattern(std::size_t size, int seed) {
    bytes b(size);
    for (std::size_t i = 0; i < size; ++i)
      b[i] = static_cast<std::byte>(mix(mix(0x7e57, seed), std::uint64_t{i}) >> 11);
    return b;
  }
  /// In turns, so that an engine that does not wait for the last one shows.
  static void dawdle(bool late) {
    if (late) std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }

  static constexpr int short_ms = 20;  // a deadline that is to pass
  const int me;
  const int n;
  const int patience_ms;

 private:
  std::vector<finding>& findings_;
  std::string_view check_;
};

template <class C>
class conformance_rank : check_context {
  C& comm;

 public:
  conformance_rank(C& engine, int patience, std::vector<finding>& findings, std::string_view promise)
      : check_context(engine.rank(), engine.size(), patience, findings, promise), comm(engine) {}

  /// Check number `which` of `communicator_checks`.
  void run(std::size_t which) {
    switch (which) {
      case 0:
        return ranks();
      case 1:
        return exchanges();
      case 2:
        return transfers();
      case 3:
        return message_order();
      case 4:
        return launch_starts();
      case 5:
        return wait_waits();
      case 6:
        return batches_in_flight();
      case 7:
        return copies();
      case 8:
        return regions();
      case 9:
        return collectives();
      case 10:
        return exchange_times_out();
      case 11:
        return wait_times_out();
      case 12:
        return aborts();
      case 13:
        return mismatch();
      default:
        return swapped();
    }
  }

 private:
  void barrier() {
    std::byte word{};
    bytes all(static_cast<std::size_t>(n));
    comm.exchange({&word, 1}, all, patience_ms);
  }
  /// The same where a peer may abort meanwhile: false where this rank learned of that first, and can't tell more.
  bool met() {
    try {
      barrier();
      return true;
    } catch (const error&) {
      comm.abort("over");
      return false;
    }
  }
  static region run_of(std::byte* p, std::size_t size) { return {p, {static_cast<index_t>(size)}, {1}}; }
  // Lists that are spoilt as soon as the call is over, as the contract has it.
  template <class B>
  static void send(B& b, const std::byte* p, std::size_t size, int peer) {
    const_region list[1] = {{p, {static_cast<index_t>(size)}, {1}}};
    b.send(list, peer);
    list[0] = {nullptr, {index_t{0}}, {index_t{1}}};
  }
  template <class B>
  static void recv(B& b, std::byte* p, std::size_t size, int peer) {
    region list[1] = {run_of(p, size)};
    b.recv(list, peer);
    list[0] = run_of(nullptr, 0);
  }
  /// f throws an unshard::error (of type E).
  template <class E = error, class F>
  std::string expect_error(const char* what, F f) {
    try {
      f();
      expect(false, what, " should have thrown");
    } catch (const E& e) {
      return e.what();
    } catch (const std::exception& e) {
      expect(false, what, concat(" threw another error: ", e.what()));
    }
    return {};
  }

  // Each of the rest is one check.

  void ranks() {
    expect(me >= 0 && me < n, "rank() is out of range");
    const auto word = static_cast<std::byte>(me);
    bytes all(static_cast<std::size_t>(n));
    comm.exchange({&word, 1}, all, patience_ms);
    for (int r = 0; r < n; ++r)
      expect(all[static_cast<std::size_t>(r)] == std::byte(r), "not every rank is there, once");
    const unshard::capabilities c = unshard::capabilities_of(comm);
    expect(c == unshard::capabilities_of(comm), "capabilities change");
    expect(c.max_operations != 1, "max_operations is 1; 0 (no limit) or at least 2");
    const bytes mine{std::byte(c.regions), std::byte(c.max_operations & 255), std::byte(c.max_bytes & 255),
                     std::byte(c.staging & 255)};
    bytes theirs(mine.size() * static_cast<std::size_t>(n));
    comm.exchange(mine, theirs, patience_ms);
    for (std::size_t i = 0; i < theirs.size(); ++i)
      expect(theirs[i] == mine[i % mine.size()], "capabilities differ from those of a peer");
  }

  void exchanges() {
    int round = 0;
    for (std::size_t size : {std::size_t{1}, std::size_t{16}, std::size_t{256}, std::size_t{16}}) {
      for (int late = 0; late < n; ++late, ++round) {
        const bytes mine = pattern(size, round * 100 + me);
        bytes all(size * static_cast<std::size_t>(n));
        dawdle(late == me);
        comm.exchange(mine, all, patience_ms);
        for (int r = 0; r < n; ++r)
          expect_bytes(all.data() + size * static_cast<std::size_t>(r), pattern(size, round * 100 + r),
                       "exchange, the word of rank", r);
      }
    }
  }

  /// Every rank sends every other one some bytes, between guards.
  void transfers() {
    for (std::size_t size : {std::size_t{1}, std::size_t{1000}, std::size_t{70'001}}) {
      std::vector<bytes> from, to;
      for (int r = 0; r < n; ++r) {
        from.push_back(pattern(size + static_cast<std::size_t>(r), me * 64 + r));
        to.emplace_back(size + static_cast<std::size_t>(me) + 2, std::byte{0xee});
      }
      auto b = comm.open_batch();
      for (int r = 0; r < n; ++r) {
        if (r == me || over_limit(size + static_cast<std::size_t>(n), 2 * (n - 1))) continue;
        send(b, from[static_cast<std::size_t>(r)].data(), size + static_cast<std::size_t>(r), r);
        recv(b, to[static_cast<std::size_t>(r)].data() + 1, size + static_cast<std::size_t>(me), r);
      }
      auto done = comm.launch(std::move(b));
      done.wait(patience_ms);
      for (int r = 0; r < n; ++r) {
        if (r == me || over_limit(size + static_cast<std::size_t>(n), 2 * (n - 1))) continue;
        bytes wanted = pattern(size + static_cast<std::size_t>(me), r * 64 + me);
        wanted.insert(wanted.begin(), std::byte{0xee});
        wanted.push_back(std::byte{0xee});
        expect_bytes(to[static_cast<std::size_t>(r)].data(), wanted, "from rank", r);
      }
    }
    auto empty = comm.launch(comm.open_batch());
    empty.wait(patience_ms);
  }
  bool over_limit(std::size_t size, int operations) const {
    const unshard::capabilities c = unshard::capabilities_of(comm);
    return (c.max_bytes != 0 && size > c.max_bytes) ||
           (c.max_operations != 0 && static_cast<std::size_t>(operations) > c.max_operations);
  }

  void message_order() {
    constexpr std::array<std::size_t, 6> sizes{8, 8, 24, 16, 8, 24};
    if (over_limit(24, 2 * static_cast<int>(sizes.size()))) return;
    const int next = (me + 1) % n, before = (me + n - 1) % n;
    std::array<bytes, sizes.size()> from, to;
    auto b = comm.open_batch();
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      from[i] = pattern(sizes[i], me * 8 + static_cast<int>(i));
      to[i].resize(sizes[i]);
      send(b, from[i].data(), sizes[i], next);
      recv(b, to[i].data(), sizes[i], before);
    }
    comm.launch(std::move(b)).wait(patience_ms);
    for (std::size_t i = 0; i < sizes.size(); ++i)
      expect_bytes(to[i].data(), pattern(sizes[i], before * 8 + static_cast<int>(i)), "message", static_cast<int>(i));
  }

  /// What was written between send and launch travels; a batch that is thrown away does not.
  void launch_starts() {
    const int next = (me + 1) % n, before = (me + n - 1) % n;
    bytes from = pattern(64, 1), to(64, std::byte{0xee});
    const bytes untouched = to;
    {
      auto never = comm.open_batch();
      send(never, from.data(), 64, next);
      recv(never, to.data(), 64, before);
    }
    auto b = comm.open_batch();
    send(b, from.data(), 64, next);
    recv(b, to.data(), 64, before);
    barrier();
    expect_bytes(to.data(), untouched, "before launch");
    const bytes later = pattern(64, 2 + me);
    std::copy(later.begin(), later.end(), from.begin());  // in place: `from` must not move
    auto other = std::move(b);
    dawdle(me == 0);
    auto done = comm.launch(std::move(other));
    done.wait(patience_ms);
    expect_bytes(to.data(), pattern(64, 2 + before), "after wait");
  }

  /// After wait the receiver has it all and the sender may overwrite its bytes.
  void wait_waits() {
    const int next = (me + 1) % n, before = (me + n - 1) % n;
    for (int round = 0; round < 2 * n; ++round) {
      bytes from = pattern(5000, round * 64 + me), to(5000);
      if (over_limit(5000, 2)) return;
      auto b = comm.open_batch();
      send(b, from.data(), from.size(), next);
      recv(b, to.data(), to.size(), before);
      dawdle(round % n == me);
      auto done = comm.launch(std::move(b));
      dawdle((round + 1) % n == me);
      done.wait(patience_ms);
      from.assign(from.size(), std::byte{0});
      expect_bytes(to.data(), pattern(5000, round * 64 + before), "round", round);
    }
  }

  void batches_in_flight() {
    const int next = (me + 1) % n, before = (me + n - 1) % n;
    std::array<bytes, 3> from, to;
    std::vector<std::remove_cvref_t<decltype(comm.launch(comm.open_batch()))>> flying;
    for (std::size_t i = 0; i < 3; ++i) {
      from[i] = pattern(300, me * 8 + static_cast<int>(i));
      to[i].resize(300);
      auto b = comm.open_batch();
      send(b, from[i].data(), 300, next);
      recv(b, to[i].data(), 300, before);
      dawdle(static_cast<int>(i) % n == me);
      flying.push_back(comm.launch(std::move(b)));
    }
    barrier();
    for (std::size_t i = 0; i < 3; ++i) {
      static_cast<void>(flying[i].ready());
      flying[i].wait(patience_ms);
      expect_bytes(to[i].data(), pattern(300, before * 8 + static_cast<int>(i)), "batch", static_cast<int>(i));
    }
  }

  void copies() {
    const int next = (me + 1) % n, before = (me + n - 1) % n;
    bytes value = pattern(24, me), packed(24), arrived(24), to(24, std::byte{0xee});
    // A matrix of 4 x 6 bytes, by columns of two, goes out packed; it comes back into rows of three.
    const_region source[3];
    for (index_t i = 0; i < 3; ++i)
      source[i] = {value.data() + 2 * i, {index_t{4}, index_t{2}}, {index_t{6}, index_t{1}}};
    const region dense = run_of(packed.data(), 24);
    const const_region landed = run_of(arrived.data(), 24);
    region in[2];
    for (index_t i = 0; i < 2; ++i) in[i] = {to.data() + 3 * i, {index_t{4}, index_t{3}}, {index_t{6}, index_t{1}}};
    auto b = comm.open_batch();
    b.copy_after({&landed, 1}, in);  // the order of the calls does not matter
    send(b, packed.data(), 24, next);
    recv(b, arrived.data(), 24, before);
    b.copy_before(source, {&dense, 1});
    comm.launch(std::move(b)).wait(patience_ms);
    value = pattern(24, before);
    bytes wanted(24), stream;
    for (std::size_t c = 0; c < 3; ++c) {
      for (std::size_t r = 0; r < 4; ++r) stream.insert(stream.end(), {value[6 * r + 2 * c], value[6 * r + 2 * c + 1]});
    }
    for (std::size_t i = 0; i < 24; ++i) wanted[6 * (i / 3 % 4) + 3 * (i / 12) + i % 3] = stream[i];
    expect_bytes(to.data(), wanted, "packed, sent, unpacked");
  }

  /// Lists of strided regions whose two ends have other shapes.
  void regions() {
    if (!unshard::capabilities_of(comm).regions) return;
    const int next = (me + 1) % n, before = (me + n - 1) % n;
    const bytes value = pattern(48, me);
    bytes to(60, std::byte{0xee});
    const const_region source[2] = {
        {value.data() + 1, {index_t{3}, index_t{2}, index_t{2}}, {index_t{16}, index_t{8}, index_t{1}}},
        {value.data() + 5, {index_t{3}}, {index_t{1}}}};
    region in[3] = {run_of(to.data(), 1),
                    {to.data() + 10, {index_t{5}, index_t{2}}, {index_t{10}, index_t{1}}},
                    {to.data() + 2, {index_t{2}, index_t{2}}, {index_t{3}, index_t{1}}}};
    auto b = comm.open_batch();
    b.send(source, next);
    b.recv(in, before);
    in[1] = run_of(nullptr, 0);
    comm.launch(std::move(b)).wait(patience_ms);
    const bytes theirs = pattern(48, before);
    bytes stream, wanted(60, std::byte{0xee});
    for (std::size_t i : {1u, 2u, 9u, 10u, 17u, 18u, 25u, 26u, 33u, 34u, 41u, 42u, 5u, 6u, 7u})
      stream.push_back(theirs[i]);
    std::size_t at = 0;
    for (std::size_t i : {0u, 10u, 11u, 20u, 21u, 30u, 31u, 40u, 41u, 50u, 51u, 2u, 3u, 5u, 6u})
      wanted[i] = stream[at++];
    expect_bytes(to.data(), wanted, "strided");
  }

  /// all_gather, broadcast, gather and scatter, where the batch has them.
  void collectives() {
    using B = std::remove_cvref_t<decltype(comm.open_batch())>;
    const auto ranks = static_cast<std::size_t>(n);
    const bytes mine = pattern(40, me);
    bytes whole;
    for (int r = 0; r < n; ++r) {
      const bytes p = pattern(40, r);
      whole.insert(whole.end(), p.begin(), p.end());
    }
    const int root = n - 1;
    bytes out(40 * ranks);
    const auto run = [&](auto f) {
      out.assign(out.size(), std::byte{0});
      B b = comm.open_batch();
      f(b);
      comm.launch(std::move(b)).wait(patience_ms);
    };
    if constexpr (requires(B & b, std::byte * p) { b.all_gather(mine.data(), p, mine.size()); }) {
      run([&](B& b) { b.all_gather(mine.data(), out.data(), mine.size()); });
      expect_bytes(out.data(), whole, "all_gather");
    }
    if constexpr (requires(B & b, std::byte * p) { b.broadcast(p, mine.size(), 0); }) {
      bytes buffer = mine;
      run([&](B& b) { b.broadcast(buffer.data(), buffer.size(), root); });
      expect_bytes(buffer.data(), pattern(40, root), "broadcast");
    }
    if constexpr (requires(B & b, std::byte * p) { b.gather(mine.data(), p, mine.size(), 0); }) {
      run([&](B& b) { b.gather(mine.data(), me == root ? out.data() : nullptr, mine.size(), root); });
      if (me == root) expect_bytes(out.data(), whole, "gather");
    }
    if constexpr (requires(B & b, std::byte * p) { b.scatter(mine.data(), p, mine.size(), 0); }) {
      run([&](B& b) { b.scatter(me == root ? whole.data() : nullptr, out.data(), mine.size(), root); });
      out.resize(40);
      expect_bytes(out.data(), mine, "scatter");
    }
  }

  using clock = std::chrono::steady_clock;
  /// The last rank does not come; f(arrived) notes when this one did. Where a busy machine held it up since `entered`,
  /// before the barrier, its peers may have given up on it.
  template <class F>
  void expect_timeout(const char* what, clock::time_point entered, F f) {
    clock::time_point arrived = (clock::time_point::max)();
    try {
      f(arrived);
      expect(false, what, " should have thrown");
    } catch (const peer_timeout&) {
    } catch (const peer_failed& e) {
      const bool late = (std::min)(arrived, clock::now()) - entered >= std::chrono::milliseconds(short_ms / 2);
      expect(late, what, concat(" threw peer_failed: ", e.what()));
    } catch (const std::exception& e) {
      expect(false, what, concat(" threw another error: ", e.what()));
    }
  }
  void exchange_times_out() {
    bytes token(16), all(16 * static_cast<std::size_t>(n));
    const auto entered = clock::now();
    if (!met()) return;
    if (me == n - 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10 * short_ms));
    } else {
      expect_timeout("exchange", entered, [&](clock::time_point& arrived) {
        arrived = clock::now();
        comm.exchange(token, all, short_ms);
      });
    }
    expect_error("exchange after a timeout", [&] { comm.exchange(token, all, short_ms); });
    comm.abort("over");
  }
  void wait_times_out() {
    bytes to(64);
    const auto entered = clock::now();
    if (!met()) return;
    if (me == n - 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10 * short_ms));
    } else {
      expect_timeout("wait", entered, [&](clock::time_point& arrived) {
        auto b = comm.open_batch();
        recv(b, to.data(), to.size(), n - 1);
        auto done = comm.launch(std::move(b));
        arrived = clock::now();
        done.wait(short_ms);
      });
    }
    bytes token(1), all(static_cast<std::size_t>(n));
    expect_error("exchange after a timeout", [&] { comm.exchange(token, all, short_ms); });
    comm.abort("over");
  }

  void aborts() {
    bytes token(16), all(16 * static_cast<std::size_t>(n));
    if (!met()) return;
    if (me == n - 1) {
      dawdle(true);
      comm.abort("the reason why");
      comm.abort("again");
    } else {
      const std::string text = expect_error("exchange", [&] { comm.exchange(token, all, patience_ms); });
      expect(text.empty() || text.find("the reason why") != std::string::npos, "the reason is not in: ", text);
    }
    expect_error("exchange after an abort", [&] { comm.exchange(token, all, patience_ms); });
    expect_error("launch after an abort", [&] {
      auto b = comm.open_batch();
      send(b, token.data(), 16, (me + 1) % n);
      recv(b, all.data(), 16, (me + n - 1) % n);
      comm.launch(std::move(b)).wait(patience_ms);
    });
  }

  void mismatch() {
    bytes from(9), to(9);
    const int before = (me + n - 1) % n;
    std::byte threw{};
    try {
      auto b = comm.open_batch();
      send(b, from.data(), 8, (me + 1) % n);
      recv(b, to.data(), 9, before);
      comm.launch(std::move(b)).wait(patience_ms);
    } catch (const error&) {
      threw = std::byte{1};
    }
    expect(threw == std::byte{1}, "8 bytes were sent, 9 received, and no error");
  }

  /// Messages match in their order, not by their lengths.
  void swapped() {
    if (over_limit(24, 4)) return;
    bytes from(24), to(24), more(24);
    const int before = (me + n - 1) % n, next = (me + 1) % n;
    bool threw = false;
    try {
      auto b = comm.open_batch();
      send(b, from.data(), 8, next);
      send(b, from.data(), 24, next);
      recv(b, to.data(), 24, before);
      recv(b, more.data(), 8, before);
      comm.launch(std::move(b)).wait(patience_ms);
    } catch (const error&) {
      threw = true;
    }
    expect(threw, "8 and 24 bytes were sent, 24 and 8 received, and no error");
  }
};

/// The promises, in the order of conformance_rank::run, and how many ranks it takes to break them.
struct communicator_check {
  const char* name;
  int least_ranks;
};
inline constexpr communicator_check communicator_checks[] = {
    {"communicator: ranks are numbered and capabilities agree", 1},
    {"communicator: exchange gives every word, in the order of the ranks", 1},
    {"communicator: what is sent arrives, at the right rank, and nothing else changes", 1},
    {"communicator: messages between two ranks keep their order", 2},
    {"communicator: nothing moves before launch", 2},
    {"communicator: wait waits for the bytes", 2},
    {"communicator: several batches can be in flight", 2},
    {"communicator: copies run before and after the transfers", 2},
    {"communicator: strided regions keep their row-major order", 2},
    {"communicator: the optional collectives do what they say", 1},
    {"communicator: exchange throws peer_timeout, and then every call throws", 2},
    {"communicator: wait throws peer_timeout, and then every call throws", 2},
    {"communicator: abort wakes the others with the reason, and then every call throws", 2},
    {"communicator: two ends of different length are an error", 2},
    {"communicator: two messages whose lengths are swapped at one end are an error", 2},
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
