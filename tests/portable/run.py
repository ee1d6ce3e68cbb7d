#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""run.py [--all]: what is built, what is run, and where, as the table build/portable/portability.md.

A cell is a program and a compiler: it is run where this machine can (natively, or aarch64 in qemu), else linked or only
compiled, with warnings as errors. A compiler that is not here is a cell 'not here', which counts as nothing. Without
--all only the cells marked short. The last line is 'N passed, N failed'; the exit status is 77 where no cell could be
tried.
"""
import concurrent.futures
import os
import pathlib
import platform
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
OUT = ROOT / 'build/portable'
ZIG = OUT / 'venv/bin/python'
INCLUDE = pathlib.Path(os.environ.get('UNSHARD_INCLUDE', ROOT / 'include'))
SECONDS = 900  # of one command: a new target's libraries take a minute
WARNINGS = ['-Wall', '-Wextra', '-Wpedantic', '-Wconversion', '-Wsign-conversion', '-Wshadow', '-Wnon-virtual-dtor',
            '-Woverloaded-virtual', '-Wcast-align', '-Wundef', '-Wextra-semi', '-Wimplicit-fallthrough', '-Werror']
QEMU = shutil.which('qemu-aarch64')
NVCC = shutil.which('nvcc') or shutil.which('/usr/local/cuda/bin/nvcc')
X86 = platform.machine() == 'x86_64'

HEADERS, SIZES = 'tests/portable/headers.cpp', 'tests/portable/sizes.cpp'
TESTS = ['schedule', 'threads', 'property']


class Compiler:
    """`how` says how a program of its target runs: a prefix of its command; None where it can't here."""

    def __init__(self, name, command, *flags, how=(), links=True, short=False, said='here', warnings=WARNINGS):
        self.name, self.command, self.flags = name, [str(c) for c in command], list(flags)
        self.how, self.links, self.short, self.said, self.warnings = how, links, short, said, warnings

    def here(self):
        if shutil.which(self.command[0]) is None:
            return False
        return 'ziglang' not in self.command or (OUT / 'venv/complete').exists()


def zig(name, target, how, said, **rest):
    return Compiler(name, [ZIG, '-m', 'ziglang', 'c++', '-target', target], '-std=c++20', how=how, said=said, **rest)


COMPILERS = [
    Compiler('g++ 12, C++20', ['g++'], '-std=c++20', '-Wuseless-cast', short=True),
    Compiler('g++ 12, C++23', ['g++'], '-std=c++23', '-Wuseless-cast'),
    *[Compiler(f'clang {v}, C++20', [f'clang++-{v}'], '-std=c++20', short=v != 15) for v in (14, 15, 16, 19)],
    Compiler('clang 19, C++23', ['clang++-19'], '-std=c++23'),
    zig('clang 22, libc++, glibc, x86_64', 'x86_64-linux-gnu', () if X86 else None, 'here'),
    zig('clang 22, libc++, musl, x86_64', 'x86_64-linux-musl', () if X86 else None, 'here'),
    zig('clang 22, libc++, musl, i386', 'x86-linux-musl', () if X86 else None, 'here', short=True),
    zig('clang 22, libc++, musl, aarch64', 'aarch64-linux-musl', (QEMU,) if QEMU else None, 'in qemu'),
    zig('clang 22, libc++, macOS, aarch64', 'aarch64-macos', None, ''),
    zig('clang 22, libc++, Windows, x86_64', 'x86_64-windows-gnu', None, ''),
    Compiler('nvcc', [NVCC or 'nvcc', '-x', 'cu'], '-std=c++20', warnings=['-Werror', 'all-warnings'], links=False),
]


def run(*command, env=None):
    try:
        return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=SECONDS, cwd=ROOT, env=env)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, '', f'took over {SECONDS} s\n')


def cell(compiler, source, more=(), arguments=(), system=False, warns=True):
    """(what was done, the failed command's output or None)."""
    if not compiler.here():
        return 'not here', None
    program = OUT / ''.join(c if c.isalnum() else '_' for c in f'{compiler.name} {source} {system}')
    build = [*compiler.command, *compiler.flags, *(compiler.warnings if warns else ['-w']),
             '-isystem' if system else '-I', INCLUDE, '-Itests', *more]
    if compiler.links and not system:
        env = dict(os.environ, ZIG_GLOBAL_CACHE_DIR=str(OUT / 'zig'))
        built = run(*build, source, '-pthread', '-o', program, env=env)
        if built.returncode:
            return 'does not build', built.stdout + built.stderr
        if compiler.how is None:
            return 'linked', None
        ran = run(*compiler.how, program, *arguments, env=dict(os.environ, UNSHARD_CASES='300'))
        return (f'run {compiler.said}', None) if ran.returncode == 0 else ('fails', ran.stdout[-4000:] + ran.stderr[-4000:])
    # zig does not take -fsyntax-only.
    built = run(*build, *(['-c', '-o', f'{program}.o'] if 'ziglang' in compiler.command else ['-fsyntax-only']), source,
                env=dict(os.environ, ZIG_GLOBAL_CACHE_DIR=str(OUT / 'zig')))
    return ('does not compile', built.stdout + built.stderr) if built.returncode else ('compiled', None)


def columns(every):
    """Name of a column, and what makes its cell for a compiler; None: no cell."""
    yield 'all headers', lambda c: cell(c, HEADERS)
    yield 'as system headers', lambda c: cell(c, HEADERS, system=True)
    yield 'sizes', lambda c: cell(c, SIZES) if c.links else None
    if every:
        for test in TESTS:
            # The framework's own main in each: a library apart would need a build for each compiler.
            more = ['-O1', '-idirafter', OUT / 'doctest', '-DDOCTEST_CONFIG_IMPLEMENT_WITH_MAIN']
            yield test, lambda c, test=test, more=more: (
                cell(c, f'tests/{test}.cpp', more, warns=False) if c.links else None)


def main():
    every = '--all' in sys.argv[1:]
    OUT.mkdir(parents=True, exist_ok=True)
    if (header := pathlib.Path('/usr/include/doctest')).is_dir() and not (OUT / 'doctest/doctest').exists():
        shutil.copytree(header, OUT / 'doctest/doctest')
    compilers = [c for c in COMPILERS if every or c.short]
    names = [name for name, _ in columns(every)]
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get('JOBS', os.cpu_count()))) as pool:
        cells = {(c.name, name): pool.submit(make, c) for c in compilers for name, make in columns(every)}
    tried = good = 0
    rows = []
    for c in compilers:
        row = [c.name]
        for name in names:
            result = cells[c.name, name].result()
            said, wrong = result or ('-', None)
            row.append(said)
            if said in ('-', 'not here'):
                continue
            tried += 1
            good += wrong is None
            if wrong is not None:
                print(f'FAILED: {c.name}, {name}: {said}\n{wrong[:6000]}')
        rows.append(row)
    table = ''.join(f'| {" | ".join(row)} |\n' for row in [['', *names], ['---'] * (len(names) + 1), *rows])
    text = f'{good} of {tried} cells are right.\n\n{table}'
    (OUT / ('portability.md' if every else 'portability-short.md')).write_text(text)
    print(text)
    print(f'{good} passed, {tried - good} failed')
    sys.exit(77 if not tried else good < tried)


if __name__ == '__main__':
    main()
