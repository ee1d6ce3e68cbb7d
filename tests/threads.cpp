// comm/threads.hpp: what its ranks promise each other.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <unshard/comm/threads.hpp>

#include "random_copies.hpp"

namespace {

using namespace unshard;
using namespace engines;
constexpr int rank_counts[] = {1, 2, 3, 4, 8};

void exchange_one(threads_communicator& c, int timeout_ms) {
  bytes all(index(c.size()));
  c.exchange(bytes(1), all, timeout_ms);
}

}  // namespace

TEST_CASE("threads_communicator: a long list of small regions is cut in blocks without a byte lost") {
  for (const int ranks : {2, 3}) {
    constexpr index_t count = 20'000;
    const bytes source = pattern(5 * 1024 * 1024 + 77, ranks);
    bytes target(source.size() + count);
    run_ranks(ranks, [&](threads_communicator& c) {
      threads_batch b = c.open_batch();
      if (c.rank() == 0) send(b, source, 1);
      std::vector<region> list;
      if (c.rank() == 1) {  // one byte is left out after each region
        const index_t each = std::ssize(source) / count;
        for (index_t i = 0; i < count; ++i) {
          const index_t size = i + 1 < count ? each : std::ssize(source) - each * (count - 1);
          list.push_back({target.data() + i * (each + 1), {size}, {1}});
        }
        b.recv(list, 0);
      }
      c.launch(std::move(b)).wait(0);
      if (c.rank() != 1) return;
      std::size_t at = 0;
      for (const region& r : list) {
        CHECK(std::memcmp(r.base, source.data() + at, bytes_of(r)) == 0);
        at += bytes_of(r);
      }
      CHECK(target[static_cast<std::size_t>(std::ssize(source) / count)] == std::byte{});
    });
  }
}

TEST_CASE("threads_communicator: messages between one pair match in their order, zero bytes and oneself included") {
  for (const int ranks : rank_counts) {
    run_ranks(ranks, [&](threads_communicator& c) {
      std::vector<bytes> out, in;
      threads_batch b = c.open_batch();
      for (int peer = 0; peer < ranks; ++peer) {
        for (int m = 0; m < 5; ++m) {
          out.push_back(pattern(index(m) * 100, c.rank() * 50 + peer * 5 + m));
          in.emplace_back(index(m) * 100);
        }
      }
      for (int m = 0; m < 5; ++m) {
        for (int peer = 0; peer < ranks; ++peer) {
          send(b, out[index(peer * 5 + m)], peer);
          recv(b, in[index(peer * 5 + m)], peer);
        }
      }
      c.launch(std::move(b)).wait(0);
      for (int peer = 0; peer < ranks; ++peer) {
        for (int m = 0; m < 5; ++m)
          CHECK(in[index(peer * 5 + m)] == pattern(index(m) * 100, peer * 50 + c.rank() * 5 + m));
      }
    });
  }
}

TEST_CASE("threads_communicator: several batches in flight, 64 ranks, and batches that hold nothing") {
  for (const int ranks : {1, 3, 64}) {
    run_ranks(ranks, [&](threads_communicator& c) {
      std::vector<bytes> in(4, bytes(2000));
      std::vector<bytes> out;
      std::vector<threads_completion> done;
      for (int i = 0; i < 4; ++i) {
        out.push_back(pattern(2000, c.rank() + i));
        threads_batch b = c.open_batch();
        if (i != 2) {
          send(b, out.back(), (c.rank() + 1) % ranks);
          recv(b, in[index(i)], (c.rank() + ranks - 1) % ranks);
        }
        done.push_back(c.launch(std::move(b)));
      }
      for (int i = 0; i < 4; ++i) {
        done[index(i)].wait(0);
        CHECK(done[index(i)].ready());
        const bytes expected = i == 2 ? bytes(2000) : pattern(2000, (c.rank() + ranks - 1) % ranks + i);
        CHECK(in[index(i)] == expected);
      }
    });
  }
}

TEST_CASE("threads_communicator: a batch that is not launched moves nothing, a completion may go without wait") {
  const bytes source = pattern(3'000'000, 1);
  bytes target(source.size());
  bytes untouched(source.size());
  run_ranks(3, [&](threads_communicator& c) {
    {
      threads_batch b = c.open_batch();
      send(b, source, 0);
      if (c.rank() == 0) recv(b, untouched, 0);
    }
    threads_batch b = c.open_batch();
    if (c.rank() == 0) send(b, source, 1);
    if (c.rank() == 1) recv(b, target, 0);
    {
      threads_completion done = c.launch(std::move(b));
      if (c.rank() == 1) done.wait(0);
    }
    exchange_one(c, 0);  // the others' bytes stay until then
  });
  CHECK(target == source);
  CHECK(untouched == bytes(source.size()));
}

