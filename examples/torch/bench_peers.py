"""The peers on one process group: rank 0 fills (overwrite), or changes (read_write), every parameter of a model.

    python bench_peers.py RANKS moe|small [RUNS] [CASE...]
  gloo overwrite / read_write   the best bare movement: fill, scatter (before that: gather), in flat chunks of 128 MiB
  unshard overwrite / read_write    ZeRO-3 parameters, budget 128 MiB
  deepspeed                     GatheredParameters(modifier_rank=0) over greedy chunks of 128 MiB: it always gathers
  fsdp2                         full_tensor(), distribute_tensor(), one parameter after the other
"""
import sys

import common
import torch
import torch.distributed as dist

BUDGET = 128 * common.MiB


def run(rank, world, kind, runs, wanted, port):
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
    whole = torch.zeros(size * world) if rank == 0 else None

    def bare(gathers):
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

    bodies = {"gloo overwrite": lambda: bare(False), "unshard overwrite": lambda: ours("overwrite"),
              "unshard overwrite, verify off": lambda: ours("overwrite", verify=False),
              "gloo read_write": lambda: bare(True), "unshard read_write": lambda: ours("read_write"),
              "deepspeed": peer, "fsdp2": fsdp2}
    meter = common.Meter()
    warm = kind == "moe"
    for i in range(runs + warm):
        if warm and i == 1:
            meter.runs.clear()
        for name in wanted:
            value[0] += 1
            with meter(name):
                bodies[name]()
            if not name.startswith(("gloo", "fsdp2")):
                for p in params:
                    mine = max(0, min(p.ds_tensor.numel(), p.ds_numel - rank * p.ds_tensor.numel()))
                    assert bool((p.ds_tensor[:mine] == value[0]).all()), "a shard did not get the new value"
    rows = {r["case"]: r for r in meter.report(model=kind, mib=round(total * 4 / common.MiB))}
    if rank == 0:
        for a, b in (("unshard overwrite", "gloo overwrite"), ("unshard overwrite, verify off", "gloo overwrite"),
                     ("unshard read_write", "gloo read_write"),
                     ("deepspeed", "unshard overwrite"), ("deepspeed", "unshard read_write")):
            if a in rows and b in rows:
                print("%s / %s: %.2f of the medians, %.2f of the fastest" % (
                    a, b, rows[a]["s_median"] / rows[b]["s_median"], rows[a]["s_min"] / rows[b]["s_min"]))
    dist.destroy_process_group()


if __name__ == "__main__":
    world, kind, runs = int(sys.argv[1]), sys.argv[2], int((sys.argv + ["5"] * 3)[3])
    cases = sys.argv[4:] or ["gloo overwrite", "unshard overwrite", "unshard overwrite, verify off", "gloo read_write", "unshard read_write", "deepspeed"]
    torch.multiprocessing.spawn(run, (world, kind, runs, cases, common.free_port()), nprocs=world)
