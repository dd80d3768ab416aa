#!/usr/bin/env python3
"""The same step on different grids of two cores, in turn: one rank with two threads, dp 2, tp 2; ratios of each round. Not part of CTest.

    python3 tests/bench/compare_grids.py --program build/mpilora [--rounds 5] [--model configs/models/llama-7b-2layers.yaml] [--precision bf16]

Every step runs in a process group of its own (weights are random, made in memory), so that no grid holds the cores while another is measured. A round's ratio is a
grid's tokens a second to those of one rank with two threads in the same round.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GRIDS = {"1 rank x 2 threads": (1, 2, 1), "dp 2": (2, 1, 1), "tp 2": (2, 1, 2)}  # ranks, threads, tp


def measure(arguments, ranks, threads, tp):
    """The best step of a start and what it sends."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       MPILORA_PRODUCT_PATH=arguments.product)
    command = ["mpirun", "--bind-to", "none", "--oversubscribe", "-n", str(ranks), arguments.program, "bench", "step", "--json", "--methods", "lora", "--model",
               arguments.model, "--sequences", "2", "--length", "512", "--rank", "8", "--targets", "q,v", "--tp", str(tp), "--precision", arguments.precision,
               "--rounds", str(arguments.steps), "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout)["methods"][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", default="build/mpilora")
    parser.add_argument("--model", default=f"{SOURCE}/configs/models/llama-7b-2layers.yaml")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--product", default="native", help="product path of all grids; auto measures anew at each start")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of a start; their median counts")
    arguments = parser.parse_args()
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


main()
