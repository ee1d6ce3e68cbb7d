// SPDX-License-Identifier: Apache-2.0
#pragma once  // version.hpp: the library's version, in one place; Meson, CMake and the release script read it here.

#define UNSHARD_VERSION_MAJOR 0
#define UNSHARD_VERSION_MINOR 1
#define UNSHARD_VERSION_PATCH 0
/// major * 10000 + minor * 100 + patch, for comparisons in the preprocessor.
#define UNSHARD_VERSION (UNSHARD_VERSION_MAJOR * 10000 + UNSHARD_VERSION_MINOR * 100 + UNSHARD_VERSION_PATCH)
