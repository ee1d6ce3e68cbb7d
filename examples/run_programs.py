#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""run_programs.py OBSERVE SAVE_SAFETENSORS: what two examples do with odd arguments, full disks and a terminal."""
import os
import pty
import subprocess
import sys
import tempfile
from pathlib import Path

observe, save = (os.path.abspath(p) for p in sys.argv[1:3])
failures = []
cases = 0


def check(good, what):
    global cases
    cases += 1
    if not good:
        failures.append(what)


with tempfile.TemporaryDirectory() as folder:
    def run(*args):
        done = subprocess.run(args, cwd=folder, text=True, capture_output=True, timeout=100)
        return done.returncode, done.stdout, done.stderr

    status, out, _ = run(observe, 'here/below')
    check(status == 0 and 'here/below/trace.json: 4 ranks' in out, f'observe names its folder\n{out}')
    check({f.name for f in (Path(folder) / 'here/below').iterdir()} == {'trace.json', 'timeline.svg'}, 'its files')
    check(not (Path(folder) / 'trace.json').exists(), 'observe leaves nothing elsewhere')
    for wrong in '/proc/none', '/dev/null':
        status, out, err = run(observe, wrong)
        check(status == 1 and wrong in err and not out, f'observe {wrong}: an error before the work\n{out}{err}')
    status, out, _ = run(observe, '--help')
    check(status == 0 and 'usage' in out, 'observe --help')

    there, here = pty.openpty()  # a terminal that this end can read
    subprocess.run([observe], cwd=folder, stdout=subprocess.DEVNULL, stderr=here, timeout=100, check=True)
    os.close(here)
    shown = os.read(there, 10000).decode()
    check(shown.startswith('\reight tensors [') and '100 %' in shown, f'observe shows its bar on a terminal\n{shown!r}')
    check(shown.count('\n') == 1 and shown.endswith('\n'), f'in one line\n{shown!r}')
    check(max(len(update) for update in shown.split('\r')) < 80, f'within 80 columns\n{shown!r}')

    for path in '/dev/full', '/nowhere/model.safetensors':
        status, out, err = run(save, path)
        check(status == 1 and path in err, f'save_safetensors {path}: an error\n{out}{err}')
        check(out == '', f'save_safetensors {path}: nobody says that it is saved\n{out}')

print(*failures, sep='\n')
print(f'{cases - len(failures)} passed, {len(failures)} failed')
sys.exit(len(failures) > 0)
