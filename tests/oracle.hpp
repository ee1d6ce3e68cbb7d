// SPDX-License-Identifier: Apache-2.0
#pragma once  // oracle.hpp: random models, and who holds which element of them, element by element. The lists are made
              // without the library's arithmetic, so that a mistake in it can't hide in them.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <unshard/unshard.hpp>
#include <utility>
#include <vector>

namespace oracle {

using index = std::int64_t;
using indices = std::vector<index>;

/// Uniform in [from, to].
class dice {
 public:
  explicit dice(std::uint64_t seed) : bits_(seed) {}
  index operator()(index from, index to) { return std::uniform_int_distribution<index>(from, to)(bits_); }
  bool chance(int percent) { return (*this)(1, 100) <= percent; }
  template <class T>
  const T& of(const std::vector<T>& list) {
    return list[static_cast<std::size_t>((*this)(0, static_cast<index>(list.size()) - 1))];
  }

 private:
  std::mt19937_64 bits_;
};

inline index volume(const indices& shape) {
  index n = 1;
  for (index s : shape) n *= s;
  return n;
}

/// A layout and, for each rank, the flat numbers of the elements that its shard holds, in the shard's order.
struct placed {
  unshard::any_layout layout;
  std::vector<indices> held;
};

inline indices coordinates(index flat, const indices& shape) {
  indices at(shape.size());
  for (std::size_t d = shape.size(); d-- > 0; flat /= shape[d]) at[d] = flat % shape[d];
  return at;
}

/// Elements for which keep(coordinates) holds, in row-major order.
template <class Keep>
indices those(const indices& shape, Keep keep) {
  indices out;
  for (index i = 0; i < volume(shape); ++i) {
    if (keep(coordinates(i, shape))) out.push_back(i);
  }
  return out;
}

inline unshard::extents extents_of(const indices& shape) { return unshard::extents(std::span<const index>(shape)); }

inline placed flat(const indices& shape, int ranks) {
  placed p{unshard::flat_shard(extents_of(shape), ranks), std::vector<indices>(static_cast<std::size_t>(ranks))};
  const index n = volume(shape);
  const index each = (n + ranks - 1) / ranks;
  for (index i = 0; i < n; ++i) p.held[static_cast<std::size_t>(i / each)].push_back(i);
  return p;
}

inline placed dim(const indices& shape, int d, int ranks, bool balanced) {
  placed p{unshard::dim_shard(extents_of(shape), d, ranks, balanced ? unshard::split::balanced : unshard::split::ceil),
           {}};
  const index n = shape[static_cast<std::size_t>(d)];
  std::vector<int> owner;  // of each slice
  for (int r = 0; r < ranks; ++r) {
    index count = balanced ? n / ranks + (r < n % ranks ? 1 : 0) : (n + ranks - 1) / ranks;
    for (; count > 0 && static_cast<index>(owner.size()) < n; --count) owner.push_back(r);
  }
  for (int r = 0; r < ranks; ++r)
    p.held.push_back(those(shape, [&](const indices& at) {
      return owner[static_cast<std::size_t>(at[static_cast<std::size_t>(d)])] == r;
    }));
  return p;
}

inline placed ragged(const indices& shape, int ranks, dice& roll) {
  const index n = volume(shape);
  std::vector<index> offsets{0, n};
  for (int r = 1; r < ranks; ++r) offsets.push_back(roll(0, n));
  std::sort(offsets.begin(), offsets.end());
  placed p{unshard::ragged_shard(extents_of(shape), offsets), std::vector<indices>(static_cast<std::size_t>(ranks))};
  for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
    for (index i = offsets[r]; i < offsets[r + 1]; ++i) p.held[r].push_back(i);
  }
  return p;
}

inline placed owned(const indices& shape, int owner, int ranks) {
  placed p{unshard::owned(extents_of(shape), owner, ranks), std::vector<indices>(static_cast<std::size_t>(ranks))};
  p.held[static_cast<std::size_t>(owner)] = those(shape, [](const indices&) { return true; });
  return p;
}

inline placed replicated(const indices& shape, int ranks) {
  return {unshard::replicated(extents_of(shape), ranks),
          std::vector<indices>(static_cast<std::size_t>(ranks), those(shape, [](const indices&) { return true; }))};
}

