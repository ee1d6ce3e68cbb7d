# SPDX-License-Identifier: Apache-2.0
"""gathered: a context manager that is an iterator over chunks."""
import _unshard_torch as native
import torch
import torch.distributed as dist

from . import handles
from .undo import digest


class ReadOnly(native.Error):
    """A tensor was changed in place under access="read": the change reaches no shard."""


class Chunk:
    """Whole values (or, with `cut`, parts of them), on the root only. Its tensors are good until it ends; clone what
    is to stay. After that every use of them, and of views of them, raises RuntimeError."""

    def __init__(self, number, pieces, params):
        self.number = number
        self._pieces = pieces
        self._params = params

    def __iter__(self):
        return iter(self._pieces)

    def __len__(self):
        return len(self._pieces)

    def params(self):
        """Pairs of a parameter and a tensor over its whole value. A tied parameter comes once, as the first."""
        return [(self._params[p.index], p.tensor) for p in self._pieces]


class gathered:
    """The whole values of `params`, chunk by chunk; no rank holds more than `budget` bytes of them at any moment.

    params   a tensor, an iterable of tensors or of (name, tensor), a dict, or a module: in the same order on every rank
    access   "read"; "read_write"; "overwrite": nothing is gathered, and the body fills every element
    root     the rank that sees the values, in the group; None: all ranks see them, and each writes the same: ranks that
             wrote different values all get ReplicasDiffer (unless verify=False), and nothing is written
    group    keeps neighbours in one chunk: a number for each parameter (0: none), or "module": those that belong to one
             module (then `params` is a module, and children come before their parents)
    cut      "never": a parameter over the budget is BudgetTooSmall; "oversized", "anywhere": it comes in parts, flat

    Collective. Leaving the block early, or by an exception, discards the chunk in hand on every rank; the other ranks
    get PeerFailed, unless they leave as well.
    """

    def __init__(self, params, budget, access="read_write", root=0, *, group=None, cut="never", in_flight=1,
                 timeout_ms=600_000, first_chunk=0, verify=True, process_group=None):
        self._names, self._tensors, self._groups = _listed(params, group)
        self._access = access
        self._open = dict(access=access, budget=budget, root=-1 if root is None else root, cut=cut,
                          in_flight=in_flight, timeout_ms=timeout_ms, first_chunk=first_chunk, verify=verify)
        self._process_group = process_group
        self._comm = self._range = None
        self._shown = []
        self._committed = 0
        self._compares = root is None and access != "read" and verify

    def __enter__(self):
        self._comm = handles.take_communicator(self._process_group)
        try:
            try:
                members = dist.get_process_group_ranks(self._process_group or dist.group.WORLD)
                listed = handles.listed(self._names, self._tensors, self._groups, members, self._access != "read")
            except Exception as e:
                native.refuse(self._comm, str(e), self._open["timeout_ms"])   # so that no rank waits for this one
                raise
            self._range = native.open(listed, self._comm, **self._open)
        except BaseException as e:
            self._end(e)
            raise
        return self

    def __exit__(self, kind, error, trace):
        self._end(error)

    def __iter__(self):
        if self._range is None:
            raise RuntimeError("unshard.gathered: use it as `with gathered(...) as chunks: for chunk in chunks:`")
        return self

    def __next__(self):
        if self._access == "read":
            changed = [p.name for p in self._shown if p.tensor._version != 0]
            if changed:
                raise ReadOnly("unshard.gathered: %s changed in place under access=\"read\"; use \"read_write\""
                               % ", ".join(changed))
        shown, self._shown = self._shown, []
        try:
            if self._compares and shown:
                self._compare(shown)
            more = self._range.next()
        except BaseException as e:
            self._end(e)
            raise
        if not more:
            raise StopIteration
        self._shown = self._range.pieces()
        return Chunk(self._range.chunk, self._shown, self._tensors)

    def _compare(self, shown):
        """That all ranks wrote the same. A rank that leaves the chunk says so here; the next chunk tells the others."""
        said = self._everyone([(p.name or str(p.index), digest(p.tensor)) for p in shown])
        for rank, theirs in enumerate(said):
            for mine, other in zip(said[0] or (), theirs or ()):
                if mine != other:
                    raise native.ReplicasDiffer(
                        "unshard.gathered: with root=None every rank writes the same values, but rank %d wrote others than "
                        "rank 0 to parameter %r; nothing of this chunk was written. Edit it on all ranks alike, or name a "
                        "root." % (rank, mine[0]))

    def _everyone(self, mine):
        group = handles.control_group(self._process_group)
        said = [None] * dist.get_world_size(group)
        dist.all_gather_object(said, mine, group=group)
        return said

    @property
    def committed(self):
        """Chunks whose write-back this rank has seen: what `first_chunk` resumes at."""
        return self._range.committed if self._range is not None else self._committed

    @property
    def staging(self):
        """Bytes of the budget that the transport takes."""
        return self._comm.staging if self._comm is not None else 0

    def _end(self, error):
        if self._compares and self._shown:
            self._everyone(None)                  # the others may wait to compare
        self._shown = []
        if self._range is not None:
            self._range.close()
            self._committed = self._range.committed
            self._range = None
        # After a failure of the transport the communicator is of no use any more.
        lost = isinstance(error, (native.DeviceFailed, native.PeerTimeout, native.WriteBackFailed))
        if self._comm is not None and not lost:
            handles.give_back(self._comm, self._process_group)
        self._comm = None


def _listed(params, group):
    """Names, tensors and a group number for each: lists, for a pair of each would cost time where there are many."""
    if isinstance(params, torch.nn.Module):
        items = [(name, p, number) for number, (prefix, module) in enumerate(_children_first(params), 1)
                 for name, p in module.named_parameters(prefix, recurse=False, remove_duplicate=False)]
        names, tensors, modules = ([*column] for column in zip(*items)) if items else ([], [], [])
        if group == "module":
            return names, tensors, modules
    else:
        items = [params] if isinstance(params, torch.Tensor) else \
            list(params.items() if isinstance(params, dict) else params)
        names = [i[0] if isinstance(i, tuple) else "" for i in items]
        tensors = [i[1] if isinstance(i, tuple) else i for i in items]
    if group is None:
        return names, tensors, [0] * len(names)
    if isinstance(group, str) or len(group) != len(names):
        raise ValueError("unshard.gathered: group is None, one number a parameter, or \"module\" for a module")
    return names, tensors, list(group)


def _children_first(module, prefix=""):
    for name, child in module.named_children():
        yield from _children_first(child, prefix + ("." if prefix else "") + name)
    yield prefix, module
