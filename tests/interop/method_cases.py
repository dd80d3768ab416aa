"""Cases of the methods beside LoRA and full fine-tuning, and mpilora's initial values, made again from nothing but the standard library: the counter-based generator
(Philox4x32-10) keyed by seed and tensor name, as include/mpilora/base.h has it. make_method_golden.py (PyTorch) and test_method_curves.py (mpilora) call this file."""

import math
import struct

import reference_models as reference

STEPS, SEED = 10, 1
DEFAULTS = {**reference.DEFAULTS, "schedule": "constant", "warmup": 2, "lr": 5e-3, "weight_decay": 0.05}
CASES = {
    "gpt2-top": {"model": "gpt2", "method": "top", "sizes": {"top": 2}, "lr": 1e-3},
    "gpt2-bitfit": {"model": "gpt2", "method": "bitfit", "sizes": {}},
    "gpt2-prefix_embed": {"model": "gpt2", "method": "prefix_embed", "sizes": {"prefix": 4, "infix": 0}, "max_len": 50, "lr": 2e-2},
    "gpt2-prefix_layer": {"model": "gpt2", "method": "prefix_layer", "sizes": {"prefix": 3, "infix": 2}, "max_len": 59, "lr": 2e-2},
    "gpt2-prefix_kv": {"model": "gpt2", "method": "prefix_kv", "sizes": {"prefix": 4}, "max_len": 50, "lr": 2e-2},
    "gpt2-prefix_layer-words": {"model": "gpt2", "method": "prefix_layer", "sizes": {"prefix": 3, "infix": 2}, "prefix_init": "vocabulary", "max_len": 59, "lr": 2e-2},
    "gpt2-prefix_embed-words": {"model": "gpt2", "method": "prefix_embed", "sizes": {"prefix": 2, "infix": 1}, "prefix_init": "vocabulary", "max_len": 59, "lr": 2e-2},
    "gpt2-adapter_h": {"model": "gpt2", "method": "adapter_h", "sizes": {"bottleneck": 5}},
    "gpt2-adapter_l": {"model": "gpt2", "method": "adapter_l", "sizes": {"bottleneck": 6}},
    "gpt2-adapter_drop": {"model": "gpt2", "method": "adapter_drop", "sizes": {"bottleneck": 4, "drop": 1}},
    "gpt2-compacter": {"model": "gpt2", "method": "compacter", "sizes": {"bottleneck": 8, "factors": 4}},
    "gpt2-lora+prefix_layer": {"model": "gpt2", "method": "lora+prefix_layer", "targets": ["qkv"], "sizes": {"prefix": 2, "infix": 1}, "max_len": 60},
    "llama-top": {"model": "llama", "method": "top", "sizes": {"top": 1}, "lr": 1e-3},
    "llama-bitfit": {"model": "llama", "method": "bitfit", "sizes": {"new_biases": True}},
    "llama-prefix_layer": {"model": "llama", "method": "prefix_layer", "sizes": {"prefix": 4, "infix": 1}, "max_len": 57, "lr": 2e-2},
    "llama-prefix_kv": {"model": "llama", "method": "prefix_kv", "sizes": {"prefix": 5}, "max_len": 57, "lr": 2e-2},
    "llama-prefix_kv-words": {"model": "llama", "method": "prefix_kv", "sizes": {"prefix": 3}, "prefix_init": "vocabulary", "max_len": 57, "lr": 2e-2},
    "llama-adapter_p": {"model": "llama", "method": "adapter_p", "sizes": {"bottleneck": 6}},
    "llama-adapter_l": {"model": "llama", "method": "adapter_l", "sizes": {"bottleneck": 3}},
    "llama-compacter": {"model": "llama", "method": "compacter", "sizes": {"bottleneck": 4, "factors": 2}},
    "llama-lora+prefix_embed": {"model": "llama", "method": "lora+prefix_embed", "targets": ["q", "v"], "sizes": {"prefix": 2, "infix": 2}, "max_len": 60},
}
CASES = {name: {**DEFAULTS, "prefix_init": "random", **case} for name, case in CASES.items()}

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def key(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & M64
    mixed = value ^ ((SEED + 0x9E3779B97F4A7C15 + (value << 6) + (value >> 2)) & M64)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & M64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & M64
    mixed ^= mixed >> 31
    return mixed & M32, mixed >> 32


def block(keys, index):
    """Stream 0."""
    c, (k0, k1) = [index & M32, index >> 32, 0, 0], keys
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & M32, (p0 >> 32) ^ c[3] ^ k1, p0 & M32]
        k0, k1 = (k0 + 0x9E3779B9) & M32, (k1 + 0xBB67AE85) & M32
    return c


def fp32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def uniform_doubles(name, count):
    """In [0, 1)."""
    words = (block(key(name), i) for i in range(count))
    return [((w[1] << 32 | w[0]) >> 11) * 2.0**-53 for w in words]


def start_tokens(case, vocab):
    """The tokens that virtual ones start as."""
    return [int(x * vocab) for x in uniform_doubles("prefix.tokens", case["sizes"]["prefix"] + case["sizes"].get("infix", 0))]


def uniform(name, rows, cols):
    """In ±1/√cols, row-major."""
    bound = 1.0 / math.sqrt(cols)
    return [fp32((2.0 * x - 1.0) * bound) for x in uniform_doubles(name, rows * cols)]


def normal(name, rows, cols, deviation):
    keys = key(name)
    words = (block(keys, i) for i in range(rows * cols))
    return [fp32(deviation * math.sqrt(-2.0 * math.log((w[0] + 0.5) * 2.0**-32)) * math.cos(w[1] * 2.0**-32 * 6.283185307179586)) for w in words]
