// SPDX-License-Identifier: Apache-2.0
#pragma once  // packing/identities.hpp: who was first with an identity, and who is tied to it.

#include <cstddef>
#include <cstdint>
#include <unshard/base/checked.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// A tied parameter's index, and that of the first with its identity. A pair costs more to include.
struct tied_pair {
  std::size_t first;
  std::size_t second;
};

/// Who was first with an identity. Open addressing: a list of a million ties is an ordinary one.
template <class Deferred = void>
class identities {
 public:
  struct owner {
    std::size_t index;
    std::size_t bytes;
  };
  /// The first parameter with that identity: this one, if there was none.
  owner first_of(std::uint64_t identity, std::size_t index, std::size_t bytes) {
    if (identity == 0) return {index, bytes};
    if (used_ * 2 >= slots_.size()) grow();
    slot& s = find(identity);
    if (s.identity == 0) {
      s = {identity, {index, bytes}};
      ++used_;
    }
    return s.first;
  }

 private:
  struct slot {
    std::uint64_t identity = 0;
    owner first{};
  };
  slot& find(std::uint64_t identity) {
    std::size_t at = mix(0x1de7, identity) & (slots_.size() - 1);
    while (slots_[at].identity != 0 && slots_[at].identity != identity) at = (at + 1) & (slots_.size() - 1);
    return slots_[at];
  }
  void grow() {
    std::vector<slot> old(slots_.empty() ? 64 : slots_.size() * 2);
    old.swap(slots_);
    for (const slot& s : old) {
      if (s.identity != 0) find(s.identity) = s;
    }
  }
  std::vector<slot> slots_;
  std::size_t used_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
