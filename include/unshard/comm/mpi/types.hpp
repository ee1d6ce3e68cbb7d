// SPDX-License-Identifier: Apache-2.0
#pragma once  // comm/mpi/types.hpp: MPI's derived types, with counts over an int's, from runs of bytes.

#include <array>
#include <climits>
#include <span>
#include <unshard/comm/mpi/runs.hpp>
#include <unshard/communicator.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

/// A committed or intermediate MPI type, freed by its owner; MPI keeps what operations under way still need.
/// MPI_Type_* errors go to the caller's handler on MPI_COMM_WORLD, for no communicator of ours takes part.
template <class Mpi>
class mpi_type {
 public:
  using handle = typename Mpi::type;
  using address = typename Mpi::address;

  mpi_type() = default;
  mpi_type(mpi_type&& other) noexcept : type_(std::exchange(other.type_, Mpi::no_type())) {}
  mpi_type& operator=(mpi_type&& other) noexcept {
    std::swap(type_, other.type_);
    return *this;
  }
  ~mpi_type() {
    if (type_ != Mpi::no_type()) Mpi::free_type(type_);
  }

  handle get() const { return type_ == Mpi::no_type() ? Mpi::byte() : type_; }

  /// `count` blocks of `bytes` bytes, `stride` bytes apart. MPI 3 counts in int: what is over goes in big blocks.
  static mpi_type blocks(index_t count, index_t bytes, index_t stride, int rank) {
    mpi_type made;
    if (count <= INT_MAX && bytes <= INT_MAX) {
      const auto n = static_cast<int>(count);
      Mpi::hvector(n, static_cast<int>(bytes), stride, Mpi::byte(), made.type_, rank);
      return made;
    }
    return repeat(bytes <= INT_MAX ? blocks(1, bytes, bytes, rank) : repeat(mpi_type(), bytes, 1, rank), count, stride,
                  rank);
  }

  /// `count` of `inner`, `stride` bytes apart.
  static mpi_type repeat(const mpi_type& inner, index_t count, index_t stride, int rank) {
    constexpr index_t most = index_t{1} << 30;
    mpi_type made;
    if (count <= most) {
      Mpi::hvector(static_cast<int>(count), 1, stride, inner.get(), made.type_, rank);
      return made;
    }
    const mpi_type big = repeat(inner, most, stride, rank);
    const mpi_type whole = repeat(big, count / most, most * stride, rank);
    const mpi_type rest = repeat(inner, count % most, stride, rank);
    const std::array<address, 2> at{0, count / most * most * stride};
    const std::array<handle, 2> types{whole.get(), rest.get()};
    return of_types(at, types, rank);
  }

  /// What `runs` describes, from its base on.
  static mpi_type of(const mpi_runs& runs, int rank) {
    if (runs.dims == 0) return blocks(1, runs.run, runs.run, rank);
    mpi_type made = blocks(runs.levels[0].count, runs.run, runs.levels[0].stride, rank);
    for (int d = 1; d < runs.dims; ++d) made = repeat(made, runs.levels[d].count, runs.levels[d].stride, rank);
    return made;
  }

  /// Byte runs at absolute addresses.
  static mpi_type of_runs(std::span<const address> at, std::span<const int> bytes, int rank) {
    mpi_type made;
    Mpi::hindexed(at, bytes, made.type_, rank);
    return made;
  }

  /// One of each type, at its address.
  static mpi_type of_types(std::span<const address> at, std::span<const handle> types, int rank) {
    mpi_type made;
    Mpi::structure(at, types, made.type_, rank);
    return made;
  }

  void commit(int rank) {
    if (type_ != Mpi::no_type()) Mpi::commit(type_, rank);
  }

 private:
  handle type_ = Mpi::no_type();  // which stands for bytes
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
