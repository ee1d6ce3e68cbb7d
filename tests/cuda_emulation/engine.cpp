// SPDX-License-Identifier: Apache-2.0
// engine.cpp: the NCCL engine over the test double: the conformance kit, whole ranges on random models, faults.

#include <doctest/doctest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <unshard/comm/nccl.hpp>
#include <unshard/comm/threads.hpp>
#include <unshard/cuda/copy_boxes.hpp>
#include <unshard/cuda/memory.hpp>
#include <unshard/testing/conformance.hpp>
#include <unshard/unshard.hpp>

#include "oracle.hpp"
#include "ranks.hpp"

namespace {

using namespace ranks;
using unshard::nccl_communicator;
using unshard::cuda::memcpy_copier;
using unshard::cuda::thrust_copier;

/// At the end of every case: nothing was misused, nothing is left.
struct clean {
  clean() { static_cast<void>(cuda_emulation::violations()); }
  ~clean() {
    cuda_emulation::reach_everything(false);
    cuda_emulation::seed(0);
    CHECK(cuda_emulation::leaks() == "");
    for (const std::string& v : cuda_emulation::violations()) FAIL_CHECK(v);
  }
};

std::string what(const std::exception_ptr& thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}
template <class E>
bool is(const std::exception_ptr& thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const E&) {
    return true;
  } catch (...) {
  }
  return false;
}

