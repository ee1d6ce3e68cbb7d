// SPDX-License-Identifier: Apache-2.0
#pragma once
// emulation.hpp: the controls of the test double of the CUDA runtime and NCCL.
//
// A test double, nothing more: it defines, for the linker, exactly the functions that unshard's headers call, behind
// the real <cuda_runtime_api.h> and <nccl.h>. "Devices" are host memory. A stream is a queue with a worker thread that
// dawdles at random; an event is passed when the worker gets there; a group runs when the streams of all its ranks have
// reached it. What real CUDA and NCCL leave undefined is a violation here: see violations().

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cuda_emulation {

/// Restarts the random delays; call it while nothing runs. 0: no delays.
void seed(std::uint64_t seed);

/// Misuse since the last call: a communicator used while in progress, aborted twice or after it was freed, a group
/// of over `max_group` sends and receives, a transfer between registered and unregistered memory, unpinned memory given
/// to NCCL, lengths that don't match (those hang).
std::vector<std::string> violations();

/// What has been made and not been destroyed: streams, events, allocations, communicators. Empty: nothing.
std::string leaks();

inline constexpr std::size_t max_group = 15'000;

/// Whether the device reaches all host memory, as on systems with one page table. Else only what was pinned.
void reach_everything(bool yes);

/// Whether the stream is being captured into a graph.
void capture(void* stream, bool yes);
/// Whether some other thread captures in the global mode: then only threads in the relaxed mode may query and
/// synchronise, by anyone else that is a violation.
void capture_elsewhere(bool yes);

/// What the library says it is: ncclGetVersion.
void set_version(int version);

// Faults are per host thread, which is a rank in the tests.

/// Calls of CUDA and NCCL functions that this thread has made; those that free or name errors don't count.
std::size_t calls();
/// The k-th call from now on of this thread fails (from 1 on; 0: none).
void fail_call(std::size_t k);
/// The name of the call that failed, empty before.
std::string failed_call();
/// The next group of this thread never runs, and NCCL reports an asynchronous error for it.
void fail_next_group();

}  // namespace cuda_emulation
