// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/open_scopes.hpp: which shard bytes are open in this program, so that two scopes can't fight over
              // them.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <unshard/base/later.hpp>
#include <unshard/base/sort.hpp>
#include <unshard/error.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// A rank's bytes of one parameter.
struct shard_bytes {
  std::uintptr_t from;
  std::uintptr_t to;
  std::size_t parameter;
};

/// The shard bytes of one range or scope, known to all others of this program while it is open. Opening costs a sort
/// of the list and one walk over the lists of every scope that is open.
template <class Deferred>
class basic_open_scope {
  template <class T>
  using vector = std::vector<later<T, Deferred>>;

 public:
  basic_open_scope() = default;
  basic_open_scope(const basic_open_scope&) = delete;
  basic_open_scope& operator=(const basic_open_scope&) = delete;
  ~basic_open_scope() { close(); }

  /// Throws aliased_parameters where the list overlaps itself, overlapping_scope where another scope has some of these
  /// bytes open and one of the two writes. `called(i)` names a parameter.
  template <class Called>
  void open(vector<shard_bytes> bytes, bool writes, Called called) {
    detail::sort(bytes, [](const shard_bytes& a, const shard_bytes& b) { return a.from < b.from; });
    for (std::size_t i = 1; i < bytes.size(); ++i) {
      if (bytes[i].from < bytes[i - 1].to) {
        const std::size_t a = (std::min)(bytes[i - 1].parameter, bytes[i].parameter);
        const std::size_t b = (std::max)(bytes[i - 1].parameter, bytes[i].parameter);
        throw aliased_parameters(concat("unshard: the shards of parameters ", called(a), " and ", called(b),
                                        " overlap. Give tied parameters one `identity`, or list them once."),
                                 a, b);
      }
    }
    bytes_ = std::move(bytes);
    writes_ = writes;
    const lock held;
    for (const basic_open_scope* other : all()) {
      if (!writes && !other->writes_) continue;
      if (const shard_bytes* common = first_common(*other)) {
        throw overlapping_scope(
            concat("unshard: the shard of parameter ", called(common->parameter),
                   " is open in another range or scope, and one of the two writes. End that one first."));
      }
    }
    all().push_back(this);
    open_ = true;
  }

  void close() noexcept {
    if (!open_) return;
    const lock held;
    std::erase(all(), this);
    open_ = false;
  }

 private:
  struct lock {
    lock() {
      while (flag().test_and_set(std::memory_order_acquire)) flag().wait(true, std::memory_order_relaxed);
    }
    lock(const lock&) = delete;
    lock& operator=(const lock&) = delete;
    ~lock() {
      flag().clear(std::memory_order_release);
      flag().notify_one();
    }
    static std::atomic_flag& flag() {
      static std::atomic_flag f;
      return f;
    }
  };

  static vector<const basic_open_scope*>& all() {
    static vector<const basic_open_scope*> scopes;
    return scopes;
  }

  const shard_bytes* first_common(const basic_open_scope& other) const {
    auto theirs = other.bytes_.begin();
    for (const shard_bytes& mine : bytes_) {
      while (theirs != other.bytes_.end() && theirs->to <= mine.from) ++theirs;
      if (theirs == other.bytes_.end()) return nullptr;
      if (theirs->from < mine.to) return &mine;
    }
    return nullptr;
  }

  vector<shard_bytes> bytes_;
  bool writes_ = false;
  bool open_ = false;
};
using open_scope = basic_open_scope<void>;

}  // namespace detail
}  // namespace v0
}  // namespace unshard
