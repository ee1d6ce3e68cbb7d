#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""run.py COMPILER...: code that must not compile, and the error it must give.

Each case, tests/compile_fail/*.cpp, starts with `// expect-error: <regex>`, and may go on with
`// expect-error-g++: <regex>` or `// expect-error-clang: <regex>`, which come first for that compiler. It is built
twice: as it stands it must compile; with -DSHOULD_FAIL it must not, and a message must match the regex. Carets and
echoed source lines are off, so that the regex can't match the case's own text. The last line is
'N passed, N failed'.
"""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

here = pathlib.Path(__file__).parent
root = here.parents[1]
compiler = sys.argv[1:] or ['g++']
ENV = {**os.environ, 'LC_ALL': 'C'}  # plain quotes in g++'s messages


def kind():
    text = subprocess.run([*compiler, '--version'], capture_output=True, text=True, check=True).stdout
    return 'clang' if 'clang' in text else 'g++'


KIND = kind()
QUIET = '-fno-caret-diagnostics' if KIND == 'clang' else '-fno-diagnostics-show-caret'


def build(case, *flags):
    command = [*compiler, '-std=c++20', '-fsyntax-only', QUIET, f'-I{root}/include', f'-I{root}/tests', *flags, case]
    return subprocess.run(command, capture_output=True, text=True, env=ENV)


def problem(case):
    """What is wrong with this case, or None."""
    head = case.read_text().split('\n#', 1)[0]
    expected = re.search(rf'^// expect-error-{re.escape(KIND)}: (.+)$', head, re.M)
    expected = expected or re.search(r'^// expect-error: (.+)$', head, re.M)
    if not expected:
        return 'has no line `// expect-error: <regex>`'
    clean = build(case)
    if clean.returncode:
        return f'does not compile without SHOULD_FAIL:\n{clean.stderr}'
    broken = build(case, '-DSHOULD_FAIL')
    if not broken.returncode:
        return 'compiles with SHOULD_FAIL'
    if not re.search(expected[1], broken.stderr):
        return f'fails, but no message matches {expected[1]!r}:\n{broken.stderr}'
    return None


cases = sorted(here.glob('*.cpp'))
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    problems = list(pool.map(problem, cases))
for case, text in zip(cases, problems):
    print(f'{case.name}: {text}' if text else f'{case.name}: ok')
failed = len(cases) - problems.count(None)
print(f'{problems.count(None)} passed, {failed} failed')
sys.exit(failed > 0)
