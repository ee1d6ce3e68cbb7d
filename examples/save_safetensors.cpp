// SPDX-License-Identifier: Apache-2.0
// Saves a sharded model as one .safetensors file without ever holding more than a buffer of it: the header needs sizes
// only, and chunks in order, cut where need be, are the file's bytes one after another. A file that can't be written is
// an error on every rank, before anything moves where it can't be opened. Then opens the file again.
//
// prints: model.safetensors: a header of 256 bytes, 4 tensors, 6104 bytes of values in 6 chunks
// prints: opened again: every value is there

#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace {

// A model of four sharded tensors, the first of them empty; each value is its position in the file.
struct model {
  explicit model(int ranks, int rank) {
    add("unused", unshard::flat_shard{{0, 7}, ranks}, rank);
    add("embed", unshard::flat_shard{{100, 7}, ranks}, rank);
    add("norm", unshard::replicated{{26}, ranks}, rank);
    add("head", unshard::dim_shard{{50, 16}, 1, ranks}, rank);
  }
  void add(const char* name, const unshard::any_layout& layout, int rank) {
    const unshard::extents space = layout.space();
    std::vector<float>& shard = shards.emplace_back();
    for (const unshard::box& b : layout.boxes_of(rank)) {  // one or two dimensions
      const bool flat = space.dims() == 1;
      for (unshard::index_t i = 0; i < b.size[0]; ++i) {
        for (unshard::index_t j = 0; j < (flat ? 1 : b.size[1]); ++j)
          shard.push_back(
              static_cast<float>(elements + (flat ? b.offset[0] + i : (b.offset[0] + i) * space[1] + b.offset[1] + j)));
      }
    }
    elements += layout.shape().elements();
    tensors.emplace_back(name, layout, sizeof(float), std::as_writable_bytes(std::span(shard)));
  }

  unshard::index_t elements = 0;
  std::vector<std::vector<float>> shards;
  std::vector<unshard::parameter_view> tensors;
};

// {"embed":{"dtype":"F32","shape":[100,7],"data_offsets":[0,2800]},...}, with spaces up to a multiple of 8 bytes. Names
// that need escapes in JSON would need them here.
std::string header_of(const std::vector<unshard::parameter_view>& tensors) {
  std::ostringstream json;
  std::size_t offset = 0;
  const char* between = "{";
  for (const unshard::parameter_view& t : tensors) {
    const unshard::extents shape = t.layout().shape();
    json << between << '"' << t.name() << R"(":{"dtype":"F32","shape":[)";
    between = ",";
    for (int d = 0; d < shape.dims(); ++d) json << (d == 0 ? "" : ",") << shape[d];
    const std::size_t end = offset + static_cast<std::size_t>(shape.elements()) * t.element_size();
    json << R"(],"data_offsets":[)" << offset << ',' << end << "]}";
    offset = end;
  }
  json << (tensors.empty() ? "{}" : "}");
  std::string header = json.str();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

// Whether rank 0's file is good so far, told to every rank: all go on, or all throw. A collective call.
void agree_on(const std::ofstream& file, const char* path, unshard::threads_communicator& comm) {
  const std::byte mine{file.good()};
  std::vector<std::byte> all(static_cast<std::size_t>(comm.size()));
  comm.exchange(std::span(&mine, 1), all, 0);
  if (all[0] == std::byte{0}) throw std::runtime_error(std::string(path) + ": rank 0 can't write it");
}

void save(const char* path, model& m, unshard::threads_communicator& comm) {
  std::ofstream file;
  const bool root = comm.rank() == 0;
  const std::string header = header_of(m.tensors);
  if (root) {
    file.open(path, std::ios::binary);
    for (int byte = 0; byte < 8; ++byte) file.put(static_cast<char>(header.size() >> 8 * byte & 255));
    file << header;
  }
  agree_on(file, path, comm);

  std::size_t chunks = 0;
  std::size_t bytes = 0;
  for (auto& chunk :
       unshard::chunks(m.tensors, comm, unshard::read, {.budget = 1024, .cut = unshard::cut::oversized})) {
    ++chunks;
    for (auto piece : chunk) {  // none but on rank 0
      file.write(reinterpret_cast<const char*>(piece.bytes().data()),
                 static_cast<std::streamsize>(piece.bytes().size()));
      bytes += piece.bytes().size();
    }
    if (!file) throw std::runtime_error(std::string(path) + ": can't be written");  // the others get peer_failed
  }
  if (root) file.close();  // a full disk may show only here
  agree_on(file, path, comm);
  if (root)
    std::printf("%s: a header of %zu bytes, %zu tensors, %zu bytes of values in %zu chunks\n", path, header.size(),
                m.tensors.size(), bytes, chunks);
}

bool is_whole(const char* path, unshard::index_t elements) {
  std::ifstream file(path, std::ios::binary);
  std::uint64_t length = 0;
  file.read(reinterpret_cast<char*>(&length), sizeof length);
  file.ignore(static_cast<std::streamsize>(length));
  float value = 0;
  for (unshard::index_t i = 0; i < elements; ++i) {
    if (!file.read(reinterpret_cast<char*>(&value), sizeof value) || value != static_cast<float>(i)) return false;
  }
  return file.peek() == std::ifstream::traits_type::eof();
}

}  // namespace

int main(int argc, char** argv) {
  const char* path = argc > 1 ? argv[1] : "model.safetensors";
  try {
    unshard::run_ranks(3, [&](unshard::threads_communicator& comm) {
      model m(comm.size(), comm.rank());
      save(path, m, comm);
    });
  } catch (const std::exception& e) {
    std::fprintf(stderr, "save_safetensors: %s\n", e.what());
    return 1;
  }
  const bool whole = is_whole(path, 100 * 7 + 26 + 50 * 16);
  std::printf("opened again: %s\n", whole ? "every value is there" : "it is broken");
  return whole ? 0 : 1;
}
