#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""listed.py NAME...: is every tests/*.cpp one of these? A test that no list of meson.build names would never run."""
import pathlib
import sys

left_out = sorted({path.stem for path in pathlib.Path(__file__).parent.glob('*.cpp')} - set(sys.argv[1:]))
for name in left_out:
    print(f'tests/{name}.cpp is in no list of tests/meson.build')
sys.exit(len(left_out) > 0)
