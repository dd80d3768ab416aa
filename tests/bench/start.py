#!/usr/bin/env python3
"""How long a run takes beside its steps: from launch to end, less what metrics.jsonl says of its steps, beside an MPI program that calls MPI_Init and
MPI_Finalize alone; alternating runs of one rank, page cache warm. And how much longer its first step takes than the median of the others. Not part of CTest.

    python3 tests/bench/start.py --base smollm2-135m.h5 [--program build/mpilora] [--pairs 5] [--steps 12] [--length 64] [--launcher mpirun]

Without --base: GPT-2 124M with random weights. The first start of a machine measures how products are best multiplied and keeps it; it is not counted.
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
NOTHING = "#include <mpi.h>\nint main(int argc, char **argv)\n{\n    MPI_Init(&argc, &argv);\n    return MPI_Finalize();\n}\n"


def run(*command, **options):
    """Seconds from launch to end."""
    started = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr}")
    return time.perf_counter() - started


def prepare(arguments, folder):
    """The paths of a program that does nothing and of a configuration."""
    base = arguments.base or os.path.join(folder, "base.h5")
    source, nothing, lines, data, path = (os.path.join(folder, name) for name in ("nothing.c", "nothing", "ids.jsonl", "ids.h5", "run.yaml"))
    with open(source, "w", encoding="ascii") as file:
        file.write(NOTHING)
    run("mpicc", "-O2", source, "-o", nothing)
    if not arguments.base:
        run(arguments.program, "import", "--init", "random", "--config", f"{SOURCE}/configs/models/gpt2-small.yaml", base)
    with open(lines, "w", encoding="ascii") as file:
        for i in range(8):
            file.write(json.dumps({"input_ids": [(7 * i + 5 * j * j) % 1000 for j in range(arguments.length)]}) + "\n")
    run(arguments.program, "tokenize", "--base", base, lines, data, "--format", "ids")
    with open(path, "w", encoding="ascii") as file:
        json.dump({"run": {"dir": os.path.join(folder, "run")}, "base": base, "method": {"name": "lora", "rank": 8, "targets": ["q", "v"]},
                   "data": {"train": data, "max_len": arguments.length}, "batch": {"sequences": 1}, "train": {"steps": arguments.steps},
                   "precision": "bf16", "memory": {"load": arguments.load}}, file)
    return nothing, path


def steps_of(folder):
    with open(f"{folder}/run/metrics.jsonl", encoding="ascii") as file:
        return [json.loads(line)["step_s"] for line in file]


def say(what, values):
    print(f"{what}: median {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", default=os.path.join(SOURCE, "build", "mpilora"))
    parser.add_argument("--base", help="a base file; its vocabulary has at least 1000 tokens")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--length", type=int, default=64, help="tokens of a step")
    parser.add_argument("--load", default="auto", choices=("auto", "map", "read"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--launcher", default="", help="words before the program, mpirun for example; none: a process alone")
    arguments = parser.parse_args()
    environment = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    launcher, beside, nothings, ratios, firsts = arguments.launcher.split(), [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        nothing, config = prepare(arguments, folder)
        train = [*launcher, arguments.program, "train", config, "--fresh"]
        run(*train, env=environment)
        for _ in range(arguments.pairs):
            nothings.append(run(*launcher, nothing, env=environment))
            seconds = run(*train, env=environment)
            steps = steps_of(folder)
            beside.append(seconds - sum(steps))
            ratios.append(beside[-1] / nothings[-1])
            firsts.append(steps[0] / statistics.median(steps[1:]))
    say("MPI_Init and MPI_Finalize alone, s", nothings)
    say("a run beside its steps, s", beside)
    say("ratio", ratios)
    say("first step, of the median of the others", firsts)


main()
