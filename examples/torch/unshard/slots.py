# SPDX-License-Identifier: Apache-2.0
"""Parameters while initialisers run: each module sees, in the place of a shard, a parameter of the whole shape. It has no
memory until an operation uses it; who may give it some is not decided here."""
import _unshard_torch as native
import torch
from torch import nn

from . import handles

_NOT_HERE = "unshard: this parameter's values are not here now; an initialiser used them in a way that can't be seen"
_ENDED = "unshard: this tensor viewed a parameter during the initialiser of a module, which has ended. Clone what is to stay."


class Slot:
    """One parameter, tied ones once.

    places   [(module, name in it)]
    names    all of its names in the model
    missing  whether the checkpoint lacked it
    step     the first step whose module owns it
    shown    what the modules have in its place meanwhile
    lease    what gave `shown` memory, or None
    written  whether an operation, a rebinding or numpy changed it
    """

    def __init__(self, index, name, param, missing):
        self.index, self.name, self.param, self.missing = index, name, param, missing
        self.shape = handles.whole_shape(param)
        self.elements = 1
        for extent in self.shape:
            self.elements *= extent
        self.nbytes = self.elements * param.element_size()
        self.places, self.names, self.step = [], [], None
        self.shown = self.lease = self._told = None
        self.written = False
        self.digest = None

    def show(self, watch):
        empty = native.hollow(self.param, self.shape, _NOT_HERE)
        if self.shown is None:
            self.shown = nn.Parameter(empty, requires_grad=self.param.requires_grad)
            self._told = _plain_attributes(self.param)
            self.shown.__dict__.update(self._told)
            self.shown._is_hf_initialized = not self.missing
            self._told["_is_hf_initialized"] = not self.missing
            for module, name in self.places:
                module._parameters[name] = self.shown
        else:
            self.shown.data = empty
        self.tensor = empty
        watch[self.key()] = self

    def key(self):
        return self.tensor.untyped_storage()._cdata

    def lend(self, values):
        native.lend(self.tensor, values)

    def take_back(self, watch):
        """The values of `shown` are gone, and views of them raise; it can get others."""
        del watch[self.key()]
        native.take_back(self.tensor, _ENDED)
        self.lease = None
        self.show(watch)

    def rebound(self):
        """What an initialiser put in the place of what was shown, or None."""
        for module, name in self.places:
            now = module._parameters.get(name, self.shown)
            if now is not self.shown and now is not None:
                return now
        if self.shown.untyped_storage()._cdata != self.key():
            return self.shown
        return None

    def show_again(self):
        """After a rebinding."""
        for module, name in self.places:
            module._parameters[name] = self.shown
        self.shown.data = self.tensor

    def restore(self):
        """Modules have the parameter itself again, and what initialisers noted on it."""
        for module, name in self.places:
            if module._parameters.get(name) is not None:
                module._parameters[name] = self.param
        if self.shown is not None:
            for name, value in _plain_attributes(self.shown).items():
                if self._told.get(name, self) != value:
                    setattr(self.param, name, value)
            if self.shown.requires_grad != self.param.requires_grad:
                self.param.requires_grad_(self.shown.requires_grad)


def _plain_attributes(param):
    """Flags that models put on parameters; DeepSpeed's own, and its methods, are not among them."""
    return {name: value for name, value in getattr(param, "__dict__", {}).items()
            if not name.startswith("ds_") and isinstance(value, (bool, int, float, str, tuple, type(None)))}


def slots_of(model, is_missing):
    """Slots of a model's parameters in the order of its modules, children first. `is_missing(name, parameter)`."""
    slots, known = [], {}
    order = {}
    for number, module in enumerate(_children_first(model, set())):
        order.setdefault(id(module), number)
    for prefix, module in model.named_modules():
        for name, p in module._parameters.items():
            if p is None:
                continue
            key = handles.identity(p)
            slot = known.get(key)
            if slot is None:
                full = prefix + ("." if prefix else "") + name
                slot = known[key] = Slot(0, full, p, is_missing(full, p))
                slot.step = order[id(module)]
                slots.append(slot)
            slot.places.append((module, name))
            slot.names.append(prefix + ("." if prefix else "") + name)
            slot.step = min(slot.step, order[id(module)])
    slots.sort(key=lambda s: s.step)
    for index, slot in enumerate(slots):
        slot.index = index
    return slots


def _children_first(module, seen):
    if id(module) in seen:
        return
    seen.add(id(module))
    for child in module.children():
        yield from _children_first(child, seen)
    yield module
