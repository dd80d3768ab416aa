#!/usr/bin/env python3
"""What `numerics: grid` costs: steps of the same run with it and without it, in alternating runs; the ratio of their seconds. Not part of CTest.

    python3 tests/bench/numerics_cost.py --program build/mpilora [--rows 1 2 3] [--ranks 1] [--tp 1] [--pairs 5] [--steps 3] [--threads 2]
    python3 tests/bench/numerics_cost.py --program build/mpilora --lines E2E.txt --tokenizer DIRECTORY [--steps 16]

Rows are the shapes of compare_torch.py, in bf16; with --lines the work are the first lines of a file in its order, eight a step, with GPT-2's shape, where `fast`
computes common beginnings once and `grid` each for itself. A pair is a run of each, in an order that reverses from pair to pair. A run's figure is the best of
its steps but the first, and of lines, which differ from step to step, the sum of them.
"""
import argparse
import json
import os
import statistics
import tempfile

from torch_comparison import lines, rows
from torch_comparison.our_side import Program, write_config

WANTED = 1.05


def prepare_lines(program, folder, options):
    """As compare_torch.py's, but with an adapter of our own."""
    options.lines = lines.BATCH * (1 + options.steps)
    config = lines.prepare(program, folder, options.file, options)[-1]
    del config["method"]["init"]
    return config


def seconds(program, options, config):
    program.finish(program.start("train", write_config(config), "--fresh", ranks=options.ranks))
    with open(os.path.join(config["run"]["dir"], "metrics.jsonl"), encoding="utf-8") as file:
        steps = [json.loads(line)["step_s"] for line in list(file)[1:]]
    return sum(steps) if options.file else min(steps)


def compare(program, options, folder, config, title):
    sequences = config["batch"]["sequences"]
    shared = {"precision": "bf16", "parallel": {"tp": options.tp}, "train": {"steps": 1 + options.steps},
              "batch": {"sequences": sequences, "micro": sequences * options.tp // options.ranks}}
    configs = {numerics: {**config, **shared, "run": {"dir": f"{folder}/{numerics}"}, "numerics": numerics} for numerics in ("fast", "grid")}
    ratios = []
    for number in range(options.pairs):
        found = {name: seconds(program, options, configs[name]) for name in sorted(configs, reverse=bool(number % 2))}
        ratios.append(found["grid"] / found["fast"])
        print(f"# pair {number + 1}: " + ", ".join(f"{name} {value:.3f} s" for name, value in found.items()) + f", ratio {ratios[-1]:.3f}", flush=True)
    print(f"{title}: grid takes {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) of fast's time, {options.ranks} rank(s), tp {options.tp}, "
          f"{program.threads} thread(s) in all, {options.pairs} pairs; wanted at most {WANTED}", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/mpilora")
    parser.add_argument("--rows", nargs="+", type=int, choices=rows.ROWS, default=[1, 2, 3])
    parser.add_argument("--lines", dest="file", help="a file of E2E in place of --rows")
    parser.add_argument("--tokenizer", help="a directory with GPT-2's tokenizer")
    for name, value in (("ranks", 1), ("tp", 1), ("pairs", 5), ("steps", 3), ("threads", len(os.sched_getaffinity(0)))):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    program = Program(options.program, options.threads)
    for number in [None] if options.file else options.rows:
        with tempfile.TemporaryDirectory() as folder:
            if options.file:
                compare(program, options, folder, prepare_lines(program, folder, options), os.path.basename(options.file))
            else:
                compare(program, options, folder, rows.prepare(program, folder, rows.ROWS[number]), rows.ROWS[number].title)


if __name__ == "__main__":
    main()
