// SPDX-License-Identifier: Apache-2.0
#pragma once  // layout.hpp: which rank holds which part of a tensor. Index arithmetic only.

#include <unshard/index_space.hpp>      // IWYU pragma: export
#include <unshard/layout/any.hpp>       // IWYU pragma: export
#include <unshard/layout/concept.hpp>   // IWYU pragma: export
#include <unshard/layout/known.hpp>     // IWYU pragma: export
#include <unshard/layout/on_ranks.hpp>  // IWYU pragma: export
#include <unshard/layout/pitched.hpp>   // IWYU pragma: export
#include <unshard/shards.hpp>           // IWYU pragma: export

namespace unshard {
inline namespace v0 {

static_assert(shard_layout<flat_shard> && shard_layout<dim_shard> && shard_layout<ragged_shard> && shard_layout<owned>);
static_assert(shard_layout<replicated> && shard_layout<mesh_shard> && shard_layout<box_shard>);
static_assert(shard_layout<cyclic_shard> && shard_layout<any_layout>);
static_assert(shard_layout<on_ranks<flat_shard>> && shard_layout<pitched<cyclic_shard>>);

}  // namespace v0
}  // namespace unshard
