"""The numbers in a base file, without HDF5: its tensors' places stand at its head, in the order in which `inspect` names them. Needs numpy."""

import json
import re

import harness
import numpy as np

BLOCK_BYTES = {"q4_0": 18, "q8_0": 34, "mxfp4": 17}
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def from_bf16(words):
    return (words.astype(np.uint32) << 16).view(np.float32)


def decode_blocks(raw, format, rows, cols):
    """Blocks of 32 as GGUF has them."""
    block = np.frombuffer(raw, np.uint8).reshape(rows, cols // 32, BLOCK_BYTES[format])
    if format == "q8_0":
        value = block[:, :, 2:].view(np.int8).astype(np.float32)
    else:
        codes = block[:, :, 1 if format == "mxfp4" else 2 :]
        codes = np.concatenate([codes & 15, codes >> 4], 2)
        value = FP4[codes] if format == "mxfp4" else codes.astype(np.float32) - 8
    if format == "mxfp4":
        scale = np.ldexp(np.float32(1), block[:, :, :1].astype(np.int32) - 127)
    else:
        scale = np.ascontiguousarray(block[:, :, :2]).view("<f2").astype(np.float32)
    return (value * scale).astype(np.float32).reshape(rows, cols)


def contents(path):
    """name -> (type, shape, bytes)."""
    with open(path, "rb") as file:
        data = file.read()
    places = [tuple(map(int, pair)) for pair in re.findall(rb"^(\d+) (\d+)$", data[: data.index(b"\0")], re.M)]
    found = {}
    for tensor, (offset, length) in zip(json.loads(harness.mpilora("inspect", path, "--json"))["tensors"], places):
        found[tensor["name"]] = (tensor["dtype"], tensor["shape"], data[offset : offset + length])
    return found


def numbers(tensor):
    """One of these in fp32."""
    dtype, shape, raw = tensor
    if dtype == "fp32":
        return np.frombuffer(raw, "<f4").reshape(shape)
    return from_bf16(np.frombuffer(raw, "<u2")).reshape(shape) if dtype == "bf16" else decode_blocks(raw, dtype, *shape)
