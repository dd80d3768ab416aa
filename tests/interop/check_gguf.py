"""mpilora's reading of GGUF against the gguf package and transformers (a developer's check: needs gguf, h5py, torch, transformers; no CTest test).

1. Every storage type: a Llama file whose layers have one type each, contents random; imported in fp32, each matrix must equal gguf's own dequantisation bit by
   bit (q and k rows put back into Hugging Face's order).
2. With a second argument, a real file: imported, exported as a Hugging Face directory, and every tensor compared with transformers' loading of the GGUF.
3. `--golden` prints the blocks of tests/unit/test_gguf_blocks.c.

4. `--blocks` decodes a million random blocks of every format with the library's table.

usage: python tests/interop/check_gguf.py MPILORA [FILE.gguf]   or: … --golden   or: … --blocks libmpilora.so
"""
import pathlib
import subprocess
import sys
import tempfile

import gguf
import h5py
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

# Where a block has its scales.
HALVES = {
    Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q2_K: [80, 82], Type.Q3_K: [108],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.IQ4_XS: [0], Type.MXFP4: [],
}  # fmt: skip
TYPES = [Type.F32, Type.F16, Type.BF16, *HALVES]
WIDTH, HEADS, KV_HEADS, VOCAB = 256, 4, 2, 64


def fill(blocks, kind, rng):
    """Any scale that is a finite number, zeros, subnormal and the largest ones among them; the rest of a block may be anything."""
    for at in HALVES.get(kind, []):
        scale = blocks[:, at : at + 2].copy().view(np.uint16)
        infinite = scale & 0x7C00 == 0x7C00
        scale[infinite] &= 0xBFFF
        blocks[:, at : at + 2] = scale.view(np.uint8)
    if kind == Type.MXFP4:
        blocks[:, 0] = np.minimum(blocks[:, 0], 252)
    return blocks


def check_decoders(library):
    """The table of the library, a million random blocks a format: no bit may differ."""
    import ctypes

    class Format(ctypes.Structure):
        _fields_ = [
            ("dtype", ctypes.c_int), ("name", ctypes.c_char_p), ("number", ctypes.c_int), ("weights", ctypes.c_int64), ("bytes", ctypes.c_int64),
            ("decode", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)), ("quantise", ctypes.c_void_p), ("scales", ctypes.c_int * 2),
        ]  # fmt: skip

    find = ctypes.CDLL(library).ml_block_format_numbered
    find.restype, find.argtypes = ctypes.POINTER(Format), [ctypes.c_int64]
    rng = np.random.default_rng(7)
    for kind in HALVES:
        found = find(int(kind)).contents
        assert (found.weights, found.bytes) == gguf.GGML_QUANT_SIZES[kind], kind.name
        for _ in range(50):
            blocks = fill(rng.integers(0, 256, (20_000, found.bytes), dtype=np.uint8), kind, rng)
            ours, theirs = np.empty((len(blocks), found.weights), np.float32), quants.dequantize(blocks, kind)
            for i in range(len(blocks)):
                found.decode(blocks.ctypes.data + i * found.bytes, ours.ctypes.data + i * found.weights * 4)
            assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32)), kind.name
        print(f"{kind.name}: 1,000,000 random blocks identical")


def contents(kind, rows, cols, rng):
    if kind in (Type.F32, Type.F16, Type.BF16):
        return quants.quantize(rng.standard_normal((rows, cols)).astype(np.float32), kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return fill(rng.integers(0, 256, (rows * cols // block, size), dtype=np.uint8), kind, rng).reshape(rows, -1)


def write_all_types(path, rng):
    writer, wanted = gguf.GGUFWriter(path, "llama"), {}
    writer.add_block_count(len(TYPES))
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)

    def add(name, data, kind=Type.F32):
        wanted[name] = quants.dequantize(data, kind)
        writer.add_tensor(name, data, raw_dtype=kind)

    add("token_embd.weight", contents(Type.F32, VOCAB, WIDTH, rng))
    add("output_norm.weight", rng.standard_normal(WIDTH).astype(np.float32))
    for i, kind in enumerate(TYPES):
        for name, rows in (("attn_q", WIDTH), ("attn_k", 128), ("attn_v", 128), ("attn_output", WIDTH), ("ffn_gate", WIDTH), ("ffn_up", WIDTH), ("ffn_down", WIDTH)):
            add(f"blk.{i}.{name}.weight", contents(kind, rows, WIDTH, rng), kind)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{i}.{name}.weight", rng.standard_normal(WIDTH).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wanted


def halves_apart(weight, heads):
    """Pairs (i, i + h/2) next to each other become first halves, then second halves."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


OURS = {"attn_q": "attn.q", "attn_k": "attn.k", "attn_v": "attn.v", "attn_output": "attn.o", "ffn_gate": "mlp.gate", "ffn_up": "mlp.up", "ffn_down": "mlp.down"}


def check_types(mpilora, folder):
    wanted = write_all_types(folder / "all.gguf", np.random.default_rng(1))
    subprocess.run([mpilora, "import", folder / "all.gguf", folder / "all.h5", "--dtype", "fp32"], check=True, stdout=subprocess.DEVNULL)
    with h5py.File(folder / "all.h5") as file:
        for i, kind in enumerate(TYPES):
            for theirs, ours in OURS.items():
                weight = wanted[f"blk.{i}.{theirs}.weight"]
                if theirs in ("attn_q", "attn_k"):
                    weight = halves_apart(weight, HEADS if theirs == "attn_q" else KV_HEADS)
                found = file[f"tensors/layers.{i}.{ours}.weight"][:]
                assert np.array_equal(found, weight), f"{kind.name} {ours}: differs by up to {np.abs(found - weight).max()}"
            print(f"{kind.name}: identical")


def check_file(mpilora, path, folder):
    import torch
    from transformers import AutoModelForCausalLM

    subprocess.run([mpilora, "import", path, folder / "base.h5", "--dtype", "fp32"], check=True)
    subprocess.run([mpilora, "export", "--format", "hf", "--base", folder / "base.h5", folder / "hf"], check=True)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).state_dict()
    ours = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).state_dict()
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert torch.equal(value, ours[name]), f"{name}: differs by up to {(value - ours[name]).abs().max()}"
    print(f"{path.name}: {len(theirs)} tensors identical to transformers'")


def print_golden():
    for kind, halves in HALVES.items():
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw, state = np.zeros((1, size), dtype=np.uint8), 12345
        for i in range(size):
            state = (state * 1103515245 + 12345) % 2**31
            raw[0, i] = state >> 16 & 255
        for at in halves:
            raw[0, at : at + 2] = np.frombuffer(np.float16(0.0123 + at / 1000).tobytes(), dtype=np.uint8)
        values = quants.dequantize(raw, kind).ravel()
        chosen = [i for i in (0, 1, 15, 16, 31, 32, 63, 64, 100, 129, 200, 255) if i < block]
        texts = ", ".join(f"{{{i}, {float(values[i]).hex()}F}}" for i in chosen)
        print(f"{{{kind.value}, {{{(halves + [-1, -1])[0]}, {(halves + [-1, -1])[1]}}}, {{{texts}}}, {float(values.astype(np.float64).sum())!r}}},")


def main():
    if sys.argv[1] == "--golden":
        return print_golden()
    if sys.argv[1] == "--blocks":
        return check_decoders(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        check_types(sys.argv[1], pathlib.Path(name))
        if len(sys.argv) > 2:
            check_file(sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(name))


if __name__ == "__main__":
    main()
