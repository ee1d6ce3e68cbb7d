// SPDX-License-Identifier: Apache-2.0
// Every public header that needs nothing but the standard library, as one unit, and a use that instantiates most of it.
#include <unshard/comm/threads.hpp>
#include <unshard/testing/conformance.hpp>
#include <unshard/testing/mock.hpp>
#include <unshard/unshard.hpp>

#include "../includes/use.hpp"

int main() {
  unshard::run_ranks(1, [](unshard::threads_communicator& engine) {
    unshard::mock_communicator comm(engine);
    std::byte mine[1] = {};
    std::byte all[1] = {};
    comm.exchange(mine, all, 1000);
  });
  return use() ? 0 : 1;
}
