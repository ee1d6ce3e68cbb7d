# SPDX-License-Identifier: Apache-2.0
"""Which handle a tensor gets, and the process group that its bytes go through."""
import _unshard_torch as native
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_control = {}  # name of a process group -> the one for messages over its ranks
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


def control_group(group=None):
    """A process group over the same ranks for messages between them. Collective the first time."""
    group = group or dist.group.WORLD
    if group.group_name not in _control:
        _control[group.group_name] = dist.new_group(dist.get_process_group_ranks(group), backend="gloo",
                                                    use_local_synchronization=True)
    return _control[group.group_name]


def give_back(communicator, group=None):
    _free.setdefault((group or dist.group.WORLD).group_name, []).insert(0, communicator)


def is_zero3(tensor):
    return hasattr(tensor, "ds_tensor")


def whole_shape(tensor):
    """Never the placeholder's."""
    return list(tensor.ds_shape) if is_zero3(tensor) else list(tensor.shape)


def identity(tensor):
    """Equal for tied parameters: of plain ones that are not one object, over the same memory."""
    if is_zero3(tensor) or isinstance(tensor, DTensor) or tensor.is_meta or tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.dtype


def partition_idle(tensors):
    """Frees the whole values that a DeepSpeed engine keeps of ZeRO-3 parameters between steps (small ones); their shards
    are up to date, and the engine gathers them again. Not those inside a user's context. Returns how many. Local."""
    idle = [p for p in tensors if is_zero3(p) and p.ds_status.name == "AVAILABLE" and
            not getattr(p, "_ds_z3_gathered_param_context_depth", 0) and not p.ds_active_sub_modules]
    if idle:
        idle[0].partition(param_list=idle, has_been_updated=False)
    return len(idle)


def listed(names, tensors, groups, members, writes):
    """Parameters as unshard sees them: lists of names, tensors and group numbers. Nothing is copied, except tensors that
    are not contiguous, for reading. `members`: the global ranks of the range, in order."""
    try:
        return _listed(names, tensors, groups, members, writes)
    except native.OverlappingScope:
        if not partition_idle(tensors):
            raise
        return _listed(names, tensors, groups, members, writes)


def _listed(names, tensors, groups, members, writes):
    out, numbers, at, ranks = native.Handles(), {}, 0, len(members)
    while True:
        at = out.zero3(names, tensors, groups, at, ranks, writes, lambda name, group: _partitioned(name, group, ranks))
        if at == len(tensors):
            return out
        name, tensor, group = names[at], tensors[at], groups[at]
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if is_traceable_wrapper_subclass(local):
            raise native.BadLayout("parameter %r is a %s: a tensor made of others, whose bytes are elsewhere; list those, or "
                                   "dequantise it" % (name, type(local).__name__))
        if local.layout != torch.strided:
            raise native.BadLayout("parameter %r is not dense: its layout is %s" % (name, local.layout))
        if not writes and not local.is_contiguous() and local.is_cpu:
            local = local.contiguous()
        if isinstance(tensor, DTensor):
            out.dtensor(name, local, tensor.shape, _cuts(name, tensor, members), ranks, _number(numbers, id(tensor)), group)
        else:
            out.plain(name, local, ranks, _number(numbers, identity(tensor)), group)
        at += 1


def _number(numbers, key):
    return numbers.setdefault(key, len(numbers) + 1)        # never the address of an object, which ZeRO-3's have


def _partitioned(name, group, ranks):
    """What the status of a parameter is while it is partitioned."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
    if dist.get_world_size(group) != ranks:
        raise native.BadLayout("parameter %r is partitioned over %d ranks, the range has %d: give these parameters a range of "
                               "their own, with process_group=p.ds_process_group"
                               % (name, dist.get_world_size(group), ranks))
    return ZeroParamStatus.NOT_AVAILABLE


def _cuts(name, tensor, members):
    """[(tensor dimension, size of the mesh dimension, its stride in ranks)], in the order in which they cut. The mesh may
    be a part of the ranks, where the other parts are alike: FSDP2 beside tensor parallelism."""
    mesh, places = tensor.device_mesh.mesh, {rank: at for at, rank in enumerate(members)}

    def refused(why):
        return native.BadLayout("parameter %r lies on a mesh of ranks %s, %s; a range over ranks %s needs a regular part of "
                                "them" % (name, mesh.tolist(), why, members))
    if any(r not in places for r in mesh.flatten().tolist()):
        raise refused("some of which the range lacks")
    at = mesh.clone().apply_(places.__getitem__)
    cuts, later = [], []
    for i, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            continue
        strided = type(placement).__name__ == "_StridedShard"  # FSDP2 over tensor parallelism: it cuts after the others
        if not strided and not isinstance(placement, Shard):
            raise native.BadLayout("parameter %r has placement %s; only Shard and Replicate are whole values"
                                   % (name, placement))
        size = at.shape[i]
        lines = at.movedim(i, -1).reshape(-1, size)
        stride = int(lines[0, 1] - lines[0, 0]) if size > 1 else 1
        if stride < 1 or not torch.equal(lines // stride % size, torch.arange(size).expand_as(lines)):
            raise refused("in another order")
        (later if strided else cuts).append((placement.dim, size, stride))
    return cuts + later[::-1]
