# SPDX-License-Identifier: Apache-2.0
"""The same values as ZeRO-3, FSDP2 and plain parameters, and their whole values read without unshard."""
import common
import torch
import torch.distributed as dist
from torch import nn


def parameters(kind, values, trains=True):
    """A list of parameters of that kind that hold `values` (equal on all ranks)."""
    module = nn.Module()
    for i, v in enumerate(values):
        module.register_parameter("p%d" % i, nn.Parameter(v.clone(), requires_grad=trains))
    shard(kind, module)
    return [getattr(module, "p%d" % i) for i in range(len(values))]


def shard(kind, module):
    if kind == "zero3":
        common.zero3(module, dist.get_world_size())
    elif kind == "fsdp2":
        from torch.distributed.fsdp import fully_shard
        fully_shard(module, mesh=dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),)))
    return module


def whole(p):
    """Collective."""
    if hasattr(p, "ds_tensor"):
        parts = [torch.empty_like(p.ds_tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, p.ds_tensor)
        return torch.cat(parts)[:p.ds_numel].view(p.ds_shape)
    return (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()


def raises(kinds, text=""):
    """with raises(...) as r: ...; r.error"""
    class Context:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            assert error is not None, "nothing was raised"
            self.error = error
            return isinstance(error, kinds) and text in str(error)
    return Context()
