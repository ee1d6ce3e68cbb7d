#pragma once  // plan.hpp: handles and a budget in, a list of chunks out. Pure; moves and allocates no data.

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <span>
#include <string>
#include <unshard/base/sort.hpp>
#include <unshard/communicator.hpp>
#include <unshard/options.hpp>
#include <unshard/parameter.hpp>
#include <unshard/plan/packer.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {

/// What a plan comes to. Prints as a table.
struct plan_summary {
  std::size_t chunks = 0;       ///< how many
  std::size_t bytes = 0;        ///< of all values, tied ones once; no alignment
  std::size_t largest = 0;      ///< bytes of the fullest chunk, alignment between pieces included
  std::size_t peak = 0;         ///< bytes: the most that any rank holds, buffers, staging and alignment all in
  std::size_t lower_bound = 0;  ///< chunks: ceil(aligned bytes / capacity); no plan of whole chunks has fewer
  double utilisation = 0;       ///< bytes / (chunks * capacity)
};

/// The summary as lines of text.
inline std::string to_string(const plan_summary& s) {
  return detail::concat("chunks       ", s.chunks, " (lower bound ", s.lower_bound, ")\nvalues       ",
                        detail::in_bytes(s.bytes, " bytes"), "\nlargest      ", detail::in_bytes(s.largest, " bytes"),
                        "\npeak         ", detail::in_bytes(s.peak, " bytes"), " a rank\nutilisation  ",
                        static_cast<std::size_t>(s.utilisation * 100 + 0.5), " %\n");
}
template <class Char, class Traits>
std::basic_ostream<Char, Traits>& operator<<(std::basic_ostream<Char, Traits>& out, const plan_summary& s) {
  return out << to_string(s).c_str();
}

/// Some consecutive elements of one parameter, and where they lie in the chunk buffer.
struct planned_piece {
  std::size_t parameter = 0;  ///< index in the caller's range; of the first, if tied
  index_t first = 0;          ///< the first element, in row-major order
  index_t elements = 0;       ///< how many
  std::size_t offset = 0;     ///< bytes from the start of the chunk
  std::size_t bytes = 0;      ///< of its elements
};

namespace detail {

/// What a plan needs to know of a parameter.
struct parameter_size {
  index_t elements;
  std::size_t element_size;  // bytes
};

template <class P>
parameter_size size_of(P& p) {
  return {extents(traits_of<P>::layout(p).shape()).elements(), static_cast<std::size_t>(traits_of<P>::element_size(p))};
}

/// layout(p).digest(), or that of the layout's boxes, made once for each distinct layout.
template <class L>
class layout_digests {
 public:
  std::uint64_t operator()(const L& l) {
    if constexpr (requires { l.digest(); }) {
      return l.digest();
    } else if constexpr (std::copy_constructible<L>) {
      for (std::size_t i = known_.size(); i-- > 0;) {
        if (known_[i].first == l) return known_[i].second;
      }
      return known_.emplace_back(l, digest_of(l)).second;
    } else {
      return digest_of(l);
    }
  }

 private:
  std::vector<std::pair<L, std::uint64_t>> known_;
};

/// Asks for the memory of handles that come soon, where they lie in one array: on its own, the processor stops at the
/// end of every page. A third of the time of a plan of a million (bench_plan).
template <class R, class P>
void expect_more(const P& handle) {
#if defined(__GNUC__)
  if constexpr (std::ranges::contiguous_range<R>) {
    constexpr std::size_t ahead = 1024;  // bytes: from 512 to 2048 does as well
    constexpr std::size_t line = 64;
    const auto address = reinterpret_cast<std::uintptr_t>(std::addressof(handle)) + ahead;
    for (std::size_t at = 0; at < sizeof(P); at += line)
      __builtin_prefetch(reinterpret_cast<const void*>(address + at));  // NOLINT(performance-no-int-to-ptr): a hint
  }
#endif
}

template <class P>
using layout_of = std::remove_cvref_t<decltype(traits_of<P>::layout(std::declval<P&>()))>;

/// The handle type of a range; const where the range gives const handles.
template <class R>
using handle_of = std::remove_reference_t<std::ranges::range_reference_t<R>>;

}  // namespace detail

