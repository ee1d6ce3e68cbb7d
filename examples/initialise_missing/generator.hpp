// SPDX-License-Identifier: Apache-2.0
#pragma once  // generator.hpp: random weights by name and element index, so that a cut parameter gets the same bits.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace examples {

/// The weights of one parameter: element i is a function of seed, name and i, and of nothing else. There is no state,
/// so any part can be asked for alone, in any order, and the loop over a long part vectorises.
///
/// 16 random bits make an element: a quarter of a SplitMix64 output, whose counter is i / 4. They are a number in
/// [-1/32, 1/32), uniform, which suits weights (deviation 0.018), as bfloat16 where elements have 2 bytes and as float
/// where they have 4. Other sizes get bytes that are random all the same.
class generator {
 public:
  generator(std::uint64_t seed, std::string_view name, std::size_t element_size) : element_size_(element_size) {
    std::uint64_t hash = stir(seed + step);
    for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;  // FNV-1a
    key_ = stir(hash);
  }

  /// Element `i` alone, to `out`: the definition, which fill must agree with bit by bit.
  void element(std::int64_t i, std::byte* out) const { put(lane(word(i / 4), static_cast<int>(i % 4)), out); }

  /// Elements [first, first + count), one after another.
  void fill(std::int64_t first, std::size_t count, std::byte* out) const {
    for (; count > 0 && first % 4 != 0; --count, out += element_size_) element(first++, out);
    for (; count >= block; count -= block, out += block * element_size_) {
      fill_block(first, out);
      first += static_cast<std::int64_t>(block);
    }
    for (std::size_t i = 0; i < count; ++i) element(first + static_cast<std::int64_t>(i), out + i * element_size_);
  }

  /// Whether `count` elements at `bytes` are [first, first + count), asked for one by one.
  bool agrees(std::int64_t first, std::size_t count, const std::byte* bytes) const {
    switch (element_size_) {
      case 2:
        return agrees_as<2>(first, count, bytes);
      case 4:
        return agrees_as<4>(first, count, bytes);
      default:
        return agrees_as<0>(first, count, bytes);
    }
  }

 private:
  static constexpr std::uint64_t step = 0x9e3779b97f4a7c15;
  static constexpr std::size_t block = 256;  // elements that fill makes at a time

  static constexpr std::uint64_t stir(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  std::uint64_t word(std::int64_t counter) const { return stir(key_ + static_cast<std::uint64_t>(counter) * step); }
  static constexpr std::uint16_t lane(std::uint64_t word, int i) {
    return static_cast<std::uint16_t>(word >> (16 * i));
  }

  static constexpr float number(std::uint16_t bits) {
    return static_cast<float>(static_cast<std::int16_t>(bits)) * (1.0F / (1 << 20));
  }
  /// Rounded to the nearest, ties to even.
  static constexpr std::uint16_t bfloat16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }

  void put(std::uint16_t bits, std::byte* out) const {
    if (element_size_ == 2) {
      const std::uint16_t value = bfloat16(number(bits));
      std::memcpy(out, &value, sizeof value);
    } else if (element_size_ == 4) {
      const float value = number(bits);
      std::memcpy(out, &value, sizeof value);
    } else {
      for (std::size_t b = 0; b < element_size_; ++b) out[b] = static_cast<std::byte>(bits >> (8 * (b % 2)));
    }
  }

  /// `first` is a multiple of 4. The inner loops have nothing that keeps a compiler from using vectors.
  void fill_block(std::int64_t first, std::byte* out) const {
    std::uint16_t bits[block];
    for (std::size_t i = 0; i < block / 4; ++i) {
      const std::uint64_t w = word(first / 4 + static_cast<std::int64_t>(i));
      for (std::size_t k = 0; k < 4; ++k) bits[4 * i + k] = lane(w, static_cast<int>(k));
    }
    if (element_size_ == 2) {
      for (std::uint16_t& b : bits) b = bfloat16(number(b));
      std::memcpy(out, bits, sizeof bits);
    } else if (element_size_ == 4) {
      float values[block];
      for (std::size_t i = 0; i < block; ++i) values[i] = number(bits[i]);
      std::memcpy(out, values, sizeof values);
    } else {
      for (std::size_t i = 0; i < block; ++i) put(bits[i], out + i * element_size_);
    }
  }

  /// Size is the element's where the compiler is to know it, else 0.
  template <std::size_t Size>
  bool agrees_as(std::int64_t first, std::size_t count, const std::byte* bytes) const {
    const std::size_t size = Size > 0 ? Size : element_size_;
    bool same = true;
    for (std::size_t i = 0; i < count && same; ++i) {
      std::byte expected[16];  // the largest element: two doubles
      element(first + static_cast<std::int64_t>(i), expected);
      same = std::memcmp(expected, bytes + i * size, size) == 0;
    }
    return same;
  }

  std::size_t element_size_;
  std::uint64_t key_;
};

}  // namespace examples
