// SPDX-License-Identifier: Apache-2.0
#pragma once  // random_copies.hpp: what tests of engines share: bytes, and copies between regions of any shapes, held
              // to a plain oracle that goes byte by byte.

#include <cstddef>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <unshard/communicator.hpp>
#include <vector>

namespace engines {

using bytes = std::vector<std::byte>;

inline std::size_t index(int rank) { return static_cast<std::size_t>(rank); }

inline bytes pattern(std::size_t size, int seed) {
  bytes b(size);
  for (std::size_t i = 0; i < size; ++i) b[i] = static_cast<std::byte>(i * 7 + i / 251 + index(seed) * 31);
  return b;
}

/// One contiguous run.
inline unshard::const_region run_of(const bytes& b) { return {b.data(), {std::ssize(b)}, {1}}; }
inline unshard::region run_of(bytes& b) { return {b.data(), {std::ssize(b)}, {1}}; }

template <class Batch>
void send(Batch& b, const bytes& from, int peer) {
  const unshard::const_region r = run_of(from);
  b.send({&r, 1}, peer);
}
template <class Batch>
void recv(Batch& b, bytes& to, int peer) {
  const unshard::region r = run_of(to);
  b.recv({&r, 1}, peer);
}

/// The message of the E that f throws; anything else fails the test that looks at it.
template <class E, class F>
std::string thrown(F f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    return std::string("another exception: ") + e.what();
  }
  return "nothing";
}
inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Where the bytes of a list lie, in the order of the transfer.
inline std::vector<std::byte*> places(const std::vector<unshard::region>& list) {
  std::vector<std::byte*> out;
  for (const unshard::region& r : list) {
    unshard::index_t at[unshard::extents::max_dims] = {};
    for (unshard::index_t n = r.size.elements(); n > 0; --n) {
      unshard::index_t offset = 0;
      for (int d = 0; d < r.size.dims(); ++d) offset += at[d] * r.stride[d];
      out.push_back(r.base + offset);
      for (int d = r.size.dims() - 1; d >= 0 && ++at[d] == r.size[d]; --d) at[d] = 0;
    }
  }
  return out;
}

/// A rank's memory, handed out in random shapes, with and without gaps.
class arena {
 public:
  arena(std::size_t size, int seed) : bytes_(pattern(size, seed)) {}

  std::vector<unshard::region> list(std::size_t total, std::mt19937& random) {
    std::vector<unshard::region> out;
    do {
      const std::size_t part = random() % 3 == 0 ? total : random() % (total + 1);
      total -= part;
      auto rest = static_cast<unshard::index_t>(part);
      std::vector<unshard::index_t> size;
      for (int d = part == 0 ? 0 : static_cast<int>(random() % 4); d > 0; --d) {
        const auto divisor = static_cast<unshard::index_t>(random() % (random() % 4 == 0 ? 200 : 6) + 1);
        if (rest % divisor != 0) continue;
        size.push_back(divisor);
        rest /= divisor;
      }
      size.push_back(rest);
      std::vector<unshard::index_t> stride(size.size(), 1);
      unshard::index_t span = rest;
      for (std::size_t d = size.size() - 1; d-- > 0; span = stride[d] * size[d])
        stride[d] = span + static_cast<unshard::index_t>(random() % 3);
      out.push_back({bytes_.data() + used_, unshard::extents(size), unshard::extents(stride)});
      used_ += static_cast<std::size_t>(span) + random() % 2;
      if (used_ >= bytes_.size()) throw std::length_error("arena: too small");
    } while (total > 0);
    return out;
  }
  bytes& all() { return bytes_; }
  const bytes& all() const { return bytes_; }

 private:
  bytes bytes_;
  std::size_t used_ = 0;
};

inline std::vector<unshard::const_region> read_only(const std::vector<unshard::region>& list) {
  return {list.begin(), list.end()};
}

/// A batch for every rank, over memory of all ranks. In three phases; the lists of the transfers start where those of
/// the copies before them ended, so that an order shows.
class random_copies {
 public:
  /// Messages of up to `largest` bytes.
  random_copies(int ranks, std::size_t largest, std::mt19937& random) {
    for (int r = 0; r < ranks; ++r) memory_.emplace_back(std::size_t{1} << 19, r);
    for (int s = 0; s < ranks; ++s) {
      for (int r = 0; r < ranks; ++r) {
        for (std::size_t m = random() % 4; m > 0; --m) {
          const std::size_t size = random() % 2 == 0 ? random() % 50 : random() % largest;
          const auto from = memory_[index(s)].list(size, random);
          const auto to = memory_[index(r)].list(size, random);
          transfers_.push_back({s, r, from, to});
          if (random() % 3 == 0) before_.push_back({s, s, memory_[index(s)].list(size, random), from});
          if (random() % 3 == 0) after_.push_back({r, r, to, memory_[index(r)].list(size, random)});
        }
      }
    }
  }

  const bytes& memory(int rank) const { return memory_[index(rank)].all(); }

  /// What each rank's memory holds when all batches have ended, from what it holds now.
  std::vector<bytes> moved() const {
    std::vector<bytes> result;
    for (const arena& a : memory_) result.push_back(a.all());
    const auto at = [&](const std::byte* p, int rank) -> std::byte& {
      return result[index(rank)][static_cast<std::size_t>(p - memory(rank).data())];
    };
    for (const auto* phase : {&before_, &transfers_, &after_}) {
      for (const copy& c : *phase) {
        const auto from = places(c.from);
        const auto to = places(c.to);
        for (std::size_t i = 0; i < from.size(); ++i) at(to[i], c.to_rank) = at(from[i], c.from_rank);
      }
    }
    return result;
  }

  /// That rank's part, what runs last first.
  template <class Batch>
  void add_to(Batch& b, int rank) const {
    for (const copy& c : after_) {
      if (c.to_rank == rank) b.copy_after(read_only(c.from), c.to);
    }
    for (const copy& c : transfers_) {
      if (c.to_rank == rank) b.recv(c.to, c.from_rank);
      if (c.from_rank == rank) b.send(read_only(c.from), c.to_rank);
    }
    for (const copy& c : before_) {
      if (c.to_rank == rank) b.copy_before(read_only(c.from), c.to);
    }
  }

 private:
  struct copy {
    int from_rank;
    int to_rank;
    std::vector<unshard::region> from;
    std::vector<unshard::region> to;
  };
  std::vector<arena> memory_;
  std::vector<copy> before_, transfers_, after_;
};

}  // namespace engines
