// SPDX-License-Identifier: Apache-2.0
#pragma once  // manifest.hpp: reads the parameter list of a model, `manifests/*.tsv`. Errors name the line.

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <istream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unshard/layout.hpp>
#include <utility>
#include <vector>

#include "dtypes.hpp"
#include "printable.hpp"

namespace examples {

/// A manifest that can't be read; `line` counts from 1, and is 0 where the file itself is the trouble.
class manifest_error : public unshard::error {
 public:
  manifest_error(const std::string& what, std::size_t the_line) : error(what), line(the_line) {}
  std::size_t line;
};

/// One parameter; a type below a byte, or more than 8 dimensions, as stored() turns them. `tied_to` is the index of the
/// first one that holds the same storage, its own where there is none.
struct manifest_entry {
  std::string name;
  std::string dtype;         // as the file spells it
  std::size_t element_size;  // bytes
  unshard::extents shape;
  std::size_t tied_to;
  bool missing;

  /// Bytes of the whole value; read_manifest has seen to it that the product fits.
  std::size_t bytes() const { return static_cast<std::size_t>(shape.elements()) * element_size; }
};

using manifest = std::vector<manifest_entry>;

namespace detail {

class manifest_reader {
 public:
  manifest_reader(std::istream& in, std::string_view where) : in_(in), where_(where) {}

  manifest read() {
    std::vector<char> room(64 * 1024);  // what has no ends of lines is no manifest, and must not be read whole
    while (in_.getline(room.data(), static_cast<std::streamsize>(room.size()))) {
      ++line_;
      const std::streamsize length = in_.gcount() - (in_.eof() ? 0 : 1);  // without the end of line
      std::string_view line(room.data(), static_cast<std::size_t>(length));
      if (line_ == 1 && line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);  // a byte-order mark
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      if (!line.empty() && line.front() != '#') add(line);
    }
    if (!in_.eof() && !in_.bad()) {
      ++line_;
      fail("more than 64 KiB long; this is no manifest.");
    }
    if (in_.bad()) fail("the file can't be read to its end.");
    return std::move(list_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw manifest_error(unshard::detail::concat("read_manifest: ", where_, " line ", line_, ": ", what), line_);
  }

  void add(std::string_view line) {
    constexpr std::size_t fields = 5;
    std::string_view field[fields];
    std::size_t count = 0;
    for (std::string_view rest = line;; ++count) {
      const std::size_t tab = rest.find('\t');
      if (count < fields) field[count] = rest.substr(0, tab);
      if (tab == std::string_view::npos) break;
      rest.remove_prefix(tab + 1);
    }
    if (++count != fields)
      fail(unshard::detail::concat(count, count == 1 ? " field" : " fields",
                                   "; 5 are needed, with tabs between: name, dtype, shape, tied_to, missing."));

    const auto [name, dtype, shape, tied_to, missing] = field;
    if (name.empty() || printable(name, name.size()) != name)
      fail("the name is empty, or has characters that can't be printed.");
    manifest_entry entry{std::string(name), std::string(dtype), 0, {}, list_.size(), false};
    const int bits = bits_of_dtype(dtype);
    if (bits == 0) fail("dtype " + shown(dtype) + " is unknown; bfloat16, torch.bfloat16 and BF16 are known, say.");
    if (missing != "0" && missing != "1") fail("missing is " + shown(missing) + "; 0 or 1 is needed.");
    entry.missing = missing == "1";
    set_shape(entry, shape, bits);
    if (!tied_to.empty()) entry.tied_to = tie(entry, tied_to);
    if (!by_name_.emplace(entry.name, list_.size()).second) fail("parameter " + shown(name) + " is there twice.");
    list_.push_back(std::move(entry));
  }

  static std::string shown(std::string_view field) { return in_quotes(field, 60); }

  /// "128x6144x6144"; empty: a scalar. The sum of all sizes stays in 63 bits, too: nothing that adds them up wraps.
  void set_shape(manifest_entry& entry, std::string_view text, int bits) {
    const auto wrong = [&](std::string_view why) {
      fail(unshard::detail::concat("shape ", shown(text), ": ", why, '.'));
    };
    std::vector<unshard::index_t> sizes;
    const char* const end = text.data() + text.size();
    for (const char* at = text.data(); at != end;) {
      const auto [next, failure] = std::from_chars(at, end, sizes.emplace_back());
      if (failure == std::errc::result_out_of_range) wrong("an extent exceeds 2^63 - 1");
      if (failure != std::errc{} || sizes.back() < 0) wrong("an extent is not a number, or below 0");
      at = next;
      if (at == end) break;
      if (*at != 'x' || at + 1 == end) wrong("extents are numbers with an x between them");
      ++at;
    }
    try {
      const stored_shape s = stored(sizes, bits);
      entry.shape = s.shape;
      entry.element_size = s.element_size;
      const auto bytes = unshard::detail::checked_mul(s.shape.elements(), static_cast<std::int64_t>(s.element_size));
      total_ = unshard::detail::checked_add(total_, bytes);
    } catch (const unshard::size_overflow&) {
      wrong("the bytes so far exceed 2^63 - 1");
    } catch (const unshard::bad_layout& e) {
      wrong(e.what());
    }
  }

  std::size_t tie(const manifest_entry& entry, std::string_view to) const {
    const auto found = by_name_.find(std::string(to));
    if (found == by_name_.end()) fail("tied to " + shown(to) + ", which no earlier line has.");
    const manifest_entry& other = list_[found->second];
    if (other.shape != entry.shape || other.element_size != entry.element_size)
      fail("tied to " + shown(to) + ", whose shape or dtype is another.");
    return other.tied_to;
  }

  std::istream& in_;
  std::string_view where_;
  std::size_t line_ = 0;
  std::int64_t total_ = 0;  // bytes
  manifest list_;
  std::unordered_map<std::string, std::size_t> by_name_;
};

}  // namespace detail

/// Reads a manifest; `where` is what errors call it. Throws manifest_error.
inline manifest read_manifest(std::istream& in, std::string_view where) {
  return detail::manifest_reader(in, where).read();
}

/// Reads a manifest from a file. Throws manifest_error.
inline manifest read_manifest(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw manifest_error("read_manifest: " + in_quotes(path) + " can't be opened.", 0);
  in.peek();
  if (in.bad()) throw manifest_error("read_manifest: " + in_quotes(path) + " can't be read.", 0);
  return read_manifest(in, printable(path));
}

}  // namespace examples