class chunk_plan;
template <parameter_range R>
chunk_plan make_plan(R&& handles, const options& o, const capabilities& c = {});

/// A list of chunks, each of pieces. It owns no handle and no shard, and can be replayed over equal layouts. Compact:
/// chunk starts, and the order of the parameters only where it is not the caller's.
class chunk_plan {
 public:
  static constexpr std::uint64_t digest_seed = 0x91a7;  ///< where digest() starts

  std::size_t chunks() const { return summary_.chunks; }  ///< how many
  /// What it comes to, in a struct that prints.
  const plan_summary& summary() const { return summary_; }
  /// The most bytes that a chunk may have: (budget - staging) / in_flight, rounded down to the alignment; half of
  /// that for engines without regions, whose chunks are staged.
  std::size_t capacity() const { return capacity_; }
  const plan_options& made_for() const { return options_; }        ///< what shaped it
  const unshard::capabilities& engine() const { return engine_; }  ///< what it takes the engine to be able to do
  /// Of all layouts and element sizes, in order, with their ties.
  std::uint64_t digest() const { return digest_; }
  /// Handles that share an earlier one's identity: {index, index of the first}, rising.
  std::span<const detail::tied_pair> ties() const { return {ties_.data(), ties_.size()}; }
  std::size_t parameters() const { return parameters_; }  ///< how many handles it was made from

  /// Calls visit(const planned_piece&) for every piece of chunk i, in the caller's order; size(index) gives a
  /// parameter's detail::parameter_size.
  template <class Size, class Visit>
  void for_each_piece(std::size_t i, Size size, Visit visit) const {
    std::size_t used = 0;
    const auto place = [&](std::size_t parameter, index_t first, index_t elements, std::size_t element_size) {
      const std::size_t bytes = static_cast<std::size_t>(elements) * element_size;
      visit(planned_piece{parameter, first, elements, used, bytes});
      used += detail::align_up(bytes, options_.alignment);
    };
    if (starts_.empty()) {
      for (const detail::packed_piece& p : packed_.chunk(i)) {
        const detail::parameter_size s = size(p.parameter);
        place(p.parameter, p.first, p.elements < 0 ? s.elements : p.elements, s.element_size);
      }
      return;
    }
    const detail::cut_point from = starts_[i];
    const detail::cut_point to = i + 1 < starts_.size() ? starts_[i + 1] : detail::cut_point{parameters_, 0};
    const auto tied_before = [&](std::size_t t) { return ties_[t].first < from.parameter; };
    std::size_t tied = detail::first_not(ties_.size(), tied_before);
    for (std::size_t p = from.parameter; p < to.parameter || (p == to.parameter && to.first > 0); ++p) {
      if (tied < ties_.size() && ties_[tied].first == p) {
        ++tied;
        continue;
      }
      const detail::parameter_size s = size(p);
      const index_t first = p == from.parameter ? from.first : 0;
      const index_t last = p == to.parameter ? to.first : s.elements;
      place(p, first, last - first, s.element_size);
    }
  }

  /// Whether no piece of its parameter, which has `elements`, comes after piece p of chunk i.
  template <class Deferred = void>  // see base/later.hpp
  bool ends_parameter(std::size_t i, const planned_piece& p, index_t elements) const {
    if (!starts_.empty() || p.elements == elements) return p.first + p.elements == elements;
    return packed_.ends(i, p.parameter, p.first);
  }

  /// The pieces of chunk i, as a list; `handles` as given to make_plan.
  template <parameter_range R>
  std::vector<planned_piece> pieces(std::size_t i, R&& handles) const {
    std::vector<planned_piece> list;
    auto at = std::ranges::begin(handles);
    std::size_t index = 0;
    const auto size = [&](std::size_t p) {
      std::ranges::advance(at, static_cast<std::ranges::range_difference_t<R>>(p - index));
      index = p;
      auto&& h = *at;
      return detail::size_of<detail::handle_of<R>>(h);
    };
    for_each_piece(i, size, [&](const planned_piece& p) { list.push_back(p); });
    return list;
  }