TEST_CASE("threads_communicator: exchange gathers every rank's word, of up to 256 bytes, any number of times") {
  for (const int ranks : rank_counts) {
    run_ranks(ranks, [&](threads_communicator& c) {
      for (const std::size_t size : {0u, 1u, 16u, 256u, 16u, 3u}) {
        for (int i = 0; i < 20; ++i) {
          bytes all(size * index(ranks));
          c.exchange(pattern(size, c.rank() + i), all, 0);
          for (int r = 0; r < ranks; ++r) {
            const auto word = std::span(all).subspan(index(r) * size, size);
            CHECK(bytes(word.begin(), word.end()) == pattern(size, r + i));
          }
        }
      }
    });
  }
}

TEST_CASE("threads_communicator: ranks that wait in exchange carry the bytes of one that does something else") {
  const bytes source = pattern(3'000'000, 9);
  bytes target(source.size());
  run_ranks(2, [&](threads_communicator& c) {
    threads_batch b = c.open_batch();
    if (c.rank() == 0) recv(b, target, 1);
    if (c.rank() == 1) send(b, source, 0);
    threads_completion done = c.launch(std::move(b));
    while (c.rank() == 0 && !done.ready()) std::this_thread::yield();  // without carrying: only rank 1 can
    if (c.rank() == 0) CHECK(target == source);
    exchange_one(c, 0);
    done.wait(0);
  });
}

TEST_CASE("threads_communicator: a difference between two ends is batch_mismatch on every rank, and nothing moves") {
  struct {
    int sends[2];
    int receives[2];  // the messages' bytes, -1: none
    const char* words;
  } const cases[] = {
      {{100, 70}, {100, 60}, "message 1 from rank 0 to rank 1: rank 0 sends 70 bytes, rank 1 receives 60 bytes"},
      {{100, -1}, {100, 60}, "message 1 from rank 0 to rank 1: rank 0 sends nothing, rank 1 receives 60 bytes"},
      {{100, 70}, {-1, -1}, "message 0 from rank 0 to rank 1: rank 0 sends 100 bytes, rank 1 receives nothing"},
      {{-1, -1}, {0, -1}, "message 0 from rank 0 to rank 1: rank 0 sends nothing, rank 1 receives 0 bytes"},
  };
  for (const auto& t : cases) {
    for (const int ranks : {2, 3, 8}) {
      std::atomic<int> told = 0;
      run_ranks(ranks, [&](threads_communicator& c) {
        const bytes good(2'000'000, std::byte{5});
        bytes in(good.size());
        threads_batch first = c.open_batch();  // an earlier batch ends well
        send(first, good, (c.rank() + 1) % ranks);
        recv(first, in, (c.rank() + ranks - 1) % ranks);
        threads_completion fine = c.launch(std::move(first));

        const bytes source(200, std::byte{1});
        bytes target(200);
        const_region from[] = {run_of(source)};
        region to[] = {run_of(target)};
        threads_batch b = c.open_batch();
        b.copy_before(from, to);
        for (int m = 0; m < 2; ++m) {
          from[0].size[0] = t.sends[m];
          to[0].size[0] = t.receives[m];
          if (c.rank() == 0 && t.sends[m] >= 0) b.send(from, 1);
          if (c.rank() == 1 && t.receives[m] >= 0) b.recv(to, 0);
        }
        threads_completion done = c.launch(std::move(b));
        fine.wait(0);
        CHECK(in == good);
        const std::string words = thrown<batch_mismatch>([&] { done.wait(0); });
        CHECK_MESSAGE(contains(words, t.words), words);
        CHECK(target == bytes(200));
        CHECK(contains(thrown<batch_mismatch>([&] { exchange_one(c, 0); }), t.words));
        CHECK(contains(thrown<batch_mismatch>([&] { c.open_batch(); }), t.words));
        ++told;
      });
      CHECK(told == ranks);
    }
  }
}

TEST_CASE("threads_communicator: words of different lengths are an error that names both, on every rank") {
  for (const int ranks : {2, 4}) {
    run_ranks(ranks, [&](threads_communicator& c) {
      bytes all(index(ranks) * 24);
      const bytes mine(c.rank() == 1 ? 24 : 16);
      const std::string words = thrown<batch_mismatch>([&] { c.exchange(mine, all, 0); });
      CHECK_MESSAGE(contains(words, "rank 1 gives 24 bytes"), words);
      CHECK_MESSAGE(contains(words, " gives 16 bytes"), words);
    });
  }
}

