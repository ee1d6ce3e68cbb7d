// SPDX-License-Identifier: Apache-2.0
#pragma once  // error.hpp: one type per cause, all derived from unshard::error; the values are members.

#include <cstddef>
#include <stdexcept>
#include <string>
#include <unshard/base/text.hpp>

namespace unshard {
inline namespace v0 {

/// Base of everything that the library throws on purpose. what() says what was asked, what was found, on which
/// rank and parameter, and what to do about it.
class [[gnu::visibility("default")]] error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A product or sum of sizes exceeds 2^63 - 1 (elements or bytes); no wrapped number is ever used.
class [[gnu::visibility("default")]] size_overflow : public error {
 public:
  using error::error;
};

/// A layout contradicts itself (hole, overlap, out of range), its shape, or the communicator's number of ranks.
class [[gnu::visibility("default")]] bad_layout : public error {
 public:
  using error::error;
};

/// A shard is shorter than its boxes.
class [[gnu::visibility("default")]] bad_shard : public error {
 public:
  bad_shard(const std::string& what, std::size_t the_parameter, std::size_t the_needed, std::size_t the_found)
      : error(what), parameter(the_parameter), needed(the_needed), found(the_found) {}
  std::size_t parameter;  ///< index in the caller's range
  std::size_t needed;     ///< bytes that the layout gives this rank
  std::size_t found;      ///< bytes that the shard has
};

/// An option, or a combination of options, that can't be meant.
class [[gnu::visibility("default")]] bad_options : public error {
 public:
  using error::error;
};

/// Some parameter (or group that must stay together) does not fit the budget. Setting exactly `least` works.
class [[gnu::visibility("default")]] budget_too_small : public bad_options {
 public:
  budget_too_small(const std::string& what, std::size_t the_parameter, std::size_t the_budget, std::size_t the_least)
      : bad_options(what), parameter(the_parameter), budget(the_budget), least(the_least) {}
  std::size_t parameter;  ///< index of the (first) parameter that does not fit
  std::size_t budget;     ///< bytes that were given
  std::size_t least;      ///< the least budget, in bytes, that works for the whole list
};

/// The ranks asked for different things; thrown on every rank, before any byte moves.
class [[gnu::visibility("default")]] plan_mismatch : public error {
 public:
  plan_mismatch(const std::string& what, std::size_t the_parameter, int the_rank)
      : error(what), parameter(the_parameter), rank(the_rank) {}
  static constexpr std::size_t npos = static_cast<std::size_t>(-1);
  std::size_t parameter;  ///< the first parameter that differs or is missing; npos: access or options differ
  int rank;               ///< the first rank that differs from rank 0
};

/// A plan is replayed over other layouts than it was made for, or an engine needs more than the plan left it.
class [[gnu::visibility("default")]] stale_plan : public error {
 public:
  using error::error;
};

/// Another rank failed or left; nothing of the chunk in hand was written anywhere.
class [[gnu::visibility("default")]] peer_failed : public error {
 public:
  peer_failed(const std::string& what, int the_rank) : error(what), rank(the_rank) {}
  peer_failed(const std::string& what, int the_rank, std::size_t the_chunk)
      : error(what), rank(the_rank), chunk(the_chunk) {}
  static constexpr std::size_t npos = static_cast<std::size_t>(-1);
  int rank;                  ///< the first rank that failed or left
  std::size_t chunk = npos;  ///< the chunk at whose end it was told; npos: in the opening
};

/// A rank did not arrive within timeout_ms. A slow rank can't be told from a dead one.
class [[gnu::visibility("default")]] peer_timeout : public error {
 public:
  peer_timeout(const std::string& what, int the_rank) : error(what), rank(the_rank) {}
  int rank;  ///< the first rank that is missing, -1 where the engine can't tell
};

/// The two ends of a transfer differ; what() names both.
class [[gnu::visibility("default")]] batch_mismatch : public error {
 public:
  using error::error;
};

/// The transport failed after a chunk's vote: that chunk's shards are unspecified, earlier chunks are committed,
/// later ones untouched.
class [[gnu::visibility("default")]] write_back_failed : public error {
 public:
  write_back_failed(const std::string& what, std::size_t the_chunk) : error(what), chunk(the_chunk) {}
  std::size_t chunk;  ///< the one chunk in doubt
};

/// The transport or the device reported an error of its own.
class [[gnu::visibility("default")]] device_failed : public error {
 public:
  using error::error;
};

/// Two scopes are open over the same shard bytes and one of them writes (with .verify, in one program image).
class [[gnu::visibility("default")]] overlapping_scope : public error {
 public:
  using error::error;
};

/// Shards of one list overlap and no `identity` says that the parameters are tied (with .verify).
class [[gnu::visibility("default")]] aliased_parameters : public error {
 public:
  aliased_parameters(const std::string& what, std::size_t the_first, std::size_t the_second)
      : error(what), first(the_first), second(the_second) {}
  std::size_t first;   ///< index of one parameter
  std::size_t second;  ///< index of the other
};

/// With every_rank, ranks that hold replicas of one part wrote different bytes; nothing was written (with .verify).
class [[gnu::visibility("default")]] replicas_differ : public error {
 public:
  replicas_differ(const std::string& what, std::size_t the_chunk) : error(what), chunk(the_chunk) {}
  std::size_t chunk;  ///< the chunk that was discarded
};

/// Under overwrite, the body left a piece as it found it (with .verify).
class [[gnu::visibility("default")]] unwritten_piece : public error {
 public:
  unwritten_piece(const std::string& what, std::size_t the_parameter) : error(what), parameter(the_parameter) {}
  std::size_t parameter;  ///< index in the caller's range
};

/// A memory resource had not enough bytes.
class [[gnu::visibility("default")]] out_of_memory : public error {
 public:
  out_of_memory(const std::string& what, std::size_t the_bytes) : error(what), bytes(the_bytes) {}
  std::size_t bytes;  ///< how many were asked for
};

}  // namespace v0
}  // namespace unshard