 private:
  template <parameter_range R>
  friend chunk_plan make_plan(R&& handles, const options& o, const unshard::capabilities& c);

  template <class Deferred = void>  // see base/later.hpp
  chunk_plan(const plan_options& o, const unshard::capabilities& c) : options_(o), engine_(c) {}

  plan_options options_;
  unshard::capabilities engine_;
  std::size_t capacity_ = 0;
  std::size_t parameters_ = 0;
  std::uint64_t digest_ = digest_seed;
  plan_summary summary_;
  std::vector<detail::tied_pair> ties_;
  std::vector<detail::cut_point> starts_;  // in order: where each chunk starts
  detail::packed_chunks<> packed_;         // best_fit, where that is fewer
};

namespace detail {

/// bad_options for what no list of parameters could make right.
inline void check_options(const options& o, const capabilities& c) {
  if (o.alignment == 0 || (o.alignment & (o.alignment - 1)) != 0)
    throw bad_options(concat("unshard: .alignment is ", o.alignment, "; a power of two is needed."));
  if (o.in_flight < 1) throw bad_options(concat("unshard: .in_flight is ", o.in_flight, "; at least 1 is needed."));
  if (o.timeout_ms < 0) throw bad_options(concat("unshard: .timeout_ms is ", o.timeout_ms, "; 0 waits for ever."));
  if (o.packing == packing::best_fit && o.cut == cut::anywhere)
    throw bad_options(
        "unshard: .cut = cut::anywhere goes with .packing = packing::in_order only; with best_fit use cut::oversized.");
  if (c.max_operations == 1)
    throw bad_options("unshard: the engine's max_operations is 1; at least 2 are needed: a send and a receive.");
}

/// How many bytes of memory a byte of chunk costs: its buffers, and their staging where the engine has no regions.
constexpr std::size_t copies_of_a_chunk(const options& o, const capabilities& c) {
  return static_cast<std::size_t>(o.in_flight) * (c.regions ? 1 : 2);
}

}  // namespace detail