/// Ranks as a grid of a x b (and replicas behind it): the first cuts one dimension, the second another or the same.
inline placed mesh(const indices& shape, int ranks, dice& roll) {
  const int a = static_cast<int>(roll(1, ranks));
  const int b = static_cast<int>(roll(1, ranks / a));
  const bool a_is_inner = roll.chance(50);
  const std::vector<unshard::mesh_dim> dims{
      {static_cast<int>(roll(0, static_cast<index>(shape.size()) - 1)), a, a_is_inner ? 1 : b},
      {static_cast<int>(roll(0, static_cast<index>(shape.size()) - 1)), b, a_is_inner ? a : 1}};
  placed p{unshard::mesh_shard(extents_of(shape), dims, ranks), {}};
  for (int r = 0; r < ranks; ++r) {
    std::vector<std::pair<index, index>> part;
    for (index s : shape) part.emplace_back(0, s);
    for (const auto& m : dims) {
      auto& [from, to] = part[static_cast<std::size_t>(m.dim)];
      const index each = (to - from + m.size - 1) / m.size;
      const index start = std::min(to, from + each * ((r / m.stride) % m.size));
      to = std::min(to, start + each);
      from = start;
    }
    p.held.push_back(those(shape, [&](const indices& at) {
      for (std::size_t d = 0; d < at.size(); ++d) {
        if (at[d] < part[d].first || at[d] >= part[d].second) return false;
      }
      return true;
    }));
  }
  return p;
}

/// The shape cut again and again at random, the boxes dealt to ranks; some lists are given to a second rank as well.
inline placed boxes(const indices& shape, int ranks, dice& roll) {
  std::vector<unshard::box> parts{{extents_of(indices(shape.size(), 0)), extents_of(shape)}};
  for (int cuts = static_cast<int>(roll(0, 6)); cuts > 0 && !shape.empty(); --cuts) {
    const auto which = static_cast<std::size_t>(roll(0, static_cast<index>(parts.size()) - 1));
    const int d = static_cast<int>(roll(0, static_cast<index>(shape.size()) - 1));
    unshard::box rest = parts[which];
    const index at = roll(0, rest.size[d]);
    parts[which].size[d] = at;
    rest.offset[d] += at;
    rest.size[d] -= at;
    parts.push_back(rest);
  }
  std::vector<std::vector<unshard::box>> lists(static_cast<std::size_t>(ranks));
  const int givers = static_cast<int>(roll(1, ranks));
  for (const auto& b : parts) lists[static_cast<std::size_t>(roll(0, givers - 1))].push_back(b);
  for (int r = givers; r < ranks; ++r) {
    if (roll.chance(50)) lists[static_cast<std::size_t>(r)] = lists[static_cast<std::size_t>(roll(0, givers - 1))];
  }
  placed p{unshard::box_shard(extents_of(shape), lists), {}};
  for (const auto& list : lists) {
    indices mine;
    for (const auto& b : list) {
      const indices of_box = those(shape, [&](const indices& at) {
        for (std::size_t d = 0; d < at.size(); ++d) {
          const int e = static_cast<int>(d);
          if (at[d] < b.offset[e] || at[d] >= b.offset[e] + b.size[e]) return false;
        }
        return true;
      });
      if (b.size.elements() > 0) mine.insert(mine.end(), of_box.begin(), of_box.end());
    }
    p.held.push_back(mine);
  }
  return p;
}

/// Blocks dealt to the coordinates of a grid of ranks, in some dimensions.
inline placed cyclic(const indices& shape, int ranks, dice& roll) {
  std::vector<unshard::cyclic_dim> grid;
  int stride = 1;
  for (std::size_t d = 0; d < shape.size() && shape.size() + grid.size() < 8; ++d) {
    if (roll.chance(40)) continue;
    const auto size = static_cast<int>(roll(1, ranks / stride));
    grid.push_back({static_cast<int>(d), roll(1, 4), size, stride});
    stride *= size;
  }
  placed p{unshard::cyclic_shard(extents_of(shape), grid, ranks), {}};
  for (int r = 0; r < ranks; ++r)
    p.held.push_back(those(shape, [&](const indices& at) {
      for (const auto& g : grid) {
        if (at[static_cast<std::size_t>(g.dim)] / g.block % g.size != r / g.stride % g.size) return false;
      }
      return true;
    }));
  return p;
}

