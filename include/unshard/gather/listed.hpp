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
      digest =
          mix(mix(digest, digest_of(known(layout))), static_cast<std::uint64_t>(traits_of<handle>::element_size(h)));
      if (tie != plan.ties().end() && tie->first == i)
        digest = mix(digest, static_cast<std::uint64_t>((tie++)->second));
    }
    if (digest != plan.digest() || handles.size() != plan.parameters())
      throw stale_plan(concat("unshard: the plan was made for ", plan.parameters(),
                              " parameters of other layouts or element sizes than these ", handles.size(),
                              ". Make it anew. ", here()));
  }

  /// Layouts fit the communicator, shards are long enough, and nobody else has them open: else bad_layout, bad_shard,
  /// aliased_parameters, overlapping_scope. `only` one round's parameters are opened, or all.
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
        throw bad_layout(concat("unshard: parameter ", called(i, name_of<handle>(h)), " has a layout for ",
                                static_cast<int>(layout.ranks()), " ranks; the communicator has ", ranks_,
                                ". Give it a layout for these ranks; on_ranks places one on some of them. ", here()));
      const auto needed = to_size(
          checked_mul(reach_of(known(layout), rank_), static_cast<index_t>(traits_of<handle>::element_size(h))));
      const auto shard = std::span<byte>(traits_of<handle>::shard(h));
      if (shard.size() < needed)
        throw bad_shard(concat("unshard: the shard of parameter ", called(i, name_of<handle>(h)), " has ", shard.size(),
                               " bytes; its layout gives this rank ", needed,
                               ". Give all of the shard; padding behind it may be left out. ", here()),
                        i, needed, shard.size());
      const bool tied = tie != plan.ties().end() && tie->first == i;
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
        return called(i, name_of<handle>(h));
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
    return concat('"', name_of<handle>(h), "\" ", to_text(extents(layout.shape())), " of ",
                  static_cast<std::size_t>(traits_of<handle>::element_size(h)), "-byte elements, group ",
                  group_of<handle>(h), has_cost<handle> ? concat(", cost ", cost_of<handle>(h, 0)) : std::string(),
                  ", layout ", digest_of(known(layout)) % 1'000'000);
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
            own += static_cast<std::size_t>(held_of(known(layout), rank_, p.first, p.elements)) *
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
    return size_of<handle>(h);
  }

  /// Other scopes may open the shards again.
  void close() noexcept { scope_.close(); }

  handle_list<R> handles;
  known_layouts<layout_of<handle>> known;

 private:
  static constexpr std::uint64_t seed = 0x0be4;

  template <class L>
  std::uint64_t parameter_digest(handle& h, const L& layout, std::size_t tied_to) {
    std::uint64_t d = mix(digest_of_text(0xda7a, name_of<handle>(h)), digest_of(known(layout)));
    if constexpr (has_cost<handle>) d = mix(d, cost_of<handle>(h, 0));
    d = mix(mix(d, static_cast<std::uint64_t>(traits_of<handle>::element_size(h))), std::uint64_t{tied_to});
    return mix(mix(d, group_of<handle>(h)), static_cast<std::uint64_t>(indivisible_of<handle>(h)));
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
