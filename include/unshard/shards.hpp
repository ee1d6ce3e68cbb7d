// SPDX-License-Identifier: Apache-2.0
#pragma once  // shards.hpp: the ready-made layouts.

#include <unshard/shards/basic.hpp>   // IWYU pragma: export
#include <unshard/shards/boxes.hpp>   // IWYU pragma: export
#include <unshard/shards/cyclic.hpp>  // IWYU pragma: export
#include <unshard/shards/mesh.hpp>    // IWYU pragma: export
