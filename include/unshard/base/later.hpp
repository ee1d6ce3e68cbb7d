// SPDX-License-Identifier: Apache-2.0
#pragma once  // base/later.hpp: names whose meaning the compiler may not look up before they are used: what including
              // costs.

namespace unshard {
inline namespace v0 {
namespace detail {

template <class T, class>
struct dependent {
  using type = T;
};

/// T. Within a template of parameter `Deferred` the compiler can't tell before the template is used. Where a class of
/// vectors is no template, or one of vectors of known types, each file that includes it pays for all their functions,
/// used or not: half the time that including this library took.
template <class T, class Deferred>
using later = typename dependent<T, Deferred>::type;

}  // namespace detail
}  // namespace v0
}  // namespace unshard
