// comm/threads.hpp when something goes wrong: who is late, who is gone, who aborts, and what the others are told.
// A timeout of 0 waits for ever: where a case passes one, being told is the promise, and a hang the failure.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <unshard/comm/threads.hpp>

#include "random_copies.hpp"

namespace {

using namespace unshard;
using engines::bytes, engines::recv, engines::send;

void exchange_one(threads_communicator& c, int timeout_ms) {
  bytes all(static_cast<std::size_t>(c.size()));
  c.exchange(bytes(1), all, timeout_ms);
}

/// Sends `out` to the next rank, receives `in` from the one before.
threads_completion launch_ring(threads_communicator& c, const bytes& out, bytes& in) {
  threads_batch b = c.open_batch();
  send(b, out, (c.rank() + 1) % c.size());
  recv(b, in, (c.rank() + c.size() - 1) % c.size());
  return c.launch(std::move(b));
}

/// The E that f throws, by its message and rank; another exception, or none, is rank -2.
struct told {
  std::string words = "nothing";
  int rank = -2;
  bool says(const std::string& part) const { return words.find(part) != std::string::npos; }
};
template <class E, class F>
told thrown(F f) {
  try {
    f();
  } catch (const E& e) {
    return {e.what(), e.rank};
  } catch (const std::exception& e) {
    return {std::string("another exception: ") + e.what()};
  }
  return {};
}

void check_poisoned(threads_communicator& c) {
  CHECK_THROWS_AS(exchange_one(c, 0), error);
  CHECK_THROWS_AS(c.open_batch(), error);
  CHECK(c.size() > c.rank());
}

}  // namespace

TEST_CASE("threads_communicator: a rank that does not launch in time is peer_timeout, naming it") {
  for (const int ranks : {2, 3, 8}) {
    threads_group gate(ranks);
    run_ranks(ranks, [&](threads_communicator& c) {
      threads_communicator others = gate.communicator(c.rank());
      const bytes out(100);
      bytes in(100);
      if (c.rank() == 1) {
        exchange_one(others, 0);  // all others have launched
        exchange_one(others, 0);  // and given up
        const told late = thrown<peer_failed>([&] { launch_ring(c, out, in).wait(0); });
        CHECK_MESSAGE(late.says("gave up on this rank after 30 ms in batch 0"), late.words);
        CHECK(late.rank != 1);
      } else {
        threads_completion done = launch_ring(c, out, in);
        exchange_one(others, 0);
        const told late = thrown<peer_timeout>([&] { done.wait(30); });
        CHECK_MESSAGE(late.says("rank 1 did not arrive"), late.words);
        CHECK(late.says("30 ms in batch 0"));
        CHECK(late.says("A slow rank can't be told from a dead one"));
        CHECK(late.rank == 1);
        exchange_one(others, 0);
      }
      check_poisoned(c);
      exchange_one(others, 0);
    });
  }
}

TEST_CASE("threads_communicator: a rank that does not come to an exchange in time is peer_timeout, naming it") {
  threads_group gate(4);
  run_ranks(4, [&](threads_communicator& c) {
    threads_communicator others = gate.communicator(c.rank());
    exchange_one(c, 0);
    if (c.rank() >= 2) {
      const told late = thrown<peer_timeout>([&] { exchange_one(c, 30); });
      CHECK_MESSAGE(late.says("rank 0 did not arrive"), late.words);  // the first of the two
      CHECK(late.says("exchange 1"));
      CHECK(late.rank == 0);
    }
    exchange_one(others, 0);
    if (c.rank() == 0) CHECK(thrown<peer_failed>([&] { exchange_one(c, 0); }).says("gave up on this rank"));
    if (c.rank() == 1) CHECK(thrown<peer_timeout>([&] { exchange_one(c, 0); }).rank == 0);
    check_poisoned(c);
    exchange_one(others, 0);
  });
}

TEST_CASE("threads_communicator: abort tells every rank that waits, at once, who and why") {
  for (const int ranks : {1, 2, 3, 8}) {
    for (const bool in_wait : {true, false}) {
      run_ranks(ranks, [&](threads_communicator& c) {
        const bytes out(100);
        bytes in(100);
        const int last = ranks - 1;
        if (c.rank() == last) {
          c.abort("the disk is full");
          c.abort("and again");
        } else {
          const told why = thrown<peer_failed>([&] {
            if (in_wait) launch_ring(c, out, in).wait(0);
            exchange_one(c, 0);
          });
          CHECK_MESSAGE(why.says("aborted: the disk is full"), why.words);
          CHECK(why.rank == last);
        }
        check_poisoned(c);
        CHECK(thrown<peer_failed>([&] { exchange_one(c, 0); }).says("the disk is full"));
      });
    }
  }
}

TEST_CASE("threads_communicator: after abort, and after a call that threw, no thread touches the caller's bytes") {
  for (const int ranks : {2, 3, 4}) {
    for (int delay = 0; delay < 10; ++delay) {
      run_ranks(ranks, [&](threads_communicator& c) {
        // A sanitizer sees a copy that goes on while the buffers are overwritten and freed.
        auto out = bytes(6'000'000, std::byte{1});
        auto in = bytes(out.size());
        try {
          threads_completion done = launch_ring(c, out, in);
          if (c.rank() == 1) {
            if (delay > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay * 200));
            c.abort("half way");
          } else {
            done.wait(0);
          }
        } catch (const peer_failed&) {
        }
        out.assign(out.size(), std::byte{2});
        in.assign(in.size(), std::byte{3});
      });
    }
  }
}

