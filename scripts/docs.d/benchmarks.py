#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks.py OUT: writes the page of benchmarks, and its pictures beside it, from benchmarks/results/*.json.

A section whose results are not there says which command makes them. No figure is written by hand.
"""
import pathlib
import sys

from figures import ACCESSES, RESULTS, MiB, layout_rows, log_axes, mpi_results, page, plt, results, rows, seconds, size, table, where
from moving import mpi, threads


def missed(name, run):
    """Why a goal over torch was missed, in words and with the run's own figures."""
    if name == 'deepspeed / unshard overwrite':
        return 'what is left is spread out: packing, the fill, socket copies, the tensors of the pieces'
    floor, most = run['ratios'].get('today / floor'), run['ratios'].get('today / floor: initialisers')
    if name == 'today / unshard' and floor and most:
        return (f'the floor, the same initialisers and a bare gloo scatter, comes to {floor[0]:.3g} itself; its initialisers alone, one '
                f'generator on one thread in one order, so that the bits are equal, to {most[0]:.3g}')
    return ''


def goal(lines, what, wanted, found, met, note=''):
    lines.append([what, wanted, found, 'yes' if met else '**no**', note])


def goals(to):
    lines = []
    moved = [(r['ratio'], result['library'].split(',')[0], r) for result in mpi_results((2, 4)) for r in result['rows']
             if r['what'] in ACCESSES]
    if moved:
        worst, library, r = max(moved, key=lambda m: m[0])
        over = sum(m[0] > 1.05 for m in moved)
        goal(lines, 'MPI, 2 and 4 ranks, 128 MiB chunks, each access and residency: time / best bare MPI', '≤ 1.05',
             f'{min(m[0] for m in moved):.2f} to {worst:.2f}', over == 0,
             f"{over} of {len(moved)} rows over; worst: {r['what']}, {r['ranks']} ranks, {library}. Where no byte "
             "moves between ranks the floor's never meet; ours meet in the vote of every chunk" if over else '')
    gather = results('gather')
    if gather:
        of = [(r['ratio'], name, kind, r) for (name, _), by in layout_rows(gather).items() for kind, r in by.items()]
        if of:
            worst, name, kind, r = max(of, key=lambda m: m[0])
            over = sum(m[0] > 1.03 for m in of)
            goal(lines, 'threads, 128 MiB chunks, each layout, access and residency: time / the same copies', '≤ 1.03',
                 f'{min(m[0] for m in of):.2f} to {worst:.2f}', over == 0,
                 f"{over} of {len(of)} rows over; worst: {name} {kind}, {r['ranks']} ranks. Which row is over differs from "
                 "run to run: one core fills the memory's bandwidth at one moment, and not at another" if over else '')
        of = [r for r in gather['rows'] if r['what'].startswith('20,000 small')]
        of += [r for result in mpi_results() for r in result['rows'] if r['what'].startswith('20,000 small')]
        if of:
            met = all(1 / r['ratio'] >= .5 for r in of)
            goal(lines, '20,000 small parameters: rate over the same bytes in 208 large ones, threads and MPI', '≥ 0.5',
                 f'{min(1 / r["ratio"] for r in of):.2f} to {max(1 / r["ratio"] for r in of):.2f}',
                 met,
                 'the slowest: threads, 8 ranks, whose runs are of 0.5 to 8 KiB. By `perf`, the root makes lists of 320,000 such runs '
                 'for a seventh of the time, in which the other core has nothing to carry; the rest are the copies' if not met else '')
        of = rows(gather, what='in_flight 2 / 1, read root', ranks=2)
        if of:
            goal(lines, 'threads, 2 ranks, `read` on a root whose body computes: in_flight 2 / 1', '≤ 0.65',
                 f"{of[0]['ratio']:.2f}", of[0]['ratio'] <= .65,
                 'depends on the machine: two cores that copy twice as fast as one can\'t be under 0.75; one core that fills '
                 'more than half of the memory\'s bandwidth can. Quiet runs here gave 0.61 to 0.73')
    every = [r for result in [gather] + mpi_results() if result for r in result['rows']]
    if every:
        most = max(r['peak'] / r['budget'] for r in every)
        goal(lines, f'peak / budget by the allocator, {len(every)} rows', '≤ 1.00', f'{most:.3f}', most <= 1)
    process = [r['process_peak'] / r['budget'] for result in mpi_results() for r in result['rows']
               if 'process_peak' in r and r['budget'] == 128 * MiB]
    if process:
        goal(lines, 'peak / budget by the process, MPI, 128 MiB chunks', '≤ 1.10', f'{max(process):.3f}', max(process) <= 1.1)
    plan = results('plan')
    if plan:
        for way, most in (('in order', 20), ('cut anywhere', 20), ('best fit', 350)):
            of = rows(plan, way=way, handles=1_000_000)
            if of:
                ms = max(r['time_us'] for r in of) / 1e3
                goal(lines, f'planning 10^6 handles, {way}, worst of {len(of)} rows', f'≤ {most} ms', f'{ms:.3g} ms', ms <= most)
        of = rows(plan, way='cut anywhere')
        if of:
            worst = max(r['over_bound'] for r in of)
            goal(lines, f'cut anywhere: chunks / lower bound, worst of {len(of)} rows', '= 1', f'{worst:.4g}', worst == 1)
        of = [r for r in rows(plan, way='best fit') if r['share'] <= .1 and r['sizes'] != 'tight']
        if of:
            worst = max(r['over_bound'] for r in of)
            goal(lines, f'best fit, nothing over a tenth of a chunk: chunks / lower bound, worst of {len(of)} rows', '≤ 1.01',
                 f'{worst:.4g}', worst <= 1.01)
    simulated = results('simulate')
    of = [r for r in (simulated or {}).get('predicted', []) if r['chunk'] == 128 * MiB and not r['what'].startswith('20,000')]
    if of:
        off = [abs(r['off']) for r in of]
        goal(lines, 'simulation against measured, 128 MiB chunks', 'within 15 %', f'{100 * max(off):.0f} % at worst, '
             f'{sum(o <= .15 for o in off)} of {len(off)} rows within', max(off) <= .15, 'see the page on scaling')
    cost = results('include_cost')
    if cost:
        of = [r['ratio'] for r in cost['rows'] if r['case'] == 'unshard.hpp' or r['case'] == 'unshard/unshard.hpp']
        if of:
            goal(lines, "including `unshard/unshard.hpp` / nlohmann's `json.hpp`, both compilers", '≤ 0.45',
                 f'{min(of):.2f} to {max(of):.2f}', max(of) <= .45,
                 'two thirds of what is left are the standard headers that any user of `std::vector`, `std::string`, '
                 '`std::span` and atomics has; nothing of ours is instantiated before it is used (base/later.hpp)')
    torch = results('torch')
    for run in (torch or {'runs': []})['runs']:
        small = 'small' in run['command']
        wanted = {'unshard overwrite / gloo overwrite': ('≤', 1.10), 'unshard / floor': ('≤', 1.2), 'today / unshard': ('≥', 3),
                  'deepspeed / unshard overwrite': ('≥', 100 if small else 6),
                  'deepspeed over gloo / unshard overwrite over MPI': ('≥', 12),
                  'deepspeed over gloo / unshard read_write over MPI': ('≥', 7)}
        if not small:
            wanted['deepspeed / unshard read_write'] = ('≥', 1.5)
        for name, (sign, than) in wanted.items():
            if name in run['ratios']:
                found = run['ratios'][name][0]
                goal(lines, f"PyTorch, `{run['command']}`: {name}", f'{sign} {than}', f'{found:.3g}',
                     found <= than if sign == '≤' else found >= than, missed(name, run) if sign == '≥' and found < than else '')
    if not lines:
        return to.missing('The goals', 'benchmarks/run full --save')
    to.add('## The goals', table(['', 'goal', 'found', 'met', ''], lines, ['---', '---', '---', '---', '---']))


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
    panels[-1].legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1))
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


