# SPDX-License-Identifier: Apache-2.0
"""The safetensors format: headers, types, files and indices of several files."""
import json
import math
import os

import torch

NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
         torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
         torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.complex64: "C64",
         torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0"}
TYPES = {name: dtype for dtype, name in NAMES.items()}
INDEX = "model.safetensors.index.json"
_MOST_HEADER = 100 * 2 ** 20   # bytes; safetensors' own limit


def name_of(tensor, name):
    """The format's name of a tensor's type."""
    if tensor.dtype not in NAMES:
        raise TypeError("unshard: tensor %r is of type %s, which unshard does not write to safetensors files"
                        % (name, tensor.dtype))
    return NAMES[tensor.dtype]


def header(items, shape_of, metadata):
    """The first bytes of a file of these [(name, tensor)]."""
    entries, at = {"__metadata__": {"format": "pt", **(metadata or {})}}, 0
    for name, tensor in items:
        end = at + math.prod(shape_of(tensor)) * tensor.element_size()
        entries[name] = {"dtype": name_of(tensor, name), "shape": list(shape_of(tensor)), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(path):
    """(where the data begins, {name: entry}) of one file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise ValueError("%s is not a safetensors file: its first 8 bytes say that its header has %d bytes, and the file "
                             "has %d" % (path, length, size))
        try:
            entries = json.loads(file.read(length))
        except ValueError as e:
            raise ValueError("%s is not a safetensors file: its header can't be read: %s" % (path, e)) from e
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        if entry["dtype"] in TYPES and end - begin != math.prod(entry["shape"]) * TYPES[entry["dtype"]].itemsize:
            raise ValueError("%s: %r has %d bytes, its shape %s and type %s are others"
                             % (path, name, end - begin, entry["shape"], entry["dtype"]))
    return 8 + length, entries


def read_checkpoint(path):
    """{name: (file, where its bytes begin, type, shape)} of a file, an index, or a folder that has either."""
    path = os.fspath(path)
    if os.path.isdir(path):
        folder = path
        path = next((p for p in (os.path.join(folder, INDEX), os.path.join(folder, "model.safetensors"))
                     if os.path.exists(p)), None)
        if path is None:
            raise FileNotFoundError("%s has neither %s nor model.safetensors" % (folder, INDEX))
    if not path.endswith(".json"):
        return _entries(path)
    with open(path) as file:
        index = json.load(file)
    if "weight_map" not in index:
        raise ValueError("%s is not the index of a checkpoint: it has no \"weight_map\"" % path)
    out, folder = {}, os.path.dirname(path)
    for name in dict.fromkeys(index["weight_map"].values()):
        out.update(_entries(os.path.join(folder, name)))
    lacking = sorted(set(index["weight_map"]) - set(out))
    if lacking:
        raise ValueError("%s names tensors that its files lack: %s" % (path, ", ".join(lacking)))
    return out


def _entries(path):
    start, entries = read_header(path)
    return {name: (path, start + e["data_offsets"][0], e["dtype"], list(e["shape"])) for name, e in entries.items()}
