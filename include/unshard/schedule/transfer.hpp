// SPDX-License-Identifier: Apache-2.0
#pragma once  // schedule/transfer.hpp: what a schedule is a list of, and the collectives that an engine's batches may
              // have.

#include <cstddef>
#include <cstdint>
#include <span>

namespace unshard {
inline namespace v0 {

/// Which way a schedule moves bytes.
enum class movement {
  gather,      ///< from the shards into the chunk
  write_back,  ///< from the chunk into the shards
};

/// What an operation of a schedule does on this rank.
/// `send` and `recv` to and from a peer, `copy` on this rank, and the engine's collectives: `all_gather`, `broadcast`,
/// `gather`, `scatter`.
enum class transfer_kind { send, recv, copy, all_gather, broadcast, gather, scatter };

/// Where a run lies on this rank: in the shard of a piece, in the chunk, or nowhere (on another rank, or it arrives
/// with the rest of a message and is not kept).
struct run_end {
  static constexpr std::uint32_t chunk = 0xffff'fffe;    ///< the base of what lies in the chunk
  static constexpr std::uint32_t nowhere = 0xffff'ffff;  ///< and of what does not lie here

  std::uint32_t base = nowhere;  ///< the number of the piece whose shard it lies in, or one of the two above
  std::uint32_t blocks = 0;      ///< of how many strided blocks it is; 0: contiguous
  std::size_t at = 0;            ///< bytes from the base, or the number of its first block
};

/// Some bytes and their places at both ends. For a chunk a box has ONE contiguous run in the shard: a piece is an
/// interval of the row-major order, the lemma that keeps schedules small; the end in the chunk is strided where the box
/// is not an interval itself. Of blocks at equal distances (shard_part) the end in the shard may be strided, too.
struct scheduled_run {
  run_end from;           ///< where the bytes are read
  run_end to;             ///< where they are written
  std::size_t bytes = 0;  ///< how many there are
};

/// One operation: some runs, to or from one peer.
struct scheduled_transfer {
  transfer_kind kind;  ///< what to do
  int peer;            ///< this rank for copies, the root of a collective
  std::size_t bytes;
  std::size_t batch;                    ///< which of the movement's batches it is in
  std::span<const std::uint32_t> runs;  ///< numbers of the runs that it moves
};

/// Which optional functions an engine's batch has.
struct collectives {
  bool all_gather = false;  ///< (send, recv, bytes)
  bool broadcast = false;   ///< (buffer, bytes, root)
  bool gather = false;      ///< (send, recv, bytes, root)
  bool scatter = false;     ///< the opposite of gather: (send, recv, bytes, root)
};

/// A batch with a collective of one rank's part and the whole: `all_gather(send, recv, bytes)`.
template <class B>
concept batch_with_all_gather = requires(B& b, const std::byte* send, std::byte* recv, std::size_t bytes) {
  b.all_gather(send, recv, bytes);
};
/// One with `broadcast(buffer, bytes, root)`.
template <class B>
concept batch_with_broadcast = requires(B& b, std::byte* buffer, std::size_t bytes, int root) {
  b.broadcast(buffer, bytes, root);
};
/// One with `gather(send, recv, bytes, root)`.
template <class B>
concept batch_with_gather = requires(B& b, const std::byte* send, std::byte* recv, std::size_t bytes, int root) {
  b.gather(send, recv, bytes, root);
};
/// One with `scatter(send, recv, bytes, root)`.
template <class B>
concept batch_with_scatter = requires(B& b, const std::byte* send, std::byte* recv, std::size_t bytes, int root) {
  b.scatter(send, recv, bytes, root);
};

/// Which of them a batch type has.
template <class Batch>
constexpr collectives collectives_of() {
  return {batch_with_all_gather<Batch>, batch_with_broadcast<Batch>, batch_with_gather<Batch>,
          batch_with_scatter<Batch>};
}

}  // namespace v0
}  // namespace unshard
