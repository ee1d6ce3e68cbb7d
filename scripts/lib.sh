# shellcheck shell=bash
# Sourced by every script: strict mode, the root of the tree as working directory, and how to get what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

jobs=${JOBS:-$(nproc)}
missing=()

# need WHAT PACKAGE WHY: WHAT is a command, or a path (a pattern will do). Only notes what is missing; says why.
need() {
  if [[ $1 == */* ]]; then
    if compgen -G "$1" >/dev/null; then return; fi
  elif command -v "$1" >/dev/null; then
    return
  fi
  echo "missing: $2, $3"
  missing+=("$2")
}

# Installs what the calls of need found missing: one update, one install, nothing where nothing is missing.
install_missing() {
  if ((${#missing[@]} == 0)); then return; fi
  local as_root=()
  if ((EUID != 0)); then as_root=(sudo); fi
  echo "installing with apt: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -qq -y --no-install-recommends "${missing[@]}" \
    </dev/null >/dev/null
  missing=()
}

# What every build needs.
need_compiler() {
  need g++ g++ "the compiler"
  need meson meson "the build system"
  need ninja ninja-build "runs the build"
  need python3 python3 "runs parts of the build and of the tests"
}

# The example programs and the tools have command lines.
need_programs() {
  need_compiler
  need /usr/include/CLI/CLI.hpp libcli11-dev "reads the command lines of the examples and tools"
}

need_tests() {
  need_programs
  need /usr/include/doctest/doctest.h doctest-dev "the test framework"
  need pkg-config pkg-config "tells where libraries are"
  need /usr/include/nlohmann/json.hpp nlohmann-json3-dev "unshard-plan and its tests read JSON"
}

# configure FOLDER [meson option...]: makes build folder build/FOLDER, or brings its options up to date.
configure() {
  local dir=build/$1
  shift
  if [[ -f $dir/build.ninja ]]; then
    meson configure "$dir" "$@"
  else
    rm -rf "$dir" # a configuration that failed half-way
    meson setup "$dir" -Dwerror=true "$@"
  fi
}

# build FOLDER [target...]: compiles. Meson writes build.ninja anew by itself where something changed.
build() {
  local dir=build/$1
  shift
  ninja -C "$dir" -j "$jobs" "$@"
}

# run_suites FOLDER [meson test option...]: runs tests and prints their counts, as the line 'N passed, N failed'.
run_suites() {
  local dir=build/$1 rc=0
  shift
  # A log that an earlier run left must not be counted.
  rm -f "$dir"/meson-logs/testlog*.json
  meson test -C "$dir" --no-rebuild --print-errorlogs "$@" </dev/null || rc=$?
  scripts/count "$dir"/meson-logs/testlog*.json
  return "$rc"
}

need_clang() {
  need clang++ clang "the second compiler, its sanitizers and its fuzzer"
  need '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.asan-*.a' libclang-rt-dev "the runtimes of clang's sanitizers"
}
