// A span that outlives its chunk is reported at its first use, in builds with the address sanitizer. Each case runs in
// a child process, which must die of it.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
constexpr bool address_sanitizer = true;
#elif defined(__has_feature)
constexpr bool address_sanitizer = __has_feature(address_sanitizer);
#else
constexpr bool address_sanitizer = false;
#endif

using namespace unshard;

namespace {

/// What a child says on stderr before it dies; empty where it lives. It must not touch doctest.
template <class F>
std::string last_words(F f) {
  std::array<int, 2> pipe_ends{};
  REQUIRE(pipe(pipe_ends.data()) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(pipe_ends[1], STDERR_FILENO);
    f();
    _exit(0);
  }
  close(pipe_ends[1]);
  std::string said;
  std::array<char, 4096> part{};
  for (ssize_t n = 0; (n = ::read(pipe_ends[0], part.data(), part.size())) > 0;)
    said.append(part.data(), static_cast<std::size_t>(n));
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? std::string() : said + " (died)";
}

struct model {
  explicit model(int count) : bytes(static_cast<std::size_t>(count), std::vector<std::byte>(256)) {
    for (auto& b : bytes) list.emplace_back("w", flat_shard({index_t{64}}, 1), 4, b);
  }
  std::vector<std::vector<std::byte>> bytes;
  std::vector<parameter_view> list;
};

/// Goes over a model of that many chunks; at the end of all, or in the last one's body, `use` gets the first byte of
/// the chunk `keep`.
template <class A>
void keep_and_use(A access, int in_flight, int chunk_count, std::size_t keep, bool in_last_body) {
  run_ranks(1, [&](threads_communicator& comm) {
    model m(chunk_count);
    const volatile std::byte* kept = nullptr;
    {
      auto range = chunks(m.list, comm, access,
                          {.budget = 256u * static_cast<unsigned>(in_flight), .in_flight = in_flight, .verify = false});
      for (auto& chunk : range) {
        for (auto piece : chunk) {
          if (chunk.number() == keep) kept = piece.bytes().data();
        }
        if (in_last_body && chunk.number() + 1 == static_cast<std::size_t>(chunk_count)) static_cast<void>(*kept);
      }
      if (!in_last_body) static_cast<void>(*kept);
    }
  });
}

void check(const std::string& said) {
  if (!address_sanitizer) return;
  CHECK_MESSAGE(said.find("use-after-poison") != std::string::npos, said.substr(0, 500));
}

}  // namespace

TEST_CASE("chunks: after the loop no piece may be touched, in every access and at every depth") {
  for (int in_flight : {1, 2, 3}) {
    check(last_words([=] { keep_and_use(unshard::read, in_flight, 3, 2, false); }));
    check(last_words([=] { keep_and_use(read_write, in_flight, 3, 2, false); }));
    check(last_words([=] { keep_and_use(overwrite, in_flight, 3, 2, false); }));
  }
}

// Where a write-back runs behind (overwrite from 2 in flight on, read_write from 3) the engine reads the chunk during
// the next body; it is closed when that is over.
TEST_CASE("chunks: in a later body the pieces of an earlier chunk may not be touched") {
  check(last_words([] { keep_and_use(unshard::read, 2, 2, 0, true); }));
  check(last_words([] { keep_and_use(read_write, 2, 2, 0, true); }));
}

TEST_CASE("gather_scope: after commit no piece may be touched") {
  check(last_words([] {
    run_ranks(1, [](threads_communicator& comm) {
      model m(1);
      const chunk_plan plan = make_plan(m.list, {.budget = 256}, comm);
      gather_scope scope(plan, 0, m.list, comm, read_write, {});
      const volatile std::byte* kept = nullptr;
      for (auto piece : scope) kept = piece.bytes().data();
      scope.commit();
      static_cast<void>(*kept);
    });
  }));
}

TEST_CASE("chunks: what is used while its chunk is open is never reported") {
  for (int in_flight : {1, 2, 3}) {
    CHECK(last_words([=] { keep_and_use(unshard::read, in_flight, 3, 2, true); }).empty());
    CHECK(last_words([=] { keep_and_use(overwrite, in_flight, 3, 2, true); }).empty());
  }
}