/// Someone's own layout: the four functions, of any other's.
struct four_functions {
  unshard::any_layout held;
  unshard::extents shape() const { return held.shape(); }
  unshard::extents space() const { return held.space(); }
  int ranks() const { return held.ranks(); }
  std::vector<unshard::box> boxes_of(int rank) const {
    std::vector<unshard::box> list;
    for (const auto& b : held.boxes_of(rank)) list.push_back(b);
    return list;
  }
  friend bool operator==(const four_functions&, const four_functions&) = default;
};

/// Where a shard has no element, but a gap.
inline constexpr index gap = -1;

/// The rows of a rank's array moved apart: only for layouts of one array a rank, in row-major order.
inline placed apart(const indices& shape, const placed& close, dice& roll) {
  indices leading = shape;  // no rank has more
  for (index& l : leading) l += roll(0, 2);
  placed p{unshard::pitched(close.layout, extents_of(leading)), {}};
  for (const indices& held : close.held) {
    indices array;  // how many different coordinates this rank has along each dimension
    for (std::size_t d = 0; d < shape.size(); ++d) {
      std::vector<bool> seen(static_cast<std::size_t>(shape[d]));
      for (index i : held) seen[static_cast<std::size_t>(coordinates(i, shape)[d])] = true;
      array.push_back(std::count(seen.begin(), seen.end(), true));
    }
    indices wide;
    for (std::size_t n = 0; n < held.size(); ++n) {
      const indices local = coordinates(static_cast<index>(n), array);
      std::size_t at = 0;
      for (std::size_t d = 0; d < shape.size(); ++d)
        at = at * static_cast<std::size_t>(leading[d]) + static_cast<std::size_t>(local[d]);
      wide.resize(at + 1, gap);
      wide[at] = held[n];
    }
    p.held.push_back(wide);
  }
  return p;
}

inline placed some_layout(const indices& shape, int ranks, dice& roll) {
  const int d = shape.empty() ? -1 : static_cast<int>(roll(0, static_cast<index>(shape.size()) - 1));
  switch (roll(0, d < 0 ? 4 : 9)) {
    case 0:
      return flat(shape, ranks);
    case 1:
      return ragged(shape, ranks, roll);
    case 2:
      return owned(shape, static_cast<int>(roll(0, ranks - 1)), ranks);
    case 3:
      return replicated(shape, ranks);
    case 4: {  // on some ranks only
      const int inner = static_cast<int>(roll(1, ranks));
      const int stride = static_cast<int>(roll(1, std::max(1, (ranks - 1) / std::max(1, inner - 1))));
      const int room = ranks - 1 - (inner - 1) * stride;
      const int first = static_cast<int>(roll(0, room));
      const placed within = flat(shape, inner);
      const bool own = roll.chance(50);
      placed p{own ? unshard::any_layout(unshard::on_ranks(four_functions{within.layout}, first, stride, ranks))
                   : unshard::on_ranks(within.layout, first, stride, ranks),
               std::vector<indices>(static_cast<std::size_t>(ranks))};
      for (int i = 0; i < inner; ++i)
        p.held[static_cast<std::size_t>(first + i * stride)] = within.held[static_cast<std::size_t>(i)];
      return p;
    }
    case 5:
      return dim(shape, d, ranks, false);
    case 6:
      return dim(shape, d, ranks, true);
    case 7:
      return mesh(shape, ranks, roll);
    case 8:
      return cyclic(shape, ranks, roll);
    default:
      return boxes(shape, ranks, roll);
  }
}

/// A tensor of a random model: its whole value, and a shard on each rank with padding behind it.
struct tensor {
  std::string name;
  placed where{unshard::flat_shard({}, 1), {}};
  std::size_t element_size = 1;
  std::uint64_t identity = 0;
  std::uint64_t group = 0;
  bool indivisible = false;
  std::size_t tied_to = 0;  // own index, if not tied
  std::vector<std::byte> value;
  std::vector<std::vector<std::byte>> shards;

  index elements() const { return static_cast<index>(value.size() / element_size); }
};

inline constexpr std::byte padding{0xee};

