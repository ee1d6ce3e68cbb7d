// SPDX-License-Identifier: Apache-2.0
// safetensors.cpp: the header of a .safetensors file, and the index of a model that has several.
//
// A file is 8 bytes, little-endian: the length of the header; the header, JSON: {name: {dtype, shape, data_offsets}};
// the data. Tensors fill the data without holes, and a header has at most 100 MB: so say the format's own rules.

#include <algorithm>
#include <array>
#include <istream>
#include <iterator>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>

#include "../../examples/dtypes.hpp"
#include "json_events.hpp"

namespace unshard_plan {
namespace {

constexpr std::uint64_t max_text = 100'000'000;  // bytes

using unshard::detail::concat;

/// By the names that the format has; 0: none of them.
int bits_of(std::string_view dtype) {
  for (const examples::dtype_name& d : examples::dtypes) {
    if (!dtype.empty() && d.safetensors == dtype) return d.bits;
  }
  return 0;
}

class header_reader : public json_events {
 public:
  header_reader(std::string_view what, std::uint64_t data_bytes) : json_events(what), data_bytes_(data_bytes) {}

  std::vector<tensor> finish() {
    std::sort(spans_.begin(), spans_.end());
    std::uint64_t at = 0;
    for (const auto& [begin, end, index] : spans_) {
      if (begin < at) fail("tensor ", printable(tensors_[index].name), " overlaps the one before it in the data.");
      if (begin > at) fail("bytes ", at, " to ", begin, " of the data belong to no tensor.");
      at = end;
    }
    if (at != data_bytes_) fail("its tensors take ", at, " bytes of data; the file has ", data_bytes_, '.');
    return std::move(tensors_);
  }

 private:
  struct place {
    std::uint64_t begin;
    std::uint64_t end;
    std::size_t index;
    auto operator<=>(const place&) const = default;
  };

  bool in_metadata() const { return !path().empty() && path()[0] == "__metadata__"; }
  bool in_tensor() const { return path().size() >= 2 && path()[0] != "__metadata__"; }
  bool in_field(std::string_view name) const { return in_tensor() && path()[1] == name; }
  bool in_known_field() const { return in_field("dtype") || in_field("shape") || in_field("data_offsets"); }
  std::string here() const { return concat("tensor ", printable(path()[0])); }

  void enter(bool object) override {
    if (path().empty() && !object) fail("its header is no JSON object.");
    if (in_metadata()) {
      if (!object || path().size() > 1) fail("its __metadata__ is no object of strings.");
      count_metadata();
    }
    if (path().size() == 1 && path()[0] != "__metadata__") {
      if (!object) fail(here(), " is an array, not an object.");
      if (!names_.insert(path()[0]).second) fail(here(), " is listed twice.");
      dtype_.reset();
      shape_.clear();
      offsets_.clear();
      has_shape_ = false;
      has_offsets_ = false;
    }
    if (in_known_field()) {
      const bool list = !in_field("dtype") && path().size() == 2;
      if (object || !list) fail(here(), ": its ", path()[1], " is nested; that is not what the format says.");
      if (in_field("shape") && std::exchange(has_shape_, true)) fail(here(), " has two shapes.");
      if (in_field("data_offsets") && std::exchange(has_offsets_, true)) fail(here(), " has two data_offsets.");
    }
  }
  void leave() override {
    if (path().size() == 1 && path()[0] != "__metadata__") add();
  }
  void on_string(std::string& value) override {
    if (in_metadata() && path().size() == 2) return;
    if (path().size() != 2 || !in_field("dtype")) return on_other();
    if (dtype_) fail(here(), " has two dtypes.");
    dtype_ = std::move(value);
  }
  void on_count(std::uint64_t value) override {
    const bool item = path().size() == 3;
    if (item && in_field("shape")) {
      shape_.push_back(value);
    } else if (item && in_field("data_offsets")) {
      if (offsets_.size() == 2) fail(here(), " has more than two data_offsets.");
      offsets_.push_back(value);
    } else {
      on_other();
    }
  }
  void on_null() override {
    if (!in_metadata() || path().size() != 1) return on_other();
    count_metadata();
  }
  void on_other() override {
    if (path().empty()) fail("its header is no JSON object.");
    if (in_metadata()) fail("its __metadata__ is no object of strings.");
    if (path().size() == 1) fail(here(), " is no object.");
    if (in_known_field()) fail(here(), ": its ", path()[1], " is not what the format says.");
  }

  void count_metadata() {
    if (std::exchange(has_metadata_, true)) fail("it has two __metadata__.");
  }

  void add() {
    if (!dtype_ || !has_shape_ || offsets_.size() != 2) fail(here(), " lacks a dtype, a shape or data_offsets.");
    const int bits = bits_of(*dtype_);
    if (bits == 0) fail(here(), " has dtype ", printable(*dtype_), ", which this program does not know.");
    const std::uint64_t bytes = measure(bits);
    if (offsets_[0] > offsets_[1] || offsets_[1] - offsets_[0] != bytes)
      fail(here(), ": data_offsets ", offsets_[0], " to ", offsets_[1], "; its shape and dtype take ", bytes,
           " bytes.");
    if (offsets_[1] > data_bytes_)
      fail(here(), " ends at byte ", offsets_[1], " of the data; the file has ", data_bytes_,
           ". It is cut short, or its header lies. Fetch it again.");
    spans_.push_back({offsets_[0], offsets_[1], tensors_.size()});
    // Without elements, extents may be anything, also more than ours.
    const std::vector<unshard::index_t> none{0};
    const examples::stored_shape s =
        examples::stored(bytes == 0 ? none : std::vector<unshard::index_t>(shape_.begin(), shape_.end()), bits);
    tensors_.push_back({.name = path()[0], .dtype = *dtype_, .shape = s.shape, .element_size = s.element_size});
  }

