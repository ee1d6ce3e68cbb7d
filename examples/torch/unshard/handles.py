# SPDX-License-Identifier: Apache-2.0
"""Which handle a tensor gets, and the process group that its bytes go through."""
import _unshard_torch as native
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard

_free = {}  # name of a process group -> communicators over its ranks that no range uses


def take_communicator(group=None):
    """A communicator over the ranks of `group` (all ranks), for one range: two open at once need two. Collective where
    none is free, so ranks open and close their ranges in the same order."""
    group = group or dist.group.WORLD
    free = _free.setdefault(group.group_name, [])
    if free:
        return free.pop(0)
    own = dist.new_group(dist.get_process_group_ranks(group), backend="gloo", use_local_synchronization=True)
    return native.Communicator(own)


def give_back(communicator, group=None):
    _free.setdefault((group or dist.group.WORLD).group_name, []).insert(0, communicator)


def is_zero3(tensor):
    return hasattr(tensor, "ds_tensor")


def whole_shape(tensor):
    """Never the placeholder's."""
    return list(tensor.ds_shape) if is_zero3(tensor) else list(tensor.shape)


def listed(names, tensors, groups, ranks, writes):
    """Parameters as unshard sees them: lists of names, tensors and group numbers. Nothing is copied."""
    out, numbers, at = native.Handles(), {}, 0
    while True:
        at = out.zero3(names, tensors, groups, at, ranks, writes, lambda name, group: _partitioned(name, group, ranks))
        if at == len(tensors):
            return out
        name, tensor, group = names[at], tensors[at], groups[at]
        if isinstance(tensor, DTensor):
            out.dtensor(name, tensor.to_local(), tensor.shape, _cuts(name, tensor, ranks), ranks,
                        _number(numbers, id(tensor)), group)
        else:
            # Tied may be tensors that are not one object, over the same memory.
            same = (tensor.data_ptr(), tensor.shape, tensor.dtype) if tensor.numel() > 0 else id(tensor)
            out.plain(name, tensor, ranks, _number(numbers, same), group)
        at += 1


def _number(numbers, key):
    return numbers.setdefault(key, len(numbers) + 1)        # never the address of an object, which ZeRO-3's have


def _partitioned(name, group, ranks):
    """What the status of a parameter is while it is partitioned."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
    if dist.get_world_size(group) != ranks:
        raise native.BadLayout("parameter %r is partitioned over %d ranks, the range has %d"
                               % (name, dist.get_world_size(group), ranks))
    return ZeroParamStatus.NOT_AVAILABLE


def _cuts(name, tensor, ranks):
    """[(tensor dimension, size of the mesh dimension, its stride in ranks)], in the order in which they cut."""
    mesh = tensor.device_mesh
    if mesh.mesh.flatten().tolist() != list(range(ranks)):
        raise native.BadLayout("parameter %r lies on a mesh of ranks %s; a range needs ranks 0 to %d, in order"
                               % (name, mesh.mesh.tolist(), ranks - 1))
    cuts, later = [], []
    for i, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            continue
        strided = type(placement).__name__ == "_StridedShard"  # FSDP2 over tensor parallelism: it cuts after the others
        if not strided and not isinstance(placement, Shard):
            raise native.BadLayout("parameter %r has placement %s; only Shard and Replicate are whole values"
                                   % (name, placement))
        (later if strided else cuts).append((placement.dim, mesh.mesh.shape[i], mesh.mesh.stride(i)))
    return cuts + later[::-1]
