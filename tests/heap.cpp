// Every allocation of one rank fails in turn, the library's own small ones too: no rank ends the process or waits for a
// deadline, and no chunk is torn but the one that is named.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <new>

#include "fault_case.hpp"

namespace {

thread_local long until_failure = -1;  // allocations of this thread; -1: none fails
thread_local bool failed = false;

void* obtain(std::size_t bytes, std::size_t alignment) {
  if (until_failure >= 0 && until_failure-- == 0) {
    failed = true;
    return nullptr;
  }
  void* p = nullptr;
  return posix_memalign(&p, alignment < sizeof(void*) ? sizeof(void*) : alignment, bytes == 0 ? 1 : bytes) == 0
             ? p
             : nullptr;
}
void* obtain_or_throw(std::size_t bytes, std::size_t alignment) {
  void* p = obtain(bytes, alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

/// Not inlined: g++ would take it for a free of what operator new returned, which here it is.
[[gnu::noinline]] void give_back(void* p) noexcept { std::free(p); }

}  // namespace

void* operator new(std::size_t n) { return obtain_or_throw(n, 1); }
void* operator new(std::size_t n, std::align_val_t a) { return obtain_or_throw(n, static_cast<std::size_t>(a)); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return obtain(n, 1); }
void* operator new(std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return obtain(n, static_cast<std::size_t>(a));
}
void operator delete(void* p) noexcept { give_back(p); }
void operator delete(void* p, std::size_t) noexcept { give_back(p); }
void operator delete(void* p, std::align_val_t) noexcept { give_back(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { give_back(p); }

namespace {

using namespace faults;

/// Three chunks on two ranks; allocation n of the victim fails. False: it has not that many.
template <class A>
bool one_case(A access, int victim, long n, bool breaks) {
  std::vector<std::vector<parameter>> models;
  for (int r = 0; r < 2; ++r) models.push_back(model({.ranks = 2}, r));
  std::array<std::string, 2> told;
  bool happened = false;
  std::atomic<std::size_t> named = chunk_count;
  run_ranks(2, [&](threads_communicator& comm) {
    const auto r = static_cast<std::size_t>(comm.rank());
    options o = options_of({.ranks = 2, .in_flight = 2});
    o.timeout_ms = 60'000;
    try {
      if (comm.rank() == victim) failed = false, until_failure = n;
      for (auto& chunk : chunks(models[r], comm, access, o)) {
        for (auto piece : chunk) {
          const parameter& p = models[r][piece.index()];
          const auto start = static_cast<std::size_t>(piece.first()) * p.element_size();
          for (std::size_t i = 0; i < piece.bytes().size(); ++i) {
            if constexpr (A::writes) piece.bytes()[i] = p.new_byte(start + i);
          }
        }
        if (breaks && comm.rank() == victim && chunk.number() == 1) break;
      }
    } catch (const write_back_failed& e) {
      until_failure = -1;
      told[r] = e.what();
      named = e.chunk;
    } catch (const std::exception& e) {
      until_failure = -1;
      told[r] = e.what();
    }
    until_failure = -1;
    if (comm.rank() == victim) happened = failed;
  });
  INFO("allocation " << n << " of rank " << victim << ", break " << breaks << ": '" << told[0] << "', '" << told[1]
                     << "'");
  for (std::size_t c = 0; c < chunk_count; ++c) {
    std::array<std::size_t, 3> bytes{};
    for (std::size_t p = 0; p < parameters_of({.ranks = 2}); ++p) {
      for (int r = 0; r < 2; ++r) {
        if (chunk_of({.ranks = 2}, p) == c) models[static_cast<std::size_t>(r)][p].count(r, bytes);
      }
    }
    const bool whole = bytes[2] == 0 && (bytes[0] == 0 || bytes[1] == 0);
    if (!whole) CHECK(c == named.load());
  }
  for (const std::string& t : told) CHECK(t.find("deadline") == std::string::npos);
  return happened;
}

template <class A>
void every_allocation(A access) {
  long cases = 0;
  for (bool breaks : {false, true}) {
    for (int victim : {0, 1}) {
      for (long n = 0; one_case(access, victim, n, breaks); ++n) ++cases;
    }
  }
  CHECK(cases > 50);
  MESSAGE(cases << " allocations failed under " << A::name);
}

}  // namespace

TEST_CASE("chunks: any allocation may fail, on any rank, under read") { every_allocation(unshard::read); }
TEST_CASE("chunks: any allocation may fail, on any rank, under read_write") { every_allocation(read_write); }
TEST_CASE("chunks: any allocation may fail, on any rank, under overwrite") { every_allocation(overwrite); }
