// SPDX-License-Identifier: Apache-2.0
#pragma once  // layout/any.hpp: any layout as one type.

#include <atomic>
#include <concepts>
#include <cstdint>
#include <new>
#include <span>
#include <type_traits>
#include <unshard/layout/concept.hpp>
#include <unshard/layout/derived.hpp>
#include <unshard/layout/on_ranks.hpp>
#include <unshard/shards.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

template <class L>
class known_layouts;

/// A visit of for_each_part without its type.
struct erased_visit {
  template <class Visit>
  explicit erased_visit(const Visit& visit)
      : context(&visit),
        of_box([](const void* c, const box& b, index_t stored, index_t number) {
          (*static_cast<const Visit*>(c))(b, stored, number);
        }),
        of_part([](const void* c, const shard_part& p) { (*static_cast<const Visit*>(c))(p); }) {}
  void operator()(const box& b, index_t stored, index_t number) const { of_box(context, b, stored, number); }
  void operator()(const shard_part& p) const { of_part(context, p); }

  const void* context;
  void (*of_box)(const void*, const box&, index_t, index_t);
  void (*of_part)(const void*, const shard_part&);
};

template <class L>
concept has_shape = requires(const L& l) {
  l.shape();
};  // asked first: == of another type may ask for any_layout again

/// A rank's boxes as a box_list: a view of those that the layout keeps, else a copy.
template <class L>
box_list listed_boxes(const L& l, int rank) {
  using boxes = decltype(l.boxes_of(rank));
  if constexpr (std::same_as<std::remove_cvref_t<boxes>, box_list>) {
    return l.boxes_of(rank);
  } else if constexpr (std::is_lvalue_reference_v<boxes> && std::convertible_to<boxes, std::span<const box>>) {
    return box_list(std::span<const box>(l.boxes_of(rank)));
  } else {
    std::vector<box> list;
    for (const box& b : l.boxes_of(rank)) list.push_back(b);
    return box_list(shared_table<box>(list.data(), list.size()));
  }
}

/// A layout that any_layout has no place for: one object, shared by the copies.
class foreign_layout {
 public:
  template <class L>
  explicit foreign_layout(const L& l) : held_(new held<L>(l)) {}
  foreign_layout(const foreign_layout& other) noexcept : held_(other.held_) {
    held_->uses.fetch_add(1, std::memory_order_relaxed);
  }
  foreign_layout& operator=(const foreign_layout&) = delete;
  ~foreign_layout() {
    if (held_->uses.fetch_sub(1, std::memory_order_acq_rel) == 1) delete held_;
  }

  const extents& shape() const { return held_->shape; }
  const extents& space() const { return held_->space; }
  int ranks() const { return held_->ranks; }
  box_list boxes_of(int rank) const { return held_->boxes_of(rank); }
  int replica_of(int rank) const { return held_->replica_of(rank); }
  rank_list replicas_of(int rank) const { return held_->replicas_of(rank); }
  rank_list ranks_of(index_t first, index_t count) const { return held_->ranks_of(first, count); }
  std::uint64_t digest() const { return held_->digest(); }
  template <class Visit>
  void for_each_part(int rank, index_t first, index_t count, const Visit& visit) const {
    held_->for_each_part(rank, first, count, erased_visit(visit));
  }
  bool tells_all() const { return held_->tells_all(); }
  foreign_layout derived() const { return held_->derived(); }
  friend bool operator==(const foreign_layout& a, const foreign_layout& b) {
    return a.held_ == b.held_ || (a.held_->type() == b.held_->type() && a.held_->equals(*b.held_));
  }

 private:
  struct base {
    template <class L>
    explicit base(const L& l) : shape(l.shape()), space(l.space()), ranks(l.ranks()) {}
    base(const base&) = delete;
    base& operator=(const base&) = delete;
    virtual ~base() = default;
    virtual box_list boxes_of(int rank) const = 0;
    virtual int replica_of(int rank) const = 0;
    virtual rank_list replicas_of(int rank) const = 0;
    virtual rank_list ranks_of(index_t first, index_t count) const = 0;
    virtual std::uint64_t digest() const = 0;
    virtual void for_each_part(int rank, index_t first, index_t count, const erased_visit& visit) const = 0;
    virtual bool tells_all() const = 0;
    virtual foreign_layout derived() const = 0;
    virtual const void* type() const = 0;
    virtual bool equals(const base& other) const = 0;

    std::atomic<std::size_t> uses{1};
    extents shape;
    extents space;
    int ranks;
  };

