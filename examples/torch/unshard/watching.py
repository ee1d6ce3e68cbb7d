# SPDX-License-Identifier: Apache-2.0
"""What an initialiser does to parameters and buffers, seen operation by operation while it runs."""
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operations that write every element and read none.
_FILLS = {"normal_", "uniform_", "zero_", "fill_", "copy_", "bernoulli_", "exponential_", "log_normal_", "random_",
          "cauchy_", "geometric_"}
# Operations that ask a tensor for its shape and type only.
_LIKE = {"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_empty",
         "new_zeros", "new_ones", "new_full", "new_empty_strided", "is_same_size", "set_"}
# What reaches a tensor's memory without an operation.
_UNSEEN = {torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.tolist, torch.Tensor.data_ptr,
           torch.Tensor.untyped_storage, torch.Tensor.storage, torch.Tensor.__dlpack__, torch.Tensor.share_memory_,
           torch.Tensor.__reduce_ex__, torch.Tensor.__deepcopy__}


class Watch:
    """`with watch:` calls, before it happens, what is given here:

    touch(slot, fills)  an operation uses a parameter's values; `fills`: it writes all of them and reads none
    skips(slot)         an operation is about to write to it: whether that is left out here
    wrote(slot)         an operation has written to it
    buffers             an object with `save(key)`: an operation is about to write to a buffer
    """

    def __init__(self, slots, buffers, role):
        self.slots, self.buffers = slots, buffers       # by the address of the storage
        self.touch, self.skips, self.wrote = role.touch, role.skips, role.wrote
        self._modes = [_Operations(self), _Calls(self)]

    def __enter__(self):
        for mode in self._modes:
            mode.__enter__()

    def __exit__(self, *error):
        for mode in reversed(self._modes):
            mode.__exit__(*error)


def _tensors(values, out):
    for v in values:
        if isinstance(v, torch.Tensor):
            out.append(v)
        elif isinstance(v, (list, tuple)):
            _tensors(v, out)
    return out


def _key(tensor):
    try:
        return tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):          # sparse tensors have no storage
        return None


class _Calls(TorchFunctionMode):
    def __init__(self, watch):
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _UNSEEN and args and isinstance(args[0], torch.Tensor):
            key = _key(args[0])
            slot = self._watch.slots.get(key)
            if slot is not None and slot.elements > 0:
                self._watch.touch(slot, False, unseen=True)
            self._watch.buffers.save(key)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, watch):
        super().__init__()
        self._watch = watch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        watch, used = self._watch, []
        for t in _tensors((*args, *kwargs.values()), []):
            key = _key(t)
            slot = watch.slots.get(key)
            if slot is not None:
                if slot.elements > 0:
                    used.append((t, slot))
            elif key in watch.buffers.keys:
                used.append((t, key))
        if not used:
            return func(*args, **kwargs)
        schema = func._schema
        name = schema.name.split("::")[1]
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
        if views or name in _LIKE:
            return func(*args, **kwargs)
        written, read = _written(schema, args, kwargs)
        changed = []
        for t, what in used:
            writes = any(t is w for w in written)
            if not hasattr(what, "elements"):
                if writes:
                    watch.buffers.save(what)
                continue
            whole = writes and t.numel() == what.elements and t.is_contiguous() and \
                (name in _FILLS or "out" in (func._overloadname or "")) and \
                not any(_key(r) == what.key() for r in read)
            if writes and watch.skips(what):
                return _returned(schema, args, kwargs, written)
            watch.touch(what, whole)
            if writes:
                what.written = True
                changed.append(what)
        result = func(*args, **kwargs)
        for slot in changed:
            watch.wrote(slot)
        return result


def _written(schema, args, kwargs):
    """The tensors that an operation writes to, and those that it only reads."""
    written, read = [], []
    for i, a in enumerate(schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(a.name)
        tensors = _tensors((value,), [])
        (written if a.alias_info is not None and a.alias_info.is_write else read).extend(tensors)
    return written, read


def _returned(schema, args, kwargs, written):
    """What an operation in place returns, had it happened."""
    if len(schema.returns) == 0:
        return None
    return written[0] if len(schema.returns) == 1 else tuple(written)
