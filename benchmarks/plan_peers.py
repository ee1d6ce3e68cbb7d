#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""plan_peers.py SIZES [--ours FILE] [--limit SECONDS] [--json FILE]: planners that a user would reach for.

On the lists that plan_sizes.py wrote to SIZES: bins, bins over the budget, and time. Each planner has a time limit; one
that exceeds it is not tried on longer lists of that kind. Lists are made outside the clock; medians of up to 5 runs.
`--ours` is the bench_plan program: its rows join the peers'. Python packages: benchmarks/requirements.txt; torch's
bucket assignment where torch is there, too (on PYTHONPATH). A planner whose package is missing is left out.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time

BUDGET = 256 * 2**20
LISTS = ('qwen', 'mixed', 'tight')
MOST = {'OR-tools CP-SAT': 1000}


def greedy(sizes, budget):
    """In order, whole parameters: what transformers' pull request 46918 does."""
    bins, used = [[]], 0
    for i, size in enumerate(sizes):
        if used + size > budget and bins[-1]:
            bins.append([])
            used = 0
        bins[-1].append(i)
        used += size
    return bins


def in_order(sizes, budget):
    return lambda: greedy(sizes, budget)


def torch_buckets(sizes, budget):
    import torch

    tensors = [torch.empty(size, dtype=torch.uint8, device='meta') for size in sizes]
    return lambda: torch.distributed._compute_bucket_assignment_by_size(tensors, [budget])[0]


def binpacking(sizes, budget):
    import binpacking as package

    items = dict(enumerate(sizes))
    return lambda: [list(b) for b in package.to_constant_volume(items, budget)]


def first_fit_decreasing(sizes, budget):
    import prtpy

    items = dict(enumerate(sizes))
    algorithm = prtpy.packing.first_fit_decreasing
    return lambda: [
        list(b) for b in prtpy.pack(algorithm=algorithm, binsize=budget, items=items, outputtype=prtpy.out.Partition)
    ]


def cp_sat(sizes, budget):
    from ortools.sat.python import cp_model

    unit = 4096

    def plan():
        start = greedy(sizes, budget)
        model = cp_model.CpModel()
        x = [[model.new_bool_var('') for _ in start] for _ in sizes]
        used = [model.new_bool_var('') for _ in start]
        for row in x:
            model.add_exactly_one(row)
        for b, held in enumerate(start):
            model.add(sum(-(-size // unit) * row[b] for size, row in zip(sizes, x)) <= budget // unit * used[b])
            if b:
                model.add_implication(used[b], used[b - 1])
            for i in held:
                model.add_hint(x[i][b], 1)
        model.minimize(sum(used))
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = 10
        solver.parameters.num_workers = 2
        if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            raise ValueError('no plan in 10 s')
        bins = [[i for i, row in enumerate(x) if solver.value(row[b])] for b in range(len(start))]
        return [b for b in bins if b]

    return plan


PEERS = {
    'greedy in order, Python': in_order,
    'torch bucket assignment': torch_buckets,
    'binpacking': binpacking,
    'prtpy first_fit_decreasing': first_fit_decreasing,
    'OR-tools CP-SAT': cp_sat,
}


class TooLong(Exception):
    """The time limit."""


def give_up(*_):
    raise TooLong


def case(peer, name, sizes, limit):
    row = {'planner': peer, 'sizes': name, 'handles': len(sizes), 'budget': BUDGET, 'bound': -(-sum(sizes) // BUDGET)}
    try:
        signal.alarm(limit)
        plan = PEERS[peer](sizes, BUDGET)
        times = []
        while len(times) < 5 and sum(times) < limit / 4:
            start = time.perf_counter()
            bins = plan()
            times.append(time.perf_counter() - start)
        signal.alarm(0)
    except TooLong:
        return {**row, 'gave_up_after_s': limit}
    except ImportError as error:
        signal.alarm(0)
        print(f'# {peer}: {error}')
        return None
    except ValueError as error:
        signal.alarm(0)
        return {**row, 'error': f'{type(error).__name__}: {error}'[:120]}
    assert sorted(i for b in bins for i in b) == list(range(len(sizes))), 'an item got lost, or is there twice'
    held = [sum(sizes[i] for i in b) for b in bins]
    return {
        **row,
        'chunks': len(bins),
        'over_budget': sum(h > BUDGET for h in held),
        'fullest': max(held) / BUDGET,
        'time_us': 1e6 * statistics.median(times),
        'runs': len(times),
    }


def ours(program, folder, longest):
    """bench_plan's rows on the same lists, in this file's columns."""
    with tempfile.TemporaryDirectory() as out:
        result = pathlib.Path(out) / 'plan.json'
        command = [program, '--sizes', folder, '--json', result, '--from', '1000', '--to', str(longest), '--brief']
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for r in json.loads(result.read_text())['rows']:
            same = {key: r[key] for key in ('sizes', 'handles', 'budget', 'bound', 'chunks', 'time_us', 'runs')}
            yield {'planner': f'unshard, {r["way"]}', **same, 'over_budget': 0, 'fullest': r['fullest']}


def show(row):
    if 'chunks' in row:
        found = (
            f'{row["chunks"]:8} {row["chunks"] / row["bound"]:7.4f} {row["over_budget"]:6} {row["fullest"]:7.3f}'
            f' {row["time_us"]:12.1f}'
        )
    else:
        found = row.get('error') or f'over {row["gave_up_after_s"]} s'
    print(f'{row["planner"]:<28} {row["sizes"]:<6} {row["handles"]:8} {row["bound"]:8} {found}', flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('sizes', type=pathlib.Path)
    parser.add_argument('--ours')
    parser.add_argument('--limit', type=int, default=15)
    parser.add_argument('--to', type=int, default=10**6)
    parser.add_argument('--json', type=pathlib.Path)
    args = parser.parse_args()
    signal.signal(signal.SIGALRM, give_up)
    load = os.getloadavg()[0]
    print(f'# planners: {BUDGET} bytes a bin, time limit {args.limit} s; load {load:.2f}')
    print('#                            sizes   handles    bound   chunks  /bound  #over fullest         time')
    print('#                                                                            (budgets)      (us)')
    rows = list(ours(args.ours, args.sizes, args.to)) if args.ours else []
    for row in rows:
        show(row)
    slow = set()
    n = 1000
    while n <= args.to:
        for name in LISTS:
            with open(args.sizes / f'{name}.sizes', encoding='ascii') as text:
                pairs = [line.split() for _, line in zip(range(n), text)]
            sizes = [int(elements) * int(size) for elements, size in pairs]
            for peer in PEERS:
                if (peer, name) in slow or n > MOST.get(peer, n):
                    continue
                row = case(peer, name, sizes, args.limit)
                if row is None or 'chunks' not in row:
                    slow.add((peer, name))
                if row is not None:
                    rows.append(row)
                    show(row)
        n *= 10
    if args.json:
        command = f'benchmarks/plan_peers.py {args.sizes} --limit {args.limit}'
        revision = os.environ.get('UNSHARD_REVISION', '')
        result = {'benchmark': 'plan_peers', 'command': command, 'load': load, 'revision': revision, 'rows': rows}
        args.json.write_text(json.dumps(result, indent=1) + '\n')


main()