TEST_CASE("threads_communicator: what one rank can see itself is refused at the call") {
  threads_group group(2);
  threads_communicator c = group.communicator(0);
  CHECK_THROWS_AS(group.communicator(0), bad_options);
  CHECK_THROWS_AS(group.communicator(2), bad_options);
  CHECK_THROWS_AS(group.communicator(-1), bad_options);
  CHECK_THROWS_AS(threads_group(0), bad_options);
  CHECK_THROWS_AS(run_ranks(-1, [](threads_communicator&) {}), bad_options);
  bytes a(10), b(9), all(1000);
  threads_batch batch = c.open_batch();
  CHECK(contains(thrown<bad_options>([&] { send(batch, a, 2); }), "send to rank 2; the ranks are 0 to 1"));
  CHECK(contains(thrown<bad_options>([&] { recv(batch, a, -1); }), "recv from rank -1"));
  const const_region from = run_of(a);
  const region to = run_of(b);
  CHECK(contains(thrown<batch_mismatch>([&] { batch.copy_after({&from, 1}, {&to, 1}); }), "from 10 bytes to 9"));
  CHECK_THROWS_AS(c.exchange(bytes(257), all, 0), bad_options);
  CHECK_THROWS_AS(threads_group(2, -1), bad_options);
  CHECK_THROWS_AS(c.exchange(bytes(16), std::span(all).first(31), 0), bad_options);
  CHECK_THROWS_AS(group.communicator(1).launch(std::move(batch)), bad_options);
}

TEST_CASE("threads_communicator: two groups keep apart, and a thread may use both") {
  threads_group second(3);
  run_ranks(3, [&](threads_communicator& a) {
    threads_communicator b = second.communicator(2 - a.rank());
    const bytes out_a = pattern(500, a.rank()), out_b = pattern(700, b.rank() + 10);
    bytes in_a(500), in_b(700);
    threads_batch batch_b = b.open_batch(), batch_a = a.open_batch();
    send(batch_a, out_a, (a.rank() + 1) % 3);
    recv(batch_a, in_a, (a.rank() + 2) % 3);
    send(batch_b, out_b, (b.rank() + 1) % 3);
    recv(batch_b, in_b, (b.rank() + 2) % 3);
    threads_completion done_b = b.launch(std::move(batch_b)), done_a = a.launch(std::move(batch_a));
    done_a.wait(0);
    done_b.wait(0);
    CHECK(in_a == pattern(500, (a.rank() + 2) % 3));
    CHECK(in_b == pattern(700, (b.rank() + 2) % 3 + 10));
    exchange_one(a, 0);
    if (a.rank() == 1) b.abort("only the second");
    if (a.rank() == 1) CHECK_THROWS_AS(exchange_one(b, 0), peer_failed);
    exchange_one(a, 0);
    CHECK_THROWS_AS(exchange_one(b, 0), peer_failed);
    exchange_one(a, 0);
  });
}

/// The last to launch copies a small batch itself; a rank that finds no core free meanwhile is woken for older work.
TEST_CASE("threads_communicator: nobody sleeps beside open work after a small batch") {
  constexpr std::size_t count = 40;
  for (int turn = 0; turn < 10; ++turn) {
    threads_group group(3, 1);
    const bytes large = pattern(16 << 20, turn), small = pattern(120'000, turn + 1);
    bytes large_to(large.size());
    std::vector<bytes> small_to(count, bytes(small.size()));
    std::atomic<bool> arrived{false};
    std::vector<std::thread> threads;
    for (int r = 0; r < 3; ++r) {
      threads.emplace_back([&, r] {
        auto c = group.communicator(r);
        const auto launch = [&](const bytes& from, bytes& to) {
          threads_batch b = c.open_batch();
          if (r == 0) send(b, from, 1);
          if (r == 1) recv(b, to, 0);
          return c.launch(std::move(b));
        };
        std::vector<threads_completion> all;
        all.push_back(launch(large, large_to));
        if (r == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        for (bytes& to : small_to) all.push_back(launch(small, to));
        if (r == 2) {  // busy elsewhere until the others are through
          for (int waited = 0; !arrived && waited < 10'000; ++waited)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          CHECK(arrived);
        }
        for (threads_completion& one : all) {
          one.wait(0);
          if (r == 1) arrived = true;
        }
      });
    }
    for (std::thread& t : threads) t.join();
    CHECK(large_to == large);
    for (const bytes& to : small_to) CHECK(to == small);
  }
}
