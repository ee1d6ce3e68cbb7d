# SPDX-License-Identifier: Apache-2.0
"""What a failed call gives back: the states of random generators, buffers, and what modules had noted."""
import hashlib
import random
import sys

import torch


def random_states():
    """Of torch, Python and numpy (if it is in use)."""
    numpy = sys.modules.get("numpy")
    return torch.get_rng_state(), random.getstate(), numpy.random.get_state() if numpy else None


def set_random_states(states):
    torch.set_rng_state(states[0])
    if states[1] is not None:
        random.setstate(states[1])
    if states[2] is not None and "numpy" in sys.modules:
        sys.modules["numpy"].random.set_state(states[2])


def digest(thing):
    """Of a tensor's bytes, or of anything that has a faithful repr."""
    if isinstance(thing, torch.Tensor):
        flat = thing.detach().contiguous().reshape(-1).view(torch.uint8)
        return hashlib.blake2b(flat.numpy().data, digest_size=16).hexdigest() if flat.numel() else ""
    return hashlib.blake2b(repr(thing).encode(), digest_size=16).hexdigest()


def digest_of_states(states):
    numpy = states[2]
    return digest(states[0]), digest(states[1]), numpy and digest((numpy[0], numpy[1].tolist(), numpy[2:]))


class Buffers:
    """Copies of buffers, each made right before the first write to it. Those that were loaded keep every bit.

    keys   the addresses of the storages that are watched
    """

    def __init__(self, model, is_loaded):
        self._entries, self.keys, self._saved, self._first = [], {}, {}, {}
        for prefix, module in model.named_modules():
            for name, b in module._buffers.items():
                if b is None or b.is_meta or b.layout != torch.strided:
                    continue
                full = prefix + ("." if prefix else "") + name
                entry = (full, module, name, b, is_loaded(full, module, name, b))
                self._entries.append(entry)
                self.keys.setdefault(b.untyped_storage()._cdata, []).append(entry)

    def save(self, key):
        for entry in self.keys.get(key, ()):
            if entry[0] not in self._saved:
                self._saved[entry[0]] = (entry, entry[3].detach().clone())

    def protect(self):
        """After a step: the loaded ones are as they were."""
        for full in [f for f, (entry, _) in self._saved.items() if entry[4]]:
            entry, copy = self._saved.pop(full)
            entry[3].copy_(copy)
            entry[1]._buffers[entry[2]] = entry[3]

    def protect_bindings(self):
        for full, module, name, b, loaded in self._entries:
            if loaded and module._buffers.get(name) is not b:
                module._buffers[name] = b

    def changed(self, model):
        """{name: tensor} of buffers that are not what they were before, written or bound anew."""
        before = {full: b for full, _, _, b, _ in self._entries}
        out = {}
        for prefix, module in model.named_modules():
            for name, b in module._buffers.items():
                full = prefix + ("." if prefix else "") + name
                if isinstance(b, torch.Tensor) and not b.is_meta and \
                        (full in self._saved or before.get(full) is not b):
                    out[full] = (module, name, b)
        return out

    @staticmethod
    def set(module, name, value):
        """A buffer as another rank has it."""
        own = module._buffers.get(name)
        if own is not None and own.shape == value.shape and own.dtype == value.dtype:
            own.copy_(value)
        else:
            module._buffers[name] = value

    def restore(self):
        for (_, module, name, b, _), copy in self._saved.values():
            b.copy_(copy)


class Modules:
    """What modules had in their attributes: shallow copies."""

    def __init__(self, model):
        self._kept = [(m, dict(m.__dict__), {key: dict(m.__dict__[key]) for key in ("_parameters", "_buffers", "_modules")})
                      for m in model.modules()]

    def restore(self):
        for module, attributes, tables in self._kept:
            for name in [n for n in module.__dict__ if n not in attributes]:
                del module.__dict__[name]
            module.__dict__.update(attributes)
            for key, table in tables.items():
                module.__dict__[key].clear()
                module.__dict__[key].update(table)
