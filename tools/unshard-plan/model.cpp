// SPDX-License-Identifier: Apache-2.0
// model.cpp: inputs of all kinds as one list of tensors; manifests by the reader of the examples.

#include "model.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <istream>
#include <map>
#include <unordered_map>
#include <utility>

#include "../../examples/manifest.hpp"
#include "../../examples/observers/readable.hpp"
#include "input.hpp"

namespace unshard_plan {
namespace {

namespace fs = std::filesystem;
using examples::number_of;
using unshard::detail::concat;

std::vector<tensor> read_safetensors_file(const std::string& path) {
  input file(path);
  std::istream in(file.bytes());
  return read_safetensors(in, file.size(), file.what());
}

/// The tensors of all files that the index names: those that it lists, in its order, then those that it does not.
std::vector<tensor> read_sharded(const fs::path& index, std::istream& in, const std::string& what, notes& odd) {
  std::map<std::string, std::unordered_map<std::string, tensor>> files;
  std::vector<tensor> tensors;
  std::vector<std::pair<std::string, std::string>> all;  // file and name, as the files have them
  for (const placed_tensor& placed : read_index(in, what)) {
    auto [file, fresh] = files.try_emplace(placed.file);
    if (fresh) {
      const fs::path path = index.parent_path() / placed.file;
      std::error_code ignored;
      if (!fs::exists(path, ignored))
        throw unreadable(concat(what, ": its file ", printable(placed.file), " is not beside it. Fetch that, too."));
      for (tensor& t : read_safetensors_file(path.string())) {
        all.emplace_back(placed.file, t.name);
        file->second.emplace(t.name, std::move(t));
      }
    }
    auto found = file->second.extract(placed.name);
    if (found.empty())
      throw unreadable(concat(what, ": tensor ", printable(placed.name), " should be in ", printable(placed.file),
                              ", whose header has no such name."));
    tensors.push_back(std::move(found.mapped()));
  }
  const std::size_t listed = tensors.size();
  for (const auto& [file, name] : all) {
    auto found = files[file].extract(name);
    if (!found.empty()) tensors.push_back(std::move(found.mapped()));
  }
  if (tensors.size() > listed)
    odd.push_back(concat(what, ": its files hold ", number_of(tensors.size() - listed, "tensor"),
                         " that it does not list, ", printable(tensors[listed].name), " first; all are counted."));
  return tensors;
}

std::vector<tensor> read_one(const std::string& path, notes& odd);

/// "model-00002-of-00003.safetensors": 3; 0 where the name has no such number.
std::size_t count_in(const std::string& name) {
  const std::size_t of = name.rfind("-of-");
  std::size_t count = 0;
  if (of != std::string::npos) std::from_chars(name.data() + of + 4, name.data() + name.size(), count);
  return count;
}

std::vector<tensor> read_several(const std::vector<std::string>& paths, notes& odd) {
  std::vector<tensor> all;
  std::unordered_map<std::string, std::size_t> from;  // which input has a name
  for (std::size_t i = 0; i < paths.size(); ++i) {
    const std::size_t before = all.size();
    for (tensor& t : read_one(paths[i], odd)) {
      const auto [first, fresh] = from.emplace(t.name, i);
      if (!fresh)
        throw unreadable(concat("tensor ", printable(t.name), " is in ", printable(paths[first->second]), " and in ",
                                printable(paths[i]), ". Name the files of one model, each once."));
      if (t.tied_to != tensor::none) t.tied_to += before;
      all.push_back(std::move(t));
    }
  }
  return all;
}

/// A Hugging Face folder: by its index, else its single file, else all its .safetensors files.
std::vector<tensor> read_folder(const std::string& folder, notes& odd) {
  std::vector<std::string> indices;
  std::vector<std::string> files;
  bool torch = false;
  std::error_code failed;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, failed)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors.index.json")) indices.push_back(entry.path().string());
    if (name.ends_with(".safetensors")) files.push_back(entry.path().string());
    torch = torch || name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
  }
  const std::string what = printable(folder);
  if (failed) throw unreadable(concat(what, ": ", failed.message(), '.'));
  const auto usual = [&](std::vector<std::string>& list, const char* name) {
    const std::string path = (fs::path(folder) / name).string();
    if (std::find(list.begin(), list.end(), path) != list.end()) list.assign(1, path);
  };
  usual(indices, "model.safetensors.index.json");
  if (indices.size() == 1) return read_one(indices[0], odd);
  if (indices.size() > 1)
    throw unreadable(concat(what, ": holds ", indices.size(), " indices. Name one of them: ", printable(indices[0])));
  usual(files, "model.safetensors");
  if (files.empty())
    throw unreadable(concat(what, ": holds no .safetensors file",
                            torch ? ", but PyTorch checkpoints. Convert them to .safetensors." : "."));
  std::sort(files.begin(), files.end());
  const std::size_t count = count_in(files[0]);
  if (count > files.size())
    throw unreadable(concat(what, ": holds ", files.size(), " of the ", count, " files of the model. Fetch the rest."));
  return read_several(files, odd);
}

std::vector<tensor> read_one(const std::string& path, notes& odd) {
  input file(path);
  std::istream in(file.bytes());
  switch (file.is()) {
    case kind::folder:
      return read_folder(path, odd);
    case kind::safetensors:
      return read_safetensors(in, file.size(), file.what());
    case kind::index:
      if (path == "-") throw unreadable("standard input: is JSON. Name an index by its path: its files lie beside it.");
      return read_sharded(path, in, file.what(), odd);
    case kind::manifest:
      break;
  }
  return read_manifest(in, file.what());
}

}  // namespace

std::vector<tensor> read_model(const std::vector<std::string>& inputs, notes& odd) { return read_several(inputs, odd); }

void mark_missing(std::vector<tensor>& model, const std::vector<tensor>& checkpoint, notes& odd) {
  std::unordered_map<std::string_view, const tensor*> there;
  for (const tensor& t : checkpoint) there.emplace(t.name, &t);
  std::size_t same = 0;
  std::vector<std::string_view> other;  // of another shape
  for (tensor& t : model) {
    const auto found = there.find(t.name);
    const bool fits = found != there.end() && found->second->shape == t.shape;
    if (found != there.end()) ++same;
    if (found != there.end() && !fits) other.push_back(t.name);
    t.missing = !fits;
  }
  for (const tensor& t : model) {  // one name of a storage is enough
    if (t.tied_to != tensor::none && !t.missing) model[t.tied_to].missing = false;
  }
  for (tensor& t : model) {
    if (t.tied_to != tensor::none) t.missing = model[t.tied_to].missing;
  }
  if (same == 0) odd.push_back("the checkpoint has no tensor of the model: do its names begin with another word?");
  if (!other.empty())
    odd.push_back(concat("the checkpoint has ", number_of(other.size(), "tensor"), " in another shape, ",
                         printable(other[0]), " first; that counts as missing."));
  if (checkpoint.size() > same)
    odd.push_back(
        concat("the checkpoint has ", number_of(checkpoint.size() - same, "tensor"), " that the model does not have."));
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

}  // namespace unshard_plan
