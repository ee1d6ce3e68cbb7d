// SPDX-License-Identifier: Apache-2.0
#pragma once  // unshard.hpp: all that needs only the standard library. Engines: comm/{threads,mpi,nccl}.hpp,
              // cuda/*.hpp.

#include <unshard/agreement.hpp>     // IWYU pragma: export
#include <unshard/communicator.hpp>  // IWYU pragma: export
#include <unshard/error.hpp>         // IWYU pragma: export
#include <unshard/gather.hpp>        // IWYU pragma: export
#include <unshard/layout.hpp>        // IWYU pragma: export
#include <unshard/memory.hpp>        // IWYU pragma: export
#include <unshard/observe.hpp>       // IWYU pragma: export
#include <unshard/options.hpp>       // IWYU pragma: export
#include <unshard/parameter.hpp>     // IWYU pragma: export
#include <unshard/plan.hpp>          // IWYU pragma: export
#include <unshard/schedule.hpp>      // IWYU pragma: export
#include <unshard/version.hpp>       // IWYU pragma: export
