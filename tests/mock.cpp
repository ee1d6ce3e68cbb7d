// What the mock records, counts, refuses, breaks and says about ranks that disagree.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/testing/mock.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "mailbox.hpp"

using namespace unshard;

static_assert(communicator<mock_communicator<threads_communicator>> &&
              communicator<mock_communicator<mailbox_communicator>>);
static_assert(communicator<mock_communicator<mock_communicator<mailbox_communicator>>>);

namespace {

region run_of(std::byte* p, std::size_t n) { return {p, {static_cast<index_t>(n)}, {1}}; }

/// Each rank sends `bytes` to the next one.
template <class C>
void ring(C& c, std::size_t bytes, int timeout_ms = 1000) {
  std::vector<std::byte> from(bytes, std::byte(c.rank())), to(bytes);
  const region in = run_of(to.data(), bytes);
  const const_region out = run_of(from.data(), bytes);
  auto b = c.open_batch();
  b.send({&out, 1}, (c.rank() + 1) % c.size());
  b.recv({&in, 1}, (c.rank() + c.size() - 1) % c.size());
  auto done = c.launch(std::move(b));
  done.wait(timeout_ms);
  CHECK(to == std::vector<std::byte>(bytes, std::byte((c.rank() + c.size() - 1) % c.size())));
}
template <class C>
void meet(C& c, int timeout_ms = 1000) {
  std::array<std::byte, 16> word{};
  std::vector<std::byte> all(16 * static_cast<std::size_t>(c.size()));
  c.exchange(word, all, timeout_ms);
}

struct tensors {
  explicit tensors(int ranks, int count = 3) : bytes(static_cast<std::size_t>(count), std::vector<std::byte>(64)) {
    for (auto& b : bytes) list.emplace_back("w", flat_shard({index_t{16}}, ranks), 4, b);
  }
  std::vector<std::vector<std::byte>> bytes;
  std::vector<parameter_view> list;
};

/// An engine whose batches have the collectives, which only count.
struct with_collectives : mailbox_communicator {
  using mailbox_communicator::mailbox_communicator;
  struct batch : mailbox_communicator::batch {
    int* calls;
    void all_gather(const std::byte*, std::byte*, std::size_t) { ++*calls; }
    void broadcast(std::byte*, std::size_t, int) { ++*calls; }
    void gather(const std::byte*, std::byte*, std::size_t, int) { ++*calls; }
    void scatter(const std::byte*, std::byte*, std::size_t, int) { ++*calls; }
  };
  batch open_batch() { return {{}, &calls}; }
  done launch(batch b) { return mailbox_communicator::launch(std::move(b)); }
  int calls = 0;
};

}  // namespace

TEST_CASE("mock: it records every operation with its bytes, peer and batch, and counts them") {
  mock_world world(3);
  run_ranks(3, [&](threads_communicator& engine) {
    mock_communicator comm(engine, world);
    meet(comm);
    ring(comm, 100);
    ring(comm, 28);
  });
  const std::vector<mock_record> log = world.log(1);
  const std::array ops = {mock_op::exchange, mock_op::open_batch, mock_op::send,       mock_op::recv,
                          mock_op::launch,   mock_op::wait,       mock_op::open_batch, mock_op::send,
                          mock_op::recv,     mock_op::launch,     mock_op::wait};
  REQUIRE(log.size() == ops.size());
  for (std::size_t i = 0; i < ops.size(); ++i) CHECK(log[i].op == ops[i]);
  CHECK(log[2].peer == 2);
  CHECK(log[3].peer == 0);
  CHECK(log[2].bytes == 100);
  CHECK(log[2].batch == 0);
  CHECK(log[8].batch == 1);
  CHECK(log[9].bytes == 56);
  const mock_counts c = world.counts(1);
  CHECK(c.operations == ops.size());
  CHECK(c.batches == 2);
  CHECK(c.waits == 2);
  CHECK(c.exchanges == 1);
  CHECK(c.exchange_bytes == 16);
  CHECK(c.bytes_sent == 128);
  CHECK(c.bytes_received == 128);
  CHECK(first_difference(world.logs()) == "");
}

