// Saves a sharded model as one .safetensors file without ever holding more than a buffer of it: the header needs sizes
// only, and chunks in order, cut where need be, are the file's bytes one after another. Then opens the file again.
//
// prints: model.safetensors: a header of 200 bytes, 3 tensors, 6104 bytes of values in 6 chunks
// prints: opened again: every value is there

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#include <vector>

namespace {

// A model of three sharded tensors; each value is its position in the file.
struct model {
  explicit model(int ranks, int rank) {
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
  for (const unshard::parameter_view& t : tensors) {
    const unshard::extents shape = t.layout().shape();
    json << (offset == 0 ? "{" : ",") << '"' << t.name() << R"(":{"dtype":"F32","shape":[)";
    for (int d = 0; d < shape.dims(); ++d) json << (d == 0 ? "" : ",") << shape[d];
    const std::size_t end = offset + static_cast<std::size_t>(shape.elements()) * t.element_size();
    json << R"(],"data_offsets":[)" << offset << ',' << end << "]}";
    offset = end;
  }
  json << '}';
  std::string header = json.str();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

void save(const char* path, model& m, unshard::threads_communicator& comm) {
  std::ofstream file;
  file.exceptions(std::ios::failbit | std::ios::badbit);  // a full disk on the root is peer_failed on the others
  const std::string header = header_of(m.tensors);
  std::size_t chunks = 0;
  std::size_t bytes = 0;
  for (auto& chunk :
       unshard::chunks(m.tensors, comm, unshard::read, {.budget = 1024, .cut = unshard::cut::oversized})) {
    if (comm.rank() == 0 && chunks++ == 0) {
      file.open(path, std::ios::binary);
      const std::uint64_t length = header.size();  // little endian
      file.write(reinterpret_cast<const char*>(&length), sizeof length);
      file << header;
    }
    for (auto piece : chunk) {
      file.write(reinterpret_cast<const char*>(piece.bytes().data()),
                 static_cast<std::streamsize>(piece.bytes().size()));
      bytes += piece.bytes().size();
    }
  }
  if (comm.rank() == 0) {
    file.close();
    std::printf("%s: a header of %zu bytes, %zu tensors, %zu bytes of values in %zu chunks\n", path, header.size(),
                m.tensors.size(), bytes, chunks);
  }
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

int main() {
  const char* path = "model.safetensors";
  unshard::run_ranks(3, [&](unshard::threads_communicator& comm) {
    model m(comm.size(), comm.rank());
    save(path, m, comm);
  });
  std::printf("opened again: %s\n", is_whole(path, 100 * 7 + 26 + 50 * 16) ? "every value is there" : "it is broken");
}
