"""Golden values of tests/unit/test_quantise.c (a developer's script: needs numpy, gguf; for the searched formats xllamacpp, whose library has ggml_quantize_chunk).

Numbers come from a generator that C repeats exactly. For the formats that the gguf package quantises: the SHA-256 of its bytes. For Q4_K, Q5_K, Q6_K and IQ4_NL: the
squared error of ggml's own quantiser. With a library: the errors of a million random numbers beside each other.

usage: python tests/interop/make_quantise_golden.py [libmpilora.so]
"""
import ctypes
import hashlib
import pathlib
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

EXACT = [Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.MXFP4]
SEARCHED = [Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_NL]
COUNT = 256 * 512


def numbers():
    """Sums of three 16-bit numbers, whose block of 256 has a size of its own, 2^-14 to 2; some blocks have a zero half, one large number, or no spread."""
    state = np.empty(3 * COUNT, dtype=np.uint64)
    now = 12345
    for i in range(len(state)):
        now = (now * 1103515245 + 12345) % 2**31
        state[i] = now >> 15
    x = (state.reshape(-1, 3).sum(axis=1).astype(np.float64) - 98304) / 65536
    x = x.astype(np.float32).reshape(-1, 256)
    for i in range(len(x)):
        x[i] *= np.float32(2.0 ** (i % 16 - 14))
        if i % 16 == 3:
            x[i, 128:] = 0
        if i % 16 == 5:
            x[i, i % 256] *= np.float32(64)
        if i % 16 == 7:
            x[i] = x[i, 0]
        if i % 16 == 9:
            x[i] += x[i, 0] * np.float32(8)
    return x.ravel()


def ggml():
    try:
        import xllamacpp
    except ImportError:
        return None
    library = ctypes.CDLL(str(next(pathlib.Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    return library


def by_ggml(library, x, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros(len(x) // block * size, dtype=np.uint8)
    library.ggml_quantize_chunk(int(kind), x.ctypes.data, out.ctypes.data, 0, len(x) // 256, 256, None)
    return out


def by_ours(path, x, kind):
    library = ctypes.CDLL(path)
    library.ml_block_format_numbered.restype = ctypes.c_void_p
    library.ml_block_format_numbered.argtypes = [ctypes.c_int64]
    library.ml_block_quantise.restype = ctypes.c_int64
    library.ml_block_quantise.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out, error = np.zeros(len(x) // block * size, dtype=np.uint8), np.zeros(2)
    bad = library.ml_block_quantise(library.ml_block_format_numbered(int(kind)), x.ctypes.data, len(x) // block, out.ctypes.data, error.ctypes.data)
    assert bad == -1, f"{kind.name}: block {bad}"
    return out, error[0]


def error_of(x, raw, kind):
    _, size = gguf.GGML_QUANT_SIZES[kind]
    return float(((quants.dequantize(raw.reshape(-1, size), kind).ravel().astype(np.float64) - x) ** 2).sum())


def compare(path, library):
    rng = np.random.default_rng(5)
    sets = {"golden": numbers(), "normal": rng.standard_normal(2**20).astype(np.float32), "t, 4 degrees": rng.standard_t(4, 2**20).astype(np.float32) * np.float32(0.02)}
    for name, x in sets.items():
        for kind in EXACT + SEARCHED:
            raw, said = by_ours(path, x, kind)
            other = quants.quantize(x.reshape(-1, 256), kind).ravel() if kind in EXACT else by_ggml(library, x, kind)
            ours, theirs = error_of(x, raw, kind), error_of(x, other, kind)
            _, size = gguf.GGML_QUANT_SIZES[kind]
            same = (raw.reshape(-1, size) == other.reshape(-1, size)).all(axis=1).mean()
            assert abs(said - ours) <= 1e-9 * ours + 1e-30, (said, ours)
            print(f"{name}, {kind.name}: {100 * same:.3f} % of blocks equal, squared error {ours / theirs:.9f} of theirs")


def main():
    library = ggml()
    if len(sys.argv) > 1:
        compare(sys.argv[1], library)
        return
    x = numbers()
    print("numbers", hashlib.sha256(x.tobytes()).hexdigest())
    for kind in EXACT:
        print(kind.name, hashlib.sha256(quants.quantize(x.reshape(-1, 256), kind).tobytes()).hexdigest())
    for kind in SEARCHED:
        print(kind.name, repr(error_of(x, by_ggml(library, x, kind), kind)))


main()
