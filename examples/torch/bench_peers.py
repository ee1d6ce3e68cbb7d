# SPDX-License-Identifier: Apache-2.0
"""The peers on one process group: rank 0 fills (overwrite), or changes (read_write), every parameter of a model.

    python bench_peers.py [--json FILE] [--mpi FILE] RANKS moe|small [RUNS] [CASE...]
  gloo overwrite / read_write   the best bare movement: fill, scatter (before that: gather), in flat chunks of 128 MiB,
                                the buffer obtained anew in every run, as a range does; or one that all runs reuse
  unshard overwrite / read_write    ZeRO-3 parameters, budget 128 MiB
  deepspeed                     GatheredParameters(modifier_rank=0) over greedy chunks of 128 MiB: it always gathers. With
                                `small` once only, not after another run: it takes more than a minute
  fsdp2                         full_tensor(), distribute_tensor(), one parameter after the other
--mpi: a file that benchmarks/mpi.cpp wrote with as many ranks. What leaving gloo for MPI on one host gains; the
transports differ (TCP on the loopback device, shared memory), and a model of 1024 MiB is held against one of 1026.
Columns: common.py.
"""
import argparse
import json

import common
import torch
import torch.distributed as dist

BUDGET = 128 * common.MiB


def run(rank, world, kind, runs, wanted, options, port):
    common.join(rank, world, port)
    import deepspeed
    import unshard
    shapes = common.MODELS[kind]()
    model = common.zero3(torch.nn.ParameterList(torch.zeros(s) for s in shapes), world)
    params = list(model)
    total = sum(p.ds_numel for p in params)
    chunks = common.greedy(params, lambda p: 4 * p.ds_numel, BUDGET)
    value = [0.0]

    def ours(access, **options):
        with unshard.gathered(params, BUDGET, access, **options) as gathered:
            for chunk in gathered:
                for piece in chunk:
                    piece.tensor.fill_(value[0])

    def peer():
        for chunk in chunks:
            with deepspeed.zero.GatheredParameters(chunk, modifier_rank=0):
                if rank == 0:
                    for p in chunk:
                        p.data.fill_(value[0])

    flat = torch.zeros(-(-total // world))
    size = BUDGET // 4 // world
    buffer = torch.zeros(size * world) if rank == 0 else None

    def bare(gathers, reused=False):
        whole = buffer if reused or rank != 0 else torch.empty(size * world)
        for part in flat.split(size):
            parts = [whole[i * part.numel():(i + 1) * part.numel()] for i in range(world)] if rank == 0 else None
            if gathers:
                dist.gather(part, parts, 0)
            if rank == 0:
                whole[:part.numel() * world].fill_(value[0])
            dist.scatter(part, parts, 0)

    if "fsdp2" in wanted:
        from torch.distributed.tensor import Shard, distribute_tensor
        mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
        tensors = [distribute_tensor(torch.zeros(s), mesh, [Shard(0)]) for s in shapes]

    def fsdp2():
        for t in tensors:
            full = t.full_tensor()
            if rank == 0:
                full.fill_(value[0])
            t.to_local().copy_(distribute_tensor(full, mesh, [Shard(0)]).to_local())

    bodies = {"gloo overwrite": lambda: bare(False), "gloo overwrite, reused buffer": lambda: bare(False, True),
              "unshard overwrite": lambda: ours("overwrite"),
              "gloo read_write": lambda: bare(True), "unshard read_write": lambda: ours("read_write"),
              "deepspeed": peer, "fsdp2": fsdp2}
    meter = common.Meter()
    for i in range(runs + 1):
        if i == 1:
            meter.runs = {name: r for name, r in meter.runs.items() if name == "deepspeed" and kind == "small"}
        for name in wanted:
            if i > 0 and name == "deepspeed" and kind == "small":
                continue
            value[0] += 1
            with meter(name):
                bodies[name]()
            if not name.startswith(("gloo", "fsdp2")):
                for p in params:
                    mine = max(0, min(p.ds_tensor.numel(), p.ds_numel - rank * p.ds_tensor.numel()))
                    assert bool((p.ds_tensor[:mine] == value[0]).all()), "a shard did not get the new value"
    rows = meter.report(model=kind, mib=round(total * 4 / common.MiB))
    if rank == 0:
        ratios = common.print_ratios(rows, PAIRS)
        if options["mpi"]:
            ratios |= over_mpi(options["mpi"], world, rows)
        if options["json"]:
            common.publish(options["json"], "bench_peers.py %d %s %d" % (world, kind, runs), meter.load, rows,
                           ratios)
    dist.destroy_process_group()


def over_mpi(path, world, rows):
    """DeepSpeed over gloo against unshard over MPI."""
    with open(path) as file:
        measured = {r["what"]: r for r in json.load(file)["rows"] if r["ranks"] == world}
    peer = next(r for r in rows if r["case"] == "deepspeed")
    out = {}
    for access in ("overwrite", "read_write"):
        ours = measured[access + " root"]
        out["deepspeed over gloo / unshard %s over MPI" % access] = [
            round(peer["s_median"] * 1e6 / ours["time_us"], 3), round(peer["s_min"] * 1e6 / ours["least_us"], 3)]
    for what, (median, fastest) in out.items():
        print("%s: %.2f of the medians, %.2f of the fastest" % (what, median, fastest))
    return out


PAIRS = [("unshard overwrite", "gloo overwrite"), ("unshard overwrite", "gloo overwrite, reused buffer"),
         ("unshard read_write", "gloo read_write"), ("deepspeed", "unshard overwrite"),
         ("deepspeed", "unshard read_write"), ("fsdp2", "unshard overwrite"), ("fsdp2", "unshard read_write")]
CASES = ["gloo overwrite", "gloo overwrite, reused buffer", "unshard overwrite", "gloo read_write", "unshard read_write",
         "fsdp2", "deepspeed"]

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("--mpi")
    parser.add_argument("ranks", type=int)
    parser.add_argument("kind", choices=common.MODELS)
    parser.add_argument("runs", type=int, nargs="?", default=5)
    parser.add_argument("cases", nargs="*")
    a = parser.parse_args()
    torch.multiprocessing.spawn(run, (a.ranks, a.kind, a.runs, a.cases or CASES, {"json": a.json, "mpi": a.mpi},
                                      common.free_port()), nprocs=a.ranks)
