// SPDX-License-Identifier: Apache-2.0
#pragma once  // conformance.hpp: do a user's own communicator, layout and handle keep their promises? Findings, as
              // values.

#include <cstddef>
#include <iterator>
#include <mutex>
#include <string>
#include <thread>
#include <unshard/communicator.hpp>
#include <unshard/testing/check_communicator.hpp>
#include <unshard/testing/check_handle.hpp>  // IWYU pragma: export
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
template <class Make>
std::vector<finding> run_check(Make& make, int ranks, int patience_ms, std::size_t which) {
  const char* const name = communicator_checks[which].name;
  std::mutex mutex;
  int reported = 0;
  std::vector<finding> out;
  const auto one = [&]<class C>(C& comm) {
    std::vector<finding> mine;
    guarded(mine, name, [&] { conformance_rank<C>(comm, patience_ms, mine, name).run(which); });
    if (!mine.empty()) comm.abort("the conformance kit found something");  // nobody is to wait for this rank
    const std::lock_guard lock(mutex);
    ++reported;
    for (finding& f : mine) out.push_back(std::move(f));
  };
  if constexpr (requires { make(ranks, any_rank{}); }) {
    guarded(out, name, [&] { make(ranks, one); });
    if (out.empty() && reported != ranks)
      out.push_back(
          {name, concat("make(", ranks, ", f) returned, and f had ended on ", reported,
                        " of the ranks in this process: findings of other processes are lost. Where ranks are "
                        "processes, call check_communicator in each of them, with make().")});
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
/// makes the kit wait that long. Two checks let real deadlines of 20 ms pass. An engine that ignores its timeouts can
/// hang the kit, as it would hang its users.
template <class Make>
std::vector<finding> check_communicator(Make&& make, int patience_ms = 10'000) {
  constexpr bool processes = !requires { make(2, detail::any_rank{}); }
  &&!requires { make(2); };
  std::vector<finding> out;
  std::vector<int> sizes{1, 2, 3, 5};
  if constexpr (processes) sizes.assign(1, make().size());
  for (std::size_t which = 0; which < std::size(detail::communicator_checks); ++which) {
    bool passed = true;
    for (int ranks : sizes) {
      if (!passed || ranks < detail::communicator_checks[which].least_ranks) continue;
      for (finding& f : detail::run_check(make, ranks, patience_ms, which)) {
        out.push_back(std::move(f));
        passed = false;  // larger groups would say the same
      }
    }
  }
  return out;
}

}  // namespace v0
}  // namespace unshard
