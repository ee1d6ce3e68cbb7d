// SPDX-License-Identifier: Apache-2.0
// What a project outside the tree does with unshard; each way to install builds and runs it.
#ifdef SINGLE_HEADER
#include "unshard_single.hpp"
#else
#include <unshard/comm/threads.hpp>
#include <unshard/unshard.hpp>
#endif

#include <cstdio>

#include "use.hpp"

static_assert(UNSHARD_VERSION == UNSHARD_VERSION_MAJOR * 10000 + UNSHARD_VERSION_MINOR * 100 + UNSHARD_VERSION_PATCH);

int main() {
  std::printf("unshard %d.%d.%d\n", UNSHARD_VERSION_MAJOR, UNSHARD_VERSION_MINOR, UNSHARD_VERSION_PATCH);
  return use() ? 0 : 1;
}