TEST_CASE("mock: as a range's observer it knows the chunk; without, it counts exchanges") {
  for (bool observed : {true, false}) {
    mock_world world(2);
    run_ranks(2, [&](threads_communicator& engine) {
      mock_communicator comm(engine, world);
      tensors t(2);
      options o{.budget = 128, .on = root(0)};
      if (observed) o.observer = comm;
      for (auto& chunk : chunks(t.list, comm, read_write, o)) static_cast<void>(chunk);
    });
    std::vector<std::size_t> launches, votes;
    for (const mock_record& r : world.log(0)) {
      if (r.op == mock_op::launch) launches.push_back(r.chunk);
      if (r.op == mock_op::exchange) votes.push_back(r.chunk);
    }
    CHECK(votes == std::vector<std::size_t>{0, 0, 1, 2});
    CHECK(launches ==
          (observed ? std::vector<std::size_t>{0, 0, 1, 1, 2, 2} : std::vector<std::size_t>{0, 1, 1, 2, 2, 3}));
  }
}

TEST_CASE("mock: one exchange opens a range, one ends each chunk, one more tells why, nothing else") {
  for (int ranks : {1, 2, 3, 5}) {
    for (std::size_t fails : {std::size_t{99}, std::size_t{1}}) {
      mock_world world(ranks);
      std::atomic<int> failures{0};
      run_ranks(ranks, [&](threads_communicator& engine) {
        mock_communicator comm(engine, world);
        tensors t(ranks);
        try {
          for (auto& chunk : chunks(t.list, comm, read_write, {.budget = 128})) {
            if (chunk.number() != fails || comm.rank() != 0) continue;
            throw error("a body");
          }
        } catch (const error&) {
          ++failures;
        }
      });
      // A body that throws says `left`, which has no text: no exchange more. `failed` has one: below.
      CHECK(failures == (fails == 1 ? ranks : 0));
      for (int r = 0; r < ranks; ++r) CHECK(world.counts(r).exchanges == (fails == 1 ? 3 : 4));
    }
    mock_world world(ranks);
    std::atomic<int> failures{0};
    run_ranks(ranks, [&](threads_communicator& engine) {
      mock_communicator comm(engine, world);
      failing_memory<> memory(comm.rank() == 0 ? 0 : failing_memory<>::never);
      tensors t(ranks);
      try {
        chunks(t.list, comm, read_write, {.budget = 128}, memory);
      } catch (const error&) {
        ++failures;
      }
      CHECK(memory.held() == 0);
    });
    CHECK(failures == ranks);
    for (int r = 0; r < ranks; ++r) CHECK(world.counts(r).exchanges == 2);
  }
}

TEST_CASE("mock: the first difference between ranks is shown side by side") {
  mock_world world(2);
  run_mailbox(2, [&](mailbox_communicator& engine) {
    mock_communicator comm(engine, world);
    meet(comm);
    if (comm.rank() == 0) {
      auto b = comm.open_batch();
      static_cast<void>(comm.launch(std::move(b)));
    }
    if (comm.rank() == 1) CHECK_THROWS_AS(meet(comm), peer_timeout);
  });
  CHECK(first_difference(world.logs()) ==
        "the ranks' sequences part at step 1:\n  rank 0: launch, 0 bytes, batch 0, chunk 0\n  rank 1: exchange, 16 "
        "bytes, chunk 0");

  mock_world lengths(2);
  run_mailbox(2, [&](mailbox_communicator& engine) {
    mock_communicator comm(engine, lengths);
    std::array<std::byte, 9> bytes{};
    const region in = run_of(bytes.data(), 9);
    const const_region out = run_of(bytes.data(), 8);
    auto b = comm.open_batch();
    if (comm.rank() == 0) b.send({&out, 1}, 1);
    if (comm.rank() == 1) b.recv({&in, 1}, 0);
    auto done = comm.launch(std::move(b));
    if (comm.rank() == 1) CHECK_THROWS_AS(done.wait(1000), batch_mismatch);
    if (comm.rank() == 0) {
      try {
        done.wait(1000);
      } catch (const error&) {  // it may learn of it
      }
    }
  });
  CHECK(first_difference(lengths.logs()) ==
        "the two ends of batch 0 differ:\n  rank 0 sends rank 1: 8 bytes\n  rank 1 receives from rank 0: 9 bytes");

  mock_world words(2);
  run_mailbox(2, [&](mailbox_communicator& engine) {
    mock_communicator comm(engine, words);
    std::array<std::byte, 64> all{};
    const auto n = static_cast<std::size_t>(8 + comm.rank());
    CHECK_THROWS_AS(comm.exchange(std::span(all).first(n), all, 1000), batch_mismatch);
  });
}

