#!/usr/bin/env python3
"""How fast a run reads its base, beside the machine's own rate: alternating runs, page cache warm or emptied of the file. Not part of CTest.

    python3 tests/bench/load_rate.py --program build/mpilora [--model gpt2-small | --base BASE.h5] [--cold] [--pairs 5] [--ranks 1] [--tp 1]

mpilora's rate is load.gb_per_s of summary.json: bytes of the base that all ranks together read (a shard is read by its replicas of a node together) by the
seconds until the slowest of them has its weights in place and converted. Beside it stands, cold, `cat FILE > /dev/null`, after posix_fadvise(DONTNEED) as before
each start of mpilora; warm, a copy by as many threads from memory that was written to memory that was not, in huge pages where the kernel gives some.
"""
import argparse
import json
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
                   "precision": arguments.precision, "kernels": {"product": "blas"}, "memory": {"share_frozen": arguments.share, "load": arguments.load}}, file)
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


COPY = r"""
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    long size = atol(argv[argc - 1]), piece = 4 << 20, whole = (size + (2 << 20)) / (2 << 20) * (2 << 20) + (2 << 20);
    char *from = malloc((size_t)size);
    char *range = mmap(NULL, (size_t)whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *to = range + (2 << 20) - (size_t)range % (2 << 20);
    if (!from || range == MAP_FAILED) return 1;
    memset(from, 7, (size_t)size);
    madvise(to, (size_t)size, MADV_HUGEPAGE);
    double since = omp_get_wtime();
#pragma omp parallel for schedule(dynamic)
    for (long at = 0; at < size; at += piece) memcpy(to + at, from + at, (size_t)(size - at < piece ? size - at : piece));
    printf("%.9f\n", omp_get_wtime() - since);
    return to[size - 1] != 7;
}
"""


def make_copy(folder):
    with open(f"{folder}/copy.c", "w", encoding="ascii") as file:
        file.write(COPY)
    run("cc", "-O2", "-fopenmp", f"{folder}/copy.c", "-o", f"{folder}/copy")


def copy_rate(arguments, base, folder):
    size = os.path.getsize(base)
    return size / float(run(f"{folder}/copy", size, env=dict(os.environ, OMP_NUM_THREADS=str(arguments.threads))))


def cat_rate(base):
    with open(os.devnull, "wb") as nothing:
        started = time.perf_counter()
        subprocess.run(["cat", base], check=True, stdout=nothing)
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
    parser.add_argument("--load", default="auto", choices=("auto", "map", "read"))
    arguments = parser.parse_args()
    ratios, beside = [], "cat" if arguments.cold else "a parallel copy into fresh memory"
    with tempfile.TemporaryDirectory() as folder:
        base, path = prepare(arguments, folder)
        make_copy(folder)
        for pair in range(arguments.pairs):
            rates = []
            for rate in (lambda: our_rate(arguments, path, folder), lambda: cat_rate(base) if arguments.cold else copy_rate(arguments, base, folder)):
                if arguments.cold:
                    empty_cache(base)
                rates.append(rate())
            ratios.append(rates[0] / rates[1])
            print(f"pair {pair + 1}: mpilora {1e-9 * rates[0]:.2f} GB/s, {beside} {1e-9 * rates[1]:.2f} GB/s, ratio {ratios[-1]:.2f}", flush=True)
        size = os.path.getsize(base)
    print(f"{1e-9 * size:.2f} GB beside {beside}, {'cold' if arguments.cold else 'warm'}, {arguments.ranks} ranks (tp {arguments.tp}) x {arguments.threads} threads, "
          f"{arguments.precision}, load {arguments.load}: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


main()
