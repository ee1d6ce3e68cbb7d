// SPDX-License-Identifier: Apache-2.0
#pragma once  // base/plain_vector.hpp: an owned vector that costs its includers next to nothing.

#include <cstddef>
#include <cstring>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

namespace unshard {
inline namespace v0 {
namespace detail {

/// A std::vector in small, of plain structs: bytes that may be copied as bytes. Every file that includes a class of
/// std::vectors of own structs pays for all their functions, used or not: half the time that including this library
/// took. Throws std::bad_alloc.
template <class T>
class plain_vector {
  static_assert(std::is_trivially_copy_constructible_v<T> && std::is_trivially_destructible_v<T>);
  static_assert(alignof(T) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);

 public:
  using value_type = T;

  plain_vector() = default;
  plain_vector(std::size_t count, const T& value) { assign(count, value); }
  plain_vector(const plain_vector& other) { append(other.data_, other.size_); }
  plain_vector(plain_vector&& other) noexcept { swap(other); }
  plain_vector& operator=(plain_vector other) noexcept {
    swap(other);
    return *this;
  }
  ~plain_vector() { ::operator delete(data_); }

  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  T& front() { return data_[0]; }
  T& back() { return data_[size_ - 1]; }
  const T& front() const { return data_[0]; }
  const T& back() const { return data_[size_ - 1]; }

  void push_back(const T& value) {
    if (size_ == room_) {
      const T kept = value;  // it may be one of this plain_vector's
      reserve(room_ == 0 ? 8 : 2 * room_);
      new (static_cast<void*>(data_ + size_++)) T(kept);
    } else {
      new (static_cast<void*>(data_ + size_++)) T(value);
    }
  }
  void append(const T* values, std::size_t count) {
    if (count == 0) return;
    if (size_ + count > room_) reserve(size_ + count > 2 * room_ ? size_ + count : 2 * room_);
    std::memcpy(static_cast<void*>(data_ + size_), values, count * sizeof(T));
    size_ += count;
  }
  void assign(std::size_t count, const T& value) {
    size_ = 0;
    resize(count, value);
  }
  /// Longer by copies of `value`, or shorter.
  void resize(std::size_t count, const T& value = T()) {
    reserve(count);
    while (size_ < count) new (static_cast<void*>(data_ + size_++)) T(value);
    size_ = count;
  }
  void reserve(std::size_t room) {
    if (room <= room_) return;
    T* longer = static_cast<T*>(::operator new(room * sizeof(T)));
    if (size_ > 0) std::memcpy(static_cast<void*>(longer), data_, size_ * sizeof(T));
    ::operator delete(data_);
    data_ = longer;
    room_ = room;
  }
  void clear() { size_ = 0; }  ///< its room stays
  void swap(plain_vector& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(room_, other.room_);
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t room_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