def frameworks(to):
    result = results('torch')
    if result is None:
        return to.missing('Real frameworks', 'PYTHONPATH=... examples/torch/bench_peers.py (examples/torch)')
    to.add('## Real frameworks', f"PyTorch {result['torch']}, DeepSpeed {result['deepspeed']}, transformers "
           f"{result['transformers']} on {result['cores']} cores ({result['machine']}), over gloo and the loopback device; "
           '[how](frameworks.md). `bare` is the same movement by gloo alone. Peaks are rises of the process\'s resident set. '
           'In the last two ratios the transports differ: DeepSpeed\'s bytes went over gloo, ours over Open MPI\'s shared '
           'memory; that is what leaving gloo gives on one host.')
    for run in result['runs']:
        to.add(f"### `{run['command']}`",
               table(['', 'ranks', 'runs', 'fastest', 'median', 'peak, root', 'peak, others', 'loopback'],
                     [[r['case'], r['ranks'], r['runs'], f"{r['s_min']:.3g} s", f"{r['s_median']:.3g} s",
                       f"{r['peak_mib_root']:.0f} MiB", f"{r['peak_mib_others']:.0f} MiB", f"{r['loopback_mib']} MiB"]
                      for r in run['rows']]),
               table(['ratio', 'of medians', 'of the fastest'],
                     [[name, f'{median:.3g}', f'{least:.3g}'] for name, (median, least) in run['ratios'].items()]))


def devices(to):
    figures = RESULTS / 'gpu.txt'  # build/gpu/figures.txt, as tests/gpu/run left it
    if figures.exists():
        return to.add('## Devices', f'```text\n{figures.read_text()}\n```')
    to.add('## Devices', 'Nothing was run on a GPU: none was at hand. What stands in for one in the tests is a test double '
           '(`scripts/check 50-cuda`), and has no figures. Where there is a GPU, `tests/gpu/run` writes them to '
           '`build/gpu/figures.txt`; as `benchmarks/results/gpu.txt` they appear here.')


def main(out):
    to = page(pathlib.Path(out))
    to.add('# Benchmarks',
           'Made from `benchmarks/results/*.json`, which `benchmarks/run full --save` writes; `benchmarks/run` takes a '
           'minute. Columns are those of nccl-tests: `algbw` is the bytes of the values over time, in decimal GB, `busbw` '
           'that times (n-1)/n, `#wrong` bytes fail a run. Seconds are those of one small machine: read ratios, '
           'which alternate in one run.')
    goals(to)
    threads(to)
    mpi(to)
    planners(to)
    including(to)
    frameworks(to)
    devices(to)
    to.write()


if __name__ == '__main__':
    main(sys.argv[1])
