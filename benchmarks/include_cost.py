#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""include_cost.py [--runs N] [--json FILE] [--cxx g++,clang++]: what including a header costs.

A file with one #include and nothing else is compiled by each compiler, -fsyntax-only and -O2 -c; user time, since others
may use the machine. The cases take turns; medians. The ratio is to nlohmann/json.hpp, the empty file's time being in
both; for a case beside `unshard.hpp`, whoever uses it includes that, too. What is not installed is left out.
"""

import argparse
import json
import os
import pathlib
import resource
import shlex
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
CASES = {
    'nothing': '',
    'nlohmann/json': '#include <nlohmann/json.hpp>',
    'toml++': '#include <toml++/toml.h>',
    'unshard.hpp': '#include <unshard/unshard.hpp>',
    'plan.hpp': '#include <unshard/plan.hpp>',
    'comm/threads': '#include <unshard/comm/threads.hpp>',
    'comm/mpi': '#include <unshard/comm/mpi.hpp>',
    'comm/nccl': '#include <unshard/comm/nccl.hpp>',
    'cuda/memory': '#include <unshard/cuda/memory.hpp>',
    'testing/mock': '#include <unshard/testing/mock.hpp>',
    'testing/conformance': '#include <unshard/testing/conformance.hpp>',
}
STEPS = {'syntax': ['-fsyntax-only'], 'object': ['-O2', '-c', '-o', os.devnull]}


def flags():
    """Where the headers of others are: MPI's by pkg-config, CUDA's in CUDA_INCLUDE."""
    found = subprocess.run(['pkg-config', '--cflags-only-I', 'ompi-cxx'], capture_output=True, text=True, check=False)
    mpi = [folder.removeprefix('-I') for folder in shlex.split(found.stdout)]
    folders = [*mpi, os.environ.get('CUDA_INCLUDE', '/usr/local/cuda/include')]
    return ['-std=c++20', '-DOMPI_SKIP_MPICXX', f'-I{ROOT}/include', *(f for d in folders for f in ('-isystem', d))]


def user_time(command):
    """Seconds, or None where it does not compile."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        return None
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def lines(command):
    """Lines after preprocessing that are not blank and no line marks."""
    done = subprocess.run([*command, '-E', '-P'], capture_output=True, text=True, check=False)
    return sum(bool(line.strip()) for line in done.stdout.splitlines())


def first_line(command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0]


def measure(compiler, runs, folder, steps):
    sources = {}
    for name, text in CASES.items():
        sources[name] = folder / (name.replace('/', '_') + '.cpp')
        sources[name].write_text(text + '\n')
    times = {(step, name): [] for step in steps for name in CASES}
    for _ in range(runs + 1):
        for step in steps:
            for name, source in sources.items():
                times[step, name].append(user_time([compiler, *flags(), *STEPS[step], source]))
    for step in steps:
        base = statistics.median(times[step, 'nlohmann/json'][1:])
        for name, source in sources.items():
            taken = times[step, name][1:]  # the first one warms the files up
            if None in taken:
                continue
            yield {
                'compiler': compiler,
                'version': first_line([compiler, '--version']),
                'step': step,
                'case': name,
                'ms': 1000 * statistics.median(taken),
                'least_ms': 1000 * min(taken),
                'ratio': statistics.median(taken) / base,
                'lines': lines([compiler, *flags(), source]),
                'runs': runs,
            }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--runs', type=int, default=7)
    parser.add_argument('--json')
    parser.add_argument('--cxx', default='g++,clang++')
    parser.add_argument('--steps', default=','.join(STEPS))
    args = parser.parse_args()
    load = os.getloadavg()[0]
    print(f'# cost of including: user time; load {load:.2f}')
    print('#compiler step   case                  time   least  /nlohmann   lines')
    print('#                                      (ms)    (ms)')
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for compiler in args.cxx.split(','):
            for r in measure(compiler, args.runs, pathlib.Path(folder), args.steps.split(',')):
                rows.append(r)
                print(
                    f'{r["compiler"]:<9} {r["step"]:<6} {r["case"]:<20} {r["ms"]:6.0f}  {r["least_ms"]:6.0f}'
                    f'  {r["ratio"]:9.3f}  {r["lines"]:6}',
                    flush=True,
                )
    if args.json:
        command = f'benchmarks/include_cost.py --runs {args.runs}'
        revision = os.environ.get('UNSHARD_REVISION', '')
        result = {'benchmark': 'include_cost', 'command': command, 'load': load, 'revision': revision, 'rows': rows}
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + '\n')


main()
