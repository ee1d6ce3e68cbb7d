# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the safetensors format, streamed within a byte budget. Only the root touches the files."""
import json
import math
import os
import warnings

import torch
import torch.distributed as dist

from . import handles
from . import safetensors_format as sf
from .gathering import gathered

_BLOCK = 2 ** 20  # bytes that are converted at a time, where the file has another type


def save_safetensors(model, path, budget, *, root=0, names=None, metadata=None, max_file_bytes=None, process_group=None,
                     **options):
    """Writes a model's `state_dict()`, whole, by rank `root`: chunk after chunk, tied tensors once, under their first
    name. A file appears under its name when it is complete.

    model           a module, or a dict of tensors
    path            a file; with max_file_bytes a folder, which gets files of at most so many bytes (a larger tensor has
                    one of its own) and model.safetensors.index.json
    names           the names to write, or a function that says so of a name (an adapter's, say); default: all
    metadata        strings for the header, by strings

    What a state dict has that is no tensor (a module's extra state) is left out, with a warning.

    Collective: whatever fails on the root raises there, and PeerFailed on the others."""
    others = [n for n, t in _state(model).items() if not isinstance(t, torch.Tensor)]
    if others:
        warnings.warn("unshard.save_safetensors: %s is no tensor: the format can't hold it" % ", ".join(others))
    items = _chosen(_distinct(model), names)
    for name, tensor in items:
        sf.name_of(tensor, name)
    items.sort(key=lambda item: -item[1].element_size())               # so that every tensor is aligned
    files = _files(items, path, max_file_bytes)
    me = dist.get_rank(process_group) == root
    partial, file, done = "", None, []

    def next_file(number):
        target, of_it = files[number]
        name = "%s.partial-%d" % (target, os.getpid())
        out = open(name, "wb")
        done.append((name, target))
        out.write(sf.header(of_it, handles.whole_shape, metadata))
        return out

    try:
        owner = [number for number, (_, of_it) in enumerate(files) for _ in of_it]
        # A parameter over the budget comes in parts; in order, so that a part always continues the one before it.
        with gathered(items, budget, "read", root, cut="oversized", process_group=process_group, **options) as chunks:
            if me and max_file_bytes is not None:
                os.makedirs(path, exist_ok=True)
            for chunk in chunks:
                for piece in chunk:
                    while len(done) <= owner[piece.index]:
                        if file is not None:
                            file.close()
                        file = next_file(len(done))
                    file.write(_bytes(piece.tensor))
        while me and len(done) < len(files):                           # those of no bytes
            if file is not None:
                file.close()
            file = next_file(len(done))
        if file is not None:
            file.close()
        for partial, target in done:
            os.replace(partial, target)
        if me and max_file_bytes is not None:
            _write_index(path, files)
    except BaseException:
        if file is not None:
            file.close()
        for partial, _ in done:
            if os.path.exists(partial):
                os.unlink(partial)
        raise
    dist.barrier(process_group)


def load_state_dict(model, path, budget, *, root=0, strict=True, names=None, process_group=None, **options):
    """Reads a checkpoint on rank `root` into the shards of all: no rank gathers anything (access "overwrite"). Returns the
    names that the model has and the checkpoint lacks, on every rank.

    model   a module, or a dict of tensors
    path    a safetensors file, the index of several, or a folder that has either
    strict  names that one has and the other lacks are a KeyError, before a byte moves
    names   the names to read, or a function that says so of a name; default: all"""
    all_names = _all_names(model)
    items = _chosen(_distinct(model), names)
    entries = _told_by_root(lambda: sf.read_checkpoint(path), root, process_group)
    found, lacking = [], []
    for name, tensor in items:
        entry = next((entries[n] for n in all_names[name] if n in entries), None)
        if entry is None:
            lacking.append(name)
        elif entry[3] != handles.whole_shape(tensor):
            raise ValueError("%s: %r has shape %s, the model's is %s" % (path, name, entry[3], handles.whole_shape(tensor)))
        elif entry[2] not in sf.TYPES:
            raise TypeError("%s: %r is of type %s, which unshard does not read" % (path, name, entry[2]))
        else:
            found.append((name, tensor, entry))
    known = {n for of_one in all_names.values() for n in of_one}
    unexpected = [n for n in entries if n not in known and (names is None or n in _chosen_names([n], names))]
    if strict and (lacking or unexpected):
        raise KeyError("; ".join(["%s lacks %s" % (path, ", ".join(lacking))] * bool(lacking) +
                                 ["%s has %s, which the model lacks" % (path, ", ".join(unexpected))] * bool(unexpected)))
    with gathered([f[:2] for f in found], budget, "overwrite", root, cut="oversized", process_group=process_group,
                  **options) as chunks:
        file = None
        try:
            for chunk in chunks:
                for piece in chunk:
                    name, at, dtype, _ = found[piece.index][2]
                    if file is None or file.name != name:
                        if file is not None:
                            file.close()
                        file = open(name, "rb", buffering=0)
                    _read(file, at, sf.TYPES[dtype], piece)
        finally:
            if file is not None:
                file.close()
    for _, tensor, _ in found:
        tensor._is_hf_initialized = True
    return lacking


