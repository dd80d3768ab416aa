#!/usr/bin/env python3
"""How fast a run reads its base, beside dd of the same file: alternating runs, page cache warm or emptied of the file. Not part of CTest.

    python3 tests/bench/load_rate.py --program build/mpilora [--model gpt2-small | --base BASE.h5] [--cold] [--pairs 5] [--ranks 1] [--tp 1]

mpilora's rate is load.gb_per_s of summary.json: bytes of the base that all ranks together read (a shard is read by its replicas of a node together) by the
seconds until the slowest of them has its weights in place and converted. dd's is `dd bs=1M of=/dev/null`. Cold: posix_fadvise(DONTNEED) before each reading.
"""
import argparse
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


def prepare(arguments, folder):
    """Base, a data set of one short sequence a replica, and a configuration of one step; returns the paths of base and configuration."""
    base = arguments.base
    if not base:
        base = os.path.join(folder, "base.h5")
        run(arguments.program, "import", "--init", "random", "--config", f"{SOURCE}/configs/models/{arguments.model}.yaml", base)
    lines, data, path = (os.path.join(folder, name) for name in ("ids.jsonl", "ids.h5", "run.yaml"))
    with open(lines, "w", encoding="ascii") as file:
        file.write('{"input_ids": [1, 2, 3, 4]}\n' * arguments.ranks)
    run(arguments.program, "tokenize", "--base", base, lines, data, "--format", "ids")
    with open(path, "w", encoding="ascii") as file:
        json.dump({"run": {"dir": os.path.join(folder, "run")}, "base": base, "method": {"rank": 1}, "data": {"train": data, "max_len": 4},
                   "batch": {"sequences": arguments.ranks, "micro": 1}, "train": {"steps": 1}, "parallel": {"tp": arguments.tp},
                   "precision": arguments.precision, "kernels": {"product": "blas"}, "memory": {"share_frozen": arguments.share}}, file)
    return base, path


def empty_cache(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def our_rate(arguments, path, folder):
    environment = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_hwloc_base_binding_policy="none")
    launcher = ["mpirun", "--oversubscribe", "-n", arguments.ranks] if arguments.ranks > 1 else []
    run(*launcher, arguments.program, "train", path, "--fresh", env=environment)
    with open(f"{folder}/run/summary.json", encoding="ascii") as file:
        load = json.load(file)["load"]
    return load["bytes"] / load["seconds"]


def touch_rate(size):
    """Fresh memory touched by one thread, huge pages asked for: what dd, which reads into one piece again and again, never pays for."""
    with mmap.mmap(-1, size) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        started = time.perf_counter()
        memory[::4096] = bytes(len(range(0, size, 4096)))
        return size / (time.perf_counter() - started)


def dd_rate(base):
    started = time.perf_counter()
    run("dd", f"if={base}", "of=/dev/null", "bs=1M")
    return os.path.getsize(base) / (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", default="build/mpilora")
    parser.add_argument("--model", default="gpt2-small", help="of configs/models, with random weights")
    parser.add_argument("--base", help="an existing base file instead")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--share", default="auto", choices=("auto", "on", "off"))
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        base, path = prepare(arguments, folder)
        for pair in range(arguments.pairs):
            rates = []
            for rate in (lambda: our_rate(arguments, path, folder), lambda: dd_rate(base), lambda: touch_rate(os.path.getsize(base))):
                if arguments.cold:
                    empty_cache(base)
                rates.append(rate())
            ratios.append(rates[0] / rates[1])
            print(f"pair {pair + 1}: mpilora {1e-9 * rates[0]:.2f} GB/s, dd {1e-9 * rates[1]:.2f} GB/s, ratio {ratios[-1]:.2f}; "
                  f"touching fresh memory {1e-9 * rates[2]:.2f} GB/s", flush=True)
        size = os.path.getsize(base)
    print(f"{1e-9 * size:.2f} GB, {'cold' if arguments.cold else 'warm'}, {arguments.ranks} ranks (tp {arguments.tp}) x {arguments.threads} threads, "
          f"{arguments.precision}: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


main()
