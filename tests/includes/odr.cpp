// SPDX-License-Identifier: Apache-2.0
// Built twice, as two translation units of one program (PART is 1 or 2), from every header that needs nothing but
// the standard library: what is not inline or a template would be defined twice.
#include <unshard/unshard.hpp>
// The threads are not part of unshard.hpp.
#include <unshard/comm/threads.hpp>
#include <unshard/testing/conformance.hpp>
#include <unshard/testing/mock.hpp>

#include "use.hpp"

#if PART == 1
bool other();

int main() { return use() && other() ? 0 : 1; }
#else
bool other();
bool other() { return use(); }
#endif
