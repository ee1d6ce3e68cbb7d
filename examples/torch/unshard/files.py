# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the safetensors format, streamed within a byte budget. Only the root touches the file."""
import json
import math
import os

import torch
import torch.distributed as dist

from .gathering import gathered

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
          torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_BLOCK = 2 ** 20  # bytes that are converted at a time, where the file has another type


def save_safetensors(model, path, budget, *, root=0, process_group=None, **options):
    """Writes what `model.state_dict()` names, whole, to one file, by rank `root`: chunk after chunk, in the model's order.
    Tied tensors are written once, under their first name. The file appears under its name when it is complete.
    Collective: whatever fails on the root raises there, and PeerFailed on the others."""
    items = sorted(_distinct(model), key=lambda item: -item[1].element_size())   # so that every tensor is aligned
    me = dist.get_rank(process_group) == root
    partial = "%s.partial-%d" % (os.fspath(path), os.getpid())
    file = None
    try:
        # A parameter over the budget comes in parts; in order, so that a part always continues the one before it.
        with gathered(items, budget, "read", root, cut="oversized", process_group=process_group, **options) as chunks:
            for chunk in chunks:
                if me and file is None:
                    file = open(partial, "wb")
                    file.write(_header(items))
                for piece in chunk:
                    file.write(_bytes(piece.tensor))
        if me:
            if file is None:                                   # nothing to gather: a file of no tensors
                file = open(partial, "wb")
                file.write(_header(items))
            file.close()
            os.replace(partial, path)
    except BaseException:
        if file is not None:
            file.close()
            os.unlink(partial)
        raise
    dist.barrier(process_group)


def load_state_dict(model, path, budget, *, root=0, strict=True, process_group=None, **options):
    """Reads a file on rank `root` into the shards of all: no rank gathers anything (access "overwrite"). Returns the
    names that the model has and the file lacks, on every rank; with `strict` that is a KeyError, before a byte moves."""
    items = _distinct(model)
    names = _all_names(model)
    told = [None]
    if dist.get_rank(process_group) == root:
        try:
            told = [_read_header(path)]
        except Exception as e:
            told = [e]
    dist.broadcast_object_list(told, group=process_group, group_src=root)
    if isinstance(told[0], Exception):
        raise told[0]
    start, entries = told[0]
    found, lacking = [], []
    for name, tensor in items:
        entry = next((entries[n] for n in names[name] if n in entries), None)
        if entry is None:
            lacking.append(name)
        elif list(entry["shape"]) != list(_shape(tensor)):
            raise ValueError("%s: %r has shape %s, the model's is %s" % (path, name, entry["shape"], list(_shape(tensor))))
        else:
            found.append((name, tensor, entry))
    if strict and lacking:
        raise KeyError("%s lacks %s" % (path, ", ".join(lacking)))
    with gathered([f[:2] for f in found], budget, "overwrite", root, cut="oversized", process_group=process_group,
                  **options) as chunks:
        file = None
        try:
            for chunk in chunks:
                for piece in chunk:
                    file = file or open(path, "rb", buffering=0)
                    _read(file, start, found[piece.index][2], piece)
        finally:
            if file is not None:
                file.close()
    for _, tensor, _ in found:
        tensor._is_hf_initialized = True
    return lacking


def _shape(tensor):
    return tensor.ds_shape if hasattr(tensor, "ds_tensor") else tensor.shape


def _all_names(model):
    """First name -> all names of one tensor."""
    first, names = {}, {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(first.setdefault(id(tensor), name), []).append(name)
    return names


def _distinct(model):
    """[(name, tensor)], tied ones once."""
    state = model.state_dict(keep_vars=True)
    return [(name, state[name]) for name in _all_names(model)]


def _header(items):
    entries, at = {}, 0
    for name, tensor in items:
        end = at + math.prod(_shape(tensor)) * tensor.element_size()
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(_shape(tensor)), "data_offsets": [at, end]}
        at = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(path):
    """(where the data begins, {name: entry})."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return 8 + length, entries


def _bytes(tensor):
    """A tensor's memory, not a copy."""
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def _read(file, start, entry, piece):
    """The piece's elements, straight into the chunk where the types agree, else block by block."""
    dtype = _TYPES[entry["dtype"]]
    flat = piece.tensor.reshape(-1)
    at = start + entry["data_offsets"][0] + piece.first * dtype.itemsize
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
