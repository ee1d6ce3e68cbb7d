// SPDX-License-Identifier: Apache-2.0
#pragma once  // model.hpp: the tensors of a model, read from manifests, .safetensors files, their index or a folder.

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unshard/layout.hpp>
#include <vector>

#include "../../examples/printable.hpp"

namespace unshard_plan {

/// An input that can't be read as what it seems to be. what() says which one, what was found, and what to do.
class unreadable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct tensor {
  std::string name;
  std::string dtype;  // as the file spells it
  unshard::extents shape;
  std::size_t element_size = 0;  // bytes; types below a byte and over 8 dimensions as examples::stored() turns them
  std::size_t tied_to = none;    // index of the earlier tensor with the same storage
  bool missing = false;          // the checkpoint lacks it

  static constexpr std::size_t none = static_cast<std::size_t>(-1);
};

/// What a reader found odd, and went on: a sentence each.
using notes = std::vector<std::string>;

/// Reads every input, one after another, as one model. An input is a manifest, a .safetensors file, the index of
/// several, a Hugging Face folder that holds one of them, or "-": standard input. Of .safetensors files the headers are
/// read only. Throws unreadable; a tensor that two inputs have is an error, too.
std::vector<tensor> read_model(const std::vector<std::string>& inputs, notes& odd);

/// Marks as missing, and nothing else, what the checkpoint lacks: a tensor none of whose ties has its name there, or
/// whose shape differs there.
void mark_missing(std::vector<tensor>& model, const std::vector<tensor>& checkpoint, notes& odd);

/// The three readers. `what` is the input's name in messages; `file_bytes` the length of the whole file, where it is
/// known before its end. The input is not trusted: at most 100 MB of text are read, nesting is limited, and every
/// number is checked before it is used.
std::vector<tensor> read_safetensors(std::istream& in, std::optional<std::uint64_t> file_bytes, std::string_view what);
std::vector<tensor> read_manifest(std::istream& in, std::string_view what);

/// model.safetensors.index.json: which tensor is in which file. Names of files are plain names beside the index.
struct placed_tensor {
  std::string name;
  std::string file;
};
std::vector<placed_tensor> read_index(std::istream& in, std::string_view what);

/// A name from a file, in quotes, fit for a terminal: control characters escaped, long ones shortened.
inline std::string printable(std::string_view name) { return examples::in_quotes(name); }

}  // namespace unshard_plan
