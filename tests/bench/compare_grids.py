#!/usr/bin/env python3
"""The same step on different grids of two cores, in turn; ratios of each round. Not part of CTest.

    python3 tests/bench/compare_grids.py --program build/mpilora [--rounds 5] [--model configs/models/llama-7b-2layers.yaml] [--precision bf16]
    python3 tests/bench/compare_grids.py --over cores [--model configs/models/tiny-llama.yaml] [--sequences 8 --length 32 --steps 60]
    python3 tests/bench/compare_grids.py --over nodes ...      # root, for name spaces; slurm-wlm, munge

Alone: `bench step` with one rank of two threads, dp 2, tp 2, beside the first of them. --over cores: short runs of four ranks that share the two cores, beside the same
grid of two ranks. --over nodes: the same runs of four ranks on two SLURM nodes of two tasks, both on this machine, which talk by TCP, beside mpirun on one node.

Every step runs in a process group of its own (weights are random), so that no grid holds the cores while another is measured. A round's ratio is a grid's tokens a
second to those of what it stands beside in the same round.
"""
import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, f"{SOURCE}/tests/slurm")
import cluster

GRIDS = {"1 rank x 2 threads": (1, 2, 1), "dp 2": (2, 1, 1), "tp 2": (2, 1, 2)}  # ranks, threads, tp
AXES = {"dp": lambda ranks: {}, "tp": lambda ranks: {"tp": ranks}, "pp": lambda ranks: {"pp": ranks}, "tp x dp": lambda ranks: {"tp": ranks // 2}}
MPIRUN = ["mpirun", "--bind-to", "none", "--oversubscribe", "-n"]


def run(command, environment):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def environment_of(arguments, threads):
    return dict(os.environ, OMP_NUM_THREADS=str(threads), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", MPILORA_PRODUCT_PATH=arguments.product)


# ---- ranks with cores of their own ---------------------------------------------------------------


def measure(arguments, ranks, threads, tp):
    """The best step of a start and what it sends."""
    command = [*MPIRUN, ranks, arguments.program, "bench", "step", "--json", "--methods", "lora", "--model", arguments.model, "--sequences", arguments.sequences,
               "--length", arguments.length, "--rank", "8", "--targets", "q,v", "--tp", tp, "--precision", arguments.precision, "--rounds", arguments.steps,
               "--seconds", "0"]
    return json.loads(run(command, environment_of(arguments, threads)))["methods"][0]


def compare_grids(arguments):
    rates, steps = {name: [] for name in GRIDS}, {}
    for number in range(arguments.rounds):
        for name, grid in GRIDS.items():
            steps[name] = measure(arguments, *grid)
            rates[name].append(steps[name]["tokens_per_s"])
        print(f"round {number + 1}: " + ", ".join(f"{name} {values[-1]:.1f} tokens/s" for name, values in rates.items()), flush=True)
    first = next(iter(GRIDS))
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates[first])]
        step = steps[name]
        phases = ", ".join(f"{key[:-2]} {seconds:.3f}" for key, seconds in step["phases"].items())
        print(f"{name}: median {statistics.median(values):.1f} tokens/s, ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); last round: "
              f"{phases} s; gradients' sum {100 * step['gradient_allreduce_share']:.3f} % of the step; tp {step['tp_bytes']} bytes, formula "
              f"{step['tp_bytes_expected']}")


# ---- ranks that share cores ----------------------------------------------------------------------


def prepare(arguments, folder):
    """A base and sequences; returns what configurations have in common."""
    base, lines, data = (os.path.join(folder, name) for name in ("base.h5", "ids.jsonl", "ids.h5"))
    environment = environment_of(arguments, os.cpu_count())
    run([arguments.program, "import", "--init", "random", "--config", arguments.model, base], environment)
    with open(lines, "w", encoding="ascii") as file:
        for i in range(4 * arguments.sequences):
            file.write(json.dumps({"input_ids": [(7 * i + 5 * j * j) % 257 for j in range(arguments.length)]}) + "\n")
    run([arguments.program, "tokenize", "--base", base, lines, data, "--format", "ids"], environment)
    return {"base": base, "method": {"name": "lora", "rank": 8, "targets": ["q", "v"]}, "data": {"train": data, "max_len": arguments.length},
            "batch": {"sequences": arguments.sequences, "micro": arguments.micro}, "train": {"steps": arguments.steps + 2}, "precision": arguments.precision}


def measure_run(arguments, common, folder, launcher, environment, parallel):
    """Median seconds of a step, without the first two, and the phases' means."""
    path = f"{folder}/run.yaml"
    with open(path, "w", encoding="ascii") as file:
        json.dump({"run": {"dir": f"{folder}/run"}, **common, "parallel": parallel}, file)
    run([*launcher, arguments.program, "train", path, "--fresh"], environment)
    with open(f"{folder}/run/metrics.jsonl", encoding="ascii") as file:
        steps = [json.loads(line) for line in file][2:]
    return statistics.median(step["step_s"] for step in steps), {key: statistics.fmean(step[key] for step in steps) for key in ("forward_s", "backward_s", "comm_s", "other_s")}


def compare_shared(arguments, axes):
    """For each axis the second launch beside the first."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        common = prepare(arguments, folder)
        here = environment_of(arguments, 1)
        if arguments.over == "nodes":
            nodes = stack.enter_context(cluster.Cluster())
            there = {**nodes.environment, "MPILORA_PRODUCT_PATH": arguments.product}
            launches = [("4 ranks of one node", [*MPIRUN, "4"], here, 4), ("of two", ["srun", "-N", "2", "--ntasks-per-node=2", "--mpi=pmix"], there, 4)]
        else:
            launches = [("2 ranks", [*MPIRUN, "2"], here, 2), ("4", [*MPIRUN, "4"], here, 4)]
        for axis in axes:
            seconds, phases = [[], []], [None, None]
            for _ in range(arguments.rounds):
                for i, (_, launcher, environment, ranks) in enumerate(launches):
                    step, phases[i] = measure_run(arguments, common, folder, launcher, environment, AXES[axis](ranks))
                    seconds[i].append(step)
            ratios = [first / second for first, second in zip(*seconds)]
            print(f"{axis}: " + ", ".join(f"{name} {1e3 * statistics.median(values):.2f} ms a step" for (name, *_), values in zip(launches, seconds)) +
                  f"; ratio of tokens/s {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); last round, ms: " +
                  " beside ".join(", ".join(f"{key[:-2]} {1e3 * value:.2f}" for key, value in phase.items()) for phase in phases), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", default="build/mpilora")
    parser.add_argument("--over", choices=("cores", "nodes"), help="what four ranks are beside, in the place of grids of two")
    parser.add_argument("--axes", nargs="*", default=["dp", "tp", "pp"], choices=AXES, help="how --over divides the work")
    parser.add_argument("--model", default=f"{SOURCE}/configs/models/llama-7b-2layers.yaml")
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--micro", type=int, default=1, help="sequences of a micro-batch, under --over")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--product", default="native", help="product path of all grids; auto measures anew at each start")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of a start; their median counts")
    arguments = parser.parse_args()
    why_not = cluster.why_not() if arguments.over == "nodes" else None
    if why_not:
        sys.exit(f"--over nodes: {why_not}")
    if arguments.over:
        compare_shared(arguments, arguments.axes)
    else:
        compare_grids(arguments)


main()
