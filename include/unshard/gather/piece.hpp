// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/piece.hpp: what the caller's loop body sees: pieces of a chunk.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <unshard/error.hpp>
#include <unshard/layout.hpp>
#include <unshard/plan.hpp>
#include <vector>

namespace unshard {
inline namespace v0 {

namespace detail {
template <class Byte>
class chunk_filler;
}

/// Some consecutive elements of one whole value, in row-major order: all of them unless the parameter was cut. A view
/// of the chunk buffer, copied freely, valid until its chunk ends. `Byte` is const under `read`.
template <class Byte>
class basic_piece {
 public:
  std::string_view name() const { return name_; }             ///< the handle's, "" where it has none
  std::size_t index() const { return plan_.parameter; }       ///< in the caller's range; of the first, if tied
  const extents& shape() const { return shape_; }             ///< of the whole tensor
  index_t first() const { return plan_.first; }               ///< the first element that this piece holds
  index_t elements() const { return plan_.elements; }         ///< how many it holds
  bool whole() const { return plan_.elements == total_; }     ///< whether that is all of them
  std::size_t element_size() const { return element_size_; }  ///< bytes

  /// The bytes of its elements. On device memory an address, not for the host to read.
  std::span<Byte> bytes() const { return {data_, plan_.bytes}; }

  /// Its elements as T's, trivially copyable, of the element's size; bad_options with both numbers where the size or
  /// the alignment does not fit.
  template <class T>
  auto as() const {
    static_assert(std::is_trivially_copyable_v<T>, "piece::as<T>: T must be trivially copyable");
    using element = std::conditional_t<std::is_const_v<Byte>, const T, T>;
    if (sizeof(T) != element_size_)
      throw bad_options(detail::concat("piece::as: parameter ", detail::called(index(), name_), " has elements of ",
                                       element_size_, " bytes, and T has ", sizeof(T),
                                       ". Name the element's own type."));
    if (reinterpret_cast<std::uintptr_t>(data_) % alignof(T) != 0)
      throw bad_options(detail::concat("piece::as: parameter ", detail::called(index(), name_),
                                       " does not lie at a multiple of ", alignof(T),
                                       " bytes, as T needs. Raise .alignment."));
    return std::span<element>(reinterpret_cast<element*>(data_), static_cast<std::size_t>(plan_.elements));
  }

 private:
  friend class detail::chunk_filler<Byte>;
  std::string_view name_;
  extents shape_;
  index_t total_ = 0;
  std::size_t element_size_ = 0;
  planned_piece plan_;
  Byte* data_ = nullptr;
};

/// A piece that the body may write.
using piece = basic_piece<std::byte>;
/// A piece under `read`: to write to it does not compile.
using const_piece = basic_piece<const std::byte>;

/// The pieces of one chunk that this rank holds, in the caller's order; none on ranks that hold nothing. It belongs
/// to its range or scope.
template <class Byte>
class basic_chunk {
 public:
  auto begin() const { return pieces_.begin(); }
  auto end() const { return pieces_.end(); }
  std::size_t size() const { return pieces_.size(); }
  bool empty() const { return pieces_.empty(); }
  const basic_piece<Byte>& operator[](std::size_t i) const { return pieces_[i]; }
  std::size_t number() const { return number_; }  ///< in its plan; with spread, of its round
  /// Of its values, also on ranks that hold none of them; with spread, of those that this rank holds.
  std::size_t bytes() const { return bytes_; }

 private:
  friend class detail::chunk_filler<Byte>;
  std::vector<basic_piece<Byte>> pieces_;
  std::string names_;
  std::size_t number_ = 0;
  std::size_t bytes_ = 0;
};

/// The two kinds of chunk: writable, and that of `read`.
using chunk = basic_chunk<std::byte>;
using const_chunk = basic_chunk<const std::byte>;

namespace detail {

/// Makes a chunk out of its planned pieces.
template <class Byte>
class chunk_filler {
 public:
  static void start(basic_chunk<Byte>& c, std::size_t number) {
    c.pieces_.clear();
    c.names_.clear();
    c.number_ = number;
    c.bytes_ = 0;
  }
  static void count(basic_chunk<Byte>& c, const planned_piece& p) { c.bytes_ += p.bytes; }
  static void add(basic_chunk<Byte>& c, const planned_piece& p, std::string_view name, const extents& shape,
                  std::size_t element_size, std::byte* buffer) {
    basic_piece<Byte> out;
    c.names_ += name;
    out.name_ = name;
    out.shape_ = shape;
    out.total_ = shape.elements();
    out.element_size_ = element_size;
    out.plan_ = p;
    out.data_ = p.bytes == 0 ? nullptr : buffer + p.offset;
    c.pieces_.push_back(out);
  }
  /// Once all are there, names point into the chunk's own copy: a handle made on the fly may be gone.
  static void finish(basic_chunk<Byte>& c) {
    std::size_t at = 0;
    for (basic_piece<Byte>& p : c.pieces_) {
      p.name_ = std::string_view(c.names_).substr(at, p.name_.size());
      at += p.name_.size();
    }
  }
};

}  // namespace detail

}  // namespace v0
}  // namespace unshard