TEST_CASE("mock: it refuses operations over a size, batches over a length, and lists where there are no regions") {
  run_ranks(2, [&](threads_communicator& engine) {
    mock_communicator comm(engine);
    comm.limit({.regions = false, .max_operations = 2, .max_bytes = 10, .staging = 3});
    CHECK(comm.capabilities() == capabilities{.regions = false, .max_operations = 2, .max_bytes = 10, .staging = 3});
    std::array<std::byte, 64> bytes{};
    const region small = run_of(bytes.data(), 10), large = run_of(bytes.data(), 11);
    const std::array two = {small, small};
    auto b = comm.open_batch();
    CHECK_THROWS_AS(b.recv({&large, 1}, 0), device_failed);
    CHECK_THROWS_AS(b.recv(two, 0), device_failed);
    auto c = comm.open_batch();
    c.recv({&small, 1}, 1 - comm.rank());
    c.recv({&small, 1}, 1 - comm.rank());
    CHECK_THROWS_AS(c.recv({&small, 1}, 1 - comm.rank()), device_failed);
  });
  // What the engine says it can't, a range does not ask for.
  for (std::size_t operations : {2u, 3u}) {
    mock_world world(3);
    run_ranks(3, [&](threads_communicator& engine) {
      mock_communicator comm(engine, world);
      comm.limit({.regions = false, .max_operations = operations, .max_bytes = 7, .staging = 0});
      tensors t(3);
      for (auto& chunk : chunks(t.list, comm, read_write, {.budget = 512}))
        for (auto piece : chunk) piece.template as<std::uint32_t>()[3] = 7;
      CHECK((comm.rank() != 0 || t.bytes[1][12] == std::byte{7}));
    });
    CHECK(first_difference(world.logs()) == "");
  }
}

TEST_CASE("mock: the wrapped engine's collectives and capabilities are passed on, and only what it has") {
  using plain = decltype(std::declval<mock_communicator<mailbox_communicator>&>().open_batch());
  using rich = decltype(std::declval<mock_communicator<with_collectives>&>().open_batch());
  constexpr auto has = []<class B>(B*) {
    return requires(B & b) {
      b.all_gather(nullptr, nullptr, 0);
      b.broadcast(nullptr, 0, 0);
      b.gather(nullptr, nullptr, 0, 0);
      b.scatter(nullptr, nullptr, 0, 0);
    };
  };
  static_assert(!has(static_cast<plain*>(nullptr)));
  static_assert(has(static_cast<rich*>(nullptr)));
  mailbox box(1);
  with_collectives engine(box, 0);
  mock_communicator comm(engine);
  CHECK(comm.capabilities() == capabilities{.regions = false});
  std::array<std::byte, 8> bytes{};
  auto b = comm.open_batch();
  b.all_gather(bytes.data(), bytes.data(), 8);
  b.broadcast(bytes.data(), 8, 0);
  b.gather(bytes.data(), bytes.data(), 8, 0);
  b.scatter(bytes.data(), bytes.data(), 8, 0);
  CHECK(engine.calls == 4);
  CHECK(comm.log().size() == 5);
}

TEST_CASE("mock: time is its own: an hour passes at once, and only where every rank waits") {
  mock_world world(2);
  run_ranks(2, [&](threads_communicator& engine) {
    mock_communicator comm(engine, world);
    meet(comm, 3'600'000);
    if (comm.rank() == 1) comm.sleep_ms(3'599'999);
    meet(comm, 3'600'000);
    if (comm.rank() == 1) comm.sleep_ms(7'200'000);
    if (comm.rank() == 0) CHECK_THROWS_AS(meet(comm, 3'600'000), peer_timeout);
  });
  CHECK(world.now_ms() == 3'599'999 + 7'200'000);
  CHECK_FALSE(world.hung());
}

