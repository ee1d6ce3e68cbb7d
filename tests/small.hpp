// SPDX-License-Identifier: Apache-2.0
#pragma once  // small.hpp: a model of a few flat float parameters over threads, for tests of one promise each.

#include <doctest/doctest.h>

#include <exception>
#include <mutex>
#include <string>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace small {

/// `sizes` elements of float each, flat over `ranks`; shards start as 0, 1, 2, ... of the whole value.
struct model {
  model(int ranks, std::vector<unshard::index_t> sizes) : ranks_(ranks), sizes_(std::move(sizes)) {
    shards.resize(static_cast<std::size_t>(ranks));
    for (int r = 0; r < ranks; ++r) {
      for (unshard::index_t n : sizes_) {
        const unshard::flat_shard layout({n}, ranks);
        const unshard::box mine = *layout.boxes_of(r).begin();
        std::vector<float> shard;
        for (unshard::index_t i = 0; i < mine.size[0]; ++i) shard.push_back(static_cast<float>(mine.offset[0] + i));
        shards[static_cast<std::size_t>(r)].push_back(std::move(shard));
      }
    }
  }

  std::vector<unshard::parameter_view> handles(int rank) {
    static const std::string names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    std::vector<unshard::parameter_view> list;
    for (std::size_t p = 0; p < sizes_.size(); ++p)
      list.emplace_back(names[p % 8], unshard::flat_shard({sizes_[p]}, ranks_), sizeof(float),
                        std::as_writable_bytes(std::span(shards[static_cast<std::size_t>(rank)][p])));
    return list;
  }

  std::vector<std::vector<std::vector<float>>> shards;  // by rank, by parameter

 private:
  int ranks_;
  std::vector<unshard::index_t> sizes_;
};

/// What each rank threw: its type's name as `what`, "" for nothing.
struct outcome {
  std::vector<std::exception_ptr> thrown;

  template <class E>
  bool is(int rank) const {
    try {
      if (thrown[static_cast<std::size_t>(rank)]) std::rethrow_exception(thrown[static_cast<std::size_t>(rank)]);
    } catch (const E&) {
      return true;
    } catch (...) {
    }
    return false;
  }
  std::string what(int rank) const {
    try {
      if (thrown[static_cast<std::size_t>(rank)]) std::rethrow_exception(thrown[static_cast<std::size_t>(rank)]);
    } catch (const std::exception& e) {
      return e.what();
    } catch (...) {
      return "not a std::exception";
    }
    return {};
  }
};

/// f(comm) on n threads, each rank's exception kept.
template <class F>
outcome outcome_of(int n, F f) {
  outcome o;
  o.thrown.resize(static_cast<std::size_t>(n));
  unshard::run_ranks(n, [&](unshard::threads_communicator& comm) {
    try {
      f(comm);
    } catch (...) {
      o.thrown[static_cast<std::size_t>(comm.rank())] = std::current_exception();
    }
  });
  return o;
}

/// Whether text holds all of the parts.
inline bool has(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* p : parts) {
    if (text.find(p) == std::string::npos) return false;
  }
  return true;
}

}  // namespace small
