// SPDX-License-Identifier: Apache-2.0
#pragma once  // archetypes.hpp: the least that each concept asks for, hostile to all else, and near misses of one line.

#include <cstddef>
#include <span>
#include <string_view>
#include <unshard/unshard.hpp>
#include <vector>

namespace archetype {

/// The least layout: no digest, no replicas, no ranks_of; boxes as a plain vector.
struct flat_layout {
  unshard::extents whole;
  int n = 1;
  unshard::extents shape() const { return whole; }
  unshard::extents space() const { return {whole.elements()}; }
  int ranks() const { return n; }
  std::vector<unshard::box> boxes_of(int rank) const {
    const unshard::index_t each = (whole.elements() + n - 1) / n;
    const unshard::index_t from = std::min(whole.elements(), rank * each);
    return {{{from}, {std::min(each, whole.elements() - from)}}};
  }
  bool operator==(const flat_layout&) const = default;
};
struct layout_without_space : flat_layout {
  void space() const = delete;
};
struct layout_without_boxes : flat_layout {
  void boxes_of(int) const = delete;
};

struct handle {  // all that parameter_handle asks, nothing more
  handle(flat_layout where, std::span<std::byte> bytes) : where_(where), bytes_(bytes) {}
  handle(const handle&) = delete;
  handle& operator=(const handle&) = delete;
  void operator&() const = delete;  // NOLINT(google-runtime-operator): hostile on purpose
  flat_layout layout() const { return where_; }
  std::size_t element_size() const { return 4; }
  std::span<std::byte> shard() { return bytes_; }

 private:
  flat_layout where_;
  std::span<std::byte> bytes_;
};
struct no_layout : handle {
  using handle::handle;
  void layout() const = delete;
};
struct wrong_layout : handle {
  using handle::handle;
  int layout() const { return 0; }
};
struct no_element_size : handle {
  using handle::handle;
  void element_size() const = delete;
};
struct no_shard : handle {
  using handle::handle;
  void shard() = delete;
};
struct const_shard : handle {  // readable, not writable
  using handle::handle;
  std::span<const std::byte> shard() { return handle::shard(); }
};

struct memory {
  memory() = default;
  memory(const memory&) = delete;
  memory& operator=(const memory&) = delete;
  void* allocate(std::size_t bytes, std::size_t alignment) {
    return ::operator new (bytes, std::align_val_t{alignment});
  }
  void deallocate(void* p, std::size_t, std::size_t alignment) noexcept {
    ::operator delete (p, std::align_val_t{alignment});
  }
};
struct memory_that_throws : memory {
  void deallocate(void*, std::size_t, std::size_t) {}
};

/// An engine of one rank: no messages, and copies that wait for the launch.
struct batch {
  batch() = default;
  batch(batch&&) = default;
  batch& operator=(batch&&) = default;
  void send(std::span<const unshard::const_region>, int) {}
  void recv(std::span<const unshard::region>, int) {}
  void copy_before(std::span<const unshard::const_region> from, std::span<const unshard::region> to) {
    copies.push_back({{from.begin(), from.end()}, {to.begin(), to.end()}});
  }
  void copy_after(std::span<const unshard::const_region> from, std::span<const unshard::region> to) {
    copy_before(from, to);
  }
  struct copy {
    std::vector<unshard::const_region> from;
    std::vector<unshard::region> to;
  };
  std::vector<copy> copies;
};
struct done {
  done() = default;
  done(done&&) = default;
  done& operator=(done&&) = default;
  bool ready() { return true; }
  void wait(int) {}
};
struct communicator {
  communicator() = default;
  communicator(const communicator&) = delete;
  communicator& operator=(const communicator&) = delete;
  int rank() const { return 0; }
  int size() const { return 1; }
  batch open_batch() { return {}; }
  done launch(batch b) {
    for (const batch::copy& c : b.copies) unshard::copy_regions(c.from, c.to);
    return {};
  }
  void exchange(std::span<const std::byte> mine, std::span<std::byte> all, int) {
    std::copy(mine.begin(), mine.end(), all.begin());
  }
  void abort(std::string_view) noexcept {}
};
struct no_rank : communicator {
  void rank() const = delete;
};
struct no_exchange : communicator {
  void exchange() = delete;
};
struct abort_that_throws : communicator {
  void abort(std::string_view) {}
};
struct batch_without_recv : batch {
  void recv() = delete;
};
struct no_recv : communicator {
  batch_without_recv open_batch() { return {}; }
  done launch(batch_without_recv) { return {}; }
};
struct done_without_wait : done {
  void wait() = delete;
};
struct no_wait : communicator {
  done_without_wait launch(batch) { return {}; }
};

}  // namespace archetype

static_assert(unshard::shard_layout<archetype::flat_layout>);
static_assert(!unshard::shard_layout<archetype::layout_without_space>);
static_assert(!unshard::shard_layout<archetype::layout_without_boxes>);
static_assert(unshard::writable_parameter<archetype::handle>);
static_assert(!unshard::parameter_handle<archetype::no_layout>);
static_assert(!unshard::parameter_handle<archetype::wrong_layout>);
static_assert(!unshard::parameter_handle<archetype::no_element_size>);
static_assert(!unshard::parameter_handle<archetype::no_shard>);
static_assert(unshard::parameter_handle<archetype::const_shard> &&
              !unshard::writable_parameter<archetype::const_shard>);
static_assert(unshard::memory_resource<archetype::memory> && !unshard::memory_resource<archetype::memory_that_throws>);
static_assert(unshard::communicator<archetype::communicator>);
static_assert(!unshard::communicator<archetype::no_rank> && !unshard::communicator<archetype::no_exchange>);
static_assert(!unshard::communicator<archetype::abort_that_throws> && !unshard::communicator<archetype::no_recv>);
static_assert(!unshard::communicator<archetype::no_wait>);
