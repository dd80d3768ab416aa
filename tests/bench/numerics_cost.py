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

from torch_comparison.lines import BATCH, take_lines
from torch_comparison.our_side import Program, write_config
from torch_comparison.rows import ROWS

WANTED = 1.05


def tokenize_rows(program, folder, base, row):
    lines, data = f"{folder}/lines.jsonl", f"{folder}/data.h5"
    with open(lines, "w", encoding="utf-8") as file:
        for i in range(4 * row.sequences):
            file.write(json.dumps({"input_ids": [(i * 131 + 7 * j + j * j) % 30011 for j in range(row.length)]}) + "\n")
    program.run("tokenize", "--base", base, "--format", "ids", lines, data)
    return data


def tokenize_lines(program, folder, base, options):
    lines, data = f"{folder}/lines.txt", f"{folder}/data.h5"
    take_lines(options.lines, BATCH * (1 + options.steps), lines)
    program.run("tokenize", "--base", base, "--format", "e2e", lines, data)
    return data


def seconds(program, options, config):
    program.finish(program.start("train", write_config(config), "--fresh", ranks=options.ranks))
    with open(os.path.join(config["run"]["dir"], "metrics.jsonl"), encoding="utf-8") as file:
        steps = [json.loads(line)["step_s"] for line in list(file)[1:]]
    return sum(steps) if options.lines else min(steps)


def compare(program, options, row, sequences, tokenize, folder, title):
    base = f"{folder}/base.h5"
    program.random_base(base, row.model, options.tokenizer)
    data = tokenize(base)
    replicas = options.ranks // options.tp
    configs = {
        numerics: {"run": {"dir": f"{folder}/{numerics}"}, "base": base, "data": {"train": data, "max_len": row.length, "shuffle": False}, "precision": "bf16",
                   "numerics": numerics, "method": {"name": "lora", "rank": 8, "targets": row.our_targets}, "parallel": {"tp": options.tp},
                   "batch": {"sequences": sequences, "micro": sequences // replicas}, "train": {"steps": 1 + options.steps}}
        for numerics in ("fast", "grid")
    }  # fmt: skip
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
    parser.add_argument("--rows", nargs="+", type=int, choices=ROWS, default=[1, 2, 3])
    parser.add_argument("--lines", help="a file of E2E in place of --rows")
    parser.add_argument("--tokenizer", help="a directory with GPT-2's tokenizer")
    for name, value in (("ranks", 1), ("tp", 1), ("pairs", 5), ("steps", 3), ("threads", len(os.sched_getaffinity(0)))):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    program = Program(options.program, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.lines:
            compare(program, options, ROWS[1], BATCH, lambda base: tokenize_lines(program, folder, base, options), folder, os.path.basename(options.lines))
            return
        for number in options.rows:
            row, place = ROWS[number], os.path.join(folder, str(number))
            os.mkdir(place)
            compare(program, options, row, row.sequences, lambda base, row=row, place=place: tokenize_rows(program, place, base, row), place, row.title)


if __name__ == "__main__":
    main()
