#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""agreement.py UNSHARD_PLAN: the reader of the safetensors package and ours take and refuse the same files.

Files made by hand, and the good ones among them damaged at random. Skipped (77) where the package is absent.
"""
import json
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import safetensors
except ImportError:
    print('skipped: needs the Python package safetensors')
    sys.exit(77)

program = sys.argv[1]


def tensor(dtype, shape, begin, end):
    return {'dtype': dtype, 'shape': shape, 'data_offsets': [begin, end]}


def file_of(header, data, announced=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(',', ':')).encode()
    return struct.pack('<Q', len(text) if announced is None else announced) + text + bytes(data)


def one(dtype, shape, size):
    return file_of({'w': tensor(dtype, shape, 0, size)}, size)


cases = {f'{t} of {bits} bits': one(t, [8, 3], 3 * bits) for t, bits in [
    ('BOOL', 8), ('F4', 4), ('F6_E2M3', 6), ('F6_E3M2', 6), ('U8', 8), ('I8', 8), ('F8_E5M2', 8), ('F8_E4M3', 8),
    ('F8_E8M0', 8), ('F8_E4M3FNUZ', 8), ('F8_E5M2FNUZ', 8), ('I16', 16), ('U16', 16), ('F16', 16), ('BF16', 16),
    ('I32', 32), ('U32', 32), ('F32', 32), ('C64', 64), ('F64', 64), ('I64', 64), ('U64', 64), ('C128', 128),
    ('bfloat16', 16), ('F8_E4M3FN', 8), ('I4', 4)]}
w = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]'
cases |= {
    'rows of 12 bits': one('F4', [2, 3], 3), 'no whole bytes': one('F4', [3, 3], 4), 'no elements': one('F4', [0, 3], 0),
    '9 dimensions': one('F32', [1] * 9, 4), 'a scalar': one('F32', [], 4), 'large and empty': one('F32', [0, 2**64 - 1], 0),
    'overflow': one('F32', [2**63, 2, 0], 0), 'an extent of 2^64': one('F32', [0, 2**64], 0),
    'a fraction': one('F32', [1.0], 4), 'negative': one('F32', [-1], 4), 'an extent as text': one('F32', ['1'], 4),
    'too long': one('F32', [1], 8), 'data left over': file_of({'w': tensor('F32', [1], 0, 4)}, 5),
    'data cut': file_of({'w': tensor('F32', [1], 0, 4)}, 3), 'header cut': file_of({}, 0, 50), 'no header': b'123',
    'NUL then garbage': file_of(w + b'}}\0{"hidden": ]', 4), 'spaces behind': file_of(w + b'}} \n\t\r', 4),
    'garbage behind': file_of(w + b'}}x', 4), 'dtype twice': file_of(w + b',"dtype":"F32"}}', 4),
    'shape twice': file_of(w + b',"shape":[1]}}', 4), 'offsets twice': file_of(w + b',"data_offsets":[0,4]}}', 4),
    'unknown field': file_of(w + b',"x":[{"y":null}]}}', 4), 'unknown field twice': file_of(w + b',"x":1,"x":2}}', 4),
    '125 deep': file_of(w + b',"x":' + b'[' * 125 + b']' * 125 + b'}}', 4),
    '126 deep': file_of(w + b',"x":' + b'[' * 126 + b']' * 126 + b'}}', 4),
    'metadata of text': file_of(w + b'},"__metadata__":{"a":"b"}}', 4),
    'metadata null': file_of(w + b'},"__metadata__":null}', 4), 'metadata true': file_of(w + b'},"__metadata__":true}', 4),
    'metadata number': file_of(w + b'},"__metadata__":{"a":0}}', 4),
    'metadata nested': file_of(w + b'},"__metadata__":{"a":{"b":"c"}}}', 4),
    'metadata list': file_of(w + b'},"__metadata__":[]}', 4),
    'metadata twice': file_of(w + b'},"__metadata__":{},"__metadata__":{}}', 4),
    'empty inside another': file_of({'e': tensor('F32', [0], 2, 2), 'w': tensor('F32', [1], 0, 4)}, 4),
    'empty behind another': file_of({'e': tensor('F32', [0], 4, 4), 'w': tensor('F32', [1], 0, 4)}, 4),
    'overlap': file_of({'a': tensor('U8', [3], 0, 3), 'b': tensor('U8', [2], 2, 4)}, 4),
    'hole': file_of({'a': tensor('U8', [1], 0, 1), 'b': tensor('U8', [2], 2, 4)}, 4),
    'C1 in a name': file_of('{"w\x9b31mX":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.encode(), 4),
    'no UTF-8': file_of(b'{"\xff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
    'a lone surrogate': file_of(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
    'a list': file_of(b'[]', 0), 'no tensor': file_of(b'{"w":null}', 0), 'a byte-order mark': file_of(b'\xef\xbb\xbf' + w + b'}}', 4),
}
seed = random.randrange(2**32)
rng = random.Random(seed)
good = {name: data for name, data in cases.items() if name in ('rows of 12 bits', 'metadata of text', 'unknown field')}
for i in range(300):
    name, data = rng.choice(sorted(good.items()))
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(8, len(damaged))
        damaged[at] = rng.choice(b'0123456789[]{}",:. x\0\xff')
    cases[f'{name}, damaged ({seed}, {i})'] = bytes(damaged)

failures = []
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / 'case.safetensors'
    for name, data in cases.items():
        path.write_bytes(data)
        try:
            with safetensors.safe_open(path, 'np'):
                theirs = 'ok'
        except Exception as e:
            theirs = f'refused: {e}'
        done = subprocess.run([program, path, '--budget', '1MiB'], text=True, capture_output=True, timeout=60)
        # Both rest on what the format says and its package lets pass: '{' comes first, and no name comes twice.
        stricter = "does not begin with '{'" in done.stderr or 'is listed twice' in done.stderr
        ours = 'ok' if done.returncode == 0 or 'lists no tensor' in done.stderr else f'refused: {done.stderr}'
        if (theirs == 'ok') != (ours == 'ok') and not stricter:
            failures.append(f'{name}\n  {data[8:200]}\n  safetensors: {theirs}\n  unshard-plan: {ours}')

print(*failures, sep='\n')
print(f'{len(cases) - len(failures)} passed, {len(failures)} failed')
sys.exit(len(failures) > 0)