/// f(comm, stream) on n ranks, each with a communicator of its own from an id, with no host way.
template <class Copier = memcpy_copier, class F>
std::vector<std::exception_ptr> on_ranks(int n, F f, unshard::nccl_options options = {.timeout_ms = 10'000}) {
  const ncclUniqueId id = new_id();
  return run_all(n, [&](int rank) {
    ranks::stream s;
    nccl_communicator<Copier> comm(id, n, rank, s.get(), options);
    f(comm, s.get());
  });
}
void expect_none(const std::vector<std::exception_ptr>& thrown) {
  for (const auto& t : thrown) CHECK(what(t) == "");
}

/// For the kit: n ranks over the double, whose hosts talk through the threads engine, or through NCCL's device words.
template <class Copier, bool Words, bool Borrowed>
struct make_ranks {
  template <class F>
  void operator()(int n, F f) const {
    const ncclUniqueId id = new_id();
    unshard::threads_group hosts(n);
    run_all(n, [&](int rank) {
      ranks::stream s;
      auto host = hosts.communicator(rank);
      unshard::nccl_options options{.timeout_ms = 2'000};
      if (!Words) options.exchange = host;
      if constexpr (Borrowed) {
        ncclComm_t own = parent(id, n, rank, false);
        {
          nccl_communicator<Copier> comm(unshard::borrowed, own, s.get(), options);
          f(comm);
        }
        ncclCommAbort(own);  // the owner's to end
      } else {
        nccl_communicator<Copier> comm(id, n, rank, s.get(), options);
        f(comm);
      }
    });
  }
};

template <class Make>
std::vector<std::string> findings(Make make) {
  cuda_emulation::reach_everything(true);  // the kit's buffers are ordinary host memory
  std::vector<std::string> out;
  for (const unshard::finding& f : unshard::check_communicator(make, 1'000)) out.push_back(f.check + " | " + f.what);
  cuda_emulation::leaks();
  for (const std::string& v : cuda_emulation::violations())
    if (v.find("sends 8 bytes") == std::string::npos) out.push_back(v);  // which the kit does on purpose
  return out;
}

TEST_CASE("nccl_communicator: the conformance kit finds nothing, with a host way for exchanges") {
  const clean at_end;
  CHECK(findings(make_ranks<memcpy_copier, false, false>{}) == std::vector<std::string>{});
}
TEST_CASE("nccl_communicator: the conformance kit finds nothing on a borrowed communicator, with thrust_copier") {
  const clean at_end;
  CHECK(findings(make_ranks<thrust_copier, false, true>{}) == std::vector<std::string>{});
}
TEST_CASE("nccl_communicator: without a host way peers don't learn the reason of an abort, and all else holds") {
  const clean at_end;
  for (const std::string& f : findings(make_ranks<memcpy_copier, true, false>{})) {
    CAPTURE(f);
    CHECK(f.find("abort wakes the others") != std::string::npos);
  }
}

/// A rank's shards of a random model on its device, and handles over them.
struct device_model {
  struct handle : oracle::handle {
    std::span<std::byte> bytes;
    std::span<std::byte> shard() const { return bytes; }
  };
  device_model(std::vector<oracle::tensor>& model, int rank, cudaStream_t stream) : handles_at(stream) {
    for (const oracle::handle& h : oracle::handles_of(model, rank)) {
      auto& home = h.owner->shards[h.rank];
      if (h.owner == h.what || at.empty() || model[h.what->tied_to].tied_to == h.index) {
        at.push_back(std::make_unique<buffer>(home.size(), stream));
        cudaMemcpyAsync(at.back()->data(), home.data(), home.size(), cudaMemcpyDefault, stream);
      } else {
        at.push_back(nullptr);
      }
      const std::size_t owner = h.what->tied_to;
      list.push_back({h, {at[owner]->data(), home.size()}});
    }
  }
  /// Back into the model.
  void store() {
    for (std::size_t i = 0; i < list.size(); ++i) {
      auto& home = list[i].owner->shards[list[i].rank];
      if (at[i] != nullptr) cudaMemcpyAsync(home.data(), at[i]->data(), home.size(), cudaMemcpyDefault, handles_at);
    }
    cudaStreamSynchronize(handles_at);
  }
  cudaStream_t handles_at;
  std::vector<std::unique_ptr<buffer>> at;
  std::vector<handle> list;
};

/// One random range over a random model: what is read is right, what is written arrives, padding stays.
template <class Copier, class Memory>
void whole_range(std::uint64_t seed) {
  CAPTURE(seed);
  oracle::dice roll(seed);
  const int n = static_cast<int>(roll(1, 4));
  std::vector<oracle::tensor> model = oracle::some_model(n, roll);
  std::vector<oracle::tensor> after = model;
  const int access = static_cast<int>(roll(0, 2));
  if (access != 0)
    for (std::size_t i = 0; i < after.size(); ++i) {
      if (after[i].tied_to == i)
        for (std::byte& b : after[i].value) b ^= std::byte{0x5a};
    }
  for (oracle::tensor& t : after) t.value = after[t.tied_to].value;
  unshard::options options;
  options.cut = roll.chance(50) ? unshard::cut::oversized : unshard::cut::never;
  options.in_flight = static_cast<int>(roll(1, 3));
  options.alignment = roll.chance(50) ? 128 : 1;
  if (roll.chance(40))
    options.on = unshard::every_rank;
  else
    options.on = unshard::root(static_cast<int>(roll(0, n - 1)));
  options.timeout_ms = 20'000;
  options.budget = static_cast<std::size_t>(roll(500, 20'000));
  const bool rooted = roll.chance(50);
  cuda_emulation::set_version(rooted ? 23'000 : 22'700);
  unshard::threads_group hosts(n);
  const bool words = roll.chance(30);
  const ncclUniqueId id = new_id();
  std::atomic<int> wrong{0};
  const auto thrown = run_all(n, [&](int rank) {
    ranks::stream s;
    auto host = hosts.communicator(rank);
    unshard::nccl_options way{.timeout_ms = 10'000};
    if (!words) way.exchange = host;
    nccl_communicator<Copier> comm(id, n, rank, s.get(), way);
    device_model mine(model, rank, s.get());
    auto memory = [&] {
      if constexpr (std::is_same_v<Memory, unshard::pinned_memory>) {
        return unshard::pinned_memory();
      } else {
        return Memory(s.get());
      }
    }();
    unshard::options o = options;
    for (;; o.budget *= 2) {  // the same on every rank
      try {
        static_cast<void>(unshard::make_plan(mine.list, o, comm.capabilities()));
        break;
      } catch (const unshard::budget_too_small&) {
      }
    }
    const auto visit = [&](auto how) {
      for (auto& chunk : unshard::chunks(mine.list, comm, how, o, memory)) {
        for (auto piece : chunk) {
          const oracle::tensor& t = model[piece.index()];
          const auto first = static_cast<std::size_t>(piece.first()) * t.element_size;
          const auto bytes = piece.bytes();
          if (bytes.empty()) continue;
          if (access != 2) {  // as a caller's kernels would: on the stream, without a word to the host
            const buffer seen(bytes.size());
            cudaMemcpyAsync(seen.data(), bytes.data(), bytes.size(), cudaMemcpyDefault, s.get());
            cudaStreamSynchronize(s.get());
            wrong += std::memcmp(seen.data(), t.value.data() + first, bytes.size()) != 0;
          }
          if constexpr (!std::is_const_v<typename decltype(bytes)::element_type>) {
            cudaMemcpyAsync(bytes.data(), after[t.tied_to].value.data() + first, bytes.size(), cudaMemcpyDefault,
                            s.get());
            if (unshard::is_host_memory<Memory>) cudaStreamSynchronize(s.get());
          }
        }
      }
    };
    if (access == 0) visit(unshard::read);
    if (access == 1) visit(unshard::read_write);
    if (access == 2) visit(unshard::overwrite);
    mine.store();
  });
  expect_none(thrown);
  CHECK(wrong == 0);
  for (std::size_t i = 0; i < model.size(); ++i) model[i].value = after[i].value;
  CHECK(oracle::first_wrong_shard(model) == "");
  cuda_emulation::set_version(NCCL_VERSION_CODE);
}

TEST_CASE("chunks over NCCL: random models are read and written right, in device memory") {
  const clean at_end;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    cuda_emulation::seed(seed);
    whole_range<memcpy_copier, unshard::cuda_memory>(seed);
    whole_range<thrust_copier, unshard::cuda_memory>(seed + 1000);
  }
}
TEST_CASE("chunks over NCCL: random models are read and written right, in pinned host memory") {
  const clean at_end;
  for (std::uint64_t seed = 2001; seed <= 2040; ++seed) {
    cuda_emulation::seed(seed);
    whole_range<memcpy_copier, unshard::pinned_memory>(seed);
  }
}

TEST_CASE("nccl_communicator: memory that the device can't reach, and what NCCL can't do, are errors that say so") {
  const clean at_end;
  expect_none(on_ranks(1, [](auto& comm, cudaStream_t stream) {
    std::vector<std::byte> pageable(64);
    const buffer device(64, stream);
    auto b = comm.open_batch();
    CHECK_THROWS_WITH_AS(send(b, pageable.data(), 64, 0), doctest::Contains("not pinned"), unshard::bad_options);
    CHECK_THROWS_AS(send(b, device.data(), 64, 1), unshard::batch_mismatch);
    const unshard::region rows{device.data(), {index_t{4}, index_t{8}}, {index_t{16}, index_t{1}}};
    CHECK_THROWS_AS(b.recv({&rows, 1}, 0), unshard::batch_mismatch);
    const unshard::const_region from = crun(device.data(), 32);
    const unshard::region to = run(device.data(), 16);
    CHECK_THROWS_AS(b.copy_before({&from, 1}, {&to, 1}), unshard::batch_mismatch);
    send(b, device.data(), 64, 0);  // none of these did anything
    recv(b, device.data(), 64, 0);
    comm.launch(std::move(b)).wait(10'000);
  }));
}

TEST_CASE("nccl_communicator: a batch over max_operations is refused before NCCL hangs on it") {
  const clean at_end;
  const auto thrown = on_ranks(1,
                               [](auto& comm, cudaStream_t stream) {
                                 const buffer device(64, stream);
                                 auto b = comm.open_batch();
                                 for (int i = 0; i < 5; ++i) send(b, device.data(), 1, 0);
                                 static_cast<void>(comm.launch(std::move(b)));
                               },
                               {.timeout_ms = 1'000, .max_operations = 4});
  CHECK(is<unshard::batch_mismatch>(thrown[0]));
}

TEST_CASE("nccl_communicator: an asynchronous error of NCCL is device_failed, and ends it") {
  const clean at_end;
  const auto thrown = on_ranks(2,
                               [](auto& comm, cudaStream_t stream) {
                                 const buffer out(64, stream), in(64, stream);
                                 auto b = comm.open_batch();
                                 send(b, out.data(), 64, 1 - comm.rank());
                                 recv(b, in.data(), 64, 1 - comm.rank());
                                 if (comm.rank() == 0) cuda_emulation::fail_next_group();
                                 std::string said;
                                 try {
                                   comm.launch(std::move(b)).wait(500);
                                   std::byte word{};
                                   std::byte all[2];
                                   comm.exchange({&word, 1}, all, 500);
                                 } catch (const unshard::device_failed& e) {
                                   said = e.what();
                                   CHECK(comm.rank() == 0);
                                   CHECK(said.find("told to fail this group") != std::string::npos);
                                   CHECK_THROWS_AS(comm.open_batch(), unshard::device_failed);
                                 } catch (const unshard::peer_timeout&) {
                                   CHECK(comm.rank() == 1);
                                 }
                               },
                               {.timeout_ms = 1'000});
  expect_none(thrown);
}

TEST_CASE("nccl_communicator: borrowed, it never aborts, and says that buffers must stay") {
  const clean at_end;
  const ncclUniqueId id = new_id();
  unshard::threads_group hosts(2);
  expect_none(run_all(2, [&](int rank) {
    ranks::stream s;
    auto host = hosts.communicator(rank);
    ncclComm_t own = parent(id, 2, rank, false);
    const buffer to(64);
    {
      nccl_communicator<> comm(unshard::borrowed, own, s.get(), {.exchange = host, .timeout_ms = 1'000});
      auto first = comm.open_batch();  // both come: connected
      send(first, to.data(), 8, 1 - rank);
      recv(first, to.data() + 8, 8, 1 - rank);
      comm.launch(std::move(first)).wait(10'000);
      if (rank == 0) {
        auto b = comm.open_batch();
        recv(b, to.data(), 64, 1);
        auto done = comm.launch(std::move(b));
        CHECK_THROWS_AS(done.wait(50), unshard::peer_timeout);
        CHECK(comm.abandoned());
        CHECK_THROWS_AS(done.wait(50), unshard::device_failed);
      } else {
        CHECK(!comm.abandoned());
      }
    }
    ncclCommAbort(own);
  }));
}

/// A model of one parameter, read on a root into nccl_memory, its shards from `shards` of the same kind or not.
void read_into(unshard::registration chunks, unshard::registration shards) {
  expect_none(on_ranks(3, [=](auto& comm, cudaStream_t stream) {
    unshard::nccl_memory memory(comm, chunks), own(comm, shards);
    constexpr std::size_t bytes = 1000;
    auto* shard = static_cast<std::byte*>(own.allocate(bytes, 128));
    fill(stream, shard, bytes, static_cast<unsigned>(comm.rank()));
    const std::vector<unshard::parameter_view> list{{"w", unshard::dim_shard({10, 300}, 1, 3), 1, {shard, bytes}}};
    for (auto& chunk : unshard::chunks(list, comm, unshard::read, {.budget = 8 * unshard::KiB}, memory))
      CHECK(chunk.bytes() == 3000);
    own.deallocate(shard, bytes, 128);
  }));
}

TEST_CASE("nccl_memory: unregistered by default, so that no transfer mixes registered and other memory") {
  const clean at_end;
  read_into(unshard::registration::none, unshard::registration::none);
  read_into(unshard::registration::buffers, unshard::registration::buffers);
}

TEST_CASE("the test double: registered chunks with shards that are not are a violation") {
  {
    const clean at_end;
    read_into(unshard::registration::buffers, unshard::registration::none);
    CHECK(cuda_emulation::violations().size() > 0);
  }
}

TEST_CASE("nccl_communicator: a stream that is captured into a graph is an error on every rank, before a byte moves") {
  const clean at_end;
  const auto thrown = on_ranks(2, [](auto& comm, cudaStream_t stream) {
    const buffer shard(256, stream);
    fill(stream, shard.data(), 256, 1);
    unshard::cuda_memory memory(stream);
    const std::vector<unshard::parameter_view> list{{"w", unshard::dim_shard({8, 64}, 1, 2), 1, {shard.data(), 256}}};
    if (comm.rank() == 1) cuda_emulation::capture(stream, true);
    const auto open = [&] {
      for (auto& chunk :
           unshard::chunks(list, comm, unshard::read, {.budget = 4 * unshard::KiB, .timeout_ms = 2'000}, memory))
        static_cast<void>(chunk);
    };
    if (comm.rank() == 1) {
      CHECK_THROWS_WITH_AS(open(), doctest::Contains("captured into a graph"), unshard::bad_options);
      cuda_emulation::capture(stream, false);
    } else {
      CHECK_THROWS_WITH_AS(open(), doctest::Contains("captured into a graph"), unshard::peer_failed);
    }
  });
  for (const auto& t : thrown) CHECK(what(t) == "");
}

TEST_CASE("nccl_communicator: works while another thread captures in the global mode") {
  const clean at_end;
  expect_none(on_ranks(2, [](auto& comm, cudaStream_t stream) {
    const buffer shard(256, stream);
    fill(stream, shard.data(), 256, 1);
    cudaStreamSynchronize(stream);
    unshard::nccl_memory memory(comm);
    const std::vector<unshard::parameter_view> list{{"w", unshard::dim_shard({8, 64}, 1, 2), 1, {shard.data(), 256}}};
    const auto meet = [&] {
      std::byte mine[1] = {}, all[2];
      comm.exchange(mine, all, 5'000);
    };
    meet();  // what the test itself synchronises is done
    cuda_emulation::capture_elsewhere(true);
    for (auto& chunk : unshard::chunks(list, comm, unshard::read_write, {.budget = 4 * unshard::KiB}, memory))
      static_cast<void>(chunk);
    meet();
    cuda_emulation::capture_elsewhere(false);
  }));
}

TEST_CASE("nccl_memory: symmetric windows, where every rank allocates") {
  const clean at_end;
  expect_none(on_ranks(3,
                       [](auto& comm, cudaStream_t) {
                         unshard::nccl_memory memory(comm, unshard::registration::windows);
                         void* p = memory.allocate(1000, 128);
                         void* q = memory.allocate(1000, 128);
                         memory.deallocate(p, 1000, 128);
                         memory.deallocate(q, 1000, 128);
                         unshard::nccl_memory local(comm, unshard::registration::buffers);
                         if (comm.rank() != 0) return;
                         p = local.allocate(1000, 128);
                         comm.abort("before it goes back");
                         local.deallocate(p, 1000, 128);
                       },
                       {.timeout_ms = 500}));
  cuda_emulation::leaks();
}

/// Two chunks written by the root over three ranks, where call k of one rank fails: everybody comes to an end, the
/// rank learns of it as an error of ours, and nothing is torn before the vote, freed twice or aborted twice.
TEST_CASE("chunks over NCCL: any call of CUDA or NCCL may fail") {
  std::size_t calls = 0;
  for (std::size_t k = 0; k == 0 || k <= calls; k += k < 40 ? 1 : 3) {
    CAPTURE(k);
    const clean at_end;
    const ncclUniqueId id = new_id();
    unshard::threads_group hosts(2);
    const int victim = static_cast<int>(k % 2);
    std::string name;
    const auto thrown = run_all(2, [&](int rank) {
      ranks::stream s;
      auto host = hosts.communicator(rank);
      const buffer a(256, s.get()), b(256, s.get());
      fill(s.get(), a.data(), 256, 1);
      fill(s.get(), b.data(), 256, 2);
      unshard::cuda_memory memory(s.get());
      const std::vector<unshard::parameter_view> list{{"a", unshard::flat_shard({64, 8}, 2), 1, {a.data(), 256}},
                                                      {"b", unshard::dim_shard({64, 8}, 1, 2), 1, {b.data(), 256}}};
      const std::size_t before = cuda_emulation::calls();
      if (rank == victim) cuda_emulation::fail_call(k);
      try {
        nccl_communicator<> comm(id, 2, rank, s.get(), {.exchange = host, .timeout_ms = 300});
        for (auto& chunk :
             unshard::chunks(list, comm, unshard::read_write, {.budget = 2048, .timeout_ms = 300}, memory))
          for (auto piece : chunk) fill(s.get(), piece.bytes().data(), piece.bytes().size(), 9);
      } catch (...) {
        if (rank == victim) name = cuda_emulation::failed_call();
        cuda_emulation::fail_call(0);
        host.abort("this rank has failed");  // as the end of its process would tell the others
        throw;
      }
      if (rank == victim && k == 0) calls = cuda_emulation::calls() - before;
      cuda_emulation::fail_call(0);
    });
    CAPTURE(name);
    if (k == 0) {
      expect_none(thrown);
      REQUIRE(calls > 20);
      continue;
    }
    for (const auto& t : thrown) CHECK((t == nullptr || is<unshard::error>(t)));
  }
  MESSAGE("calls that failed in turn, on one rank or the other: up to ", calls);
}

}  // namespace
