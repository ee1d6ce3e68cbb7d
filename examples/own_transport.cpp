// SPDX-License-Identifier: Apache-2.0
// A transport of one's own: ranks are processes, joined by Unix sockets, two for each pair: one for the bytes, one for
// the words of the agreement. It has no `capabilities()`, so it is only ever given contiguous runs. The library's
// conformance kit then checks what the concept can't say.
//
// prints: 3 processes: 3 chunks doubled in place, every shard is right
// prints: the conformance kit finds nothing

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <unshard/comm/common/recorded_batch.hpp>
#include <unshard/testing/conformance.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace {

/// One end of a socket to a peer, and what is still to go through it, in order. A message is its length, 8 bytes, and
/// its bytes, which stay where they are. `pending` counts the messages of one batch or exchange.
struct channel {
  struct message {
    std::byte* bytes;
    std::uint64_t length;
    std::shared_ptr<int> pending;
    std::uint64_t head = 0;  // the length, as it goes over the wire
    std::size_t done = 0;    // bytes gone or come, with those of the head
  };
  int fd = -1;
  std::deque<message> out = {};
  std::deque<message> in = {};
};

class socket_communicator {
 public:
  socket_communicator(int rank, const std::vector<int>& data, const std::vector<int>& words) : rank_(rank) {
    for (int fd : data) data_.push_back({fd});
    for (int fd : words) words_.push_back({fd});
  }
  socket_communicator(const socket_communicator&) = delete;
  socket_communicator& operator=(const socket_communicator&) = delete;
  ~socket_communicator() {
    for (auto* list : {&data_, &words_}) {
      for (channel& c : *list) {
        if (c.fd >= 0) ::close(c.fd);
      }
    }
  }

  using batch = unshard::recorded_batch;

  class completion {
   public:
    bool ready() const { return *pending_ == 0; }
    void wait(int timeout_ms) {
      comm_->progress(*pending_, timeout_ms, "wait");
      batch_.run_after();
    }

