// SPDX-License-Identifier: Apache-2.0
// Any layout, piece, residency and engine: over all ranks the sends match the receives, every byte of the piece is
// gathered once, and written back to every rank that holds it, and to nothing else.
#include <algorithm>
#include <map>
#include <unshard/schedule/fill.hpp>
#include <unshard/unshard.hpp>
#include <vector>

#include "bytes.hpp"

namespace {

using namespace unshard;

/// Keeps what it is told; `move` then plays all ranks' batches.
struct batch {
  struct operation {
    int peer;
    std::vector<const_region> from;
    std::vector<region> to;
  };
  std::vector<operation> sends, receives, before, after;

  void send(std::span<const const_region> f, int peer) { sends.push_back({peer, {f.begin(), f.end()}, {}}); }
  void recv(std::span<const region> t, int peer) { receives.push_back({peer, {}, {t.begin(), t.end()}}); }
  void copy_before(std::span<const const_region> f, std::span<const region> t) {
    before.push_back({-1, {f.begin(), f.end()}, {t.begin(), t.end()}});
  }
  void copy_after(std::span<const const_region> f, std::span<const region> t) {
    after.push_back({-1, {f.begin(), f.end()}, {t.begin(), t.end()}});
  }
};
static_assert(unshard::batch<::batch>);

void copy(const std::vector<batch::operation>& list) {
  for (const batch::operation& o : list) {
    require(bytes_of(std::span(o.from)) == bytes_of(std::span(o.to)), "both sides of a copy are equally long");
    copy_regions(o.from, o.to);
  }
}

void move(std::vector<batch>& ranks, const capabilities& c) {
  for (batch& b : ranks) {
    require(c.max_operations == 0 || b.sends.size() + b.receives.size() <= c.max_operations,
            "batches are short enough");
    copy(b.before);
  }
  std::map<std::pair<std::size_t, int>, std::size_t> taken;  // receiver, sender
  for (std::size_t s = 0; s < ranks.size(); ++s) {
    for (const batch::operation& send : ranks[s].sends) {
      std::vector<batch::operation>& list = ranks[static_cast<std::size_t>(send.peer)].receives;
      std::size_t& next = taken[{static_cast<std::size_t>(send.peer), static_cast<int>(s)}];
      while (next < list.size() && list[next].peer != static_cast<int>(s)) ++next;
      require(next < list.size(), "every send has its receive");
      const std::size_t bytes = bytes_of(std::span(send.from));
      require(bytes == bytes_of(std::span(list[next].to)), "both ends are equally long");
      require(bytes > 0 && (c.max_bytes == 0 || bytes <= c.max_bytes), "operations are small enough");
      require(c.regions || (send.from.size() == 1 && send.from[0].size.dims() == 1 && list[next].to.size() == 1 &&
                            list[next].to[0].size.dims() == 1),
              "one run, where there are no regions");
      copy_regions(send.from, list[next].to);
      ++next;
    }
  }
  std::size_t sends = 0, receives = 0;
  for (const batch& b : ranks) sends += b.sends.size(), receives += b.receives.size();
  require(sends == receives, "every receive has its send");
  for (batch& b : ranks) copy(b.after);
}

any_layout layout_from(fuzz_bytes& in, int ranks) {
  const int dims = static_cast<int>(in.number(0, 3));
  std::vector<index_t> sizes;
  for (int d = 0; d < dims; ++d) sizes.push_back(in.number(0, 7));
  const extents shape{std::span<const index_t>(sizes)};
  const int some = dims == 0 ? 0 : static_cast<int>(in.number(0, dims - 1));
  switch (in.number(0, 7)) {
    case 0:
      return flat_shard(shape, ranks);
    case 1:
      return dim_shard(shape, some, ranks, in.byte() % 2 == 0 ? split::ceil : split::balanced);
    case 2: {
      std::vector<index_t> cuts{0};
      for (int r = 1; r < ranks; ++r) cuts.push_back(in.number(0, shape.elements()));
      std::sort(cuts.begin(), cuts.end());
      cuts.push_back(shape.elements());
      return ragged_shard(shape, cuts);
    }
    case 3:
      return owned(shape, static_cast<int>(in.number(0, ranks - 1)), ranks);
    case 4:
      return replicated(shape, ranks);
    case 5: {
      std::vector<mesh_dim> mesh;
      for (int i = static_cast<int>(in.number(0, 3)); i > 0; --i)
        mesh.push_back({static_cast<int>(in.number(-1, dims)), static_cast<int>(in.number(0, 4)),
                        static_cast<int>(in.number(0, 4))});
      return mesh_shard(shape, mesh, ranks);
    }
    case 6: {
      std::vector<std::vector<box>> boxes(static_cast<std::size_t>(ranks));
      // Cuts the whole at random, so that some lists are right; a byte of the input spoils them.
      std::vector<box> parts{detail::whole(shape)};
      for (int i = static_cast<int>(in.number(0, 6)); i > 0 && dims > 0; --i) {
        box& b = parts[static_cast<std::size_t>(in.number(0, static_cast<index_t>(parts.size()) - 1))];
        const int d = static_cast<int>(in.number(0, dims - 1));
        box rest = b;
        const index_t at = in.number(0, b.size[d]);
        b.size[d] = at;
        rest.offset[d] += at;
        rest.size[d] -= at;
        parts.push_back(rest);
      }
      for (const box& b : parts) boxes[static_cast<std::size_t>(in.number(0, ranks - 1))].push_back(b);
      if (in.byte() > 240 && dims > 0 && !boxes[0].empty()) ++boxes[0][0].offset[0];
      return box_shard(shape, boxes);
    }
    default:
      return on_ranks(flat_shard(shape, static_cast<int>(in.number(1, ranks))), static_cast<int>(in.number(0, 2)),
                      static_cast<int>(in.number(1, 2)), ranks);
  }
}

struct shard {
  any_layout layout;
  std::size_t size;
  std::vector<std::byte> bytes;
};
constexpr std::size_t guard = 16;

/// The byte of an element that a rank holds.
std::byte value(std::size_t parameter, index_t element, std::size_t b, bool changed) {
  const auto v = static_cast<std::byte>(parameter * 91 + static_cast<std::size_t>(element) * 7 + b);
  return changed ? ~v : v;
}

/// Visits the elements of a rank's boxes in the order of its shard.
template <class F>
void each_element(const any_layout& l, int rank, F f) {
  const extents space = l.space();
  for (const box& b : l.boxes_of(rank)) {
    for (index_t i = 0; i < space.elements(); ++i) {
      index_t rest = i;
      bool inside = true;
      for (int d = space.dims(); d-- > 0; rest /= space[d]) {
        const index_t at = rest % space[d] - b.offset[d];
        inside = inside && at >= 0 && at < b.size[d];
      }
      if (inside) f(i);
    }
  }
}

void play(const std::vector<planned_piece>& pieces, std::vector<std::vector<shard>>& ranks, movement direction,
          residency on, const capabilities& c, std::vector<std::vector<std::byte>>& chunk, std::size_t end) {
  const int n = static_cast<int>(ranks.size());
  std::vector<schedule> all;
  std::vector<std::vector<std::byte>> staging;
  std::vector<std::vector<std::byte*>> addresses(ranks.size());
  for (int r = 0; r < n; ++r) {
    const auto at = static_cast<std::size_t>(r);
    schedule& s = all.emplace_back(direction, r, n, on, c);
    for (const planned_piece& p : pieces) {
      s.add(p, ranks[at][p.parameter].layout);
      addresses[at].push_back(ranks[at][p.parameter].bytes.data());
    }
    s.finish();
    require(s.batches() == all[0].batches(), "every rank has as many batches");
    staging.emplace_back(c.regions ? 0 : end);
  }
  for (std::size_t b = 0; b < all[0].batches(); ++b) {
    std::vector<batch> batches(ranks.size());
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      const detail::chunk_memory where{chunk[r].empty() ? nullptr : chunk[r].data(), staging[r].data(), addresses[r]};
      detail::batch_filler<batch> filler;
      filler.start(all[r], where);
      filler.fill(batches[r], b);
    }
    move(batches, c);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz_bytes in(data, size);
  const int n = static_cast<int>(in.number(1, 6));
  const residency on = in.byte() % 2 == 0 ? root(static_cast<int>(in.number(0, n - 1))) : every_rank;
  capabilities c{.regions = in.byte() % 2 == 0,
                 .max_operations = in.byte() < 128 ? 0 : static_cast<std::size_t>(in.number(2, 9)),
                 .max_bytes = in.byte() < 128 ? 0 : static_cast<std::size_t>(in.number(1, 99)),
                 .staging = 0};
  try {
    std::vector<std::vector<shard>> ranks(static_cast<std::size_t>(n));
    std::vector<planned_piece> pieces;
    std::size_t end = 0;
    const int count = static_cast<int>(in.number(1, 4));
    for (int i = 0; i < count; ++i) {
      const any_layout layout = layout_from(in, n);
      const auto element = static_cast<std::size_t>(in.number(1, 9));
      const index_t all = layout.space().elements();
      const index_t first = in.number(0, all);
      const index_t elements = in.number(0, all - first);
      const auto p = static_cast<std::size_t>(i);
      pieces.push_back({p, first, elements, end, static_cast<std::size_t>(elements) * element});
      end += detail::align_up(pieces.back().bytes, 8);
      for (int r = 0; r < n; ++r) {
        shard s{layout, element, {}};
        each_element(layout, r, [&](index_t e) {
          for (std::size_t b = 0; b < element; ++b) s.bytes.push_back(value(p, e, b, false));
        });
        s.bytes.resize(s.bytes.size() + guard, std::byte{0xa5});
        ranks[static_cast<std::size_t>(r)].push_back(std::move(s));
      }
    }
    std::vector<std::vector<std::byte>> chunk;
    for (int r = 0; r < n; ++r) chunk.emplace_back(on.holds(r) ? end + guard : 0, std::byte{0xa5});
    const auto before = ranks;
    play(pieces, ranks, movement::gather, on, c, chunk, end);
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      for (std::size_t p = 0; p < ranks[r].size(); ++p)
        require(ranks[r][p].bytes == before[r][p].bytes, "a gather leaves the shards alone");
      if (chunk[r].empty()) continue;
      for (const planned_piece& p : pieces) {
        const std::size_t element = ranks[r][p.parameter].size;
        for (std::size_t i = 0; i < p.bytes; ++i) {
          const index_t e = p.first + static_cast<index_t>(i / element);
          require(chunk[r][p.offset + i] == value(p.parameter, e, i % element, false), "the gathered byte is right");
          chunk[r][p.offset + i] = value(p.parameter, e, i % element, true);
        }
      }
      for (std::size_t i = end; i < end + guard; ++i) require(chunk[r][i] == std::byte{0xa5}, "nothing behind a chunk");
    }
    play(pieces, ranks, movement::write_back, on, c, chunk, end);
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      for (const planned_piece& p : pieces) {
        const shard& s = ranks[r][p.parameter];
        std::size_t at = 0;
        each_element(s.layout, static_cast<int>(r), [&](index_t e) {
          const bool changed = e >= p.first && e < p.first + p.elements;
          for (std::size_t b = 0; b < s.size; ++b)
            require(s.bytes[at++] == value(p.parameter, e, b, changed), "the byte that was written back is right");
        });
        for (; at < s.bytes.size(); ++at) require(s.bytes[at] == std::byte{0xa5}, "padding is never written");
      }
    }
  } catch (const error&) {  // a layout that can't be
  }
  return 0;
}