/// Plans: which pieces of which parameters share a chunk, so that no chunk exceeds its part of the budget. Asks for
/// no shard. The same on every rank for equal handles, options and capabilities. Throws bad_options, budget_too_small,
/// bad_layout (an element of 0 bytes, ties of different size), size_overflow.
template <parameter_range R>
chunk_plan make_plan(R&& handles, const options& o, const capabilities& c) {
  using handle = detail::handle_of<R>;
  detail::check_options(o, c);
  chunk_plan plan(static_cast<plan_options>(o), c);
  const std::size_t copies = detail::copies_of_a_chunk(o, c);
  plan.capacity_ = o.budget < c.staging ? 0 : (o.budget - c.staging) / copies & ~(o.alignment - 1);

  detail::packer<> packer(o.alignment, plan.capacity_, o.cut != cut::never, o.cut == cut::anywhere,
                          o.packing == packing::best_fit);
  detail::layout_digests<detail::layout_of<handle>> digest;
  detail::identities<> identities;
  std::size_t index = 0;
  std::size_t bytes = 0;
  for (auto&& h : handles) {
    detail::expect_more<R>(h);
    const auto& layout = detail::traits_of<handle>::layout(h);
    const extents& shape = layout.shape();  // of the layout, or of what it converts to
    const index_t elements = shape.elements();
    const auto element_size = static_cast<std::size_t>(detail::traits_of<handle>::element_size(h));
    if (element_size == 0)
      throw bad_layout(detail::concat("make_plan: parameter ", detail::called(index, detail::name_of<handle>(h)),
                                      " has elements of 0 bytes; at least 1 is needed."));
    const auto size = static_cast<std::size_t>(detail::checked_mul(elements, static_cast<index_t>(element_size)));
    plan.digest_ = detail::mix(detail::mix(plan.digest_, digest(layout)), static_cast<std::uint64_t>(element_size));
    const auto [first, first_size] = identities.first_of(detail::identity_of<handle>(h), index, size);
    if (first != index) {
      if (first_size != size)
        throw bad_layout(detail::concat("make_plan: parameter ", detail::called(index, detail::name_of<handle>(h)),
                                        " has ", size, " bytes, and parameter ", first,
                                        ", with which it shares an identity, ", first_size, '.'));
      plan.ties_.push_back({index, first});
      plan.digest_ = detail::mix(plan.digest_, static_cast<std::uint64_t>(first));
    } else {
      bytes = static_cast<std::size_t>(detail::checked_add(static_cast<index_t>(bytes), static_cast<index_t>(size)));
      packer.add({index, elements, element_size, size}, detail::group_of<handle>(h), detail::indivisible_of<handle>(h));
    }
    ++index;
  }
  plan.parameters_ = index;
  packer.finish(index);

  if (o.budget < c.staging && packer.largest_unit() == 0)
    throw budget_too_small(detail::concat("make_plan: the engine stages ", detail::in_bytes(c.staging, " bytes"),
                                          " of its own; the budget is ", detail::in_bytes(o.budget),
                                          ".\n  Set .budget to at least ", c.staging, "."),
                           0, o.budget, c.staging);
  if (packer.largest_unit() > plan.capacity_) {
    const std::size_t worst = packer.largest_at();
    const auto least = static_cast<std::size_t>(detail::checked_add(
        detail::checked_mul(static_cast<index_t>(packer.largest_unit()), static_cast<index_t>(copies)),
        static_cast<index_t>(c.staging)));
    auto&& h = *std::ranges::next(std::ranges::begin(handles), static_cast<std::ranges::range_difference_t<R>>(worst));
    throw budget_too_small(
        detail::concat(
            "make_plan: ", packer.largest_is_group() ? "the group that starts with parameter " : "parameter ",
            detail::called(worst, detail::name_of<handle>(h)), " needs ",
            detail::in_bytes(packer.largest_unit(), " bytes"),
            packer.largest_is_element() ? " for one element" : " whole", "; the budget is ", detail::in_bytes(o.budget),
            copies == 1 && c.staging == 0 ? std::string() : detail::concat(", of which a chunk gets ", plan.capacity_),
            ".\n  Set .budget to at least ", least,
            o.cut == cut::never && !packer.largest_is_group() ? ", or .cut = unshard::cut::oversized." : "."),
        worst, o.budget, least);
  }
  if (o.budget == 0)
    throw bad_options("make_plan: .budget is 0. Set it to the bytes that the library may hold on a rank.");

  plan.starts_ = packer.take_starts();
  std::size_t chunks = plan.starts_.size();
  std::size_t largest = packer.fullest();
  if (o.packing == packing::best_fit) {
    plan.packed_ = packer.pack(chunks, plan.ties_);
    if (plan.packed_.size() > 0) {
      plan.starts_.clear();
      chunks = plan.packed_.size();
      largest = plan.packed_.fullest();
    }
  }
  const std::size_t slot_count = (std::min)(static_cast<std::size_t>(o.in_flight), chunks);
  plan.summary_ = {
      .chunks = chunks,
      .bytes = bytes,
      .largest = largest,
      .peak = slot_count * (c.regions ? 1 : 2) * detail::align_up(largest, o.alignment) + c.staging,
      .lower_bound = plan.capacity_ == 0 ? 0 : (packer.aligned_bytes() + plan.capacity_ - 1) / plan.capacity_,
      .utilisation = chunks * plan.capacity_ == 0 ? 0.0
                                                  : static_cast<double>(bytes) / (static_cast<double>(chunks) *
                                                                                  static_cast<double>(plan.capacity_))};
  return plan;
}

/// The same for what the engine can do now: the plan to replay over `comm`.
template <parameter_range R, communicator C>
chunk_plan make_plan(R&& handles, const options& o, const C& comm) {
  return make_plan(std::forward<R>(handles), o, capabilities_of(comm));
}

}  // namespace v0
}  // namespace unshard