   private:
    friend class socket_communicator;
    completion(socket_communicator* comm, std::shared_ptr<int> pending, batch b)
        : comm_(comm), pending_(std::move(pending)), batch_(std::move(b)) {}
    socket_communicator* comm_;
    std::shared_ptr<int> pending_;
    batch batch_;
  };

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(data_.size()); }
  batch open_batch() {
    check();
    return {};
  }

  /// Queues the messages; bytes move whenever this rank waits for something.
  completion launch(batch b) {
    check();
    b.run_before();
    auto pending = std::make_shared<int>(0);
    for (const auto& s : b.sends())
      enqueue(at(data_, s.peer).out, const_cast<std::byte*>(s.bytes().data()), s.bytes().size(), pending);
    for (const auto& r : b.receives()) enqueue(at(data_, r.peer).in, r.bytes().data(), r.bytes().size(), pending);
    return {this, std::move(pending), std::move(b)};
  }

  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int timeout_ms) {
    check();
    const auto pending = std::make_shared<int>(0);
    for (int peer = 0; peer < size(); ++peer) {
      std::byte* const theirs = all.data() + static_cast<std::size_t>(peer) * mine.size();
      if (peer == rank_) {
        std::memcpy(theirs, mine.data(), mine.size());
        continue;
      }
      enqueue(at(words_, peer).out, const_cast<std::byte*>(mine.data()), mine.size(), pending);
      enqueue(at(words_, peer).in, theirs, mine.size(), pending);
    }
    progress(*pending, timeout_ms, "exchange");
  }

  /// Nothing of the caller's is touched any more: the queues are gone, and the kernel has copies of what it was given.
  /// The reason is the last message to every peer, in place of a word.
  void abort(std::string_view reason) noexcept {
    if (!failure_.empty()) return;
    failure_ = "aborted: " + std::string(reason);
    char last[sizeof(std::uint64_t) + 200];
    const std::size_t length = std::min<std::size_t>(reason.size(), 200);
    std::memcpy(last, &aborting, sizeof aborting);
    std::memcpy(last + sizeof aborting, reason.data(), length);
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank_) continue;
      channel& words = at(words_, peer);
      if (words.out.empty() || words.out.front().done == 0)  // not in the middle of a word
        static_cast<void>(::send(words.fd, last, sizeof(std::uint64_t) + length, MSG_DONTWAIT | MSG_NOSIGNAL));
      for (channel* c : {&words, &at(data_, peer)}) {
        ::shutdown(c->fd, SHUT_RDWR);
        c->out.clear();
        c->in.clear();
      }
    }
  }

 private:
  static constexpr std::uint64_t aborting = ~std::uint64_t{0};

  static channel& at(std::vector<channel>& list, int peer) { return list[static_cast<std::size_t>(peer)]; }

  void check() const {
    if (!failure_.empty()) throw unshard::device_failed("socket_communicator: " + failure_);
  }

  static void enqueue(std::deque<channel::message>& queue, std::byte* bytes, std::size_t length,
                      const std::shared_ptr<int>& pending) {
    ++*pending;
    queue.push_back({bytes, length, pending, length});
  }

  /// Moves bytes of all channels until `pending` is 0. Throws peer_timeout, peer_failed, batch_mismatch; then this rank
  /// has left the group, and its peers see that.
  void progress(const int& pending, int timeout_ms, const char* who) {
    check();
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    try {
      while (pending > 0) {
        bool moved = false;
        for (auto* list : {&words_, &data_}) {
          for (int peer = 0; peer < size(); ++peer) {
            while (push(at(*list, peer), peer) || pull(at(*list, peer), peer)) moved = true;
          }
        }
        if (!moved) sleep(deadline, timeout_ms, who);
      }
    } catch (const unshard::error& e) {
      abort(e.what());
      throw;
    }
  }

  /// One call of send; whether bytes have gone.
  bool push(channel& c, int peer) {
    if (c.out.empty()) return false;
    channel::message& m = c.out.front();
    const auto [from, left] = rest_of(m);
    const ssize_t n = ::send(c.fd, from, left, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n < 0) fail(peer, std::strerror(errno));
    return finish(c.out, static_cast<std::size_t>(n));
  }

  /// One call of recv; whether bytes have come.
  bool pull(channel& c, int peer) {
    if (c.in.empty()) return false;
    channel::message& m = c.in.front();
    const auto [to, left] = rest_of(m);
    const ssize_t n = ::recv(c.fd, to, left, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) fail(peer, n == 0 ? "its end of the socket is closed" : std::strerror(errno));
    if (m.done < sizeof m.head && m.done + static_cast<std::size_t>(n) == sizeof m.head && m.head != m.length) {
      char text[201] = "";
      if (m.head == aborting) {
        static_cast<void>(::recv(c.fd, text, sizeof text - 1, MSG_DONTWAIT));
        fail(peer, text);
      }
      throw unshard::batch_mismatch("socket_communicator: rank " + std::to_string(rank_) + " expects " +
                                    std::to_string(m.length) + " bytes of rank " + std::to_string(peer) +
                                    ", which sent " + std::to_string(m.head));
    }
    return finish(c.in, static_cast<std::size_t>(n));
  }

  /// What is next of a message: of its length, then of its bytes.
  static std::pair<void*, std::size_t> rest_of(channel::message& m) {
    if (m.done < sizeof m.head) return {reinterpret_cast<std::byte*>(&m.head) + m.done, sizeof m.head - m.done};
    return {m.bytes + (m.done - sizeof m.head), m.length + sizeof m.head - m.done};
  }

  static bool finish(std::deque<channel::message>& queue, std::size_t bytes) {
    channel::message& m = queue.front();
    m.done += bytes;
    if (m.done == sizeof m.head + m.length) {
      --*m.pending;
      queue.pop_front();
    }
    return true;
  }

  /// A peer that is gone may have left its reason among its words, whichever channel told.
  [[noreturn]] void fail(int peer, std::string why) {
    char left[1024];
    const ssize_t n = ::recv(at(words_, peer).fd, left, sizeof left, MSG_DONTWAIT | MSG_PEEK);
    const std::string_view words(left, n > 0 ? static_cast<std::size_t>(n) : 0);
    const std::size_t last = words.find(std::string_view(reinterpret_cast<const char*>(&aborting), sizeof aborting));
    if (last != words.npos) why = words.substr(last + sizeof aborting);
    throw unshard::peer_failed("socket_communicator: rank " + std::to_string(peer) + ": " + why, peer);
  }

  void sleep(std::chrono::steady_clock::time_point deadline, int timeout_ms, const char* who) {
    std::vector<pollfd> list;
    int missing = -1;
    for (auto* channels : {&words_, &data_}) {
      for (int peer = 0; peer < size(); ++peer) {
        const channel& c = at(*channels, peer);
        const int events = (c.in.empty() ? 0 : POLLIN) | (c.out.empty() ? 0 : POLLOUT);
        if (events != 0) list.push_back({c.fd, static_cast<short>(events), 0});
        if (missing < 0 && !c.in.empty()) missing = peer;
      }
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (timeout_ms > 0 && left <= 0)
      throw unshard::peer_timeout(std::string("socket_communicator: ") + who + ": rank " + std::to_string(missing) +
                                      " did not come in " + std::to_string(timeout_ms) + " ms; slow, or dead",
                                  missing);
    static_cast<void>(::poll(list.data(), list.size(), timeout_ms > 0 ? static_cast<int>(left) : -1));
  }

  int rank_;
  std::vector<channel> data_;  // one for each rank; this rank's own is unused
  std::vector<channel> words_;
  std::string failure_;
};
static_assert(unshard::communicator<socket_communicator>);

