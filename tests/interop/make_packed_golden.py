"""tests/golden/packed.json: matrices as bitsandbytes, compressed-tensors and others pack them, and what the same libraries make of them.

    python make_packed_golden.py                     writes the file
    python make_packed_golden.py --check MPILORA     packs matrices of 1024 x 1056, imports them, and compares every bit

Needs torch, bitsandbytes and compressed-tensors. AWQ and GPTQ are packed here by their formulas: w = (q - z) * s in fp16.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile

import bitsandbytes.functional as bnb
import numpy as np
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute as dequantize
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

import packed_models as models

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "packed.json")
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int8: "I8", torch.int32: "I32", torch.int64: "I64",
         torch.float8_e4m3fn: "F8_E4M3", torch.float8_e8m0fnu: "F8_E8M0"}  # fmt: skip
LLAMA, GPT2 = "model.layers.0.mlp.down_proj", "transformer.h.0.mlp.c_proj"


def part(tensor):
    tensor = tensor.detach().contiguous()
    raw = tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.reshape(1).view(torch.uint8).numpy().tobytes()
    return TYPES[tensor.dtype], list(tensor.shape), raw


def weight(rows, cols, dtype=torch.bfloat16, seed=1):
    """Rows of very different sizes, one of zeros, and a few large numbers."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, cols, generator=generator) * 2.0 ** torch.randint(-9, 1, (rows, 1), generator=generator)
    w[3] = 0
    w[rows // 2, ::7] *= 40
    return w.to(dtype)


# ---- bitsandbytes ---------------------------------------------------------------------------------------------------------


def bits4(rows, cols, kind="nf4", nested=False, blocksize=64, dtype=torch.bfloat16, storage=torch.uint8):
    w = weight(rows, cols, dtype)
    packed, state = bnb.quantize_4bit(w, blocksize=blocksize, quant_type=kind, compress_statistics=nested, quant_storage=storage)
    parts = {"weight": part(packed)} | {f"weight.{name}": part(t) for name, t in state.as_dict(packed=True).items()}
    absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset if nested else state.absmax
    # its kernel for CPUs (0.50.2) takes other blocks where they do not divide the rows
    value = dequantize(packed.view(torch.uint8).reshape(-1), absmax, state.code, blocksize, state.shape, dtype)
    assert cols % blocksize or torch.equal(value, bnb.dequantize_4bit(packed, state))
    return {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}, parts, value


def bits8(rows, cols):
    w = weight(rows, cols, torch.float16)
    q, scb, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(w)
    parts = {"weight": part(q), "SCB": part(scb), "weight_format": part(torch.tensor(0, dtype=torch.uint8))}
    return {"quant_method": "bitsandbytes", "load_in_8bit": True}, parts, bnb.int8_vectorwise_dequant(q, scb)


# ---- compressed-tensors ---------------------------------------------------------------------------------------------------


def compressed(rows, cols, format, dtype=torch.bfloat16, halves=False, **arguments):
    """halves: scales that fp16 holds, too."""
    args = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(format)
    w, state = weight(rows, cols, dtype), {}
    if args.strategy == "block":
        sides = args.block_structure
        padded = torch.zeros(-(-rows // sides[0]) * sides[0], -(-cols // sides[1]) * sides[1])
        padded[:rows, :cols] = w.float()
        blocks = padded.reshape(padded.shape[0] // sides[0], sides[0], -1, sides[1]).abs().amax((1, 3))
    elif args.strategy in ("group", "tensor_group"):
        blocks = w.float().reshape(rows, -1, args.group_size)
    elif args.strategy == "tensor":
        blocks = w.float().reshape(1, -1)
    else:
        blocks = w.float().reshape(rows, 1, cols)
    if args.type == "int":
        low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
        steps = 2**args.num_bits - 1
        scale = ((high - low) / steps if not args.symmetric else torch.maximum(high, -low) / (steps / 2)).clamp(min=1e-4)
        if halves:
            scale = (scale.half() / 1024).half() * 1024
        scale = scale.to(dtype)
        if not args.symmetric:
            state["weight_zero_point"] = (torch.round(-low / scale.float()) - 2 ** (args.num_bits - 1)).clamp(-(2 ** (args.num_bits - 1)), 2 ** (args.num_bits - 1) - 1).to(torch.int8)
    elif format == "mxfp4-pack-quantized":
        scale = torch.exp2(torch.floor(torch.log2(blocks.abs().amax(-1).clamp(min=1e-4))) - 2).to(dtype)
    elif format == "nvfp4-pack-quantized":
        factor = 448 * 6 / w.float().abs().max().reshape(1)
        scale = (blocks.abs().amax(-1) / 6 * factor).clamp(min=2**-6, max=448).to(torch.float8_e4m3fn).to(dtype)
        state["weight_global_scale"] = factor
    else:
        top = blocks if args.strategy == "block" else blocks.abs().amax(-1)
        scale = (top / 448).clamp(min=1e-4).to(dtype)
    state |= {"weight": w, "weight_scale": scale}
    packed = compressor.compress(state, scheme)
    restored = compressor.decompress(dict(packed), scheme)["weight"]
    config = {"quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}}}
    return config, {name: part(t) for name, t in packed.items()}, restored


# ---- FP8 of DeepSeek ------------------------------------------------------------------------------------------------------


def fp8(rows, cols, sides, scales=torch.float32):
    w = weight(rows, cols).float()
    padded = torch.zeros(-(-rows // sides[0]) * sides[0], -(-cols // sides[1]) * sides[1])
    padded[:rows, :cols] = w
    top = padded.reshape(padded.shape[0] // sides[0], sides[0], -1, sides[1]).abs().amax((1, 3)).clamp(min=1e-4)
    scale = (top / 448).to(torch.bfloat16) if scales == torch.bfloat16 else top / 448
    if scales == torch.float8_e8m0fnu:
        scale = torch.exp2(torch.ceil(torch.log2(scale))).to(scales)
    whole = scale.float().repeat_interleave(sides[0], 0)[:rows].repeat_interleave(sides[1], 1)[:, :cols]
    q = (w / whole).clamp(-448, 448).to(torch.float8_e4m3fn)
    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(sides), "modules_to_not_convert": ["lm_head"]}
    return config, {"weight": part(q), "weight_scale_inv": part(scale)}, q.float() * whole


def fp8_whole(rows, cols):
    w = weight(rows, cols).float()
    scale = (w.abs().max() / 448).reshape(())
    q = (w / scale).to(torch.float8_e4m3fn)
    return {"quant_method": "fp8", "weight_block_size": None}, {"weight": part(q), "weight_scale_inv": part(scale)}, q.float() * scale


# ---- AWQ, GPTQ ------------------------------------------------------------------------------------------------------------


def words(codes, bits, order=None):
    """Integers [rows, n] to words [rows, n·bits/32]."""
    per = 32 // bits
    grouped = codes.astype(np.uint32).reshape(codes.shape[0], -1, per)
    out = np.zeros(grouped.shape[:2], np.uint32)
    for i in range(per):
        out |= grouped[:, :, order[i] if order else i] << np.uint32(bits * i)
    return torch.from_numpy(out.view(np.int32))


def turned(rows, cols, method, group=32, bits=4, order=False, version="gptq"):
    rng = np.random.default_rng(9)
    groups = cols // group
    q = rng.integers(0, 2**bits, (cols, rows))
    s = torch.from_numpy((0.01 + rng.random((groups, rows))).astype(np.float16))
    belongs = rng.permutation(np.arange(cols) // group) if order else np.arange(cols) // group
    z = rng.integers(0, 16, (groups, rows)) if method == "awq" else np.full((groups, rows), 2 ** (bits - 1))
    value = (torch.from_numpy(q - z[belongs]).half() * s[belongs]).t()
    config = {"quant_method": method, "bits": bits, "group_size": group}
    if method == "awq":
        places = [0, 2, 4, 6, 1, 3, 5, 7]
        return config | {"version": "gemm", "zero_point": True}, {"qweight": part(words(q, 4, places)), "qzeros": part(words(z, 4, places)), "scales": part(s)}, value
    stored = z - 1 if version == "gptq" else z
    parts = {"qweight": part(words(q.T, bits).t().contiguous()), "qzeros": part(words(stored, bits)), "scales": part(s), "g_idx": part(torch.from_numpy(belongs.astype(np.int32)))}
    return config | {"sym": True, "desc_act": order, "checkpoint_format": version}, parts, value


# ---- the cases ------------------------------------------------------------------------------------------------------------

INT = {"type": "int", "symmetric": True}
FLOAT = {"type": "float", "symmetric": True}
PACK, BYTES, FP8 = "pack-quantized", "int-quantized", "float-quantized"
CASES = {
    "fp8 ragged": lambda r, c: fp8(r, c, (24, 40)),
    "fp8 scales in bf16": lambda r, c: fp8(r, c, (32, 32), torch.bfloat16),
    "fp8 powers of two": lambda r, c: fp8(r, c, (32, 40), torch.float8_e8m0fnu),
    "fp8 one scale": fp8_whole,
    "fp8 compressed blocks": lambda r, c: compressed(r, c, FP8, num_bits=8, strategy="block", block_structure=[24, 40], **FLOAT),
    "fp8 compressed channels": lambda r, c: compressed(r, c, FP8, num_bits=8, strategy="channel", **FLOAT),
    "fp8 compressed tensor": lambda r, c: compressed(r, c, FP8, torch.float16, num_bits=8, strategy="tensor", **FLOAT),
    "nf4": lambda r, c: bits4(r, c),
    "nf4 nested": lambda r, c: bits4(r, c, nested=True),
    "nf4, blocks within rows": lambda r, c: bits4(r, c, blocksize=32),
    "nf4 nested, typed bf16, of fp16": lambda r, c: bits4(r, c, nested=True, dtype=torch.float16, storage=torch.bfloat16),
    "nf4 of fp32, long blocks": lambda r, c: bits4(r, c, dtype=torch.float32, blocksize=4096),
    "fp4": lambda r, c: bits4(r, c, kind="fp4", blocksize=128),
    "int8 bitsandbytes": bits8,
    "gpt2 nf4": lambda r, c: bits4(r, c),
    "gpt2 int8": bits8,
    "int4 groups": lambda r, c: compressed(r, c, PACK, num_bits=4, strategy="group", group_size=32, **INT),
    "int4 groups, scales in fp16": lambda r, c: compressed(r, c, PACK, torch.float16, num_bits=4, strategy="group", group_size=32, **INT),
    "int4 channel": lambda r, c: compressed(r, c, PACK, torch.float16, num_bits=4, strategy="channel", **INT),
    "int4 groups with zeros": lambda r, c: compressed(r, c, PACK, num_bits=4, strategy="group", group_size=16, type="int", symmetric=False),
    "int8 groups": lambda r, c: compressed(r, c, PACK, num_bits=8, strategy="group", group_size=32, **INT),
    "int8 groups with zeros": lambda r, c: compressed(r, c, PACK, num_bits=8, strategy="group", group_size=48, type="int", symmetric=False),
    "int3 groups": lambda r, c: compressed(r, c, PACK, num_bits=3, strategy="group", group_size=48, **INT),
    "int6 groups with zeros": lambda r, c: compressed(r, c, PACK, num_bits=6, strategy="group", group_size=48, type="int", symmetric=False),
    "int8 bytes": lambda r, c: compressed(r, c, BYTES, num_bits=8, strategy="channel", **INT),
    "mxfp4": lambda r, c: compressed(r, c, "mxfp4-pack-quantized", num_bits=4, strategy="group", group_size=32, scale_dtype="torch.uint8", **FLOAT),
    "nvfp4": lambda r, c: compressed(r, c, "nvfp4-pack-quantized", num_bits=4, strategy="tensor_group", group_size=16, **FLOAT),
    "awq": lambda r, c: turned(r, c, "awq"),
    "gptq": lambda r, c: turned(r, c, "gptq"),
    "gptq_v2, 8 bits": lambda r, c: turned(r, c, "gptq", bits=8, version="gptq_v2"),
    "gptq with an order": lambda r, c: turned(r, c, "gptq", order=True),
}  # fmt: skip
KEPT = {"int4 groups": "q4_0", "int4 groups, scales in fp16": "q4_0", "int4 channel": "q4_0", "int8 groups": "q8_0", "int8 bytes": "q8_0", "mxfp4": "mxfp4", "gptq": "q4_0", "gptq_v2, 8 bits": "q8_0"}


def make(name, rows, cols):
    config, parts, value = CASES[name](rows, cols)
    family = "gpt2" if name.startswith("gpt2") else "llama"
    return {"family": family, "module": GPT2 if family == "gpt2" else LLAMA, "config": config}, parts, value.float().numpy()


def check(program):
    import h5py

    rows, cols, bad = 1024, 1056, 0
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            case, parts, value = make(name, rows, cols)
            models.write_model(f"{folder}/hf", case, parts=parts, width=rows, mlp=cols)
            done = subprocess.run([program, "import", f"{folder}/hf", f"{folder}/base.h5", "--dtype", "fp32"], capture_output=True, text=True)
            if done.returncode == 0:
                with h5py.File(f"{folder}/base.h5") as file:
                    found = file[f"tensors/layers.0.mlp.{'proj' if case['family'] == 'gpt2' else 'down'}.weight"][:]
                different = int((found.view(np.uint32) != value.view(np.uint32)).sum())
            print(f"{name}: {done.stderr if done.returncode else f'{different} of {value.size} weights have other bits'}", flush=True)
            bad += done.returncode != 0 or different > 0
    return 1 if bad else 0


def main():
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--check"]:
        return check(sys.argv[2])
    golden = {}
    for name in CASES:
        case, parts, value = make(name, models.WIDTH, models.MLP)
        encoded = {part: [dtype, shape, base64.b64encode(raw).decode()] for part, (dtype, shape, raw) in parts.items()}
        golden[name] = case | {"parts": encoded, "sha256": hashlib.sha256(value.astype("<f4").tobytes()).hexdigest(), "kept": KEPT.get(name)}
    with open(GOLDEN, "w") as file:
        file.write("{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in golden.items()) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
