# SPDX-License-Identifier: Apache-2.0
"""GatheredParameters: DeepSpeed's context, with a budget, and with the agreement of all ranks."""
from collections.abc import Iterable

import _unshard_torch as native
import torch
import torch.distributed as dist

from . import handles
from .gathering import ReadOnly, gathered

_DEPTH = "_ds_z3_gathered_param_context_depth"     # DeepSpeed's own mark of a parameter inside such a context


class GatheredParameters:
    """Inside, `p.data` is the whole value on every rank, as with `deepspeed.zero.GatheredParameters`.

    params         a ZeRO-3 parameter or an iterable of them; what is not partitioned by ZeRO-3 is left as it is
    modifier_rank  what this rank (of the parameters' group) changed reaches all shards; None: nothing may be changed
    fwd_module     registers the parameters as external ones of that module
    enabled        False: nothing happens
    budget         bytes that all of them may take on each rank; BudgetTooSmall where they take more: then use `gathered`

    Collective. OverlappingScope: a parameter is inside such a context already. ReadOnly, on every rank: one was changed
    in place and there is no modifier_rank. An exception inside discards every change, and the others get PeerFailed.
    """

    def __init__(self, params, modifier_rank=None, fwd_module=None, enabled=True, *, budget=2 ** 30):
        one = isinstance(params, torch.Tensor) or not isinstance(params, Iterable)
        listed = [p for p in ([params] if one else params) if enabled and handles.is_zero3(p)]
        self._params = sorted(set(listed), key=lambda p: p.ds_id)         # the same order on every rank
        self._modifier, self._budget = modifier_rank, budget
        self._ranges, self._shown = [], []
        if fwd_module is not None:
            from deepspeed.runtime.zero.partition_parameters import register_external_parameter
            for p in self._params:
                register_external_parameter(fwd_module, p)

    def __enter__(self):
        if not self._params:
            return
        inside = [p.ds_id for p in self._params if getattr(p, _DEPTH, 0) > 0]
        if inside:
            raise native.OverlappingScope("unshard: nested GatheredParameters contexts cannot overlap parameters; an outer "
                                          "context has those of ds_id %s" % inside)
        size = sum(p.ds_numel * p.element_size() for p in self._params)
        if size > self._budget:
            raise native.BudgetTooSmall(
                "unshard.GatheredParameters: %d parameters take %d bytes on every rank, the budget is %d. unshard.gathered "
                "shows them chunk by chunk within it." % (len(self._params), size, self._budget))
        handles.partition_idle(self._params)
        groups = {}
        for p in self._params:
            groups.setdefault(id(p.ds_process_group), (p.ds_process_group, []))[1].append(p)
        access = "read" if self._modifier is None else "read_write"
        try:
            for group, params in groups.values():
                group = None if dist.get_world_size(group) == dist.get_world_size() else group
                # A whole budget beside the transport's staging: only the values count here.
                opened = gathered(params, 2 * size + 2 ** 20, access, None, group=[1] * len(params), verify=False,
                                  process_group=group)
                opened.__enter__()
                self._ranges.append((opened, group))
                for chunk in opened:
                    self._show(chunk, group)
                    break
        except BaseException as e:
            self._hide()
            for opened, _ in self._ranges:
                opened.__exit__(type(e), e, None)
            raise

    def _show(self, chunk, group):
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
        for p, tensor in chunk.params():
            self._shown.append((p, tensor, p.data, group))
            p.data = tensor
            p.ds_status = ZeroParamStatus.AVAILABLE
            setattr(p, _DEPTH, 1)
        self._versions = [(p._version, p.data_ptr()) for p, _, _, _ in self._shown]

    def __exit__(self, kind, error, trace):
        if not self._params:
            return
        try:
            if error is None and self._modifier is None:
                self._nothing_changed()
            elif error is None:
                self._spread()
        except BaseException as e:
            self._hide()
            for opened, _ in self._ranges:
                opened.__exit__(type(e), e, None)
            raise
        self._hide()
        for opened, _ in self._ranges:
            if error is None and self._modifier is not None:
                for _ in opened:                     # one chunk: this writes it back
                    pass
            opened.__exit__(kind, error, trace)

    def _nothing_changed(self):
        changed = [p.ds_id for (p, _, _, _), before in zip(self._shown, self._versions)
                   if (p._version, p.data_ptr()) != before]
        group = handles.control_group(self._ranges[0][1])
        said = [None] * dist.get_world_size(group)
        dist.all_gather_object(said, changed, group=group)
        for rank, ids in enumerate(said):
            if ids:
                raise ReadOnly("unshard.GatheredParameters: in-place modification of the parameters of ds_id %s on rank %d "
                               "with modifier_rank=None. Name the rank whose changes count." % (ids, rank))

    def _spread(self):
        """Every rank gets what the modifier has."""
        for p, tensor, _, group in self._shown:
            if p.data_ptr() != tensor.data_ptr() and p.numel() == tensor.numel():
                tensor.copy_(p.data)
            if tensor.numel() > 0:
                dist.broadcast(tensor.reshape(-1).view(torch.uint8), group_src=self._modifier,
                               group=handles.control_group(group))

    def _hide(self):
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
        for p, _, placeholder, _ in self._shown:
            p.data = placeholder
            p.ds_status = ZeroParamStatus.NOT_AVAILABLE
            if hasattr(p, _DEPTH):
                delattr(p, _DEPTH)
        self._shown = []
