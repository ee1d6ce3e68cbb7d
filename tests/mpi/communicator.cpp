// SPDX-License-Identifier: Apache-2.0
// comm/mpi.hpp: what its ranks promise each other. Bytes are held to a plain oracle that goes byte by byte.
#include <chrono>
#include <memory>
#include <random>
#include <thread>

#include "world.hpp"

using namespace unshard;
using namespace world;

TEST_CASE("mpi_communicator: any shapes arrive as a byte-by-byte copy has them, and nothing else changes") {
  const std::uint32_t seed = 20261123;
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  mpi_communicator c(MPI_COMM_WORLD);
  for (int round = 0; round < 20; ++round) {
    const random_copies copies(c.size(), 5000, random);  // every process has all ranks' memory; its own takes part
    const std::vector<bytes> expected = copies.moved();
    mpi_batch b = c.open_batch();
    copies.add_to(b, c.rank());
    c.launch(std::move(b)).wait(patient_ms);
    CHECK(copies.memory(c.rank()) == expected[index(c.rank())]);
  }
}

TEST_CASE("mpi_communicator: rows and columns of many MiB, and long lists of small runs, arrive whole") {
  mpi_communicator c(MPI_COMM_WORLD);
  const int next = (c.rank() + 1) % c.size();
  const int last = (c.rank() + c.size() - 1) % c.size();
  constexpr index_t rows = 3000, columns = 1001;
  for (const index_t width : {index_t{1}, index_t{64}, columns}) {
    const bytes out = pattern(static_cast<std::size_t>(rows * columns), c.rank());
    bytes in(out.size());
    const const_region from(out.data(), {rows, width}, {columns, 1});
    std::vector<region> to;  // the same bytes, from the other end of the buffer on
    for (index_t r = 0; r < rows; ++r) to.push_back({in.data() + (rows - 1 - r) * columns, {width}, {1}});
    mpi_batch b = c.open_batch();
    b.send({&from, 1}, next);
    b.recv(to, last);
    c.launch(std::move(b)).wait(patient_ms);
    const bytes sent = pattern(out.size(), last);
    bytes expected(out.size());
    for (index_t r = 0; r < rows; ++r)
      std::memcpy(expected.data() + (rows - 1 - r) * columns, sent.data() + r * columns,
                  static_cast<std::size_t>(width));
    CHECK(in == expected);
  }
}

TEST_CASE("mpi_communicator: messages between one pair match in their order, zero bytes and oneself included") {
  mpi_communicator c(MPI_COMM_WORLD);
  std::vector<bytes> out, in;
  mpi_batch b = c.open_batch();
  for (int peer = 0; peer < c.size(); ++peer) {
    for (int m = 0; m < 5; ++m) {
      out.push_back(pattern(index(m) * 30000, c.rank() * 50 + peer * 5 + m));
      in.emplace_back(index(m) * 30000);
    }
  }
  for (int m = 0; m < 5; ++m) {
    for (int peer = 0; peer < c.size(); ++peer) {
      send(b, out[index(peer * 5 + m)], peer);
      recv(b, in[index(peer * 5 + m)], peer);
    }
  }
  c.launch(std::move(b)).wait(patient_ms);
  for (int peer = 0; peer < c.size(); ++peer) {
    for (int m = 0; m < 5; ++m)
      CHECK(in[index(peer * 5 + m)] == pattern(index(m) * 30000, peer * 50 + c.rank() * 5 + m));
  }
}

