# SPDX-License-Identifier: Apache-2.0
"""The parts of the page of benchmarks that move bytes: over threads and over MPI."""
from figures import ACCESSES, beside, layout_rows, log_axes, mpi_results, plt, results, rows, seconds, size, table, where

COMMAND = 'benchmarks/run full --save'


def rates(curves, legend=None):
    """Rate and ratio against size, a curve for each name's rows."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, of in curves.items():
        left.plot([r['bytes'] for r in of], [r['algbw'] for r in of], marker='o', ms=3, label=name)
        right.plot([r['bytes'] for r in of], [r['ratio'] for r in of], marker='o', ms=3, label=name)
    log_axes(left, 'bytes of the value', 'GB/s, there and back')
    log_axes(right, 'bytes of the value', 'time / floor')
    right.axhline(1, color='#808080', lw=.8, ls=':')
    right.set_yscale('log')
    beside(right, legend or 8)
    figure.tight_layout()
    return figure


def threads(to):
    result = results('gather')
    if result is None:
        return to.missing('Over threads', COMMAND)
    to.add('## Over threads', where(result),
           'Ours is a range of chunks with its opening, its votes and its planning. The floor is the same copies, between '
           'the same addresses, split evenly over min(ranks, cores) plain threads that are there already; runs alternate '
           'in one process, medians. `.verify` is off: what it costs stands below. A `ratio` below 1 is '
           'expected: waiting ranks help by taking small blocks from a shared work list, while each baseline thread copies a fixed half.')

    sizes = rows(result, what='size, flat read_write root')
    if sizes:
        figure = rates({f'{n} ranks': [r for r in sizes if r['ranks'] == n] for n in sorted({r['ranks'] for r in sizes})})
        to.add('### From 4 KiB to 1 GiB', 'One `flat` value, one chunk, `read_write` on a root. Below a MiB the votes and '
               'the waking of threads decide. From 32 MiB up the engine uses non-temporal stores, which avoid reading cache '
               'lines that are about to be overwritten; the floor\'s memcpy does so only for one run above glibc\'s '
               '`x86_non_temporal_threshold`.')
        to.picture(figure, 'sizes', 'Left: rate against size; right: time over floor against size')
        to.add(table(['size', 'ranks', 'time', 'cv', 'algbw', 'busbw', 'floor', 'ratio', 'runs'],
                     [[size(r['bytes']), r['ranks'], seconds(r['time_us']), f"{r['cv']:.0f} %", f"{r['algbw']:.2f}",
                       f"{r['busbw']:.2f}", seconds(r['floor_us']), f"{r['ratio']:.2f}", r['runs']] for r in sizes]))

    layouts = layout_rows(result)
    if layouts:
        chunk = next(iter(next(iter(layouts.values())).values()))['bytes']
        to.add(f'### Every layout, access and residency at {size(chunk)}', 'Time over floor, ± cv of our runs, and in brackets how many runs of each side.',
               table(['layout', 'ranks'] + ACCESSES,
                     [[name, n] + [f"{by[k]['ratio']:.2f} ±{by[k]['cv']:.0f} % ({by[k]['runs']})" if k in by else '' for k in ACCESSES]
                      for (name, n), by in layouts.items()]))

    for what, title, says in (
            ('20,000 small, read_write root', 'Many small parameters',
             '20,000 parameters of 4 to 64 KiB against the same bytes in 208 large ones, both ours, `read_write` on a root.'),
            ('in_flight 2 / 1, read root', 'Two chunks in flight',
             '`read` on a root whose body computes for as long as a gather takes; `.in_flight = 2` against 1. The '
             'waiting ranks carry the bytes of the next chunk while the root computes.')):
        of = rows(result, what=what)
        if of:
            to.add(f'### {title}', says,
                   table(['ranks', 'bytes', 'chunks', 'time', 'against', 'ratio', 'cv', 'runs'],
                         [[r['ranks'], size(r['bytes']), r['chunks'], seconds(r['time_us']),
                           f"{r['floor'].removeprefix('ours, ')}: {seconds(r['floor_us'])}", f"{r['ratio']:.2f}", f"{r['cv']:.0f} %", r['runs']]
                          for r in of]))
    of = [r for r in result['rows'] if r['what'].startswith('verify, ')]
    if of:
        to.add('### What `.verify` costs', '`.verify` on against off, one chunk, 2 ranks; the body fills what it overwrites.',
               table(['', 'size', 'on', 'off', 'ratio', 'cv', 'runs'],
                     [[r['what'].removeprefix('verify, '), size(r['bytes']), seconds(r['time_us']), seconds(r['floor_us']),
                       f"{r['ratio']:.2f}", f"{r['cv']:.0f} %", r['runs']] for r in of]))
    growth(to, result)


def growth(to, result):
    kinds = (('growth, ranks', 'ranks', 'ranks (threads)'), ('growth, parameters', 'params', 'parameters, 2 ranks'),
             ('growth, budget', 'share', 'model / budget, 2 ranks'))
    for r in result['rows']:
        r['share'] = r['bytes'] / r['budget']
    if not all(rows(result, what=k[0]) for k in kinds):
        return
    figure, panels = plt.subplots(1, 3, figsize=(10, 3))
    for (what, key, label), axes in zip(kinds, panels):
        of = rows(result, what=what)
        axes.plot([r[key] for r in of], [r['time_us'] / 1e3 for r in of], marker='o', ms=3, label='ours')
        axes.plot([r[key] for r in of], [r['floor_us'] / 1e3 for r in of], marker='o', ms=3, label='the copies alone')
        log_axes(axes, label, 'ms')
        if what == 'growth, parameters':
            axes.set_yscale('log')
        else:
            axes.set_ylim(bottom=0)
    beside(panels[-1])
    figure.tight_layout()
    first = rows(result, what='growth, ranks')[0]
    to.add('### How it grows', f"{size(first['bytes'])}, `flat`, `read_write` on a root. Over ranks: 64 parameters in "
           f"chunks of {size(first['budget'])}, as many threads as ranks on {result['cores']} cores. Over parameters: two "
           'chunks. Over the budget: 256 parameters, cut anywhere.')
    to.picture(figure, 'growth', 'Time over ranks, parameters and budget, ours and the copies alone')
    for what, key, label in kinds:
        to.add(table([label, 'chunks', 'time', 'floor', 'ratio', 'cv', 'runs', 'peak / budget'],
                     [[f"{r[key]:.4g}" if key == 'share' else f'{r[key]:,}', r['chunks'], seconds(r['time_us']),
                       seconds(r['floor_us']), f"{r['ratio']:.2f}", f"{r['cv']:.0f} %", r['runs'], f"{r['peak'] / r['budget']:.3f}"]
                      for r in rows(result, what=what)]))


def mpi_name(result):
    return f"{result['library'].split(',')[0]}, {result['ranks']}"


def mpi(to):
    found = mpi_results()
    if not found:
        return to.missing('Over MPI', COMMAND)
    to.add('## Over MPI', 'The floor is the fastest of bare MPI for the same movement: blocking collectives, or non-blocking '
           'messages with the own part copied. Runs alternate in the same processes. The process\'s peak is how far a range '
           'raises its resident set, the most of any rank. Ranks beyond the cores share them, and bare MPI suffers from that '
           f'more or less than we do: above {found[0]["cores"]} ranks the ratio says little. MPICH\'s waits spin, so it has no '
           'figures there. From 8 MiB on a rank\'s own part is copied around the caches; the floor\'s memcpy is slower, the '
           'more so where both ends are equally far into a page (glibc 2.36), as aligned buffers are.')
    for result in found:
        of = [r for r in result['rows'] if r['what'] in ACCESSES or r['what'].startswith(('in_flight', '20,000'))]
        if not of:
            continue
        to.add(f"### {result['library']}, {result['ranks']} ranks", where(result), 'Many chunks; both sides obtain theirs '
               'anew in each run.',
               table(['', 'size', 'chunks', 'time', 'cv', 'algbw', 'busbw', 'floor', 'ratio', 'peak / budget: allocator',
                      'process', 'runs'],
                     [[r['what'], size(r['bytes']), r['chunks'], seconds(r['time_us']), f"{r['cv']:.0f} %",
                       f"{r['algbw']:.2f}", f"{r['busbw']:.2f}", f"{seconds(r['floor_us'])} ({r['floor']})",
                       f"{r['ratio']:.2f}", f"{r['peak'] / r['budget']:.3f}",
                       f"{r['process_peak'] / r['budget']:.3f}" if 'process_peak' in r else '', r['runs']] for r in of]))
    mpi_sizes(to, found)
    mpi_layouts(to, found)


def mpi_sizes(to, found):
    to.add('### Over MPI, from 4 KiB to 1 GiB')
    sizes = {mpi_name(result): rows(result, what='size, flat read_write root') for result in found}
    sizes = {name: of for name, of in sizes.items() if of}
    if not sizes:
        return to.add(f'No results are kept. `{COMMAND}` makes them.')
    figure = rates({f'{name} ranks': of for name, of in sizes.items()}, legend=8)
    to.add('One `flat` value, one chunk, `read_write` on a root, in a buffer that both sides have beforehand. A range opens, '
           'votes and plans, whatever its size; the floor is the movement alone. Time, and in brackets over the floor, with the cv and number of our runs.')
    to.picture(figure, 'mpi-sizes', 'Left: rate against size; right: time over floor against size, over MPI')
    at = {(name, r['bytes']): r for name, of in sizes.items() for r in of}
    to.add(table(['size'] + [f'{name} ranks' for name in sizes],
                 [[size(b)] + [f"{seconds(r['time_us'])} ({r['ratio']:.2f} ±{r['cv']:.0f} %, {r['runs']} runs)" if (r := at.get((name, b))) else ''
                               for name in sizes] for b in sorted({b for _, b in at})]))


def mpi_layouts(to, found):
    by = {(name, mpi_name(result)): kinds for result in found for (name, _), kinds in layout_rows(result).items()}
    every = [r for kinds in by.values() for r in kinds.values()]
    chunk = size(every[0]['bytes']) if every else '128 MiB'
    to.add(f'### Over MPI, every layout, access and residency at {chunk}')
    if not every:
        return to.add(f'No results are kept. `{COMMAND}` makes them.')

    def cell(r):
        if r is None:
            return ''
        same = r.get('ways', {}).get('messages, derived types')
        if same is None or r['floor'] == 'messages, derived types':
            return f"{r['ratio']:.2f} ±{r['cv']:.0f} %, {r['runs']}"
        return f"{r['ratio']:.2f} ({r['time_us'] / same:.2f}) ±{r['cv']:.0f} %, {r['runs']}"
    process = [r['process_peak'] / r['budget'] for r in every if 'process_peak' in r]
    to.add('Time over floor, ± cv of our runs, then how many runs of each side; one chunk. Where a rank\'s bytes are strided in the chunk (`dim 1`, `boxes`, `mesh`) the floor may '
           'pass a second buffer as large as the chunk and copy, which no budget would allow us; in brackets, over the messages '
           f"with derived types, made beforehand, that need none. #wrong: {sum(r['wrong'] for r in every)} bytes in "
           f'{len(every)} rows.' + (f' Peak of the process over the budget: at most {max(process):.3f}.' if process else ''),
           table(['layout', 'ranks'] + ACCESSES,
                 [[layout, name] + [cell(kinds.get(k)) for k in ACCESSES] for (layout, name), kinds in
                  sorted(by.items(), key=lambda item: list(dict.fromkeys(k[0] for k in by)).index(item[0][0]))],
                 ['---', '---'] + ['--:'] * len(ACCESSES)))