  /// The bytes of the tensor at hand. Products are taken in the order and in the 64 bits of the format's own reader.
  std::uint64_t measure(int bits) const {
    const auto times = [this](std::uint64_t a, std::uint64_t b) {
      if (a != 0 && b > std::numeric_limits<std::uint64_t>::max() / a)
        fail(here(), ": its shape times its element size exceeds 2^64 bits.");
      return a * b;
    };
    std::uint64_t elements = 1;
    for (std::uint64_t extent : shape_) elements = times(elements, extent);
    const std::uint64_t all = times(elements, static_cast<std::uint64_t>(bits));
    if (all % 8 != 0) fail(here(), ": its ", elements, " elements of dtype ", *dtype_, " are no whole bytes.");
    return all / 8;
  }

  std::uint64_t data_bytes_;
  std::vector<tensor> tensors_;
  std::vector<place> spans_;
  std::unordered_set<std::string> names_;
  bool has_metadata_ = false;
  // The tensor at hand.
  std::optional<std::string> dtype_;
  std::vector<std::uint64_t> shape_;
  std::vector<std::uint64_t> offsets_;
  bool has_shape_ = false;
  bool has_offsets_ = false;
};

class index_reader : public json_events {
 public:
  using json_events::json_events;

  std::vector<placed_tensor> finish() {
    if (!has_map_) fail("it has no weight_map: is this the index of a sharded safetensors model?");
    return std::move(places_);
  }

 private:
  bool in_map() const { return !path().empty() && path()[0] == "weight_map"; }

  void enter(bool object) override {
    if (!in_map()) return;
    if (!object || path().size() > 1 || has_map_) fail("its weight_map is not one object of names.");
    has_map_ = true;
  }
  void leave() override {}
  void on_string(std::string& value) override {
    if (!in_map() || path().size() != 2) return on_other();
    const bool plain = !value.empty() && value != "." && value != ".." && value.find('/') == std::string::npos &&
                       value.find('\\') == std::string::npos && value.find('\0') == std::string::npos;
    if (!plain)
      fail("tensor ", printable(path()[1]), " is in ", printable(value), "; only a file beside the index can be.");
    if (!names_.insert(path()[1]).second) fail("tensor ", printable(path()[1]), " is listed twice.");
    places_.push_back({path()[1], std::move(value)});
  }
  void on_count(std::uint64_t) override { on_other(); }
  void on_other() override {
    if (in_map()) fail("its weight_map is not one object of names.");
  }

  std::vector<placed_tensor> places_;
  std::unordered_set<std::string> names_;
  bool has_map_ = false;
};

}  // namespace

std::vector<tensor> read_safetensors(std::istream& in, std::optional<std::uint64_t> file_bytes, std::string_view what) {
  std::array<char, 8> word{};
  if (!in.read(word.data(), word.size()))
    throw unreadable(concat(what, ": ", in.gcount(), " bytes long, too short for a .safetensors file."));
  std::uint64_t length = 0;
  for (std::size_t i = word.size(); i-- > 0;) length = length << 8 | static_cast<unsigned char>(word[i]);
  if (length > max_text)
    throw unreadable(concat(what, ": its first 8 bytes announce a header of ", length, " bytes; the format allows ",
                            max_text, ". This is no .safetensors file, or a damaged one."));
  const auto cut_short = [&](std::uint64_t there) {
    throw unreadable(concat(what, ": its header should have ", length, " bytes, the file has ", there,
                            " after the first 8. It is cut short: fetch it again."));
  };
  if (file_bytes && length > *file_bytes - word.size()) cut_short(*file_bytes - word.size());
  std::string text(static_cast<std::size_t>(length), '\0');
  in.read(text.data(), static_cast<std::streamsize>(length));
  const auto got = static_cast<std::uint64_t>(in.gcount());
  if (got < length) cut_short(got);
  // The format asks for '{' at once, and for no name twice; the reader of its own package lets both pass.
  if (text.empty() || text.front() != '{') throw unreadable(concat(what, ": its header does not begin with '{'."));

  std::uint64_t data = 0;
  if (file_bytes) {
    data = *file_bytes - word.size() - length;
  } else {
    while (in.ignore(1 << 20), in.gcount() > 0) data += static_cast<std::uint64_t>(in.gcount());
  }
  header_reader reader(what, data);
  reader.parse(text);
  return reader.finish();
}

std::vector<placed_tensor> read_index(std::istream& in, std::string_view what) {
  std::string text;
  std::array<char, 1 << 16> part{};
  while (in.read(part.data(), part.size()) || in.gcount() > 0) {
    text.append(part.data(), static_cast<std::size_t>(in.gcount()));
    if (text.size() > max_text) throw unreadable(concat(what, ": longer than ", max_text, " bytes; that is no index."));
  }
  index_reader reader(what);
  reader.parse(text);
  return reader.finish();
}

}  // namespace unshard_plan
