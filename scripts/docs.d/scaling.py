#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scaling.py OUT: writes the page of scaling, and its pictures beside it, from benchmarks/results/simulate.json.

Every figure of the page is read from there. Without the file the page says which command makes it.
"""
import pathlib
import sys

from figures import COLOURS, beside, log_axes, page, plt, results, size, table

COMMAND = 'benchmarks/run full --save'
ACCESSES = ('read', 'read_write', 'overwrite')
LAYOUTS = {'flat': 'ZeRO-3: every tensor over all ranks', 'hybrid': 'HSDP: rows over 64 ranks or the most below that '
           'divide all, each such group a replica', 'experts': '8 pipeline stages; packed experts over the ranks of their '
           'stage, and their rows; all else flat over the stage'}
MODELS = {'minimax-m3': 'MiniMax-M3', 'deepseek-v3': 'DeepSeek-V3'}
HOLDS = (('root', '-'), ('every_rank', '--'))


def span(seconds):
    """As one would say it: three digits at most, in a unit that fits."""
    for unit, of in (('h', 3600), ('min', 60)):
        if seconds >= 5 * of:
            return f'{seconds / of:.3g} {unit}'
    for unit, of in (('s', 1), ('ms', 1e-3)):
        if seconds >= of:
            return f'{seconds / of:.3g} {unit}'
    return f'{seconds / 1e-6:.3g} µs'


def points(to, *lines):
    to.add('\n'.join(lines))


class found:
    def __init__(self, result):
        self.result = result
        self.rows = result['rows']
        self.budget = max((r['budget'] for r in self.rows), key=[r['budget'] for r in self.rows].count)

    def row(self, **wanted):
        wanted = {'budget': self.budget, **wanted}
        return next(r for r in self.rows if all(r[k] == v for k, v in wanted.items()))

    def all(self, *keys, **wanted):
        of = [r for r in self.rows if all(r[k] == v for k, v in wanted.items())]
        return [[r[k] for r in of] for k in keys]

    def values(self, key, **wanted):
        return sorted({r[key] for r in self.rows if all(r[k] == v for k, v in wanted.items())})


def heading(to, f):
    a = f.result['assumed']
    link = lambda l: f'{l[0]:g} µs of latency, {l[1]:g} µs a message, {l[2]:g} GB/s'
    models = '; '.join(f"{MODELS[m]}: {r['params']} tensors, {size(r['bytes'])}, {r['chunks']} chunks" for m in MODELS
                       for r in [f.row(model=m, layout='flat', ranks=8, access='read', on='root')])
    to.add('# Scaling', 'What happens from 8 to 10,000 ranks: `benchmarks/simulate` makes the real plans and the real schedules, '
           'those that a run would use, and moves no bytes. Messages, bytes and peaks are therefore exact. Seconds '
           'come from links of a latency and a bandwidth, which are **assumed**: no such machine was at hand.',
           f"Assumed: {a['per_host']} ranks a host; inside it {link(a['inside'])}; between hosts {link(a['between'])}, "
           'and each rank has a port of its own, which sends and receives at once, one message after another each way. Nothing '
           f"else is in the way: no contention in the network, and a body of no time. One chunk in flight, `.budget` {size(f.budget)}, "
           '`cut::oversized`, messages as the MPI engine sends them (no collectives).',
           f'{models}. Of MiniMax-M3 it is what the checkpoint lacks.',
           f"`{f.result['command']}`, revision `{f.result['revision']}`. Other machines: `--per-host`, `--inside`, `--between`, `--copy`.")


def growth(to, f):
    ranks = [n for n in f.values('ranks', layout='flat', budget=f.budget) if n >= 8]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.3))
    for colour, model in zip(COLOURS, MODELS):
        of = [f.row(model=model, layout='flat', ranks=n, access='read_write', on='root') for n in ranks]
        name = MODELS[model]
        left.plot(ranks, [r['time_s'] for r in of], color=colour, marker='o', ms=3, label=f'{name}: links')
        left.plot(ranks, [r['schedules_root_s'] for r in of], color=colour, marker='o', ms=3, ls='--', label="root's schedules")
        left.plot(ranks, [r['votes_s'] for r in of], color=colour, marker='o', ms=3, ls=':', label='votes')
        middle.plot(ranks, [r['messages_root'] / r['chunks'] for r in of], color=colour, marker='o', ms=3)
        others = [f.row(model=model, layout='flat', ranks=n, access='read', on='root')['sent_most'] / 1e9 for n in ranks]
        right.plot(ranks, [r['received_most'] / 2e9 for r in of], color=colour, marker='o', ms=3)
        right.plot(ranks, others, color=colour, marker='o', ms=3, ls='--')
    for axes, what in ((left, 'seconds'), (middle, 'messages of the root, a chunk'), (right, 'GB: root (line), others (dashed)')):
        log_axes(axes, 'ranks', what)
        axes.set_yscale('log')
    figure.legend(*left.get_legend_handles_labels(), fontsize=9, ncols=6, loc='lower center', columnspacing=1.4, frameon=False)
    figure.tight_layout(rect=(0, .08, 1, 1))
    first, last = (f.row(model='minimax-m3', layout='flat', ranks=n, access='read_write', on='root') for n in (64, ranks[-1]))
    to.add('## What grows how', '`flat`, `read_write`, on a root:')
    to.picture(figure, 'growth', 'Over ranks: seconds, messages of the root, bytes of the root and of others')
    points(to, f"- **Bytes through the root do not grow**: all values but the root's own part, in and out by one port. That is why the "
           f"time is {span(first['time_s'])} on 64 ranks and {span(last['time_s'])} on {ranks[-1]:,}: more ranks make it no faster.",
           f"- **Messages of the root grow with ranks**, one for each rank that holds some of the chunk: "
           f"{first['messages_root'] / first['chunks']:.0f} a chunk on 64 ranks, {last['messages_root'] / last['chunks']:,.0f} on "
           f"{ranks[-1]:,}, each way counted. Every other rank has at most two, and sends a share that shrinks with the ranks.",
           f"- **Votes grow with the logarithm**: {span(last['votes_s'])} in all on {ranks[-1]:,} ranks.",
           f"- **The plan does not grow**: {span(last['plan_s'])}. It costs what the parameters cost, not the ranks.",
           f"- **The root's schedules grow with its messages**: {span(last['schedules_root_s'])} on {ranks[-1]:,} ranks for the whole range, "
           f"{span(last['schedules_others_s'])} on any other. Plan and schedules are measured, on one core of the machine "
           "that ran this; an engine's own lists come on top. They are made between chunks, so they add to the time.")
    lines = []
    for model in MODELS:
        for n in ranks:
            r = f.row(model=model, layout='flat', ranks=n, access='read_write', on='root')
            lines.append([MODELS[model], f'{n:,}', span(r['time_s']), span(r['votes_s']), f"{r['messages_root']:,}", span(r['plan_s']),
                          span(r['schedules_root_s']), f"{r['received_most'] / 1e9:.0f} GB", size(r['peak'])])
    to.add(table(['', 'ranks', 'time', 'of it votes', "root's messages", 'plan', "root's schedules", "root's bytes, in and out",
                  'peak, root only'], lines))


def residency(to, f):
    ranks = [n for n in f.values('ranks', layout='flat', budget=f.budget) if n >= 8]
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.1), sharey=True)
    for axes, access in zip(panels, ACCESSES):
        for colour, width, layout in zip(COLOURS, (3.4, 2.2, 1.2), LAYOUTS):
            for on, style in HOLDS:
                x, y = f.all('ranks', 'time_s', model='minimax-m3', layout=layout, access=access, on=on, budget=f.budget)
                at = [i for i, n in enumerate(x) if n >= 8]
                axes.plot([x[i] for i in at], [y[i] for i in at], color=colour, ls=style, lw=width, marker='o', ms=3,
                          label=f'{layout}, {on}')
        log_axes(axes, 'ranks', 'seconds' if access == 'read' else '')
        axes.set_yscale('log')
        axes.set_title(access, fontsize=10)
    beside(panels[-1])
    figure.tight_layout()
    to.add('## Root or every rank', 'MiniMax-M3; lines: `root(0)`, dashed: `every_rank`:')
    to.picture(figure, 'residency', 'Time over ranks for each access, layout and residency')
    to.add('\n'.join(f'- `{k}`: {v}.' for k, v in LAYOUTS.items()))

    n = ranks[-1]
    lines = []
    for model in MODELS:
        for layout in LAYOUTS:
            for access in ACCESSES:
                root, every = (f.row(model=model, layout=layout, ranks=n, access=access, on=on) for on, _ in HOLDS)
                faster = [m for m in ranks if f.row(model=model, layout=layout, ranks=m, access=access, on='every_rank')['time_s'] <
                          f.row(model=model, layout=layout, ranks=m, access=access, on='root')['time_s']]
                where = 'never' if not faster else 'always' if faster == ranks else ', '.join(f'{m:,}' for m in faster)
                lines.append([MODELS[model], layout, f'`{access}`', span(root['time_s']), span(every['time_s']),
                              f"{root['sent_most'] / 1e9:,.0f}", f"{every['sent_most'] / 1e9:,.0f}", where])
    to.add(table(['', 'layout', '', f'root, {n:,} ranks', 'every rank', 'GB sent by the busiest, root', 'every rank',
                  'every rank is faster on'], lines, ['---', '---', '---'] + ['--:'] * 5))
    over = f.row(model='minimax-m3', layout='flat', ranks=n, access='overwrite', on='root')
    many = f.row(model='minimax-m3', layout='hybrid', ranks=n, access='overwrite', on='root')
    stage = f.row(model='minimax-m3', layout='experts', ranks=n, access='read', on='every_rank')
    single = f.row(model='minimax-m3', layout='experts', ranks=n, access='read', on='root')
    copies = f.row(model='minimax-m3', layout='hybrid', ranks=n, access='read', on='every_rank')
    points(to, f"- **`overwrite`: a root sends everything through one port**, {span(over['time_s'])} on {n:,} ranks; on few ranks much the same; "
           "under `every_rank` nothing travels. The price is a budget on every rank instead of one, and a body that runs on all of "
           "them. So an initialiser that can make any element by its index belongs on every rank; one that is a single stream of random "
           "numbers, or reads one file, belongs on a root.",
           f"- **Replicas make it worse**: a write-back sends each copy, {many['sent_most'] / 1e9:,.0f} GB and {span(many['time_s'])} under `hybrid` on "
           f"{n:,} ranks. From the first replica on, what writes belongs on every rank, or on a root among the ranks of one replica, "
           "which passes it on with a broadcast of the engine's own.",
           "- **`read`: root is right** at any number of ranks. Under `every_rank` each holder sends its part to all others, so that the chunk "
           "takes as long as its busiest holder. Where a chunk is one whole parameter over all ranks, that is no more than a root receives. Where "
           f"few ranks hold a chunk (a cut parameter, a pipeline stage), these few send it all: {span(stage['time_s'])} against "
           f"{span(single['time_s'])} for `experts`. Where parts have replicas, each serves the ranks near it: {span(copies['time_s'])} for `hybrid`.",
           "- **`read_write`** is the sum of both: every rank wins where shards are even, as it spares the write-back.")


def budgets(to, f):
    at = {n: f.values('budget', model='minimax-m3', layout='flat', ranks=n) for n in (64, 1024, 10000)}
    if any(len(b) < 3 for b in at.values()):
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.1))
    for colour, n in zip(COLOURS, at):
        for on, style in HOLDS:
            of = [f.row(model='minimax-m3', layout='flat', ranks=n, access='read', on=on, budget=b) for b in at[n]]
            left.plot([b / 2**30 for b in at[n]], [r['time_s'] for r in of], color=colour, ls=style, marker='o', ms=3,
                      label=f'{n:,} ranks, {on}')
        of = [f.row(model='minimax-m3', layout='flat', ranks=n, access='read', on='root', budget=b) for b in at[n]]
        right.plot([b / 2**30 for b in at[n]], [r['messages_root'] for r in of], color=colour, marker='o', ms=3)
    log_axes(left, 'budget, GiB', 'seconds of a read')
    log_axes(right, 'budget, GiB', "root's messages, in all")
    left.set_yscale('log')
    right.set_yscale('log')
    right.legend(*left.get_legend_handles_labels(), fontsize=8, loc='upper left', bbox_to_anchor=(1, 1), handlelength=3.2)
    figure.tight_layout()
    to.add('## What a budget costs', 'MiniMax-M3, `flat`, `read`; lines: `root(0)`, dashed: `every_rank`:')
    to.picture(figure, 'budget', 'Time and messages over the budget')
    n = 10000
    low, high = at[n][0], at[n][-1]
    few, many = (f.row(model='minimax-m3', layout='flat', ranks=n, access='read', on='root', budget=b) for b in (low, high))
    all_few, all_many = (f.row(model='minimax-m3', layout='flat', ranks=n, access='read', on='every_rank', budget=b) for b in (low, high))
    points(to, f"- **On a root a small budget is cheap**: {span(few['time_s'])} with {size(low)} against {span(many['time_s'])} with {size(high)} "
           f"on {n:,} ranks. A chunk that is a slice of a parameter meets only the ranks that hold the slice, so that the messages add up to about the same.",
           f"- **Chunks of several parameters coalesce**: one message for a pair of ranks, whatever the number of pieces; hence "
           f"{few['messages_root']:,} messages with {size(low)}, {many['messages_root']:,} with {size(high)}.",
           f"- **Every chunk costs a vote and a latency**: {span(few['votes_s'])} for {few['chunks']:,} chunks, {span(many['votes_s'])} for {many['chunks']:,}.",
           f"- **Under `every_rank` give the largest parameter room**: {span(all_few['time_s'])} with {size(low)}, {span(all_many['time_s'])} with "
           f"{size(high)}. A slice is held by few ranks, which send it to all. It is best where the chunk holds whole parameters.")
    to.add(table(['budget', f'chunks, {n:,} ranks', 'root: time', 'messages of the root', 'votes', 'every rank: time', 'messages of the busiest'],
                 [[size(b), f"{r['chunks']:,}", span(r['time_s']), f"{r['messages_root']:,}", span(r['votes_s']), span(e['time_s']),
                   f"{e['messages_most']:,}"] for b in at[n]
                  for r in [f.row(model='minimax-m3', layout='flat', ranks=n, access='read', on='root', budget=b)]
                  for e in [f.row(model='minimax-m3', layout='flat', ranks=n, access='read', on='every_rank', budget=b)]]))


def accuracy(to, f):
    rows = f.result.get('predicted')
    to.add('## How far off it is')
    if not rows:
        return to.add('No prediction is kept: `--measured` and `--link` make it from the files of `bench_mpi` and `bench_mpi_link`.')
    large = [r for r in rows if r['chunk'] == 128 << 20 and not r['what'].startswith('20,000')]
    near = [r for r in large if abs(r['off']) <= .15]
    to.add('The same model against ranges of chunks that `bench_mpi` measured, on one host of '
           f"{f.result['cores']} cores whose ranks fetch from each other's memory. Its inputs come from `bench_mpi_link` alone: a ping-pong, "
           'a stream between two ranks (one way, and both), a copy, a fill and fresh memory by one rank and by two, a late word. No row '
           'was used to fit another. Ranks beyond the cores share them: a host is done no sooner than its cores have done the work of all.',
           f'Within 15 %: **{len(near)} of {len(large)}** rows at chunks of 128 MiB.')
    lines = [[r['library'].removesuffix(' '), r['what'], r['ranks'], span(r['measured_s']), f"{r['cv']:.0f} %", span(r['simulated_s']),
              f"{100 * r['off']:+.0f} %" if abs(r['off']) <= .15 else f"**{100 * r['off']:+.0f} %**"] for r in rows]
    to.add(table(['', '', 'ranks', 'measured', 'cv', 'simulated', 'off'], lines, ['---', '---'] + ['--:'] * 5))
    to.add('Why rows miss:')
    points(to, '- 20,000 small parameters: a message of thousands of runs costs MPI more than its bytes; the model has no cost a run.',
           '- A row whose measured runs vary by more than a few per cent was disturbed, or its ranks were scheduled onto the cores '
           'differently from run to run; the model shares cores evenly.',
           "- `every_rank`, where all copy at once: the bare floor is off as much or more (`off_floor` in the JSON). The memory's rates that "
           '`bench_mpi_link` found were not those of minutes later, on a virtual machine that shares its memory with others.')


def main(out):
    to = page(pathlib.Path(out))
    result = results('simulate')
    if result is None:
        to.add('# Scaling', f'No results are kept. `{COMMAND}` makes them.')
        return to.write()
    f = found(result)
    heading(to, f)
    growth(to, f)
    residency(to, f)
    budgets(to, f)
    accuracy(to, f)
    to.write()


if __name__ == '__main__':
    main(sys.argv[1])