  template <class L>
  struct held final : base {
    explicit held(const L& l) : base(l), layout(l) {}
    box_list boxes_of(int rank) const override { return listed_boxes(layout, rank); }
    int replica_of(int rank) const override { return detail::replica_of(layout, rank); }
    rank_list replicas_of(int rank) const override {
      if constexpr (requires { layout.replicas_of(rank); }) {
        return layout.replicas_of(rank);
      } else {
        std::vector<int> list;
        for (int r = 0; r < base::ranks; ++r) {
          if (detail::same_boxes(layout, r, rank)) list.push_back(r);
        }
        return rank_list(std::move(list));
      }
    }
    rank_list ranks_of(index_t first, index_t count) const override { return detail::ranks_of(layout, first, count); }
    std::uint64_t digest() const override { return detail::digest_of(layout); }
    void for_each_part(int rank, index_t first, index_t count, const erased_visit& visit) const override {
      detail::for_each_part(layout, rank, first, count, visit);
    }
    bool tells_all() const override { return detail::tells_all<L>; }
    foreign_layout derived() const override {
      if constexpr (detail::tells_all<L>) {
        return foreign_layout(layout);
      } else {
        return foreign_layout(derived_layout<L>(layout));
      }
    }
    const void* type() const override {
      static const char tag = 0;
      return &tag;
    }
    bool equals(const base& other) const override { return layout == static_cast<const held&>(other).layout; }

    L layout;
  };

  base* held_;
};

/// One layout of any kind: a variant without <variant>, whose every function is the held one's.
class one_layout {
  enum class kind : unsigned char { flat, dim, ragged, mesh, owned, replicated, boxes, cyclic, foreign };

  template <class F>
  decltype(auto) visit(F f) const {
    switch (kind_) {
      case kind::flat:
        return f(flat_);
      case kind::dim:
        return f(dim_);
      case kind::ragged:
        return f(ragged_);
      case kind::mesh:
        return f(mesh_);
      case kind::owned:
        return f(owned_);
      case kind::replicated:
        return f(replicated_);
      case kind::boxes:
        return f(boxes_);
      case kind::cyclic:
        return f(cyclic_);
      case kind::foreign:
        break;
    }
    return f(foreign_);
  }

 public:
  explicit one_layout(const flat_shard& l) noexcept : flat_(l), kind_(kind::flat) {}
  explicit one_layout(const dim_shard& l) noexcept : dim_(l), kind_(kind::dim) {}
  explicit one_layout(const ragged_shard& l) noexcept : ragged_(l), kind_(kind::ragged) {}
  explicit one_layout(const mesh_shard& l) noexcept : mesh_(l), kind_(kind::mesh) {}
  explicit one_layout(const owned& l) noexcept : owned_(l), kind_(kind::owned) {}
  explicit one_layout(const replicated& l) noexcept : replicated_(l), kind_(kind::replicated) {}
  explicit one_layout(const box_shard& l) noexcept : boxes_(l), kind_(kind::boxes) {}
  explicit one_layout(const cyclic_shard& l) noexcept : cyclic_(l), kind_(kind::cyclic) {}
  explicit one_layout(const foreign_layout& l) noexcept : foreign_(l), kind_(kind::foreign) {}
  template <class L>
  explicit one_layout(const L& l) : one_layout(foreign_layout(l)) {}
  one_layout(const one_layout& other) noexcept : kind_(other.kind_) {
    other.visit([&]<class L>(const L& l) { new (static_cast<void*>(&flat_)) L(l); });
  }
  one_layout& operator=(const one_layout& other) noexcept {
    if (this != &other) {
      this->~one_layout();
      new (static_cast<void*>(this)) one_layout(other);
    }
    return *this;
  }
  ~one_layout() {
    visit([]<class L>(const L& l) { l.~L(); });
  }

