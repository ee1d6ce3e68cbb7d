// SPDX-License-Identifier: Apache-2.0
#pragma once  // observe.hpp: what a range tells an observer while it runs. The observer takes the time.

#include <concepts>
#include <cstddef>
#include <string_view>
#include <type_traits>

namespace unshard {
inline namespace v0 {

/// The moments of a chunk's life on one rank, in the order in which they come. With .in_flight > 1 those of
/// neighbouring chunks interleave; `event::chunk` tells them apart.
enum class event_kind {
  opened,               ///< the ranks agreed: the range runs; chunk is the first one, chunk_bytes 0
  gather_launched,      ///< the chunk's bytes are under way (not under overwrite)
  gathered,             ///< they are here
  chunk_begun,          ///< the caller's body is about to run
  vote_begun,           ///< the body has ended; this rank is about to say its word
  voted,                ///< every rank said `done`
  write_back_launched,  ///< the changes are under way (not under read)
  committed,            ///< they are in the shards (under read: the chunk is over)
  discarded,            ///< nothing of this chunk was written
  failed,               ///< an error that could not be thrown, from a destructor: `message` has its text
};

/// What an observer is given. `message` is valid during the call only.
struct event {
  event_kind kind;     ///< what has happened
  int rank;            ///< this rank
  std::size_t chunk;   ///< number of the chunk in its plan; with spread, of the round
  std::size_t chunks;  ///< how many the plan has; with spread, of rounds
  std::size_t
      chunk_bytes;  ///< bytes of values in this chunk, whole, wherever they are held; with spread, in this rank's
  std::size_t total_bytes;  ///< bytes of values in the plan
  std::size_t held_bytes;   ///< bytes of memory that this rank holds for the range
  std::string_view message;
  std::size_t round_bytes = 0;  ///< bytes of values in all chunks of the round: those of the one chunk without spread
};

namespace detail {
template <class F>
concept function_pointer = std::is_pointer_v<F> && std::is_function_v<std::remove_pointer_t<F>>;
}

/// A view of any callable that takes a `const event&`: a lambda or object, which it does not own and which outlives the
/// range, or a plain function (`log`, `&log`). It is called on the thread that runs the range, must not use that range
/// or its communicator, and must not throw.
class observer {
 public:
  constexpr observer() = default;

  template <class F>
  requires(!std::same_as<std::remove_cvref_t<F>, observer> && std::is_object_v<F> && !detail::function_pointer<F> &&
           std::invocable<F&, const event&>) constexpr observer(F& callable)  // NOLINT(google-explicit-constructor): a
                                                                              // view, like std::span of an array
      : object_(const_cast<void*>(static_cast<const void*>(&callable))),
        call_([](const observer& o, const event& e) { (*static_cast<F*>(o.object_))(e); }) {}
  template <class F>
  requires(std::is_function_v<F>&& std::invocable<F&, const event&>)
      observer(F* function)  // NOLINT(google-explicit-constructor)
      : function_(reinterpret_cast<void (*)()>(function)),
        call_([](const observer& o, const event& e) { reinterpret_cast<F*>(o.function_)(e); }) {}

  void operator()(const event& e) const {
    if (call_ != nullptr) call_(*this, e);
  }

 private:
  void* object_ = nullptr;
  void (*function_)() = nullptr;
  void (*call_)(const observer&, const event&) = nullptr;
};

}  // namespace v0
}  // namespace unshard
