// model.cpp: which reader a file gets; manifests by the reader of the examples.

#include "model.hpp"

#include <fstream>
#include <istream>
#include <map>
#include <unordered_map>
#include <utility>

#include "../../examples/manifest.hpp"

namespace unshard_plan {
namespace {

using unshard::detail::concat;

std::ifstream open(const std::filesystem::path& file, const std::string& what) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw unreadable(concat(what, ": can't be opened."));
  return in;
}

std::vector<tensor> read_safetensors_file(const std::filesystem::path& file) {
  const std::string what = printable(file.string());
  std::ifstream in = open(file, what);
  std::error_code failed;
  const std::uintmax_t bytes = std::filesystem::file_size(file, failed);
  if (failed) throw unreadable(concat(what, ": ", failed.message(), '.'));
  return read_safetensors(in, bytes, what);
}

/// The tensors that the index lists, in its order, each as the header of its file describes it.
std::vector<tensor> read_sharded(const std::filesystem::path& index) {
  const std::string what = printable(index.string());
  std::ifstream in = open(index, what);
  std::map<std::string, std::unordered_map<std::string, tensor>> files;
  std::vector<tensor> tensors;
  for (const placed_tensor& placed : read_index(in, what)) {
    auto [file, fresh] = files.try_emplace(placed.file);
    if (fresh) {
      const std::filesystem::path path = index.parent_path() / placed.file;
      std::error_code ignored;
      if (!std::filesystem::exists(path, ignored))
        throw unreadable(concat(what, ": its file ", printable(placed.file), " is not beside it. Fetch that, too."));
      for (tensor& t : read_safetensors_file(path)) file->second.emplace(t.name, std::move(t));
    }
    const auto found = file->second.find(placed.name);
    if (found == file->second.end())
      throw unreadable(concat(what, ": tensor ", printable(placed.name), " should be in ", printable(placed.file),
                              ", whose header has no such name."));
    tensors.push_back(std::move(found->second));
  }
  return tensors;
}

}  // namespace

std::vector<tensor> read_model(const std::filesystem::path& file) {
  const std::string what = printable(file.string());
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) throw unreadable(concat(what, ": there is no such file."));
  if (std::filesystem::is_directory(file, ignored))
    throw unreadable(concat(what, ": is a folder. Name a manifest, a .safetensors file or an index (.json)."));
  if (file.extension() == ".safetensors") return read_safetensors_file(file);
  if (file.extension() == ".json") return read_sharded(file);
  if (file.extension() == ".gz")
    throw unreadable(concat(what, ": is compressed. Unpack it first, or say <(zcat FILE) in a shell that can."));
  std::ifstream in = open(file, what);
  return read_manifest(in, what);
}

std::vector<tensor> read_manifest(std::istream& in, std::string_view what) try {
  std::vector<tensor> tensors;
  for (examples::manifest_entry& e : examples::read_manifest(in, what)) {
    const bool tied = e.tied_to != tensors.size();
    tensors.push_back({.name = std::move(e.name),
                       .dtype = std::move(e.dtype),
                       .shape = e.shape,
                       .element_size = e.element_size,
                       .tied_to = tied ? e.tied_to : tensor::none,
                       .missing = e.missing});
  }
  if (tensors.empty()) throw unreadable(concat(what, ": lists no tensor."));
  return tensors;
} catch (const examples::manifest_error& e) {
  throw unreadable(e.what());
}

std::string printable(std::string_view name) {
  constexpr std::size_t most = 200;
  constexpr char digits[] = "0123456789abcdef";
  std::string out = "\"";
  for (char c : name.substr(0, most)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += "\\x";
      out += digits[byte >> 4];
      out += digits[byte & 15];
    } else {
      out += c;
    }
  }
  if (name.size() > most) out += "...";
  return out + '"';
}

}  // namespace unshard_plan