def _told_by_root(what, root, process_group):
    """What a function returns on the root, on every rank; its exception as well."""
    told = [None]
    if dist.get_rank(process_group) == root:
        try:
            told = [what()]
        except Exception as e:
            told = [e]
    dist.broadcast_object_list(told, group=handles.control_group(process_group), group_src=root)
    if isinstance(told[0], Exception):
        raise told[0]
    return told[0]


def _all_names(model):
    """First name -> all names of one tensor. What is no tensor (a module's extra state) is left out."""
    first, names = {}, {}
    for name, tensor in _state(model).items():
        if isinstance(tensor, torch.Tensor):
            names.setdefault(first.setdefault(id(tensor), name), []).append(name)
    return names


def _state(model):
    return model if isinstance(model, dict) else model.state_dict(keep_vars=True)


def _distinct(model):
    """[(name, tensor)], tied ones once."""
    state = _state(model)
    return [(name, state[name]) for name in _all_names(model)]


def _chosen_names(all_of_them, names):
    return [n for n in all_of_them if (names(n) if callable(names) else n in names)]


def _chosen(items, names):
    if names is None:
        return items
    if not callable(names):
        unknown = sorted(set(names) - {name for name, _ in items})
        if unknown:
            raise KeyError("the model has no %s" % ", ".join(unknown))
    wanted = set(_chosen_names([name for name, _ in items], names))
    return [item for item in items if item[0] in wanted]


def _files(items, path, most):
    """[(file, the items in it)]."""
    if most is None:
        return [(os.fspath(path), items)]
    parts, size = [[]], 0
    for name, tensor in items:
        own = math.prod(handles.whole_shape(tensor)) * tensor.element_size()
        if parts[-1] and size + own > most:
            parts.append([])
            size = 0
        parts[-1].append((name, tensor))
        size += own
    return [(os.path.join(path, "model-%05d-of-%05d.safetensors" % (i, len(parts))), part)
            for i, part in enumerate(parts, 1)]


def _write_index(path, files):
    total = sum(math.prod(handles.whole_shape(t)) * t.element_size() for _, part in files for _, t in part)
    index = {"metadata": {"total_size": total},
             "weight_map": {name: os.path.basename(file) for file, part in files for name, _ in part}}
    with open(os.path.join(path, sf.INDEX), "w") as out:
        json.dump(index, out, indent=1, sort_keys=True)
        out.write("\n")


def _bytes(tensor):
    """A tensor's memory, not a copy."""
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def _read(file, start, dtype, piece):
    """The piece's elements, straight into the chunk where the types agree, else block by block."""
    flat = piece.tensor.reshape(-1)
    at = start + piece.first * dtype.itemsize
    if dtype == flat.dtype:
        _fill(file, at, _bytes(flat))
        return
    per = _BLOCK // dtype.itemsize
    for first in range(0, flat.numel(), per):
        block = torch.empty(min(per, flat.numel() - first), dtype=dtype)
        _fill(file, at + first * dtype.itemsize, _bytes(block))
        flat[first:first + block.numel()].copy_(block)


def _fill(file, at, memory):
    while len(memory) > 0:
        count = os.preadv(file.fileno(), [memory], at)
        if count == 0:
            raise EOFError("%s ends too soon, at byte %d" % (file.name, at))
        memory, at = memory[count:], at + count