  const extents& shape() const {
    return visit([](const auto& l) -> const extents& { return l.shape(); });
  }
  extents space() const {
    return visit([](const auto& l) -> extents { return l.space(); });
  }
  int ranks() const {
    return visit([](const auto& l) { return l.ranks(); });
  }
  box_list boxes_of(int rank) const {
    return visit([=](const auto& l) { return listed_boxes(l, rank); });
  }
  int replica_of(int rank) const {
    return visit([=](const auto& l) { return l.replica_of(rank); });
  }
  rank_list replicas_of(int rank) const {
    return visit([=](const auto& l) { return l.replicas_of(rank); });
  }
  rank_list ranks_of(index_t first, index_t count) const {
    return visit([=](const auto& l) { return l.ranks_of(first, count); });
  }
  template <class Visit>
  void for_each_part(int rank, index_t first, index_t count, const Visit& visit) const {
    if (kind_ == kind::cyclic) {
      cyclic_.for_each_part(rank, first, count, visit);
    } else if (kind_ == kind::foreign) {
      foreign_.for_each_part(rank, first, count, visit);
    } else if (kind_ == kind::boxes) {
      boxes_.for_each_part(rank, first, count, visit);
    } else {
      for (const box& b : boxes_of(rank)) {
        if (b.size.elements() > 0) visit(b, 0, 0);
      }
    }
  }
  std::uint64_t digest() const {
    return visit([](const auto& l) { return l.digest(); });
  }
  bool tells_all() const { return kind_ != kind::foreign || foreign_.tells_all(); }
  one_layout derived() const { return kind_ == kind::foreign ? one_layout(foreign_.derived()) : *this; }
  friend bool operator==(const one_layout& a, const one_layout& b) {
    const void* held = &b.flat_;
    return a.kind_ == b.kind_ && a.visit([=]<class L>(const L& l) { return l == *static_cast<const L*>(held); });
  }

 private:
  union {
    flat_shard flat_;
    dim_shard dim_;
    ragged_shard ragged_;
    mesh_shard mesh_;
    unshard::owned owned_;
    unshard::replicated replicated_;
    box_shard boxes_;
    cyclic_shard cyclic_;
    foreign_layout foreign_;
  };
  kind kind_;
};

/// on_ranks is taken by the constructor of its own. Said before any concept asks for ==, which would look for a
/// conversion to any_layout where that is the layout inside.
template <class L>
inline constexpr bool is_on_ranks = false;
template <class L>
inline constexpr bool is_on_ranks<on_ranks<L>> = true;

}  // namespace detail

/// Any layout, the user's own included, converted implicitly, for models that mix them. A value. The ready-made layouts
/// are held as they are, also over on_ranks; any other is copied once and shared by all copies. Such a one's boxes_of,
/// unless it returns a reference to boxes that it keeps, copies them at every call.
class any_layout {
 public:
  template <class L>
  requires(!std::same_as<L, any_layout> && !detail::is_on_ranks<L> && detail::has_shape<L> && shard_layout<L> &&
           std::copy_constructible<L>)
      any_layout(const L& l)  // NOLINT(google-explicit-constructor): the conversion is the purpose
      : held_(detail::one_layout(l), 0, 1, l.ranks()) {}
  template <class L>
  requires std::convertible_to<const L&, any_layout> any_layout(
      const on_ranks<L>& l)  // NOLINT(google-explicit-constructor)
      : any_layout(l.layout(), l) {}

  const extents& shape() const { return held_.shape(); }
  extents space() const { return held_.space(); }
  int ranks() const { return held_.ranks(); }
  box_list boxes_of(int rank) const { return held_.boxes_of(rank); }
  int replica_of(int rank) const { return held_.replica_of(rank); }
  rank_list replicas_of(int rank) const { return held_.replicas_of(rank); }
  rank_list ranks_of(index_t first, index_t count) const { return held_.ranks_of(first, count); }
  template <class Visit>
  void for_each_part(int rank, index_t first, index_t count, const Visit& visit) const {
    held_.for_each_part(rank, first, count, visit);
  }
  std::uint64_t digest() const { return held_.digest(); }
  /// Of two any_layouts only: a type that merely converts to one, or is made of one, is not asked whether it does.
  template <std::same_as<any_layout> Layout>
  friend bool operator==(const Layout& a, const Layout& b) {
    return a.held_ == b.held_;
  }

 private:
  template <class L>
  friend class detail::known_layouts;
  bool tells_all() const { return held_.layout().tells_all(); }
  any_layout derived() const {
    any_layout out = *this;
    out.held_ = {held_.layout().derived(), held_.first(), held_.stride(), held_.ranks()};
    return out;
  }

  template <class L>
  any_layout(const any_layout& inner, const on_ranks<L>& l)
      : held_(inner.held_.layout(), l.first() + inner.held_.first() * l.stride(), inner.held_.stride() * l.stride(),
              l.ranks()) {}

  on_ranks<detail::one_layout> held_;  // a layout on every rank is one from 0 on, one every 1
};
static_assert(std::constructible_from<any_layout, const on_ranks<any_layout>&>);

}  // namespace v0
}  // namespace unshard
