"""GPT-3 175B on 16 to 1,024 simulated ranks of a fat tree: a step beside plan's, bytes beside the formulas. Prints a CSV table, which analysis/simulated.py draws.

    python3 tests/simulate/check_scaling.py [PROGRAM] [--out TABLE.csv] [--only REGEX] [--ranks N]

A case is called "strong 8x8x4", its kind and tp x pp x dp.
"""

import argparse
import concurrent.futures
import csv
import re
import resource
import sys
import tempfile
import time

import yaml

from cluster import describe, plan, simulate, skip_where_missing, summed_bytes
from harness import SOURCE

MACHINE, MODEL = f"{SOURCE}/configs/machines/fat-tree-2x100g.yaml", f"{SOURCE}/configs/models/gpt3-175b.yaml"
RANK, LAYERS, WIDTH, LENGTH, ON_NODE = 8, 96, 12288, 2048, 8
MOST_MIB = 20 << 10  # of the whole simulation
METHOD = {"name": "lora", "rank": RANK, "targets": ["q", "v"]}
FIELDS = ("kind", "ranks", "tp", "pp", "dp", "sequences", "simulated_s", "plan_s", "ratio", "forward_s", "backward_s", "comm_s", "plan_forward_s", "plan_backward_s",
          "plan_comm_s", "plan_bubble_s", "tokens_per_s", "summed_ratio", "sums_inside_bytes", "sums_between_bytes", "piped_bytes", "wall_s", "peak_mib")

# kind, tp, pp, dp, sequences. strong: the same batch; weak: 8 sequences a replica; grids: 1,024 ranks otherwise divided; fast: a network that is a large part.
STRONG, WEAK = 32, 8
CASES = ([("strong", 8, 2, 1, STRONG), ("strong", 8, 8, 1, STRONG), ("strong", 8, 8, 4, STRONG), ("strong", 8, 8, 16, STRONG)]
         + [("weak", 8, 2, 1, WEAK), ("weak", 8, 8, 1, WEAK), ("weak", 8, 8, 4, 4 * WEAK), ("weak", 8, 8, 16, 16 * WEAK)]
         + [("grids", 8, 4, 32, 64), ("grids", 16, 8, 8, 32), ("grids", 8, 16, 8, 16)]
         + [("fast", 8, 8, 1, WEAK), ("fast", 16, 4, 1, WEAK), ("fast", 8, 8, 4, 4 * WEAK)])


def machine_of(kind, folder):
    """fast: cores whose products take a sixteenth of the time, as matrix units do, so that the network is a large part of a step."""
    if kind != "fast":
        return MACHINE
    with open(MACHINE, encoding="utf-8") as file:
        machine = yaml.safe_load(file)
    for way in ("forward", "backward"):
        machine["products_bf16"][f"{way}_gflops"] *= 16
        machine["products_bf16"][f"{way}_weight_ns"] /= 16
        machine["attention"][f"{way}_gflops"] *= 16
    with open(f"{folder}/machine.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump(machine, file)
    return f"{folder}/machine.yaml"


def run_case(kind, tp, pp, dp, sequences):
    ranks = tp * pp * dp
    with tempfile.TemporaryDirectory() as folder:
        describe(folder, model=MODEL, method=METHOD, length=LENGTH, micro=1, micros=sequences // dp, tp=tp, pp=pp, dp=dp)
        machine, since = machine_of(kind, folder), time.monotonic()
        metrics, sent = simulate(folder, machine, ranks, ON_NODE, timeout=3600)
        wall = time.monotonic() - since
        expected = plan(folder, machine, ranks, ON_NODE)
    step, of = metrics[-1], expected["time"]
    return {"kind": kind, "ranks": ranks, "tp": tp, "pp": pp, "dp": dp, "sequences": sequences, "simulated_s": step["step_s"], "plan_s": of["step_s"],
            "ratio": step["step_s"] / of["step_s"], "forward_s": step["forward_s"], "backward_s": step["backward_s"], "comm_s": step["comm_s"],
            "plan_forward_s": of["forward_s"], "plan_backward_s": of["backward_s"], "plan_comm_s": of["comm_s"], "plan_bubble_s": of["bubble_s"],
            "tokens_per_s": sequences * LENGTH / step["step_s"],
            "summed_ratio": (sum(sent["sums_inside"]) + sum(sent["sums_between"])) / summed_bytes(RANK, LAYERS, WIDTH, LENGTH - 1, tp, pp, dp, sequences // dp),
            "sums_inside_bytes": max(sent["sums_inside"]), "sums_between_bytes": max(sent["sums_between"]), "piped_bytes": step.get("piped_bytes", 0), "wall_s": round(wall, 1),
            "peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024}


def run_apart(known, case):
    """In a process of its own, whose children's peak is the case's alone; once, where two kinds have the same."""
    kind, *grid = case
    key = (kind == "fast", *grid)
    if key not in known:
        with concurrent.futures.ProcessPoolExecutor(1) as apart:
            known[key] = apart.submit(run_case, *case).result()
    return {**known[key], "kind": kind}


def main():
    skip_where_missing()
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("program", nargs="?")
    parser.add_argument("--out", help="also into this file, line by line")
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--ranks", type=int, default=1 << 20, help="cases of at most so many")
    arguments = parser.parse_args()
    out = open(arguments.out, "a", encoding="utf-8") if arguments.out else None
    tables = [csv.DictWriter(file, FIELDS) for file in (sys.stdout, out) if file]
    for table in tables:
        table.writeheader()
    wrong, known = [], {}
    for case in CASES:
        kind, tp, pp, dp, _ = case
        if not re.search(arguments.only, f"{kind} {tp}x{pp}x{dp}") or tp * pp * dp > arguments.ranks:
            continue
        row = run_apart(known, case)
        for table in tables:
            table.writerow(row)
        sys.stdout.flush()
        if out:
            out.flush()
        if abs(row["summed_ratio"] - 1.0) > 1e-6:
            wrong.append(f"tp {tp} pp {pp} dp {dp}: {row['summed_ratio']} of the formula's bytes of sums")
        if row["peak_mib"] > MOST_MIB:
            wrong.append(f"tp {tp} pp {pp} dp {dp}: {row['peak_mib']} MiB")
        if abs(row["ratio"] - 1.0) > 0.1:
            wrong.append(f"tp {tp} pp {pp} dp {dp}: {row['simulated_s']:.2f} s simulated, {row['plan_s']:.2f} s by plan")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