TEST_CASE("mock: where nobody has a deadline, waiting for a rank that is gone is mock_hang, not a hang") {
  mock_world world(3);
  run_ranks(3, [&](threads_communicator& engine) {
    mock_communicator comm(engine, world);
    if (comm.rank() != 1) CHECK_THROWS_AS(meet(comm, 0), mock_hang);
  });
  CHECK(world.hung());
}

TEST_CASE("mock: a fault hits the operation that the script names, before or after its work") {
  for (fault_kind kind : {fault_kind::fail_before, fault_kind::fail_after, fault_kind::die, fault_kind::time_out}) {
    mailbox box(1);
    mailbox_communicator engine(box, 0);
    mock_communicator comm(engine);
    comm.world().inject({.kind = kind, .rank = 0, .operation = 1});
    comm.world().inject({.kind = kind, .rank = 1, .operation = 0});  // of another rank
    meet(comm);
    if (kind == fault_kind::die) {
      CHECK_THROWS_AS(meet(comm), rank_died);
      CHECK_THROWS_AS(meet(comm), rank_died);
      CHECK_THROWS_AS(static_cast<void>(comm.open_batch()), rank_died);
    } else if (kind == fault_kind::time_out) {
      CHECK_THROWS_AS(meet(comm), peer_timeout);
      meet(comm);
    } else {
      CHECK_THROWS_AS(meet(comm), injected_failure);
      meet(comm);
    }
  }
  mailbox box(1);
  mailbox_communicator engine(box, 0);
  mock_communicator comm(engine);
  comm.world().inject({.kind = fault_kind::corrupt, .operation = 0, .byte = 3});
  std::array<std::byte, 8> word{}, all{};
  comm.exchange(word, all, 0);
  CHECK(all[3] == std::byte{0x55});
}

TEST_CASE("mock: out of order, the bytes of a batch move after those of the next") {
  mock_world world(2);
  world.inject({.kind = fault_kind::out_of_order, .operation = 0});
  run_mailbox(2, [&](mailbox_communicator& engine) {
    mock_communicator comm(engine, world);
    std::array<std::byte, 4> from{}, to{};
    std::vector<decltype(comm.launch(comm.open_batch()))> flying;
    for (unsigned i = 0; i < 2; ++i) {
      from[i] = std::byte(10 + i);
      const region in = run_of(&to[i], 1);
      const const_region out = run_of(&from[i], 1);
      auto b = comm.open_batch();
      b.send({&out, 1}, 1 - comm.rank());
      b.recv({&in, 1}, 1 - comm.rank());
      if (i == 1) from[0] = std::byte{99};  // batch 0 has not moved yet: the mailbox reads when it is launched
      flying.push_back(comm.launch(std::move(b)));
    }
    for (auto& f : flying) f.wait(1000);
    CHECK(to[0] == std::byte{99});
    CHECK(to[1] == std::byte{11});
  });
}

TEST_CASE("mock: the same seed gives the same fault") {
  bool differ = false;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const mock_fault a = random_fault(seed, 4, 30), b = random_fault(seed, 4, 30), c = random_fault(seed + 1, 4, 30);
    CHECK((a.kind == b.kind && a.rank == b.rank && a.operation == b.operation));
    CHECK((a.rank >= 0 && a.rank < 4 && a.operation < 30));
    differ = differ || a.operation != c.operation;
  }
  CHECK(differ);
}

TEST_CASE("failing_memory: the allocation that is named fails, the others do not, and all is given back") {
  failing_memory<> memory(1);
  void* p = memory.allocate(64, 8);
  CHECK_THROWS_AS(memory.allocate(64, 8), out_of_memory);
  CHECK(memory.held() == 64);
  memory.deallocate(p, 64, 8);
  memory.fail_at(0);
  CHECK_THROWS_AS(memory.allocate(1, 1), out_of_memory);
  CHECK(memory.allocations() == 3);
  CHECK(memory.held() == 0);
}
