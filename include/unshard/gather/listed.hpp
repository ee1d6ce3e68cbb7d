// SPDX-License-Identifier: Apache-2.0
#pragma once  // gather/listed.hpp: the parameters of one range, checked before any byte moves, and their digests.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unshard/agreement.hpp>
#include <unshard/gather/handles.hpp>
#include <unshard/gather/open_scopes.hpp>
#include <unshard/gather/rounds.hpp>
#include <unshard/plan.hpp>
#include <utility>
#include <vector>

namespace unshard {
inline namespace v0 {
namespace detail {

inline constexpr std::size_t all_rounds = static_cast<std::size_t>(-1);

/// The caller's handles as one rank has them, for access `A`.
template <class R, class A>
class listed_parameters {
 public:
  using handle = typename handle_list<R>::handle;
  using byte = std::conditional_t<A::writes, std::byte, const std::byte>;

  listed_parameters(R&& list, int rank, int ranks) : handles(static_cast<R&&>(list)), rank_(rank), ranks_(ranks) {}

  /// Throws stale_plan: the plan is not for these parameters, or not for this engine.
  void check_replay(const chunk_plan& plan, const capabilities& now) {
    const capabilities& then = plan.engine();
    if (now.staging > then.staging || (then.regions && !now.regions))
      throw stale_plan(concat("unshard: the engine needs ", now.staging, " bytes of staging",
                              now.regions ? "" : " and has no regions", "; the plan left it ", then.staging,
                              ". Make the plan with capabilities_of(comm). ", here()));
    std::uint64_t digest = chunk_plan::digest_seed;
    auto tie = plan.ties().begin();
    for (std::size_t i = 0; i < handles.size(); ++i) {
      auto&& h = handles[i];
      const auto& layout = traits_of<handle>::layout(h);
      digest = mix(mix(digest, detail::digest_of(known(layout))),
                   static_cast<std::uint64_t>(traits_of<handle>::element_size(h)));
      digest = detail::with_bounds<handle>(digest, h);
      if (tie == plan.ties().end() || tie->first != i) continue;
      auto&& first = handles[tie->second];
      if (const std::uint64_t id = detail::identity_of<handle>(h); id == 0 || id != detail::identity_of<handle>(first))
        throw stale_plan(concat("unshard: the plan was made while parameter ", called(i, detail::name_of<handle>(h)),
                                " was tied to parameter ", called(tie->second, detail::name_of<handle>(first)),
                                "; they share no `identity` any more. Make it anew. ", here()));
      digest = mix(digest, static_cast<std::uint64_t>((tie++)->second));
    }
    if (digest != plan.digest() || handles.size() != plan.parameters())
      throw stale_plan(concat("unshard: the plan was made for ", plan.parameters(),
                              " parameters of other layouts, element sizes or groups than these ", handles.size(),
                              ". Make it anew. ", here()));
  }

  /// Layouts fit the communicator, shards are long enough, tied ones are one memory, and nobody else has them open:
  /// else bad_layout, bad_shard, aliased_parameters, overlapping_scope. `only` one round's parameters are opened, or
  /// all.
  void check(const chunk_plan& plan, std::size_t only, bool verify) {
    std::vector<later<shard_bytes, R>> open;
    std::vector<later<bool, R>> used(only == all_rounds ? 0 : handles.size(), false);
    if (!used.empty())
      for_each_in_round(
          plan, only, [&](std::size_t p) { return size_at(p); },
          [&](const planned_piece& p, std::size_t, int) { used[p.parameter] = true; });
    digest_ = seed;
    auto tie = plan.ties().begin();
    for (std::size_t i = 0; i < handles.size(); ++i) {
      auto&& h = handles[i];
      const auto& layout = traits_of<handle>::layout(h);
      if (layout.ranks() != ranks_)
        throw bad_layout(concat("unshard: parameter ", called(i, detail::name_of<handle>(h)), " has a layout for ",
                                static_cast<int>(layout.ranks()), " ranks; the communicator has ", ranks_,
                                ". Give it a layout for these ranks; on_ranks places one on some of them. ", here()));
      const auto needed = to_size(
          checked_mul(reach_of(known(layout), rank_), static_cast<index_t>(traits_of<handle>::element_size(h))));
      const auto shard = std::span<byte>(traits_of<handle>::shard(h));
      if (shard.size() < needed)
        throw bad_shard(concat("unshard: the shard of parameter ", called(i, detail::name_of<handle>(h)), " has ",
                               shard.size(), " bytes; its layout gives this rank ", needed,
                               ". Give all of the shard; padding behind it may be left out. ", here()),
                        i, needed, shard.size());
      const bool tied = tie != plan.ties().end() && tie->first == i;
      if (verify && tied && needed > 0) check_tie(i, tie->second, h, shard.data());
      digest_ = mix(digest_, parameter_digest(h, layout, tied ? tie->second : i));
      if (tied) ++tie;
      if (verify && !tied && needed > 0 && (used.empty() || used[i])) {
        const auto from = reinterpret_cast<std::uintptr_t>(shard.data());
        open.push_back({from, from + needed, i});
      }
    }
    if (verify)
      scope_.open(std::move(open), A::writes, [&](std::size_t i) {
        auto&& h = handles[i];
        return called(i, detail::name_of<handle>(h));
      });
  }

  /// Of the first k parameters; that of all is digest(), once they were checked.
  std::uint64_t prefix_digest(const chunk_plan& plan, std::size_t k) {
    std::uint64_t d = seed;
    auto tie = plan.ties().begin();
    for (std::size_t i = 0; i < k; ++i) {
      auto&& h = handles[i];
      const bool tied = tie != plan.ties().end() && tie->first == i;
      d = mix(d, parameter_digest(h, traits_of<handle>::layout(h), tied ? (tie++)->second : i));
    }
    return d;
  }

  /// Parameter i in words, for the ranks that have another one there.
  std::string describe(std::size_t i) {
    auto&& h = handles[i];
    const auto& layout = traits_of<handle>::layout(h);
    std::string text =
        concat('"', shortened(detail::name_of<handle>(h), longest_name), "\" ", to_text(extents(layout.shape())),
               " of ", static_cast<std::size_t>(traits_of<handle>::element_size(h)), "-byte elements");
    if (const std::uint64_t id = detail::identity_of<handle>(h); id != 0) {
      std::size_t first = 0;
      const auto other = [&](std::size_t k) {
        auto&& at = handles[k];
        return detail::identity_of<handle>(at);
      };
      while (other(first) != id) ++first;
      if (first != i) text += concat(", tied to parameter ", first);
    }
    if (detail::group_of<handle>(h) != 0) text += concat(", group ", detail::group_of<handle>(h));
    if (detail::indivisible_of<handle>(h)) text += ", indivisible";
    if constexpr (has_cost<handle>) text += concat(", cost ", detail::cost_of<handle>(h, 0));
    text += concat(", layout over ", static_cast<int>(layout.ranks()), " ranks (digest ",
                   detail::digest_of(known(layout)), ')');
    for (int r = 0; r < layout.ranks() && text.size() < most_text; ++r) {
      text += concat(r == 0 ? ": " : ", ", r, " has");
      bool any = false;
      for (const box& b : layout.boxes_of(r)) {
        if (text.size() > most_text) break;
        text += concat(any ? " and " : " ", to_text(b));
        any = true;
      }
      if (!any) text += " none";
    }
    return text;
  }

  std::uint64_t digest() const { return digest_; }

  /// The most bytes of any chunk that are in this rank's shards: what it may have to stage.
  std::size_t most_own_bytes(const chunk_plan& plan, std::size_t first, std::size_t last) {
    std::size_t most = 0;
    for (std::size_t i = first; i < last; ++i) {
      std::size_t own = 0;
      plan.for_each_piece(
          i, [&](std::size_t p) { return size_at(p); },
          [&](const planned_piece& p) {
            if (p.elements == 0) return;
            auto&& h = handles[p.parameter];
            const auto& layout = traits_of<handle>::layout(h);
            own += static_cast<std::size_t>(detail::held_of(known(layout), rank_, p.first, p.elements)) *
                   (p.bytes / static_cast<std::size_t>(p.elements));
          });
      most = (std::max)(most, own);
    }
    return most;
  }

  /// The most cyclic shifts that may share `staging` bytes on this rank, in any round of a spread plan.
  std::size_t most_shifts(const chunk_plan& plan, std::size_t first, std::size_t last, std::size_t staging,
                          bool gathers) {
    shift_loads loads(rank_, ranks_, staging);
    auto most = static_cast<std::size_t>(ranks_);
    for (std::size_t round = first; round < last; ++round) {
      loads.clear();
      for_each_in_round(
          plan, round, [&](std::size_t p) { return size_at(p); },
          [&](const planned_piece& p, std::size_t, int holder) {
            auto&& h = handles[p.parameter];
            loads.add(p, known(traits_of<handle>::layout(h)), holder, gathers, !std::is_const_v<byte>);
          });
      most = loads.fitting(most);
    }
    return most;
  }

  parameter_size size_at(std::size_t i) {
    auto&& h = handles[i];
    return detail::size_of<handle>(h);
  }

  /// Other scopes may open the shards again.
  void close() noexcept { scope_.close(); }

  handle_list<R> handles;
  known_layouts<layout_of<handle>> known;

 private:
  static constexpr std::uint64_t seed = 0x0be4;
  static constexpr std::size_t longest_name = 160;  // bytes of a name in a description
  static constexpr std::size_t most_text = 460;     // of a description: what agreement::tell_long says

  template <class L>
  std::uint64_t parameter_digest(handle& h, const L& layout, std::size_t tied_to) {
    std::uint64_t d = mix(digest_of_text(0xda7a, detail::name_of<handle>(h)), detail::digest_of(known(layout)));
    if constexpr (has_cost<handle>) d = mix(d, detail::cost_of<handle>(h, 0));
    d = mix(mix(d, static_cast<std::uint64_t>(traits_of<handle>::element_size(h))), std::uint64_t{tied_to});
    return mix(mix(d, detail::group_of<handle>(h)), static_cast<std::uint64_t>(detail::indivisible_of<handle>(h)));
  }

  /// Tied parameters are one memory: else only the first's would be gathered and written.
  void check_tie(std::size_t i, std::size_t first, handle& h, const std::byte* data) {
    auto&& other = handles[first];
    if (std::span<byte>(traits_of<handle>::shard(other)).data() == data) return;
    throw aliased_parameters(
        concat("unshard: parameters ", called(first, detail::name_of<handle>(other)), " and ",
               called(i, detail::name_of<handle>(h)), " share an `identity`, and their shards are different memory: ",
               "only the first would be gathered and written. Tie their memory, or give them no identity. ", here()),
        first, i);
  }

  std::string here() const { return concat("[rank ", rank_, " of ", ranks_, ']'); }

  int rank_;
  int ranks_;
  later<open_scope, R> scope_;
  std::uint64_t digest_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace unshard
