# SPDX-License-Identifier: Apache-2.0
"""What the pages of benchmarks and of scaling share: the results, tables, pictures."""
import json
import pathlib

import matplotlib

matplotlib.use('svg')
import matplotlib.pyplot as plt  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'benchmarks/results'
MiB = 1 << 20
# Okabe and Ito's colours, which colour-blind readers can tell apart, as far as they show on white and on black.
COLOURS = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9']
plt.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'unshard', 'font.family': 'sans-serif', 'font.size': 10,
                     'savefig.transparent': True, 'axes.spines.top': False, 'axes.spines.right': False,
                     'axes.prop_cycle': plt.cycler(color=COLOURS), 'legend.frameon': False,
                     **{name: '#808080' for name in ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color',
                                                     'ytick.color', 'axes.titlecolor')}})


def results(name):
    file = RESULTS / f'{name}.json'
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


def where(result):
    at = f"{result['cores']} cores ({result['machine']}), load {result['load']:.2f} at the start, {result['compiler']}"
    if result.get('library'):
        at += f", {result['library']}"
    return f"`{result['command']}` at `{result['revision']}`: {at}.\n"


class page:
    def __init__(self, out):
        self.out = out
        self.text = []

    def add(self, *paragraphs):
        self.text += [p.rstrip('\n') + '\n' for p in paragraphs]

    def missing(self, title, command):
        self.add(f'## {title}', f'No results are kept. `{command}` makes them.')

    def picture(self, figure, name, says):
        figure.savefig(self.out.parent / f'{self.out.stem}-{name}.svg', bbox_inches='tight', metadata={'Date': None})
        plt.close(figure)
        self.add(f'![{says}]({self.out.stem}-{name}.svg)')

    def write(self):
        self.out.write_text('\n'.join(self.text))


def log_axes(axes, x, y):
    axes.set_xscale('log')
    axes.set_xlabel(x)
    axes.set_ylabel(y)


ACCESSES = [f'{a} {o}' for o in ('root', 'everywhere') for a in ('read', 'read_write', 'overwrite')]


def layout_rows(result):
    """Rows of the part that goes over every layout, by {layout, ranks}, then by access and residency."""
    layouts = {}
    for r in result['rows']:
        kind = next((k for k in ACCESSES if r['what'].endswith(' ' + k)), None)
        if kind and ',' not in r['what']:
            layouts.setdefault((r['what'].removesuffix(' ' + kind), r['ranks']), {})[kind] = r
    return layouts


def mpi_results(ranks=(2, 4, 8)):
    found = [results(f'mpi-{library}-{n}') for library in ('openmpi', 'mpich') for n in ranks]
    return [r for r in found if r]
