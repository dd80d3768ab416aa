"""How fast imports stream: quantising a Hugging Face directory beside one read of its files, keeping a GGUF file's blocks beside a copy of the file, and the
quantisers themselves beside ggml's on the same threads. Everything runs in turn, in an order that reverses from turn to turn; ratios are medians of neighbours.

usage: python3 tests/bench/import_rates.py MPILORA [--library libmpilora.so] [--width 2048] [--layers 8] [--turns 5] [--threads N] [--formats q8_0,…] [--folder DIR] [--to DIR]

The sources lie in --folder, what is made of them in --to (else beside them; /dev/shm takes the disk's writes out). No import is faster than its roof: one cold read of the source, or
writing as many bytes as the base has, with one fsync, whichever takes longer. Files are dropped from the page cache before they are read (posix_fadvise). The part with --library needs
numpy and xllamacpp, whose library has ggml_quantize_chunk. Not part of CTest.
"""
import argparse
import concurrent.futures
import ctypes
import os
import pathlib
import resource
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


def write(to, size):
    piece = memoryview(os.urandom(4 << 20))
    with open(to, "wb", buffering=0) as target:
        os.posix_fallocate(target.fileno(), 0, size)
        for at in range(0, size, len(piece)):
            target.write(piece[: size - at])
        os.fsync(target.fileno())


def used():
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def in_turn(turns, first, second):
    """Medians of first/second over turns, and of second's seconds."""
    ratios, times = [], []
    for turn in range(turns):
        found = [work() for work in ((first, second) if turn % 2 == 0 else (second, first))]
        a, b = found if turn % 2 == 0 else found[::-1]
        ratios.append(a / b)
        times.append(b)
    return statistics.median(ratios), min(ratios), max(ratios), statistics.median(times)


def streams(options, folder, to):
    model, base, source, gguf, out = f"{folder}/model.yaml", f"{folder}/base.h5", f"{folder}/source", f"{folder}/source.gguf", f"{to}/out.h5"
    with open(model, "w") as file:
        file.write(f"family: llama\nlayers: {options.layers}\nwidth: {options.width}\nmlp_width: {options.width * 11 // 4 // 256 * 256}\nheads: {options.width // 64}\n"
                   f"kv_heads: {options.width // 64}\nvocab: 32000\ncontext: 2048\n")  # fmt: skip
    run(options.mpilora, "import", "--init", "random", "--config", model, base)
    run(options.mpilora, "export", "--format", "hf", "--base", base, source)
    run(options.mpilora, "export", "--format", "gguf", "--base", base, "--dtype", "q8_0", gguf)
    files = sorted(str(path) for path in pathlib.Path(source).glob("*.safetensors"))
    size = sum(os.path.getsize(path) for path in files)
    os.unlink(base)

    def timed(paths, work, *words):
        drop(paths)
        for path in (out, f"{to}/copy"):
            pathlib.Path(path).unlink(missing_ok=True)
        return seconds(work, *words)

    def imported(name, paths, size, *words):
        """Times of one read, of one write, of a copy, and of the import, turn by turn."""
        run(options.mpilora, "import", *words)
        made = os.path.getsize(out)
        works = {"read": (read, paths), "write": (write, f"{to}/copy", made), "import": (run, options.mpilora, "import", *words)}
        if "keep" in words:
            works["copy"] = (copy, *paths, f"{to}/copy")
        turns, busy = [], 0.0
        for turn in range(options.turns):
            times, before = {}, used()
            for what in list(works)[:: 1 if turn % 2 == 0 else -1]:
                times[what] = timed(paths, *works[what])
            busy += used() - before
            turns.append(times)

        def middle(of):
            found = sorted(of(times) for times in turns)
            return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"

        took = {what: statistics.median(times[what] for times in turns) for what in works}
        print(f"{name}: {size / took['import'] / 1e9:.2f} GB/s of the source, {busy / options.turns / size * 1e9:.2f} ns of a core a byte; {middle(lambda t: t['read'] / t['import'])} of one read at "
              f"{size / took['read'] / 1e9:.2f} GB/s; {middle(lambda t: t['write'] / t['import'])} of one write of its {made / 1e6:.0f} MB at {made / took['write'] / 1e9:.2f} GB/s; "
              f"{middle(lambda t: max(t['read'], t['write']) / t['import'])} of the roof" + (f"; {middle(lambda t: t['copy'] / t['import'])} of a copy" if "copy" in took else ""), flush=True)  # fmt: skip

    for form in filter(None, options.formats.split(",")):
        imported(form, files, size, source, out, "--quantise", form)
    imported("keep", [gguf], os.path.getsize(gguf), gguf, out, "--dtype", "keep")


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
    parser.add_argument("--to")
    parser.add_argument("--formats", default=",".join([*PLAIN, *SEARCHED]))
    for name, value in (("width", 2048), ("layers", 8), ("turns", 5), ("threads", len(os.sched_getaffinity(0)))):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.library:
        quantisers(options)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, tempfile.TemporaryDirectory(dir=options.to or folder) as to:
        streams(options, folder, to)


main()
