#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""run_initialise_missing.py PROGRAM: the main job in small, with every layout; what it prints, draws and refuses."""
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

program = sys.argv[1]
failures = []
cases = 0


def run(*args, status=0):
    global cases
    cases += 1
    done = subprocess.run([program, *args], text=True, capture_output=True, timeout=200)
    if done.returncode != status:
        failures.append(f'{args}: exit status {done.returncode}, not {status}\n{done.stdout}{done.stderr}')
    return done.stdout + done.stderr


def check(good, what):
    global cases
    cases += 1
    if not good:
        failures.append(what)


with tempfile.TemporaryDirectory() as folder:
    svg = Path(folder) / 'memory.svg'
    for layout in 'zero3', 'fsdp2', 'ragged', 'experts':
        for on in 'root', 'all':
            out = run('--size', '16MiB', '--ranks', '3', '--layout', layout, '--on', on, '--svg', str(svg))
            check(len(re.findall(' agree$', out, re.M)) == 3, f'{layout} {on}: the bits of all three ways agree\n{out}')
            others = re.search(r'^chunks +\S+ \S+ +(0|\S+ \S+)  ', out, re.M)
            check(others and (others[1] == '0') == (on == 'root'), f'{layout} {on}: what the others hold\n{out}')
    picture = svg.read_text()
    xml.etree.ElementTree.fromstring(picture)
    check('prefers-color-scheme:dark' in picture, 'memory.svg follows the scheme')

    for model, ranks in ('gpt2', 1), ('bert-base-classifier', 5):
        out = run('--model', model, '--size', '4MiB', '--ranks', str(ranks), '--budget', '100KiB', '--svg', '')
        check(len(re.findall(' agree$', out, re.M)) == 3, f'{model}\n{out}')

    out = run('--plan-only')
    check('795 GiB' in out and '769' in out and '8.0 GiB' in out, f'--plan-only: the real sizes\n{out}')
    out = run('--budget', '1', '--size', '1MiB', status=2)
    check('budget' in out and 'experts' in out, f'a budget too small names budget and parameter\n{out}')
    out = run('--model', '/nowhere.tsv', status=2)
    check('/nowhere.tsv' in out, f'no such manifest\n{out}')
    bad = Path(folder) / 'bad.tsv'
    bad.write_text('a\tbfloat16\t3\t\t0\nb\tbfloat16\tthree\t\t0\n')
    out = run('--model', str(bad), status=2)
    check('line 2' in out and 'three' in out, f'a malformed line has its number\n{out}')
    for budget in '-5', '64Q', '', '1e9':
        out = run('--budget', budget, status=105)
        check('write bytes as' in out, f'--budget {budget!r} is refused\n{out}')
    for budget in '64M', '64mib', '1.5GiB':
        out = run('--size', '1MiB', '--ranks', '1', '--budget', budget, '--svg', '')
        check('\n1 rank, a budget of ' in out, f'--budget {budget}\n{out}')
    out = run('--svg', '/nowhere/memory.svg', status=105)
    check('/nowhere/memory.svg' in out and 'rank' not in out, f'a file that cannot be written: before the work\n{out}')
    out = run('--help')
    check('default: 8' in out and max(map(len, out.splitlines())) <= 80, f'--help: defaults, 80 columns\n{out}')
    out = run('--layout', 'none', status=105)
    check('layout' in out, f'an unknown layout\n{out}')

print(*failures, sep='\n')
print(f'{cases - len(failures)} passed, {len(failures)} failed')
sys.exit(len(failures) > 0)
