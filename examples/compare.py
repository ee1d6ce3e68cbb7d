#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""compare.py PROGRAM SOURCE: runs an example; what it prints must be the '// prints: ' lines of its source.

What it leaves behind must be readable, too: JSON, SVG, and the header of a safetensors file.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path


def check_trace(path):
    events = json.loads(path.read_text())['traceEvents']
    for rank in {e['pid'] for e in events}:
        names = {e['name'] for e in events if e['pid'] == rank and e['ph'] == 'X'}
        assert {'gather', 'caller', 'vote', 'write-back'} <= names, f'rank {rank} has spans {names}'
    assert all(e['dur'] >= 0 for e in events if e['ph'] == 'X')


def check_safetensors(path):
    data = path.read_bytes()
    length, = struct.unpack_from('<Q', data)
    header = json.loads(data[8:8 + length])
    end = 0
    for name, tensor in header.items():
        size = 4
        for extent in tensor['shape']:
            size *= extent
        assert tensor['data_offsets'] == [end, end + size], f'{name}: {tensor}'
        end += size
    assert len(data) == 8 + length + end and length % 8 == 0


readers = {'.json': check_trace, '.safetensors': check_safetensors, '.svg': xml.etree.ElementTree.parse}

program, source = sys.argv[1:]
mark = '// prints: '
expected = [line[len(mark):].rstrip('\n') for line in open(source) if line.startswith(mark)]
with tempfile.TemporaryDirectory() as folder:  # where it may leave files
    run = subprocess.run([os.path.abspath(program)], cwd=folder, text=True, stdout=subprocess.PIPE, timeout=120)
    for left in Path(folder).rglob('*.*'):
        readers[left.suffix](left)
found = run.stdout.splitlines()
if run.returncode != 0 or found != expected or not expected:
    sys.exit(f'exit status {run.returncode}; expected\n' + '\n'.join(expected) + '\nfound\n' + '\n'.join(found))
