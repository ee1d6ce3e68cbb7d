#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks.py OUT: writes the page of benchmarks, and its pictures beside it, from benchmarks/results/*.json.

A section whose results are not there says which command makes them. No figure is written by hand.
"""
import pathlib
import sys

from figures import RESULTS, beside, log_axes, page, plt, results, rows, seconds, size, table, where
from goals import goals
from moving import mpi, threads


def bars(to):
    """DeepSpeed, FSDP2 and unshard at the same work: time and peak."""
    run = next((r for r in (results('torch') or {'runs': []})['runs'] if 'moe' in r['command']), None)
    of = {r['case']: r for r in run['rows']} if run else {}
    names = {'deepspeed': 'DeepSpeed', 'fsdp2': 'FSDP2', 'unshard read_write': 'unshard'}
    if not all(case in of for case in names):
        return to.missing('The same work, three ways', 'examples/torch/bench_peers.py (examples/torch)')
    shown = [of[case] | {'peak_mib': max(of[case]['peak_mib_root'], of[case]['peak_mib_others'])} for case in names]
    figure, panels = plt.subplots(1, 2, figsize=(9, 2.2), sharey=True)
    for axes, key, unit in zip(panels, ('s_median', 'peak_mib'), ('s', 'MiB')):
        marks = axes.barh(list(names.values()), [r[key] for r in shown], color=['#808080', '#808080', '#0072b2'], height=.6)
        axes.bar_label(marks, [f'{r[key]:.3g} {unit}' for r in shown], padding=3, color='#808080')
        axes.invert_yaxis() if axes is panels[0] else None
        axes.set_xlim(0, 1.2 * max(r[key] for r in shown))
        axes.set_xlabel('seconds, median' if unit == 's' else 'MiB that the worst rank holds beside its shards')
    figure.tight_layout()
    first = shown[0]
    to.add('## The same work, three ways', f"A mixture-of-experts model of {first['mib']} MiB on {first['ranks']} ranks is gathered, changed "
           'and written back, over gloo on one machine of two cores without a GPU. FSDP2 works tensor by tensor; DeepSpeed and '
           'unshard work in chunks of 128 MiB.')
    to.picture(figure, 'bars', 'Seconds and peak memory of DeepSpeed, FSDP2 and unshard at the same work')
    ours = of['unshard read_write']
    to.add(table(['', 'median', 'fastest', 'runs', 'peak, root', 'peak, others', 'over the wire', 'time / unshard'],
                 [[name, f"{r['s_median']:.2f} s", f"{r['s_min']:.2f} s", r['runs'], f"{r['peak_mib_root']:.0f} MiB",
                   f"{r['peak_mib_others']:.0f} MiB", f"{r['loopback_mib']} MiB",
                   f"{r['s_median'] / ours['s_median']:.1f} (fastest: {r['s_min'] / ours['s_min']:.1f})"]
                  for name, r in zip(names.values(), shown)]),
           'Of the runs with torch only the fastest and the median are kept, so these two are the spread that can be shown.')
    to.add('### Repeat it', 'The first line needs PyTorch and DeepSpeed ([how](frameworks.md)), the others only a compiler and MPI:',
           '```sh\n' + f"python {run['command'].replace(' 4 moe', ' --json FILE 4 moe')}   # in examples/torch: this picture\n"
           'benchmarks/run                   # quick: under two minutes when built, ends with a verdict of ten lines\n'
           'benchmarks/run full --save       # all that follows: less than an hour, on a quiet machine and a clean tree\n```')


def planners(to):
    result, peers = results('plan'), results('plan_peers')
    if result is None:
        return to.missing('Planning', 'benchmarks/run full --save')
    to.add('## Planning', where(result), 'Warm, one thread, handles whose layout comes by reference. `qwen` repeats the '
           'shapes of Qwen3-30B-A3B, `mixed` is log-uniform from 4 KiB to 128 MiB, `tight` lies between 0.26 and 0.52 '
           'budgets, the hard case; in a budget of 256 MiB.')
    ways = sorted({r['way'] for r in result['rows']})
    lists = ('qwen', 'mixed', 'tight')
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True)
    for axes, name in zip(panels, lists):
        for way in ('in order', 'cut anywhere', 'best fit'):
            of = [r for r in rows(result, sizes=name, way=way, layout='any_layout')]
            axes.plot([r['handles'] for r in of], [r['time_us'] / 1e3 for r in of], marker='o', ms=3, label=way)
        for peer, style in (('torch bucket assignment', ':'), ('greedy in order, Python', ':'), ('binpacking', '--'),
                            ('prtpy first_fit_decreasing', '--')):
            of = [r for r in (peers or {'rows': []})['rows'] if r['sizes'] == name and r['planner'] == peer and 'time_us' in r]
            if of:
                axes.plot([r['handles'] for r in of], [r['time_us'] / 1e3 for r in of], style, lw=1, label=peer)
        log_axes(axes, f'parameters, {name}', 'ms' if name == 'qwen' else '')
        axes.set_yscale('log')
    beside(panels[-1], 7)
    figure.tight_layout()
    to.picture(figure, 'planners', 'Planning time over the number of parameters')
    big = [r for r in result['rows'] if r['handles'] == 1_000_000]
    to.add(table(['10^6 parameters', 'layout', 'way', 'time', 'ns each', 'a loop that asks for sizes only', 'chunks / bound'],
                 [[r['sizes'], f"`{r['layout']}`", r['way'], seconds(r['time_us']), f"{r['ns_each']:.0f}",
                   seconds(r['touch_us']), f"{r['over_bound']:.3f}"] for r in big],
                 ['---', '---', '---', '--:', '--:', '--:', '--:']))
    best = [r for r in result['rows'] if r['sizes'] not in lists and r['way'] in ('in order', 'best fit')]
    models = sorted({(r['sizes'], r['budget']) for r in best})
    by = {(r['sizes'], r['budget'], r['way'], r['layout']): r for r in best}
    to.add('### On real models', 'Chunks over the lower bound; `share` is the largest parameter over a chunk.',
           table(['model', 'parameters', 'budget', 'share', 'in order', 'best fit', 'best fit takes'],
                 [[name, by[name, budget, 'best fit', 'any_layout']['handles'], size(budget),
                   f"{by[name, budget, 'best fit', 'any_layout']['share']:.2f}"]
                  + [f"{by[name, budget, way, 'any_layout']['over_bound']:.3f}" for way in ('in order', 'best fit')]
                  + [seconds(by[name, budget, 'best fit', 'any_layout']['time_us'])]
                  for name, budget in models if (name, budget, 'best fit', 'any_layout') in by
                  and (name, budget, 'in order', 'any_layout') in by]))
    if peers:
        to.add('### What a user would reach for', f"`{peers['command']}`. Chunks over the lower bound, in brackets how many "
               'of them are over the budget; empty where it took over 10 s or was not tried.')
        counts = sorted({(r['sizes'], r['handles']) for r in peers['rows']}, key=lambda k: (k[1], k[0]))
        names = list(dict.fromkeys(r['planner'] for r in peers['rows']))

        def cell(r):
            if r is None or 'time_us' not in r:
                return ''
            over = f" ({r['over_budget']})" if r['over_budget'] else ''
            return f"{r['chunks'] / r['bound']:.2f}{over}, {seconds(r['time_us'])}"
        at = {(r['planner'], r['sizes'], r['handles']): r for r in peers['rows']}
        to.add(table(['planner'] + [f'{s}, {n:,}' for s, n in counts],
                     [[name] + [cell(at.get((name, s, n))) for s, n in counts] for name in names]))


def including(to):
    result = results('include_cost')
    if result is None:
        return to.missing('What including costs', 'benchmarks/run full --save')
    to.add('## What including costs', f"`{result['command']}` at `{result['revision']}`, load {result['load']:.2f} at the "
           'start; user time, alternating, medians; an object is `-O2 -c`.')
    kinds = list(dict.fromkeys((r['compiler'], r['step']) for r in result['rows']))
    cases = list(dict.fromkeys(r['case'] for r in result['rows']))
    at = {(r['compiler'], r['step'], r['case']): r for r in result['rows']}
    to.add(table(['', 'lines'] + [f'{c}, {s}' for c, s in kinds],
                 [[case, next(r['lines'] for r in result['rows'] if r['case'] == case)]
                  + [f"{at[c, s, case]['ms']:.0f} ms ({at[c, s, case]['ratio']:.2f})" if (c, s, case) in at else ''
                     for c, s in kinds] for case in cases]), 'In brackets: over nlohmann\'s `json.hpp`.')


def runs_of(run, ratio):
    of = {r['case']: r['runs'] for r in run['rows']}
    return ' and '.join(str(of[part]) if part in of else 'not kept here' for part in ratio.split(' / '))


def frameworks(to):
    result = results('torch')
    if result is None:
        return to.missing('Real frameworks', 'PYTHONPATH=... examples/torch/bench_peers.py (examples/torch)')
    to.add('## Real frameworks', f"PyTorch {result['torch']}, DeepSpeed {result['deepspeed']}, transformers "
           f"{result['transformers']} on {result['cores']} cores ({result['machine']}), over gloo and the loopback device; "
           '[how](frameworks.md). Rows named `gloo …` are the same data movement with gloo alone. Peaks are rises of the process\'s resident set. '
           'In the last two ratios the transports differ: DeepSpeed\'s bytes went over gloo, ours over Open MPI\'s shared '
           'memory; that is what leaving gloo gives on one host.')
    for run in result['runs']:
        to.add(f"### `{run['command']}`",
               table(['', 'ranks', 'runs', 'fastest', 'median', 'peak, root', 'peak, others', 'loopback'],
                     [[r['case'], r['ranks'], r['runs'], f"{r['s_min']:.3g} s", f"{r['s_median']:.3g} s",
                       f"{r['peak_mib_root']:.0f} MiB", f"{r['peak_mib_others']:.0f} MiB", f"{r['loopback_mib']} MiB"]
                      for r in run['rows']]),
               table(['ratio', 'of medians', 'of the fastest', 'runs of each'],
                     [[name, f'{median:.3g}', f'{least:.3g}', runs_of(run, name)] for name, (median, least) in run['ratios'].items()]))


def devices(to):
    figures = RESULTS / 'gpu.txt'  # build/gpu/figures.txt, as tests/gpu/run left it
    if figures.exists():
        return to.add('## Devices', f'```text\n{figures.read_text()}\n```')
    to.add('## Devices', 'Nothing was run on a GPU: none was at hand. What stands in for one in the tests is a test double '
           '(`scripts/check 50-cuda`), and has no figures. Where there is a GPU, `tests/gpu/run` writes them to '
           '`build/gpu/figures.txt`; as `benchmarks/results/gpu.txt` they appear here.')


def main(out):
    to = page(pathlib.Path(out))
    to.add('# Benchmarks')
    bars(to)
    to.add('## How to read the rest', 'All of it is made from `benchmarks/results/*.json`. Columns are those of nccl-tests: `algbw` is '
           'the bytes of the values divided by the time, in decimal GB, `busbw` is that times (n-1)/n, and `#wrong` bytes fail a '
           'run. `cv` is the spread of our runs (standard deviation over mean), and `runs` is how many runs of each side a '
           'ratio rests on; both sides alternate in one process. The spread of the other side is not kept. Seconds are '
           'those of one small machine, so read ratios.')
    threads(to)
    mpi(to)
    planners(to)
    including(to)
    frameworks(to)
    devices(to)
    to.add('## The goals', table(['', 'goal', 'found', 'met', ''], goals(), ['---'] * 5))
    to.write()


if __name__ == '__main__':
    main(sys.argv[1])
