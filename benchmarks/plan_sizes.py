#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""plan_sizes.py FOLDER [N]: the parameter lists that planners are measured on, as FOLDER/NAME.sizes.

A line a parameter: its elements and the bytes of one. N parameters (10^6) of each model of sizes; a shorter list is the
beginning of a longer one. `qwen` repeats the shapes of Qwen3-30B-A3B's layers (128 experts, bf16); `mixed` is
log-uniform from 4 KiB to 128 MiB; `tight` is uniform between 0.26 and 0.52 of 256 MiB, the hard case for plans in order.
Then the real models of examples/manifests and tests/manifests, all of each, tied parameters once.
"""

import gzip
import math
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
MIB = 2**20
BUDGET = 256 * MIB
BYTES = {'bfloat16': 2, 'float16': 2, 'float32': 4, 'float8_e4m3fn': 1, 'float8_e8m0fnu': 1, 'int64': 8}


def qwen(n):
    layer = [2048 * 4096, 2048 * 512, 2048 * 512, 4096 * 2048, 128, 128, 2048, 2048, 128 * 2048] + [768 * 2048] * 384
    embeddings = [151936 * 2048 // 4] * 4  # cut by 4: the budget holds them
    return [(size, 2) for size in (embeddings + layer * (n // len(layer) + 1))[:n]]


def mixed(n):
    dice = random.Random(7)
    return [(2048 * max(1, round(2 ** dice.uniform(0, 15))), 2) for _ in range(n)]


def tight(n):
    dice = random.Random(7)
    return [(2048 * round(dice.uniform(0.26, 0.52) * BUDGET / 4096), 2) for _ in range(n)]


MODELS = {'qwen': qwen, 'mixed': mixed, 'tight': tight}


def manifests():
    """{model: [(elements, bytes of one)]}"""
    found = {}
    for path in sorted(ROOT.glob('examples/manifests/*.tsv')) + sorted(ROOT.glob('tests/manifests/*.tsv*')):
        with (gzip.open if path.suffix == '.gz' else open)(path, 'rt', encoding='utf-8') as text:
            fields = [line.rstrip('\n').split('\t') for line in text if not line.startswith('#')]
        found[path.name.split('.tsv')[0]] = [
            (math.prod(int(extent) for extent in shape.split('x') if extent), BYTES[dtype])
            for _, dtype, shape, tied_to, _ in fields
            if not tied_to
        ]
    return found


def main():
    folder = pathlib.Path(sys.argv[1])
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 10**6
    folder.mkdir(parents=True, exist_ok=True)
    for name, sizes in {**{name: model(n) for name, model in MODELS.items()}, **manifests()}.items():
        (folder / f'{name}.sizes').write_text(''.join(f'{elements} {size}\n' for elements, size in sizes))


if __name__ == '__main__':
    main()
