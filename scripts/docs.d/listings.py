#!/usr/bin/env python3
"""listings.py OUT PAGE...: compiles and runs every ```cpp listing of the pages, so that none of them drifts.

What a listing needs around it stands in comments that the reader of the page does not see:

    <!-- before          code in front of the next listing (includes, the head of main)
    <!-- after           code behind the listing before
    <!-- goes on -->     the next listing is appended to the one before: one program in several parts
    <!-- needs: mpi -->  skipped where that is not installed: mpi, nccl, cuda, regions of a kind this script knows
    <!-- fails -->       the program is expected to exit with a status other than 0
    <!-- output -->      the next ```text is what the program prints on stdout, compared line by line
    <!-- command: tool arguments -->  the next ```text is what this command prints; a line `...` stands for any lines.
                         Commands are those in the folder $TOOLS; skipped where it has no such

A program that did compile and run is not compiled again until its text or a header changes.
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
PARTS = re.compile(r'<!--(?P<comment>.*?)-->|^(?P<indent>[ ]*)```(?P<kind>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```',
                   re.S | re.M)


class Listing:
    def __init__(self, page, line, code):
        self.page, self.line, self.code = page, line, code
        self.output = None
        self.command = None
        self.needs = None
        self.fails = False

    def __str__(self):
        return f'{self.page}:{self.line}'


def listings_of(page):
    text = (ROOT / page).read_text()
    found, before, needs, fails, goes_on, output, command = [], '', None, False, False, False, None
    for part in PARTS.finditer(text):
        line = text.count('\n', 0, part.start()) + 1
        comment = (part['comment'] or '').strip()
        if comment.startswith('before'):
            before += comment[len('before'):].lstrip('\n') + '\n'
        elif comment.startswith('after'):
            found[-1].code += comment[len('after'):].lstrip('\n') + '\n'
        elif comment.startswith('needs:'):
            needs = comment[len('needs:'):].strip()
        elif comment == 'fails':
            fails = True
        elif comment == 'goes on':
            goes_on = True
        elif comment == 'output':
            output = True
        elif comment.startswith('command:'):
            command = comment[len('command:'):].split()
        elif part['kind'] == 'text' and command:
            found.append(Listing(page, line, ''))
            found[-1].command, found[-1].output, command = command, part['code'], None
        elif part['kind'] == 'text' and output:
            found[-1].output = part['code']
            output = False
        elif part['kind'] == 'cpp':
            placed = f'#line {line + 1} "{page}"\n{part["code"]}'
            if goes_on:
                found[-1].code += before + placed
            else:
                found.append(Listing(page, line, before + placed))
            listing = found[-1]
            listing.needs, listing.fails = needs or listing.needs, fails or listing.fails
            before, needs, fails, goes_on = '', None, False, False
    return found


def pkg_config(name):
    flags = subprocess.run(['pkg-config', '--cflags', '--libs', name], capture_output=True, text=True, check=False)
    return flags.stdout.split() if flags.returncode == 0 else None


def how_to(listing, source, program):
    """(compile command, run command), or None where something that it needs is not here."""
    run = [str(program)]
    if listing.needs is None:
        return ['g++', *FLAGS, f'-I{ROOT}/include', str(source), '-o', str(program)], run
    if listing.needs == 'mpi' and shutil.which('mpirun') and shutil.which('mpicxx'):
        launch = ['mpirun', '-n', '2', '--oversubscribe'] + (['--allow-run-as-root'] if os.geteuid() == 0 else [])
        return ['mpicxx', *FLAGS, f'-I{ROOT}/include', str(source), '-o', str(program)], launch + run
    if listing.needs == 'tool' and (flags := pkg_config('nlohmann_json')) is not None:
        return ['g++', *FLAGS, *flags, f'-I{ROOT}/include', f'-I{ROOT}', str(source), '-o', str(program)], run
    if listing.needs == 'torch':
        return None
    if listing.needs == 'doctest':
        return ['g++', *FLAGS, f'-I{ROOT}/include', '-DDOCTEST_CONFIG_IMPLEMENT_WITH_MAIN', str(source), '-o',
                str(program)], run
    if listing.needs in ('nccl', 'cuda') and pathlib.Path('/usr/local/cuda/include/cuda_runtime.h').exists():
        # No device here: that it compiles is all that can be said.
        compiler = shutil.which('nvcc') or '/usr/local/cuda/bin/nvcc'
        return [compiler, '-std=c++20', '-x', 'cu', f'-I{ROOT}/include', '-c', str(source), '-o', str(program) + '.o'], None
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
    source, program, mark = out / f'{name}.cpp', out / name, out / f'{name}.passed'
    commands = how_to(listing, source, program)
    if commands is None:
        return 'skipped', f'{listing}: needs {listing.needs}'
    if mark.exists():
        return 'passed', None
    source.write_text(listing.code)
    made = subprocess.run(commands[0], capture_output=True, text=True, cwd=ROOT, check=False)
    if made.returncode != 0:
        return 'failed', f'{listing}: does not compile\n{made.stderr[:3000]}'
    if commands[1] is not None:
        try:
            ran = subprocess.run(commands[1], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            return 'failed', f'{listing}: still runs after 60 s'
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
    salt = headers_digest() + ' '.join(FLAGS)
    counts = {'passed': 0, 'skipped': 0, 'failed': 0}
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get('JOBS', os.cpu_count() or 1))) as pool:
        for result, text in pool.map(lambda listing: check(listing, out, salt), listings):
            counts[result] += 1
            if text:
                print(f'{result}: {text}')
    print(f'listings: {len(listings)} in {len(sys.argv) - 2} pages, {counts["skipped"]} skipped')
    print(f'{counts["passed"]} passed, {counts["failed"]} failed')
    return 1 if counts['failed'] else 0


if __name__ == '__main__':
    sys.exit(main())
