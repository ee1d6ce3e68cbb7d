#pragma once  // model.hpp: the tensors of a model, read from a manifest, a .safetensors file or an index of several.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unshard/layout.hpp>
#include <vector>

namespace unshard_plan {

/// A file that can't be read as what it seems to be. what() says which file, what was found, and what to do.
class unreadable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct tensor {
  std::string name;
  std::string dtype;  // as the file spells it
  unshard::extents shape;
  std::size_t element_size = 0;  // bytes; formats below a byte are turned into bytes along the last dimension
  std::size_t tied_to = none;    // index of the earlier tensor with the same storage
  bool missing = false;          // the manifest's last column: the checkpoint lacks it

  static constexpr std::size_t none = static_cast<std::size_t>(-1);
};

/// Any of the three, told apart by the name: *.safetensors, *.json, anything else is a manifest. Reads headers only.
/// Throws unreadable.
std::vector<tensor> read_model(const std::filesystem::path& file);

/// The three readers. `what` is the file's name in messages; `file_bytes` the length of the whole file. The input is
/// not trusted: at most 100 MB are read, nesting is limited, and every number is checked before it is used.
std::vector<tensor> read_safetensors(std::istream& in, std::uint64_t file_bytes, std::string_view what);
std::vector<tensor> read_manifest(std::istream& in, std::string_view what);

/// model.safetensors.index.json: which tensor is in which file. Names of files are plain names beside the index.
struct placed_tensor {
  std::string name;
  std::string file;
};
std::vector<placed_tensor> read_index(std::istream& in, std::string_view what);

/// A name from a file, in quotes, fit for a terminal: control characters escaped, long ones shortened.
std::string printable(std::string_view name);

}  // namespace unshard_plan
