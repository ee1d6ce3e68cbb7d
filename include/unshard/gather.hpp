// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather.hpp: whole values of sharded parameters, chunk by chunk, and the way back.

#include <concepts>
#include <cstddef>
#include <iterator>
#include <string_view>
#include <type_traits>
#include <unshard/gather/session.hpp>
#include <unshard/plan.hpp>
#include <utility>

namespace unshard {
inline namespace v0 {

/// Pieces are const; nothing is written back.
struct read_access {
  static constexpr bool gathers = true;  ///< whether chunks arrive with their values
  static constexpr bool writes = false;  ///< whether they go back
  static constexpr std::string_view name = "read";
};
/// Pieces hold the values; what the body changes is written back.
struct read_write_access {
  static constexpr bool gathers = true;
  static constexpr bool writes = true;
  static constexpr std::string_view name = "read_write";
};
/// Nothing is gathered: the contents are unspecified, the body fills every element, and that is written back.
struct overwrite_access {
  static constexpr bool gathers = false;
  static constexpr bool writes = true;
  static constexpr std::string_view name = "overwrite";
};
inline constexpr read_access read;              ///< gather; pieces are const
inline constexpr read_write_access read_write;  ///< gather, and write back
inline constexpr overwrite_access overwrite;    ///< write back what the body filled, all of it

/// One of the three. Each says whether it `gathers`, whether it `writes`, and its `name`.
template <class A>
concept access_mode =
    std::same_as<A, read_access> || std::same_as<A, read_write_access> || std::same_as<A, overwrite_access>;

namespace detail {
/// The handles that an access writes; something writable where it writes none. Not a disjunction: compilers hide those.
template <class R, class A>
using written_handle = std::conditional_t<A::writes, handle_of<R>, parameter_view>;
}  // namespace detail

/// Handles that an access may be given: writing needs writable ones.
template <class R, class A>
concept range_for = access_mode<A> && parameter_range<R> && writable_parameter<detail::written_handle<R, A>>;

namespace detail {
inline constinit host_memory default_memory;  // has no state
}

/// What chunks() returns: an input range of chunks, each valid until the next. Not movable. Its destruction, and that
/// of its iterator, end it: unless the last `++` was reached, this rank says `left`, which may block for timeout_ms;
/// the chunk in hand is then discarded on every rank. Where an after_write of an earlier chunk threw behind the body,
/// this rank says `failed` instead: peers that go on get peer_failed, and every observer the event `failed`.
template <class R, class C, class A, class M>
class chunk_range {
  using session = detail::session<R, C, A, M>;

 public:
  using chunk_type = typename session::chunk_type;  ///< chunk, or const_chunk under read

  class iterator {
   public:
    using value_type = chunk_type;
    using difference_type = std::ptrdiff_t;

    explicit iterator(session* s) : session_(s) {}
    iterator(iterator&& other) noexcept : session_(std::exchange(other.session_, nullptr)) {}
    iterator& operator=(iterator&& other) noexcept {
      std::swap(session_, other.session_);
      return *this;
    }
    ~iterator() {
      if (session_ != nullptr) session_->leave();
    }

    chunk_type& operator*() const { return session_->current(); }
    chunk_type* operator->() const { return &session_->current(); }
    /// Votes, writes the chunk back and waits for the next one. Blocks for the peers' bodies. Throws peer_failed,
    /// peer_timeout, unwritten_piece, replicas_differ, write_back_failed and what the engine or after_write throws.
    iterator& operator++() {
      session_->end_chunk();
      if (!session_->ended()) session_->begin_chunk();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& a, std::default_sentinel_t) {
      return a.session_ == nullptr || a.session_->ended();
    }

   private:
    session* session_;
  };

  chunk_range(R&& handles, C& comm, const options& o, M& memory)
      : session_(o, static_cast<R&&>(handles), comm, static_cast<run_options>(o), memory) {}
  chunk_range(const chunk_plan& plan, R&& handles, C& comm, const run_options& o, M& memory)
      : session_(plan, static_cast<R&&>(handles), comm, o, memory) {}

  /// Waits for the first chunk. To be called once.
  iterator begin() {
    iterator it(&session_);
    if (!session_.ended()) session_.begin_chunk();
    return it;
  }
  std::default_sentinel_t end() const { return {}; }

  /// How many rounds of the plan are behind: written back, as far as this rank has waited. `.first_round` resumes
  /// there.
  std::size_t committed() const { return session_.committed(); }
  const chunk_plan& plan() const { return session_.plan(); }  ///< the one it follows

 private:
  session session_;
};

/// Whole values of all `handles`, in chunks that never exceed the budget. Collective: all ranks call it with equal
/// handles, access and options, and go through all chunks, or `break` out of the same one. The end of each iteration
/// votes and writes the chunk back; a `break` or an exception discards it on every rank. Blocks for peers, at most
/// timeout_ms at a time. `handles` as an lvalue that is no view, `comm` and `memory` outlive the range.
/// Throws, before any byte moves, bad_options, budget_too_small, bad_layout, bad_shard, size_overflow, out_of_memory,
/// aliased_parameters, overlapping_scope on the rank at fault, peer_failed with that message on the others, and
/// plan_mismatch on all; later what iterator::operator++ says.
template <class R, communicator C, access_mode A, memory_resource M>
requires range_for<R, A>
auto chunks(R&& handles, C& comm, A, const options& o, M& memory) {
  return chunk_range<R, C, A, M>(std::forward<R>(handles), comm, o, memory);
}
template <class R, communicator C, access_mode A>
requires range_for<R, A>
auto chunks(R&& handles, C& comm, A, const options& o) {
  return chunk_range<R, C, A, host_memory>(std::forward<R>(handles), comm, o, detail::default_memory);
}

/// The same with a plan made before, which outlives the range and what shaped which holds. Throws stale_plan where
/// layouts changed or the engine needs more.
template <class R, communicator C, access_mode A, memory_resource M>
requires range_for<R, A>
auto chunks(const chunk_plan& plan, R&& handles, C& comm, A, const run_options& o, M& memory) {
  return chunk_range<R, C, A, M>(plan, std::forward<R>(handles), comm, o, memory);
}
template <class R, communicator C, access_mode A>
requires range_for<R, A>
auto chunks(const chunk_plan& plan, R&& handles, C& comm, A, const run_options& o) {
  return chunk_range<R, C, A, host_memory>(plan, std::forward<R>(handles), comm, o, detail::default_memory);
}
/// What shapes a plan can't be given again where it is replayed: give run_options, or static_cast<run_options>(o).
template <class R, class C, class A, std::same_as<options> O, class... M>
void chunks(const chunk_plan& plan, R&& handles, C& comm, A, const O& o, M&... memory) = delete;

/// One round of a plan: a range of its pieces. Collective; `.first_round` is not for it. commit() writes it back;
/// destroyed without, it discards on every rank, and a rank that wants to learn from a scope that a peer failed calls
/// commit(), after a read too.
template <class R, class C, class A, class M = host_memory>
class gather_scope {
  using session = detail::session<R, C, A, M>;

 public:
  using chunk_type = typename session::chunk_type;  ///< chunk, or const_chunk under read

  /// Round i of the plan; blocks until it is there. Throws as chunks() does.
  gather_scope(const chunk_plan& plan, std::size_t i, R&& handles, C& comm, A, const run_options& o)
      : gather_scope(plan, i, static_cast<R&&>(handles), comm, A{}, o, detail::default_memory) {}
  gather_scope(const chunk_plan& plan, std::size_t i, R&& handles, C& comm, A, const run_options& o, M& memory)
      : session_(plan, static_cast<R&&>(handles), comm, o, memory, &i) {
    session_.begin_chunk();
  }

  auto begin() const { return chunk().begin(); }
  auto end() const { return chunk().end(); }
  std::size_t size() const { return chunk().size(); }
  chunk_type& chunk() const { return session_.current(); }  ///< its pieces, valid until commit() or the end

  /// Votes and writes back; blocks for the peers. Once: bad_options the second time, on this rank alone. Throws as the
  /// iterator of chunks() does.
  void commit() { session_.end_chunk(); }

 private:
  mutable session session_;
};

template <class R, class C, class A>
gather_scope(const chunk_plan&, std::size_t, R&&, C&, A, const run_options&) -> gather_scope<R, C, A, host_memory>;
template <class R, class C, class A, class M>
gather_scope(const chunk_plan&, std::size_t, R&&, C&, A, const run_options&, M&) -> gather_scope<R, C, A, M>;

}  // namespace v0
}  // namespace unshard
