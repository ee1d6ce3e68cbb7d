#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""listings.py OUT PAGE...: compiles and runs every listing of the pages exactly as a reader copies it.

A ```cpp block is a whole program (or, where it has no main, a whole translation unit); nothing is put around it. A
```python block is a whole script, run with torchrun on four ranks. Comments that the site does not show say more:

    <!-- needs: mpi -->  skipped where that is not installed: mpi, nccl, doctest
    <!-- fails -->       the program is expected to exit with a status other than 0
    <!-- output -->      the next ```text is what the program prints on stdout, compared line by line; also
                         <!-- prints: FILE --> behind <!-- listing: FILE -->, which examples/check_readme.py compares
    <!-- command: tool arguments -->  the next ```text is what this command prints; a line `...` stands for any lines.
                         Commands are those in the folder $TOOLS; skipped where it has no such

Scripts in Python run where $TORCH_PYTHON is an interpreter that has torch and the plug-in; $ONLY=python leaves all
other listings to another run. A program that did run is not compiled again until its text or a header changes.
"""
import concurrent.futures
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = ['-std=c++20', '-O0', '-Wall', '-Wextra', '-Werror', '-pthread']
CUDA = pathlib.Path(os.environ.get('CUDA_INCLUDE', '/usr/local/cuda/include'))
STACK_KIB = 512  # a thread's stack, where a listing must run as well as with the usual 8 MiB
PARTS = re.compile(r'<!--(?P<comment>.*?)-->|^(?P<indent>[ ]*)```(?P<kind>[\w+]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```',
                   re.S | re.M)


class Listing:
    def __init__(self, page, line, kind, code):
        self.page, self.line, self.kind, self.code = page, line, kind, code
        self.file = None  # whose code it is, where a page shows a file
        self.output = None
        self.command = None
        self.needs = None
        self.fails = False

    def __str__(self):
        return f'{self.page}:{self.line}'


def listings_of(page):
    text = (ROOT / page).read_text()
    found, needs, fails, output, command, file = [], None, False, False, None, None
    for part in PARTS.finditer(text):
        line = text.count('\n', 0, part.start()) + 1
        comment = (part['comment'] or '').strip()
        if comment.startswith('needs:'):
            needs = comment[len('needs:'):].strip()
        elif comment == 'fails':
            fails = True
        elif comment.startswith('listing:'):
            file = comment[len('listing:'):].strip()
        elif comment == 'output' or found and comment == f'prints: {found[-1].file}':
            output = True
        elif comment.startswith('command:'):
            command = comment[len('command:'):].split()
        elif part['kind'] == 'text' and command:
            found.append(Listing(page, line, 'command', ''))
            found[-1].command, found[-1].output, command = command, part['code'], None
        elif part['kind'] == 'text' and output:
            found[-1].output, output = part['code'], False
        elif part['kind'] in ('cpp', 'c++', 'python'):
            found.append(Listing(page, line, 'python' if part['kind'] == 'python' else 'cpp', part['code']))
            found[-1].needs, found[-1].fails, needs, fails = needs, fails, None, False
            found[-1].file, file = file, None
    return found


def how_to(listing, source, program):
    """(compile command or None, run command or None), or None where something that it needs is not here."""
    include = [f'-I{ROOT}/include']
    if listing.kind == 'python':
        python = os.environ.get('TORCH_PYTHON')
        launch = ['-W', 'ignore', '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '4', str(source)]
        return (None, [python, *launch]) if python else None
    if listing.needs is None:
        return ['g++', *FLAGS, *include, str(source), '-o', str(program)], [str(program)]
    if listing.needs == 'mpi' and shutil.which('mpirun') and shutil.which('mpicxx'):
        launch = ['mpirun', '-n', '2', '--oversubscribe'] + (['--allow-run-as-root'] if os.geteuid() == 0 else [])
        # Open MPI's C++ bindings, which mpi.h brings, do not compile without warnings.
        return ['mpicxx', *FLAGS, '-DOMPI_SKIP_MPICXX', *include, str(source), '-o', str(program)], [*launch, str(program)]
    if listing.needs == 'doctest':
        main = '-DDOCTEST_CONFIG_IMPLEMENT_WITH_MAIN'
        return ['g++', *FLAGS, *include, main, str(source), '-o', str(program)], [str(program)]
    if listing.needs == 'nccl' and (CUDA / 'cuda_runtime_api.h').exists() and (CUDA / 'nccl.h').exists():
        # No device here: that it compiles is all that can be said.
        return ['g++', *FLAGS, *include, '-isystem', str(CUDA), '-c', str(source), '-o', f'{program}.o'], None
    return None


def headers_digest():
    digest = hashlib.sha256()
    for header in sorted((ROOT / 'include').rglob('*.hpp')):
        digest.update(header.read_bytes())
    return digest.hexdigest()


def matches(shown, said):
    """Line by line; a line of `...` alone is any number of lines."""
    if not shown:
        return not said
    if shown[0].strip() == '...':
        return any(matches(shown[1:], said[i:]) for i in range(len(said) + 1))
    return bool(said) and shown[0] == said[0] and matches(shown[1:], said[1:])


def lines_of(text):
    return [line.rstrip() for line in (text or '').strip('\n').split('\n')]


def check_command(listing):
    tool = pathlib.Path(os.environ.get('TOOLS', '/nowhere')) / listing.command[0]
    if not tool.exists():
        return 'skipped', f'{listing}: no {listing.command[0]} in $TOOLS'
    ran = subprocess.run([str(tool), *listing.command[1:]], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    shown = [line for line in lines_of(listing.output) if not line.startswith('$ ')]
    if not matches(shown, lines_of(ran.stdout + ran.stderr)):
        return 'failed', f'{listing}: {" ".join(listing.command)} prints\n{ran.stdout}{ran.stderr}'
    return 'passed', None


def check(listing, out, salt):
    """('passed' | 'skipped' | 'failed', what to say)."""
    if listing.command:
        return check_command(listing)
    name = hashlib.sha256((listing.code + str(listing.output) + str(listing.needs) + salt).encode()).hexdigest()[:16]
    source = out / (name + ('.py' if listing.kind == 'python' else '.cpp'))
    program, mark = out / name, out / f'{name}.passed'
    commands = how_to(listing, source, program)
    if commands is None:
        return 'skipped', f'{listing}: needs {listing.needs or listing.kind}'
    if mark.exists():
        return 'passed', None
    source.write_text(listing.code)
    compiled, run = commands
    if compiled:
        made = subprocess.run(compiled, capture_output=True, text=True, cwd=ROOT, check=False)
        if made.returncode != 0:
            return 'failed', f'{listing}: does not compile\n{made.stderr[:3000]}'
    if run:
        limited = ['bash', '-c', f'ulimit -s {STACK_KIB}; exec "$@"', 'bash', *run] if listing.kind == 'cpp' else run
        try:
            ran = subprocess.run(limited, capture_output=True, text=True, cwd=out, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            return 'failed', f'{listing}: still runs after 120 s'
        if (ran.returncode != 0) != listing.fails:
            return 'failed', f'{listing}: exits with {ran.returncode}\n{ran.stdout[-1500:]}{ran.stderr[-1500:]}'
        if listing.output is not None and lines_of(ran.stdout) != lines_of(listing.output):
            return 'failed', f'{listing}: prints\n{ran.stdout}\nthe page says\n{listing.output}'
    mark.touch()
    return 'passed', None


def main():
    out = pathlib.Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    listings = [listing for page in sys.argv[2:] for listing in listings_of(page)]
    if only := os.environ.get('ONLY'):
        listings = [listing for listing in listings if listing.kind == only]
    salt = headers_digest() + ' '.join(FLAGS)
    counts = {'passed': 0, 'skipped': 0, 'failed': 0}
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get('JOBS', os.cpu_count() or 1))) as pool:
        for result, text in pool.map(lambda listing: check(listing, out, salt), listings):
            counts[result] += 1
            if text:
                print(f'{result}: {text}')
    here = len(listings) - counts['skipped']
    print(f'listings: {counts["passed"]} of {here} run as copied, of {len(listings)} in {len(sys.argv) - 2} pages')
    print(f'{counts["passed"]} passed, {counts["failed"]} failed')
    return 1 if counts['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
