# SPDX-License-Identifier: Apache-2.0
"""The results that are kept, and how figures are written."""
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'benchmarks/results'
MiB = 1 << 20


def results(name, folder=RESULTS):
    file = folder / f'{name}.json'
    return json.loads(file.read_text()) if file.exists() else None


def rows(result, **wanted):
    return [r for r in result['rows'] if all(r.get(k) == v for k, v in wanted.items())]


def size(count):
    for unit, of in (('GiB', 1 << 30), ('MiB', MiB), ('KiB', 1 << 10)):
        if count >= of:
            return f'{count / of:.4g} {unit}'
    return f'{count} B'


def seconds(us):
    return f'{us / 1e6:.3g} s' if us >= 1e6 else f'{us / 1e3:.3g} ms' if us >= 1e3 else f'{us:.3g} µs'


def table(head, lines, align=None):
    align = align or ['---'] + ['--:'] * (len(head) - 1)
    return '\n'.join('| ' + ' | '.join(str(c) for c in line) + ' |' for line in [head, align, *lines]) + '\n'


ACCESSES = [f'{a} {o}' for o in ('root', 'everywhere') for a in ('read', 'read_write', 'overwrite')]


def layout_rows(result):
    """Rows of the part that goes over every layout, by {layout, ranks}, then by access and residency."""
    layouts = {}
    for r in result['rows']:
        kind = next((k for k in ACCESSES if r['what'].endswith(' ' + k)), None)
        if kind and ',' not in r['what']:
            layouts.setdefault((r['what'].removesuffix(' ' + kind), r['ranks']), {})[kind] = r
    return layouts


def mpi_results(ranks=(2, 4, 8), folder=RESULTS):
    found = [results(f'mpi-{library}-{n}', folder) for library in ('openmpi', 'mpich') for n in ranks]
    return [r for r in found if r]
