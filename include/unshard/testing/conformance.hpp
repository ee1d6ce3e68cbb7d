#pragma once  // conformance.hpp: do a user's own communicator, layout and handle keep their promises? Findings, as
              // values.

#include <cstddef>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <unshard/communicator.hpp>
#include <unshard/detail/check_communicator.hpp>
#include <unshard/detail/check_handle.hpp>  // IWYU pragma: export
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// For asking whether `make(2, f)` would call f with a communicator.
struct any_rank {
  template <class C>
  void operator()(C&) const {}
};

/// One check, on every rank of one fresh group; findings of all ranks that live in this process.
template <class Make, class F>
std::vector<finding> run_check(Make& make, int ranks, int patience_ms, const char* name, F check) {
  std::mutex mutex;
  std::vector<finding> out;
  const auto one = [&](auto& comm) {
    std::vector<finding> mine;
    const std::string threw = concat(name);
    guarded(mine, threw, [&] {
      conformance_rank<std::remove_reference_t<decltype(comm)>> rank{comm, patience_ms, mine, name};
      check(rank);
    });
    if (!mine.empty()) comm.abort("the conformance kit found something");  // nobody is to wait for this rank
    const std::lock_guard lock(mutex);
    for (finding& f : mine) out.push_back(std::move(f));
  };
  if constexpr (requires { make(ranks, any_rank{}); }) {
    guarded(out, name, [&] { make(ranks, one); });
  } else if constexpr (requires { make(ranks).communicator(0); }) {
    auto group = make(ranks);
    std::vector<std::thread> threads;
    for (int r = 0; r < ranks; ++r) {
      threads.emplace_back([&, r] {
        auto comm = group.communicator(r);
        one(comm);
      });
    }
    for (std::thread& t : threads) t.join();
  } else {
    auto comm = make();
    one(comm);
  }
  return out;
}

}  // namespace detail

/// Everything that the concept `communicator` can't say, checked with small batches. Empty: nothing was found. The
/// `check` of a finding names the promise. `make` is called for each check anew, and is one of
///   make(n, f)  calls f(comm) for n ranks at the same time and returns when all have: run_ranks, or a lambda around it
///   make(n)     a group of n ranks, whose group.communicator(r) is called on a thread for each: threads_group
///   make()      this process' communicator; then every process of the job calls check_communicator, and each gets the
///               findings of its own rank
/// A peer that takes more than patience_ms is taken for one that hangs: enough for a slow machine, but a wrong engine
/// makes the kit wait that long. Two checks let real deadlines of 50 ms pass. An engine that ignores its timeouts can
/// hang the kit, as it would hang its users.
template <class Make>
std::vector<finding> check_communicator(Make&& make, int patience_ms = 10'000) {
  constexpr bool processes = !requires { make(2, detail::any_rank{}); }
  &&!requires { make(2); };
  std::vector<finding> out;
  std::vector<int> sizes{1, 2, 3, 5};
  if constexpr (processes) sizes.assign(1, make().size());
  const auto check = [&](const char* name, int least_ranks, auto body) {
    for (int ranks : sizes) {
      if (ranks < least_ranks) continue;
      std::vector<finding> found = detail::run_check(make, ranks, patience_ms, name, body);
      for (finding& f : found) out.push_back(std::move(f));
      if (!found.empty()) return;  // larger groups would say the same
    }
  };
  check("communicator: ranks are numbered and capabilities agree", 1, [](auto& r) { r.ranks(); });
  check("communicator: exchange gives every word, in the order of the ranks", 1, [](auto& r) { r.exchanges(); });
  check("communicator: what is sent arrives, at the right rank, and nothing else changes", 1,
        [](auto& r) { r.transfers(); });
  check("communicator: messages between two ranks keep their order", 2, [](auto& r) { r.message_order(); });
  check("communicator: nothing moves before launch", 2, [](auto& r) { r.launch_starts(); });
  check("communicator: wait waits for the bytes", 2, [](auto& r) { r.wait_waits(); });
  check("communicator: several batches can be in flight", 2, [](auto& r) { r.batches_in_flight(); });
  check("communicator: copies run before and after the transfers", 2, [](auto& r) { r.copies(); });
  check("communicator: strided regions keep their row-major order", 2, [](auto& r) { r.regions(); });
  check("communicator: the optional collectives do what they say", 1, [](auto& r) { r.collectives(); });
  check("communicator: exchange throws peer_timeout, and then every call throws", 2,
        [](auto& r) { r.exchange_times_out(); });
  check("communicator: wait throws peer_timeout, and then every call throws", 2, [](auto& r) { r.wait_times_out(); });
  check("communicator: abort wakes the others with the reason, and then every call throws", 2,
        [](auto& r) { r.aborts(); });
  check("communicator: two ends of different length are an error", 2, [](auto& r) { r.mismatch(); });
  return out;
}

}  // namespace v0
}  // namespace unshard
