#!/usr/bin/env python3
"""compare.py PROGRAM SOURCE: runs an example; what it prints must be the '// prints: ' lines of its source."""
import os
import subprocess
import sys
import tempfile

program, source = sys.argv[1:]
mark = '// prints: '
expected = [line[len(mark):].rstrip('\n') for line in open(source) if line.startswith(mark)]
with tempfile.TemporaryDirectory() as folder:  # where it may leave files
    run = subprocess.run([os.path.abspath(program)], cwd=folder, text=True, stdout=subprocess.PIPE, timeout=120)
found = run.stdout.splitlines()
if run.returncode != 0 or found != expected or not expected:
    sys.exit(f'exit status {run.returncode}; expected\n' + '\n'.join(expected) + '\nfound\n' + '\n'.join(found))