/// What rank r's shard of t should hold.
inline std::vector<std::byte> expected_shard(const tensor& t, std::size_t rank) {
  std::vector<std::byte> out;
  for (index i : t.where.held[rank]) {
    if (i == gap) {
      out.insert(out.end(), t.element_size, padding);
      continue;
    }
    const auto from = t.value.begin() + i * static_cast<index>(t.element_size);
    out.insert(out.end(), from, from + static_cast<index>(t.element_size));
  }
  return out;
}

inline std::vector<tensor> some_model(int ranks, dice& roll) {
  std::vector<tensor> model(static_cast<std::size_t>(roll(0, 6)));
  std::uint64_t group = 0;
  for (std::size_t i = 0; i < model.size(); ++i) {
    tensor& t = model[i];
    t.tied_to = i;
    t.name = "t" + std::to_string(i);
    if (i > 0 && roll.chance(10)) {  // tied to an earlier one
      const std::size_t to = model[static_cast<std::size_t>(roll(0, static_cast<index>(i) - 1))].tied_to;
      model[to].identity = 1000 + to;
      const std::string name = t.name;
      t = model[to];
      t.name = name;
      t.group = 0;
      continue;
    }
    indices shape(static_cast<std::size_t>(roll.chance(5) ? 7 : roll(0, 4)));
    for (index& s : shape) s = shape.size() == 7 ? roll(1, 3) : roll(roll.chance(10) ? 0 : 1, 6);
    if (shape.size() == 1) shape[0] = roll(0, 400);
    if (!shape.empty() && roll.chance(15)) {
      t.where = roll.chance(50) ? cyclic(shape, ranks, roll) : mesh(shape, ranks, roll);
      t.where = apart(shape, t.where, roll);
    } else {
      t.where = some_layout(shape, ranks, roll);
      if (roll.chance(20)) t.where.layout = four_functions{t.where.layout};
    }
    t.element_size = static_cast<std::size_t>(roll.of<index>({1, 2, 3, 4, 8, 16, 34}));
    t.indivisible = roll.chance(10);
    if (roll.chance(15)) group = static_cast<std::uint64_t>(roll(0, 3));
    t.group = group;
    t.value.resize(static_cast<std::size_t>(volume(shape)) * t.element_size);
    for (std::byte& b : t.value) b = static_cast<std::byte>(roll(0, 255));
    for (int r = 0; r < ranks; ++r) {
      auto shard = expected_shard(t, static_cast<std::size_t>(r));
      shard.resize(shard.size() + static_cast<std::size_t>(roll.chance(50) ? roll(0, 40) : 0), padding);
      t.shards.push_back(std::move(shard));
    }
  }
  return model;
}

/// A tensor as one rank's engine sees it.
struct handle {
  tensor* what;
  std::size_t rank;
  std::vector<int>* written;  // counts after_write, by tensor
  std::size_t index;
  tensor* owner;  // of the storage: the first, if tied

  const unshard::any_layout& layout() const { return what->where.layout; }
  std::size_t element_size() const { return what->element_size; }
  std::span<std::byte> shard() const { return owner->shards[rank]; }
  std::string_view name() const { return what->name; }
  std::uint64_t identity() const { return what->identity; }
  std::uint64_t group() const { return what->group; }
  bool indivisible() const { return what->indivisible; }
  void after_write() const {
    if (written != nullptr) ++(*written)[index];
  }
};

inline std::vector<handle> handles_of(std::vector<tensor>& model, int rank, std::vector<int>* written = nullptr) {
  std::vector<handle> list;
  for (std::size_t i = 0; i < model.size(); ++i)
    list.push_back({&model[i], static_cast<std::size_t>(rank), written, i, &model[model[i].tied_to]});
  return list;
}

/// The first shard that is not what the values say, padding included; "" where all are.
inline std::string first_wrong_shard(const std::vector<tensor>& model) {
  for (std::size_t i = 0; i < model.size(); ++i) {
    const tensor& t = model[i];
    if (t.tied_to != i) continue;
    for (std::size_t r = 0; r < t.shards.size(); ++r) {
      auto want = expected_shard(t, r);
      want.resize(t.shards[r].size(), padding);
      if (want != t.shards[r]) return t.name + " on rank " + std::to_string(r);
    }
  }
  return {};
}

}  // namespace oracle
