#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""goals.py FOLDER: what a run left in FOLDER against the goals and the published results, a line each, ten at most."""
import pathlib
import re
import sys

from kept import ACCESSES, RESULTS, MiB, layout_rows, mpi_results, results, rows


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


def goals(folder=RESULTS):
    """[goal, wanted, found, met, note] of each goal that the results in a folder say something about."""
    lines = []
    moved = [(r['ratio'], result['library'].split(',')[0], r) for result in mpi_results((2, 4), folder) for r in result['rows']
             if r['what'] in ACCESSES]
    if moved:
        worst, library, r = max(moved, key=lambda m: m[0])
        over = sum(m[0] > 1.05 for m in moved)
        goal(lines, 'MPI, 2 and 4 ranks, 128 MiB chunks, each access and residency: time / best bare MPI', '≤ 1.05',
             f'{min(m[0] for m in moved):.2f} to {worst:.2f}', over == 0,
             f"{over} of {len(moved)} rows over; worst: {r['what']}, {r['ranks']} ranks, {library}. Where no byte "
             "moves between ranks the floor's never meet; ours meet in the vote of every chunk" if over else '')
    gather = results('gather', folder)
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
        of += [r for result in mpi_results(folder=folder) for r in result['rows'] if r['what'].startswith('20,000 small')]
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
    every = [r for result in [gather] + mpi_results(folder=folder) if result for r in result['rows']]
    if every:
        most = max(r['peak'] / r['budget'] for r in every)
        goal(lines, f'peak / budget by the allocator, {len(every)} rows', '≤ 1.00', f'{most:.3f}', most <= 1)
    process = [r['process_peak'] / r['budget'] for result in mpi_results(folder=folder) for r in result['rows']
               if 'process_peak' in r and r['budget'] == 128 * MiB]
    if process:
        goal(lines, 'peak / budget by the process, MPI, 128 MiB chunks', '≤ 1.10', f'{max(process):.3f}', max(process) <= 1.1)
    plan = results('plan', folder)
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
    simulated = results('simulate', folder)
    of = [r for r in (simulated or {}).get('predicted', []) if r['chunk'] == 128 * MiB and not r['what'].startswith('20,000')]
    if of:
        off = [abs(r['off']) for r in of]
        goal(lines, 'simulation against measured, 128 MiB chunks', 'within 15 %', f'{100 * max(off):.0f} % at worst, '
             f'{sum(o <= .15 for o in off)} of {len(off)} rows within', max(off) <= .15, 'see the page on scaling')
    cost = results('include_cost', folder)
    if cost:
        of = [r['ratio'] for r in cost['rows'] if r['case'] == 'unshard.hpp' or r['case'] == 'unshard/unshard.hpp']
        if of:
            goal(lines, "including `unshard/unshard.hpp` / nlohmann's `json.hpp`, both compilers", '≤ 0.45',
                 f'{min(of):.2f} to {max(of):.2f}', max(of) <= .45,
                 'two thirds of what is left are the standard headers that any user of `std::vector`, `std::string`, '
                 '`std::span` and atomics has; nothing of ours is instantiated before it is used (base/later.hpp)')
    torch = results('torch', folder)
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
    return lines


def main(folder):
    named = lambda what: re.sub(r',? ?(worst of )?\d+ rows$', '', what)
    published = {named(line[0]): line for line in goals()}
    here = goals(pathlib.Path(folder))
    print(f"{'goal':<58}{'wanted':>12}{'published':>18}{'here':>18}")
    for what, wanted, found, met, _ in here[:9]:
        short = what.replace('`', '')
        before = published.get(named(what))
        mark = '' if met == 'yes' else ' *'
        print(f"{short[:56]:<58}{wanted:>12}{before[2] if before else '-':>18}{found + mark:>18}")
    if not here:
        print('no results')


if __name__ == '__main__':
    main(sys.argv[1])
