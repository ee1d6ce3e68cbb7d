# SPDX-License-Identifier: Apache-2.0
"""Two mesh dimensions: FSDP over tensor parallelism, HSDP."""
import torch
import torch.distributed as dist
import unshard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

ranks = (4,)


def check(params, want):
    seen = {}
    with unshard.gathered(params, unshard.MiB, "read") as chunks:
        for chunk in chunks:
            seen.update({p.index: p.tensor.clone() for p in chunk})
    assert all(torch.equal(seen[i], want[i]) for i in seen) and len(seen) == (len(want) if dist.get_rank() == 0 else 0)
    with unshard.gathered(params, unshard.MiB, "read_write") as chunks:
        for chunk in chunks:
            for piece in chunk:
                piece.tensor.neg_()
    for p, w in zip(params, want):
        assert torch.equal(p.full_tensor(), -w)


def test_dtensors_of_two_mesh_dimensions():
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    placements = [[Shard(0), Shard(1)], [Shard(1), Shard(0)], [Replicate(), Shard(0)], [Shard(1), Replicate()],
                  [Shard(0), Shard(0)], [Replicate(), Replicate()]]
    want = [torch.randn(7, 5, generator=torch.Generator().manual_seed(i)) for i in range(len(placements))]
    check([distribute_tensor(w.clone(), mesh, p) for w, p in zip(want, placements)], want)


def test_fsdp_over_tensor_parallelism():
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 6))
    want = [p.detach().clone() for p in model.parameters()]
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    check(list(model.parameters()), want)


def test_hsdp():
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Linear(7, 6))
    want = [p.detach().clone() for p in model.parameters()]
    fully_shard(model, mesh=mesh)
    check(list(model.parameters()), want)


def test_fsdp_on_a_part_of_the_mesh_with_parameters_outside_the_plan_of_tensor_parallelism():
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    for part in ("dp", "tp"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 7))
        want = [p.detach().clone() for p in model.parameters()]
        if part == "dp":
            parallelize_module(model, mesh["tp"], {"0": ColwiseParallel()})
        fully_shard(model, mesh=mesh[part])
        check(list(model.parameters()), want)


def test_a_mesh_whose_ranks_are_in_another_order_is_refused():
    from kinds import raises
    from torch.distributed.device_mesh import DeviceMesh
    mesh = DeviceMesh("cpu", [0, 2, 1, 3])
    with raises(unshard.BadLayout, "another order"):
        with unshard.gathered(distribute_tensor(torch.zeros(8), mesh, [Shard(0)]), unshard.MiB):
            pass