TEST_CASE("run_ranks: a rank whose function has ended is gone at once, for those that wait for it") {
  for (const int ranks : {2, 3, 4, 8}) {
    for (const bool in_wait : {true, false}) {
      std::atomic<int> count = 0;
      run_ranks(ranks, [&](threads_communicator& c) {
        exchange_one(c, 0);
        if (c.rank() == 1) return;
        const bytes out(100);
        bytes in(100);
        const told why = thrown<peer_failed>([&] {
          if (in_wait) launch_ring(c, out, in).wait(0);
          exchange_one(c, 0);
        });
        CHECK_MESSAGE(why.says("rank 1 is gone, its function has returned"), why.words);
        CHECK(why.rank == 1);
        check_poisoned(c);
        ++count;
      });
      CHECK(count == ranks - 1);
    }
  }
}

TEST_CASE("run_ranks: what was complete when a rank ended still reaches the others") {
  for (const int ranks : {2, 3, 8}) {
    for (int i = 0; i < 20; ++i) {
      run_ranks(ranks, [&](threads_communicator& c) {
        const bytes out(5'000, static_cast<std::byte>(c.rank() + 1));
        bytes in(out.size());
        threads_completion done = launch_ring(c, out, in);
        if (c.rank() == 0) {
          done.wait(0);
          exchange_one(c, 0);
          return;
        }
        exchange_one(c, 0);
        if (c.rank() == 1) std::this_thread::sleep_for(std::chrono::microseconds(i * 20));
        done.wait(0);
        CHECK(in == bytes(in.size(), static_cast<std::byte>(c.rank())));
      });
    }
  }
}

TEST_CASE("run_ranks: a rank that ends with a batch not done fails it for the others, and its bytes are left alone") {
  bytes out(4'000'000, std::byte{1});  // they outlive the ranks' functions, as the engine asks
  for (const int ranks : {2, 4}) {
    std::vector<bytes> in(static_cast<std::size_t>(ranks), bytes(out.size()));
    std::atomic<int> count = 0;
    run_ranks(ranks, [&](threads_communicator& c) {
      const told why = thrown<peer_failed>([&] {
        threads_completion done = launch_ring(c, out, in[static_cast<std::size_t>(c.rank())]);
        if (c.rank() == 1) return;
        done.wait(0);
        exchange_one(c, 0);  // for those whose batch was done before rank 1 ended
      });
      if (c.rank() == 1) return;
      CHECK_MESSAGE(why.rank == 1, why.words);
      check_poisoned(c);
      ++count;
    });
    CHECK(count == ranks - 1);
  }
}

TEST_CASE("run_ranks: the first failure in time is thrown, a peer's only where there is nothing else") {
  const auto run = [](auto f) {
    try {
      run_ranks(4, f);
    } catch (const std::exception& e) {
      return std::string(e.what());
    } catch (int) {
      return std::string("an int");
    }
    return std::string("nothing");
  };
  CHECK(run([](threads_communicator&) {}) == "nothing");
  CHECK(run([](threads_communicator& c) {
          if (c.rank() == 2) throw std::runtime_error("the cause");
          exchange_one(c, 0);
        }) == "the cause");
  CHECK(run([](threads_communicator& c) {
          if (c.rank() == 2) throw 5;
          exchange_one(c, 0);
        }) == "an int");
  std::string words;
  CHECK(run([&](threads_communicator& c) {
          if (c.rank() == 3) throw std::runtime_error("first");
          try {
            exchange_one(c, 0);
          } catch (const peer_failed& e) {
            if (c.rank() == 0) words = e.what();
            throw std::runtime_error("second");
          }
        }) == "first");
  CHECK(words.find("rank 3 is gone, its function ended with: first") != std::string::npos);
  CHECK(run([](threads_communicator& c) {
          if (c.rank() != 2) exchange_one(c, 0);
        }).find("rank 2 is gone") != std::string::npos);
  CHECK(run([](threads_communicator& c) {
          if (c.rank() == 2) c.abort("on purpose");
          exchange_one(c, 0);
        }).find("aborted: on purpose") != std::string::npos);
}

TEST_CASE("run_ranks: its communicators may be moved, and each rank is called once") {
  std::atomic<int> calls = 0;
  run_ranks(3, [&](threads_communicator& c) {
    calls += 1 << (8 * c.rank());
    CHECK(c.size() == 3);
    CHECK(capabilities_of(c) == capabilities{});
    threads_communicator moved = std::move(c);
    exchange_one(moved, 0);
    c = std::move(moved);
    exchange_one(c, 0);
  });
  CHECK(calls == 0x10101);
}

TEST_CASE("threads_group: its communicators outlive it, and one that is destroyed counts as gone") {
  auto group = std::make_unique<threads_group>(2);
  threads_communicator mine = group->communicator(0);
  {
    threads_communicator other = group->communicator(1);
    group.reset();
    std::thread peer([&] { exchange_one(other, 0); });
    exchange_one(mine, 0);
    peer.join();
  }
  const told why = thrown<peer_failed>([&] { exchange_one(mine, 0); });
  CHECK_MESSAGE(why.says("its communicator was destroyed"), why.words);
  CHECK(why.rank == 1);
}
