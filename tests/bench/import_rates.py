"""How fast imports stream: quantising a Hugging Face directory beside one read of its files, keeping a GGUF file's blocks beside a copy of the file, and the
quantisers themselves beside ggml's on the same threads. Everything runs in turn, in an order that reverses from turn to turn; ratios are medians of neighbours.

usage: python3 tests/bench/import_rates.py MPILORA [--library libmpilora.so] [--width 2048] [--layers 8] [--turns 5] [--threads N] [--formats q8_0,…] [--folder DIR]

Files are dropped from the page cache before they are read (posix_fadvise). The part with --library needs numpy and xllamacpp, whose library has
ggml_quantize_chunk. Not part of CTest.
"""
import argparse
import concurrent.futures
import ctypes
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

PLAIN = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4")
SEARCHED = {"q4_k": 12, "q5_k": 13, "q6_k": 14, "iq4_nl": 20}


def run(*words):
    done = subprocess.run([str(word) for word in words], text=True, capture_output=True, timeout=3600)
    if done.returncode:
        raise SystemExit(f"{words}: {done.returncode}\n{done.stderr}")


def seconds(work, *words):
    begun = time.perf_counter()
    work(*words)
    return time.perf_counter() - begun


def drop(paths):
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(paths):
    piece = bytearray(4 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(piece):
                pass


def copy(path, to):
    piece = memoryview(bytearray(4 << 20))
    with open(path, "rb", buffering=0) as source, open(to, "wb", buffering=0) as target:
        while n := source.readinto(piece):
            target.write(piece[:n])
        os.fsync(target.fileno())


def in_turn(turns, first, second):
    """Medians of first/second over turns, and of second's seconds."""
    ratios, times = [], []
    for turn in range(turns):
        found = [work() for work in ((first, second) if turn % 2 == 0 else (second, first))]
        a, b = found if turn % 2 == 0 else found[::-1]
        ratios.append(a / b)
        times.append(b)
    return statistics.median(ratios), min(ratios), max(ratios), statistics.median(times)


def streams(options, folder):
    model, base, source, gguf = f"{folder}/model.yaml", f"{folder}/base.h5", f"{folder}/source", f"{folder}/source.gguf"
    with open(model, "w") as file:
        file.write(f"family: llama\nlayers: {options.layers}\nwidth: {options.width}\nmlp_width: {options.width * 11 // 4 // 256 * 256}\nheads: {options.width // 64}\n"
                   f"kv_heads: {options.width // 64}\nvocab: 32000\ncontext: 2048\n")  # fmt: skip
    run(options.mpilora, "import", "--init", "random", "--config", model, base)
    run(options.mpilora, "export", "--format", "hf", "--base", base, source)
    run(options.mpilora, "export", "--format", "gguf", "--base", base, "--dtype", "q8_0", gguf)
    files = sorted(str(path) for path in pathlib.Path(source).glob("*.safetensors"))
    size = sum(os.path.getsize(path) for path in files)

    def timed(paths, work, *words):
        drop(paths)
        return seconds(work, *words)

    for form in options.formats.split(","):
        ratio, least, most, took = in_turn(options.turns, lambda: timed(files, read, files),
                                           lambda: timed(files, run, options.mpilora, "import", source, f"{folder}/out.h5", "--quantise", form))  # fmt: skip
        print(f"{form}: {size / took / 1e9:.3f} GB/s of the source, {ratio:.2f} ({least:.2f} to {most:.2f}) of one read", flush=True)
    ratio, least, most, took = in_turn(options.turns, lambda: timed([gguf], copy, gguf, f"{folder}/copy"),
                                       lambda: timed([gguf], run, options.mpilora, "import", gguf, f"{folder}/out.h5", "--dtype", "keep"))  # fmt: skip
    print(f"keep: {os.path.getsize(gguf) / took / 1e9:.3f} GB/s, {ratio:.2f} ({least:.2f} to {most:.2f}) of a copy", flush=True)


def quantisers(options):
    import numpy
    import xllamacpp

    ours, theirs = ctypes.CDLL(options.library), ctypes.CDLL(str(next(pathlib.Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))
    ours.ml_block_format_numbered.restype, ours.ml_block_format_numbered.argtypes = ctypes.c_void_p, [ctypes.c_int64]
    ours.ml_block_quantise.restype = ctypes.c_int64
    ours.ml_block_quantise.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    theirs.ggml_quantize_chunk.restype = ctypes.c_size_t
    theirs.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    rows, cols = 128 * options.threads, 2048
    x = numpy.random.default_rng(1).standard_normal((rows, cols)).astype(numpy.float32) * numpy.float32(0.02)
    out, error = numpy.zeros(x.size * 2, dtype=numpy.uint8), numpy.zeros(2)
    pool = concurrent.futures.ThreadPoolExecutor(options.threads)

    def by_ggml(number):
        share = rows // options.threads
        jobs = [pool.submit(theirs.ggml_quantize_chunk, number, x.ctypes.data, out.ctypes.data, i * share * cols, share, cols, None) for i in range(options.threads)]
        for job in jobs:
            job.result()

    for name, number in SEARCHED.items():
        form, block = ours.ml_block_format_numbered(number), 32 if name == "iq4_nl" else 256
        ratio, least, most, took = in_turn(options.turns, lambda: seconds(by_ggml, number),
                                           lambda: seconds(ours.ml_block_quantise, form, x.ctypes.data, x.size // block, out.ctypes.data, error.ctypes.data))  # fmt: skip
        print(f"{name}: {1e9 * took * options.threads / x.size:.2f} ns a weight and thread, {ratio:.1f} ({least:.1f} to {most:.1f}) times ggml's rate", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mpilora")
    parser.add_argument("--library")
    parser.add_argument("--folder")
    parser.add_argument("--formats", default=",".join([*PLAIN, *SEARCHED]))
    for name, value in (("width", 2048), ("layers", 8), ("turns", 5), ("threads", len(os.sched_getaffinity(0)))):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.library:
        quantisers(options)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        streams(options, folder)


main()
