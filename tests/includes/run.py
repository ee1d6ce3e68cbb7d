#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every public header alone, and all of them in two translation units that link and run.

With g++ and clang++, plain and with -fno-rtti -fvisibility=hidden, and with nvcc where it is there; each once more
behind the macros that other people's headers define (foreign_macros.hpp). Headers of an engine that this machine lacks
are named and left out. The last line is 'N passed, N failed'.
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

here = pathlib.Path(__file__).parent
root = here.parents[1]
out = root / 'build/includes'
out.mkdir(parents=True, exist_ok=True)
include = root / 'include'

CUDA = pathlib.Path('/usr/local/cuda/include')
WARNINGS = ['-Wall', '-Wextra', '-Wpedantic', '-Wconversion', '-Wsign-conversion', '-Wshadow', '-Werror']
NEED_NVCC = {'unshard/cuda/copy_boxes.hpp'}
NVCC = shutil.which('nvcc') or shutil.which('/usr/local/cuda/bin/nvcc')


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True)


def foreign_flags():
    """Where engines' headers lie: system folders, as their warnings are not ours to mend."""
    mpi = run('pkg-config', '--cflags-only-I', 'ompi-cxx').stdout.split() if shutil.which('pkg-config') else []
    folders = [flag[2:] for flag in mpi] + [CUDA, CUDA / 'cccl']
    return [word for folder in folders for word in ('-isystem', folder)]


FOREIGN = foreign_flags()
HEADERS = sorted(str(path.relative_to(include)) for path in include.rglob('*.hpp'))


def foreign(header):
    """The engines' headers that `header` includes itself."""
    return re.findall(r'^#include <((?!unshard/)[^>]*[./][^>]*)>', (include / header).read_text(), re.M)


def lacks(header):
    """The first of an engine's headers that `header` includes and this machine has not."""
    for name in foreign(header):
        probe = out / f'probe_{re.sub(r"[^a-z]", "_", header + name)}.cpp'
        probe.write_text(f'#include <{name}>\n')
        if run('g++', '-E', *FOREIGN, probe).returncode:
            return name
    return None


def alone(compiler, header):
    unit = out / f'{compiler.replace("+", "x")}_{header.replace("/", "_")}.cpp'
    unit.write_text(f'#include <{header}>\n')
    return run(compiler, '-std=c++20', '-fsyntax-only', *WARNINGS, f'-I{include}', *FOREIGN, unit)


def behind_macros(header):
    """As C++ with GNU extensions, which CMake asks for: `I` is a macro there. Engines' own headers come before."""
    unit = out / f'macros_{header.replace("/", "_")}.cpp'
    names = [*ENGINES_HEADERS, here / 'foreign_macros.hpp']
    unit.write_text(''.join(f'#include "{name}"\n' for name in names) + f'#include <{header}>\n')
    return run('g++', '-std=gnu++20', '-fsyntax-only', f'-I{include}', *FOREIGN, unit)


def two_units(name, compiler, *flags):
    """odr.cpp twice, as two parts of one program."""
    program = out / f'odr_{name}'
    parts = []
    for part in (1, 2):
        parts.append(f'{program}_{part}.o')
        built = run(*compiler, '-std=c++20', *flags, f'-DPART={part}', f'-I{include}', '-c', here / 'odr.cpp', '-o', parts[-1])
        if built.returncode:
            return built
    linked = run(compiler[0], *parts, '-o', program, '-pthread' if compiler[0] != NVCC else '-lpthread')
    return linked if linked.returncode else run(program)


LACKING = {header: lacks(header) for header in HEADERS}
ENGINES_HEADERS = sorted({name for header in HEADERS if not LACKING[header] and header not in NEED_NVCC
                          for name in foreign(header)})


def one_unit_sanitised():
    """sanitised.cpp twice, one part under the address sanitizer, the other not and first in the program."""
    parts = [out / 'sanitised_2.o', out / 'sanitised_1.o']
    for part, flags in ((2, ()), (1, ('-fsanitize=address',))):
        built = run('g++', '-std=c++20', *WARNINGS, *flags, f'-DPART={part}', f'-I{include}', '-c', here / 'sanitised.cpp', '-o',
                    out / f'sanitised_{part}.o')
        if built.returncode:
            return built
    linked = run('g++', *parts, '-fsanitize=address', '-o', out / 'sanitised', '-pthread')
    return linked if linked.returncode else run(out / 'sanitised')


def cases():
    for header in HEADERS:
        name = LACKING[header]
        if name:
            print(f'skipped: {header}, no <{name}> here')
        elif header not in NEED_NVCC:
            yield f'{header} alone, g++', alone, ('g++', header)
            yield f'{header} alone, clang++', alone, ('clang++', header)
            yield f'{header} behind other people\'s macros, g++', behind_macros, (header,)
    strict = (*WARNINGS, '-fno-rtti', '-fvisibility=hidden')
    for compiler in ('g++', 'clang++'):
        yield f'two units, {compiler}', two_units, (compiler, [compiler], *WARNINGS)
        yield f'two units, {compiler}, no RTTI, hidden', two_units, (f'{compiler}_strict', [compiler], *strict)
    yield 'two units, one of them under the address sanitizer, g++', one_unit_sanitised, ()
    if NVCC:
        yield 'two units, nvcc', two_units, ('nvcc', [NVCC, '-x', 'cu'], '-Werror', 'all-warnings')
    else:
        print('skipped: nvcc is not here')


failed = 0
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    running = [(what, pool.submit(do, *arguments)) for what, do, arguments in cases()]
    for what, future in running:
        result = future.result()
        if result.returncode:
            failed += 1
            print(f'FAILED: {what}\n{result.stdout}{result.stderr}')
print(f'{len(running) - failed} passed, {failed} failed')
sys.exit(failed > 0)
