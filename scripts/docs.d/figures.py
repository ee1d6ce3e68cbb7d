# SPDX-License-Identifier: Apache-2.0
"""What the pages of benchmarks and of scaling share: pages and pictures."""
import pathlib

import matplotlib

from kept import ROOT, RESULTS, MiB, results, rows, seconds, size, table  # noqa: F401
from kept import ACCESSES, layout_rows, mpi_results  # noqa: F401

matplotlib.use('svg')
import matplotlib.pyplot as plt  # noqa: E402

# Okabe and Ito's colours, which colour-blind readers can tell apart, as far as they show on white and on black.
COLOURS = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9']
plt.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'unshard', 'font.family': 'sans-serif', 'font.size': 10,
                     'savefig.transparent': True, 'axes.spines.top': False, 'axes.spines.right': False,
                     'axes.prop_cycle': plt.cycler(color=COLOURS), 'legend.frameon': False,
                     **{name: '#808080' for name in ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color',
                                                     'ytick.color', 'axes.titlecolor')}})


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


def beside(axes, size=8):
    """The legend to the right of the last panel, where it hides no curve."""
    axes.legend(fontsize=size, loc='upper left', bbox_to_anchor=(1, 1), handlelength=2.6)
