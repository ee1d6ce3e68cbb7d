// SPDX-License-Identifier: Apache-2.0
// What other people's headers define before ours are read. The standard headers come first: some break on these
// themselves. To add one: the name, under whose it is, harmless where it is not used.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <climits>
#include <concepts>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <initializer_list>
#include <iosfwd>
#include <iterator>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <ranges>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
// The macros that the system's own headers define: I, makedev, B0, ECHO, MIN.
#include <complex.h>
#if __has_include(<termios.h>)
#include <termios.h>
#endif
#if __has_include(<sys/param.h>)
#include <sys/param.h>
#endif
#if __has_include(<sys/sysmacros.h>)
#include <sys/sysmacros.h>
#endif

// complex.h, where the line above did not define them
#undef I
#define I (__extension__ 1.0iF)
#undef complex
#define complex _Complex
#undef imaginary
#define imaginary _Imaginary
// glibc's sysmacros.h, and what BSD's param.h has
#undef major
#undef minor
#undef makedev
#define major(device) foreign_major(device)
#define minor(device) foreign_minor(device)
#define makedev(a, b) foreign_makedev(a, b)
#undef howmany
#undef roundup
#define howmany(x, y) foreign_howmany(x, y)
#define roundup(x, y) foreign_roundup(x, y)
#undef linux
#undef unix
#define linux 1
#define unix 1
// Qt
#define slots
#define emit
#define signals public
#define foreach(variable, container) for (variable : container)
#define forever for (;;)
// windows.h and what it includes
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define near
#define far
#define small char
#define hyper foreign_hyper
#define interface struct
#define pascal
#define cdecl
#define ERROR 0
#define NO_ERROR 0
#define IN
#define OUT
#define OPTIONAL
#define CALLBACK
#define VOID void
#define CONST const
#define DELETE (0x00010000L)
#define STRICT 1
#define ABSOLUTE 1
#define RELATIVE 2
#define OPAQUE 2
#define TRANSPARENT 1
#define DIFFERENCE 11
#define DOMAIN 1
#define OVERFLOW 3
#define UNDERFLOW 4
#define IGNORE 0
#define INFINITE 0xFFFFFFFF
#define GetMessage GetMessageA
#define SendMessage SendMessageA
#define CopyMemory memcpy
#define rad1 0x0420
#define grp1 0x0430
#define chx1 0x0410
// X11
#define None 0L
#define Bool int
#define Status int
#define True 1
#define False 0
#define Success 0
#define Always 2
#define Unsorted 0
#define Complex 0
#define Convex 2
#define Above 0
#define Below 1
#define Expose 12
#define KeyPress 2
#define DestroyAll 0
#define CurrentTime 0L
#define FocusIn 9
// Arduino
#define F(text) foreign_F(text)
#undef B0
#define B0 0
#define B1 1
#define B00000000 0
#define bit(b) (1UL << (b))
#define sq(x) ((x) * (x))
#define abs(x) foreign_abs(x)
#define round(x) foreign_round(x)
#define constrain(x, low, high) foreign_constrain(x, low, high)
#define word(...) foreign_word(__VA_ARGS__)
#define bitRead(value, bit) (((value) >> (bit)) & 0x01)
#define lowByte(w) foreign_low(w)
#define HIGH 0x1
#define LOW 0x0
#define INPUT 0x0
#define OUTPUT 0x1
#define DEFAULT 1
#define EXTERNAL 0
#define PI 3.14159
#define EULER 2.71828
#define interrupts() foreign_sei()
#define noInterrupts() foreign_cli()
// newlib's and Bionic's ctype.h
#define _U 01
#define _L 02
#define _N 04
#define _S 010
#define _P 020
#define _C 040
#define _X 0100
#define _B 0200
// the kernel's, Boost's and loggers'
#define likely(x) foreign_likely(x)
#define unlikely(x) foreign_unlikely(x)
#define LOG(level) foreign_log(level)
#define CHECK(condition) foreign_check(condition)
#define DEBUG 1
#define INFO 1
#define WARNING 2
#define FATAL 3
#define assert_true(x) foreign_assert(x)