/// Sockets between all pairs of n ranks: mesh[r][p] is rank r's end of the one to p, -1 to itself.
std::vector<std::vector<int>> make_mesh(std::size_t n) {
  std::vector<std::vector<int>> mesh(n, std::vector<int>(n, -1));
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      int ends[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) throw std::runtime_error("socketpair failed");
      mesh[a][b] = ends[0];
      mesh[b][a] = ends[1];
    }
  }
  return mesh;
}

/// Calls f(comm) in n processes; whether all returned true.
template <class F>
bool run_processes(int n, F f) {
  const auto ranks = static_cast<std::size_t>(n);
  const auto data = make_mesh(ranks);
  const auto words = make_mesh(ranks);
  std::vector<pid_t> children;
  for (std::size_t r = 0; r < ranks; ++r) {
    const pid_t child = ::fork();
    if (child < 0) throw std::runtime_error("fork failed");
    if (child > 0) {
      children.push_back(child);
      continue;
    }
    for (std::size_t other = 0; other < ranks; ++other) {
      for (std::size_t p = 0; p < ranks && other != r; ++p) {
        if (p != other) static_cast<void>(::close(data[other][p])), static_cast<void>(::close(words[other][p]));
      }
    }
    bool right = false;
    try {
      socket_communicator comm(static_cast<int>(r), data[r], words[r]);
      right = f(comm);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "rank %zu: %s\n", r, e.what());
    }
    ::_exit(right ? 0 : 1);
  }
  for (std::size_t r = 0; r < ranks; ++r) {
    for (std::size_t p = 0; p < ranks; ++p) {
      if (p != r) static_cast<void>(::close(data[r][p])), static_cast<void>(::close(words[r][p]));
    }
  }
  bool all = true;
  for (const pid_t child : children) {
    int status = 1;
    all = ::waitpid(child, &status, 0) == child && status == 0 && all;
  }
  return all;
}

/// The same on threads, which is what the conformance kit asks for.
template <class F>
void run_threads(int n, F f) {
  const auto data = make_mesh(static_cast<std::size_t>(n));
  const auto words = make_mesh(static_cast<std::size_t>(n));
  std::vector<std::thread> threads;
  for (int r = 0; r < n; ++r) {
    threads.emplace_back([&, r] {
      socket_communicator comm(r, data[static_cast<std::size_t>(r)], words[static_cast<std::size_t>(r)]);
      f(comm);
    });
  }
  for (std::thread& t : threads) t.join();
}

}  // namespace

int main() {
  constexpr int ranks = 3;
  const bool right = run_processes(ranks, [](socket_communicator& comm) {
    std::vector<float> shard(100'000, 1.0F);
    unshard::parameter_view w{"w", unshard::dim_shard{{500, 600}, 1, ranks}, sizeof(float),
                              std::as_writable_bytes(std::span(shard))};
    // Without regions half of the budget is for packing: chunks of at most 400 KiB.
    const unshard::options options{.budget = 800 * unshard::KiB, .cut = unshard::cut::oversized, .timeout_ms = 60'000};
    std::size_t chunks = 0;
    for (auto& chunk : unshard::chunks(std::span(&w, 1), comm, unshard::read_write, options)) {
      ++chunks;
      for (auto piece : chunk) {
        for (float& x : piece.as<float>()) x *= 2;
      }
    }
    for (const float x : shard) {
      if (x != 2.0F) return false;
    }
    return chunks == 3;
  });
  std::printf("%d processes: 3 chunks doubled in place, %s\n", ranks,
              right ? "every shard is right" : "SOMETHING IS WRONG");

  const auto findings = unshard::check_communicator([](int n, auto f) { run_threads(n, f); });
  for (const unshard::finding& f : findings) std::printf("%s: %s\n", f.check.c_str(), f.what.c_str());
  if (findings.empty()) std::printf("the conformance kit finds nothing\n");
}
