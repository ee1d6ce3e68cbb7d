// SPDX-License-Identifier: Apache-2.0
#pragma once  // dtypes.hpp: the types of elements by name, and shapes that extents can hold.

#include <cctype>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <unshard/layout.hpp>
#include <vector>

namespace examples {

/// A type of elements as safetensors and as torch call it; "" where one has no name for it.
struct dtype_name {
  std::string_view safetensors;
  std::string_view torch;
  int bits;  // of an element
};

inline constexpr dtype_name dtypes[] = {
    {"BF16", "bfloat16", 16},
    {"F16", "float16", 16},
    {"F32", "float32", 32},
    {"F64", "float64", 64},
    {"F8_E4M3", "float8_e4m3fn", 8},
    {"F8_E5M2", "float8_e5m2", 8},
    {"F8_E4M3FNUZ", "float8_e4m3fnuz", 8},
    {"F8_E5M2FNUZ", "float8_e5m2fnuz", 8},
    {"F8_E8M0", "float8_e8m0fnu", 8},
    {"F6_E2M3", "", 6},
    {"F6_E3M2", "", 6},
    {"F4", "", 4},
    {"", "float4_e2m1fn_x2", 8},
    {"BOOL", "bool", 8},
    {"U8", "uint8", 8},
    {"I8", "int8", 8},
    {"U16", "uint16", 16},
    {"I16", "int16", 16},
    {"U32", "uint32", 32},
    {"I32", "int32", 32},
    {"U64", "uint64", 64},
    {"I64", "int64", 64},
    {"", "complex32", 32},
    {"C64", "complex64", 64},
    {"", "complex128", 128},
};

/// Bits of an element by either name, in upper or lower case, "torch." before it or not; 0: unknown.
inline int bits_of_dtype(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  const auto same = [name](std::string_view known) {
    if (name.empty() || known.size() != name.size()) return false;
    for (std::size_t i = 0; i < name.size(); ++i) {
      const auto low = [](char c) { return std::tolower(static_cast<unsigned char>(c)); };
      if (low(name[i]) != low(known[i])) return false;
    }
    return true;
  };
  for (const dtype_name& d : dtypes) {
    if (same(d.safetensors) || same(d.torch)) return d.bits;
  }
  return 0;
}

/// A shape in whole elements of so many bytes.
struct stored_shape {
  unshard::extents shape;
  std::size_t element_size;  // bytes
};

/// A shape as extents hold it, of equal bytes in row-major order: elements below a byte are counted in bytes, along the
/// last dimension or, where rows are no whole bytes, of the flat value; of more dimensions than extents have the last
/// ones are one. Throws size_overflow, and bad_layout where the value is no whole number of bytes.
inline stored_shape stored(std::span<const unshard::index_t> shape, int bits) {
  using unshard::detail::checked_mul;
  std::vector<unshard::index_t> sizes(shape.begin(), shape.end());
  if (bits % 8 != 0) {
    unshard::index_t elements = 1;
    for (unshard::index_t n : sizes) elements = checked_mul(elements, n);
    if (checked_mul(elements, bits) % 8 != 0)
      throw unshard::bad_layout(unshard::detail::concat(elements, " elements of ", bits, " bits are no whole bytes"));
    if (!sizes.empty() && sizes.back() * bits % 8 == 0) {
      sizes.back() = sizes.back() * bits / 8;
    } else {
      sizes.assign(1, elements * bits / 8);
    }
  }
  while (sizes.size() > static_cast<std::size_t>(unshard::extents::max_dims)) {
    const unshard::index_t last = sizes.back();
    sizes.pop_back();
    sizes.back() = checked_mul(sizes.back(), last);
  }
  return {unshard::extents(sizes), bits % 8 == 0 ? static_cast<std::size_t>(bits / 8) : 1};
}

}  // namespace examples