TEST_CASE("mpi_communicator: several batches in flight, batches that hold nothing, and one that is not launched") {
  mpi_communicator c(MPI_COMM_WORLD);
  const int next = (c.rank() + 1) % c.size();
  const int last = (c.rank() + c.size() - 1) % c.size();
  std::vector<bytes> in(4, bytes(200'000));
  std::vector<bytes> out;
  std::vector<mpi_completion> done;
  for (int i = 0; i < 4; ++i) {
    out.push_back(pattern(200'000, c.rank() + i));
    bytes never(10);
    mpi_batch dropped = c.open_batch();
    send(dropped, out.back(), next);
    recv(dropped, never, last);
    mpi_batch b = c.open_batch();
    if (i != 2) {
      send(b, out.back(), next);
      recv(b, in[index(i)], last);
    }
    done.push_back(c.launch(std::move(b)));
  }
  CHECK(exchange_works(c));  // while they are in flight
  for (int i = 0; i < 4; ++i) {
    done[index(i)].wait(patient_ms);
    CHECK(done[index(i)].ready());
    CHECK(in[index(i)] == (i == 2 ? bytes(200'000) : pattern(200'000, last + i)));
  }
}

TEST_CASE("mpi_communicator: exchange gathers every rank's word, of up to 256 bytes, any number of times") {
  mpi_communicator c(MPI_COMM_WORLD);
  for (const std::size_t size : {0u, 1u, 16u, 256u, 16u, 3u}) {
    for (int i = 0; i < 5; ++i) {
      bytes all(size * index(c.size()));
      c.exchange(pattern(size, c.rank() + i), all, 0);
      for (int r = 0; r < c.size(); ++r) {
        const auto word = std::span(all).subspan(index(r) * size, size);
        CHECK(bytes(word.begin(), word.end()) == pattern(size, r + i));
      }
    }
  }
}

TEST_CASE("mpi_communicator: what one rank can see itself is refused at the call") {
  mpi_communicator c(MPI_COMM_WORLD);
  bytes a(10), b(9), all(10'000);
  mpi_batch batch = c.open_batch();
  CHECK(contains(thrown<bad_options>([&] { send(batch, a, c.size()); }), "the ranks are 0 to"));
  CHECK(contains(thrown<bad_options>([&] { recv(batch, a, -1); }), "recv from rank -1"));
  const const_region from = run_of(a);
  const region to = run_of(b);
  CHECK(contains(thrown<batch_mismatch>([&] { batch.copy_after({&from, 1}, {&to, 1}); }), "from 10 bytes to 9"));
  CHECK_THROWS_AS(c.exchange(bytes(257), all, 0), bad_options);
  CHECK_THROWS_AS(c.exchange(bytes(16), std::span(all).first(15), 0), bad_options);
  CHECK_THROWS_AS(mpi_communicator(MPI_COMM_NULL), device_failed);
  CHECK(exchange_works(c));
}

TEST_CASE("mpi_communicator: a subset of the ranks, in another order, and several communicators at once") {
  mpi_communicator all(MPI_COMM_WORLD);
  MPI_Comm half = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, all.rank() % 2, -all.rank(), &half);
  {
    mpi_communicator some(half);
    MPI_Comm_free(&half);  // the duplicate lives on
    mpi_communicator again(MPI_COMM_WORLD);
    CHECK(some.size() == (all.size() + 1 - all.rank() % 2) / 2);
    const bytes out_a = pattern(5000, all.rank()), out_b = pattern(7000, some.rank() + 10), out_c(7000, std::byte{9});
    bytes in_a(5000), in_b(7000), in_c(7000);
    mpi_batch b = some.open_batch(), a = all.open_batch(), c = again.open_batch();
    send(a, out_a, (all.rank() + 1) % all.size());
    recv(a, in_a, (all.rank() + all.size() - 1) % all.size());
    send(b, out_b, (some.rank() + 1) % some.size());
    recv(b, in_b, (some.rank() + some.size() - 1) % some.size());
    send(c, out_c, (all.rank() + 1) % all.size());
    recv(c, in_c, (all.rank() + all.size() - 1) % all.size());
    mpi_completion done_c = again.launch(std::move(c)), done_b = some.launch(std::move(b)),
                   done_a = all.launch(std::move(a));
    done_a.wait(patient_ms);
    CHECK(exchange_works(some));
    done_b.wait(patient_ms);
    done_c.wait(patient_ms);
    CHECK(in_a == pattern(5000, (all.rank() + all.size() - 1) % all.size()));
    CHECK(in_b == pattern(7000, (some.rank() + some.size() - 1) % some.size() + 10));
    CHECK(in_c == out_c);
  }
  CHECK(exchange_works(all));
}

TEST_CASE("mpi_communicator: the application's messages and its error handler are left alone") {
  MPI_Errhandler before = MPI_ERRHANDLER_NULL, after = MPI_ERRHANDLER_NULL;
  MPI_Comm_get_errhandler(MPI_COMM_WORLD, &before);
  const int next = (rank() + 1) % size(), last = (rank() + size() - 1) % size();
  const bytes theirs(100, std::byte{7}), ours(100, std::byte{8});
  bytes in_theirs(100), in_ours(100);
  {
    mpi_communicator c(MPI_COMM_WORLD);
    MPI_Request requests[2];  // of any tag, posted before ours and around it
    MPI_Irecv(in_theirs.data(), 100, MPI_BYTE, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &requests[0]);
    mpi_batch b = c.open_batch();
    send(b, ours, next);
    recv(b, in_ours, last);
    c.launch(std::move(b)).wait(patient_ms);
    CHECK(exchange_works(c));
    MPI_Isend(theirs.data(), 100, MPI_BYTE, next, 0, MPI_COMM_WORLD, &requests[1]);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    CHECK(in_theirs == theirs);
    CHECK(in_ours == ours);
  }
  MPI_Comm_get_errhandler(MPI_COMM_WORLD, &after);
  CHECK(before == after);
  MPI_Errhandler_free(&before);
  MPI_Errhandler_free(&after);
}

TEST_CASE("mpi_communicator: two ends of different lengths are batch_mismatch where it shows, naming both") {
  if (size() < 2) return;
  for (const std::size_t sent : {std::size_t{60}, std::size_t{100}, std::size_t{1} << 20}) {
    mpi_communicator c(MPI_COMM_WORLD);
    auto out = std::make_unique<bytes>(sent);
    bytes in(sent == 100 ? 60 : 70);
    mpi_batch b = c.open_batch();
    if (c.rank() == 0) recv(b, in, 1);
    if (c.rank() == 1) send(b, *out, 0);
    mpi_completion done = c.launch(std::move(b));
    barrier();  // launch throws where a peer has aborted
    if (c.rank() == 0) {
      const std::string words = thrown<batch_mismatch>([&] { done.wait(patient_ms); });
      CHECK_MESSAGE(contains(words, "rank 0 expected " + std::to_string(in.size()) + " bytes from rank 1"), words);
      CHECK_THROWS_AS(exchange_works(c), batch_mismatch);
    } else if (c.rank() == 1) {
      // MPI keeps a short message for its receiver; a long one waits, until rank 0 gives up.
      const std::string words = thrown<peer_failed>([&] { done.wait(patient_ms); });
      CHECK_MESSAGE((sent < 1000 ? words == "nothing" : contains(words, "rank 0 aborted")), words);
    }
    if (sent < 1000) barrier();  // so that rank 0 sees it for itself
    if (c.rank() < 2) c.abort("the lengths differ");
    CHECK((!c.abandoned() || c.rank() == 1));
    if (c.abandoned()) static_cast<void>(out.release());
    barrier();
  }
}

TEST_CASE("mpi_communicator: two messages whose lengths are swapped at one end are batch_mismatch, not exchanged") {
  if (size() < 2) return;
  mpi_communicator c(MPI_COMM_WORLD);
  const bytes eight = pattern(8, 1), many = pattern(24, 2);
  bytes in_many(24), in_eight(8);
  mpi_batch b = c.open_batch();
  if (c.rank() == 0) recv(b, in_many, 1), recv(b, in_eight, 1);
  if (c.rank() == 1) send(b, eight, 0), send(b, many, 0);
  mpi_completion done = c.launch(std::move(b));
  barrier();
  if (c.rank() == 0) {
    const std::string words = thrown<batch_mismatch>([&] { done.wait(patient_ms); });
    CHECK_MESSAGE(contains(words, "rank 0 expected 24 bytes from rank 1, which sent 8"), words);
  }
  barrier();
  if (c.rank() < 2) c.abort("the lengths differ");
  barrier();
}

TEST_CASE("mpi_communicator: a rank that does not come is peer_timeout on all that wait, and poisons") {
  if (size() < 2) return;
  bytes in(100'000), out(100'000);
  for (const bool in_exchange : {false, true}) {
    mpi_communicator c(MPI_COMM_WORLD);
    const auto begun = std::chrono::steady_clock::now();
    if (c.rank() != 0 && in_exchange) {  // rank 0 sleeps through it all
      CHECK(contains(thrown<peer_timeout>([&] { exchange_works(c, 300); }), "some rank did not come within 300 ms"));
      CHECK_THROWS_AS(exchange_works(c), peer_timeout);
    } else if (c.rank() == 1) {
      mpi_batch b = c.open_batch();
      recv(b, in, 0);
      mpi_completion done = c.launch(std::move(b));
      const std::string words = thrown<peer_timeout>([&] { done.wait(300); });
      CHECK_MESSAGE(contains(words, "rank 0 did not come within 300 ms"), words);
      CHECK_THROWS_AS(done.wait(300), peer_timeout);
      CHECK_THROWS_AS(c.open_batch(), peer_timeout);
    }
    CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds(30));
    barrier();
    c.abort("over");
    CHECK(!c.abandoned());  // a receive that nothing came for can be cancelled
    barrier();
  }
}

TEST_CASE("mpi_communicator: abort tells the ranks that wait, with the reason, long before their deadline") {
  if (size() < 2) return;
  for (const bool in_exchange : {false, true}) {
    mpi_communicator c(MPI_COMM_WORLD);
    bytes in(100'000);
    if (c.rank() == size() - 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      c.abort("the disk is full");
      CHECK(contains(thrown<peer_failed>([&] { exchange_works(c); }), "the disk is full"));
    } else {
      std::string words;
      if (in_exchange) {
        words = thrown<peer_failed>([&] { exchange_works(c); });
      } else {
        words = thrown<peer_failed>([&] {
          mpi_batch b = c.open_batch();
          recv(b, in, size() - 1);
          c.launch(std::move(b)).wait(patient_ms);
        });
      }
      CHECK_MESSAGE(contains(words, "rank " + std::to_string(size() - 1) + " aborted: the disk is full"), words);
      CHECK_THROWS_AS(c.open_batch(), peer_failed);
      c.abort("told");
      CHECK(!c.abandoned());
    }
    barrier();
  }
}

TEST_CASE("mpi_communicator: a send that nobody fetches is left with its buffer, and abort says so") {
  if (size() < 2) return;
  auto out = std::make_unique<bytes>(std::size_t{4} << 20);
  mpi_communicator c(MPI_COMM_WORLD);
  mpi_batch b = c.open_batch();
  if (c.rank() == 0) send(b, *out, 1);
  mpi_completion done = c.launch(std::move(b));
  if (c.rank() == 0) CHECK_THROWS_AS(done.wait(100), peer_timeout);
  barrier();
  c.abort("nobody fetches");
  CHECK(c.abandoned() == (c.rank() == 0));
  if (c.abandoned()) static_cast<void>(out.release());
  barrier();
}

TEST_CASE("mpi_communicator: below MPI_THREAD_SERIALIZED only the thread that initialised MPI may call") {
  int level = 0;
  MPI_Query_thread(&level);
  mpi_communicator c(MPI_COMM_WORLD);
  std::string words;
  bool works = false;
  std::thread other([&] { words = thrown<device_failed>([&] { works = exchange_works(c); }); });
  other.join();
  if (level >= MPI_THREAD_SERIALIZED) {
    CHECK(works);
  } else {
    CHECK_MESSAGE(contains(words, level == MPI_THREAD_SINGLE ? "MPI_THREAD_SINGLE" : "MPI_THREAD_FUNNELED"), words);
    CHECK(contains(words, "MPI_THREAD_SERIALIZED"));
  }
  barrier();
}
