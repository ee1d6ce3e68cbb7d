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


def handle(name, tensor, ranks, writes):
    """A parameter as unshard sees it. Nothing is copied."""
    if is_zero3(tensor):
        return _zero3(name, tensor, ranks, writes)
    if isinstance(tensor, DTensor):
        return _dtensor(name, tensor, ranks)
    return native.plain(name, tensor.detach(), ranks)


def _zero3(name, tensor, ranks, writes):
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
    if dist.get_world_size(tensor.ds_process_group) != ranks:
        raise native.BadLayout("parameter %r is partitioned over %d ranks, the range has %d"
                               % (name, dist.get_world_size(tensor.ds_process_group), ranks))
    if hasattr(tensor.ds_tensor, "ds_quant_scale"):
        raise native.BadLayout("parameter %r is kept quantised; that is not supported" % name)
    if writes and (tensor.ds_status != ZeroParamStatus.NOT_AVAILABLE or tensor.ds_secondary_tensor is not None):
        raise native.OverlappingScope("parameter %r is gathered by DeepSpeed at the moment, or has a second copy (hpZ): "
                                      "a write to its shards would leave that one stale. Partition it first." % name)
    return native.zero3(name, tensor.ds_tensor, list(tensor.ds_shape), ranks)


def _dtensor(name, tensor, ranks):
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
    cuts += reversed(later)
    return native.dtensor(name, tensor.to_local(), list(tensor.shape), cuts, ranks)


class identities:
    """Numbers for tied parameters: the same for the same tensor, or for plain tensors over the same memory."""

    def __init__(self):
        self._known = {}

    def of(self, tensor):
        key = id(tensor)
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and not is_zero3(tensor) and tensor.numel() > 0:
            key = (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)
        return self._known.setdefault(key, len(self._known) + 1)
