#!/usr/bin/env python3
"""What a save costs the step beside which it is written: one run that saves every few steps, so that steps with and without a save alternate. Not part of CTest.

    python3 tests/bench/save_cost.py --program build/mpilora [--model gpt2-small] [--rank 8] [--targets all] [--ranks 1] [--threads 1] [--saves 10] [--every 4]

A step with a save: its step_s and save_s (what training waited before it began), the first line of metrics.jsonl after the save. It is divided by the mean of the
steps before and after it that have no save; the median of these ratios is the result. `--where DIR` says on which file system the run is.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")


def prepare(arguments, folder):
    base, lines, data, path = (os.path.join(folder, name) for name in ("base.h5", "ids.jsonl", "ids.h5", "run.yaml"))
    run(arguments.program, "import", "--init", "random", "--config", f"{SOURCE}/configs/models/{arguments.model}.yaml", base)
    with open(lines, "w", encoding="ascii") as file:
        for i in range(arguments.sequences):
            file.write(json.dumps({"input_ids": [(7 * j + i * j) % 50000 for j in range(arguments.length)]}) + "\n")
    run(arguments.program, "tokenize", "--base", base, lines, data, "--format", "ids")
    config = {
        "run": {"dir": os.path.join(folder, "run")},
        "base": base,
        "method": {"rank": arguments.rank, "targets": arguments.targets.split(",")},
        "data": {"train": data, "max_len": arguments.length},
        "batch": {"sequences": arguments.sequences},
        "train": {"steps": arguments.every * (arguments.saves + 1), "save_every": arguments.every},
    }
    with open(path, "w", encoding="ascii") as file:
        json.dump(config, file)
    return path


def read_lines(path):
    with open(path, encoding="ascii") as file:
        return [json.loads(line) for line in file]


def report(folder):
    metrics, saves = read_lines(f"{folder}/run/metrics.jsonl"), read_lines(f"{folder}/run/saves.jsonl")
    cost = {line["step"]: line["step_s"] + line["save_s"] for line in metrics}
    saved = [save["step"] + 1 for save in saves if save["step"] + 1 in cost]
    plain = statistics.median(seconds for step, seconds in cost.items() if step not in saved)
    ratios = [cost[step] / ((cost[step - 1] + cost[step + 1]) / 2) for step in saved]
    print(f"a step without a save {plain:.4f} s; {len(saved)} saves of {saves[0]['bytes'] / 1e6:.1f} MB, written in {statistics.median(s['seconds'] for s in saves):.3f} s,"
          f" waited for {statistics.median(s['waited_seconds'] for s in saves[:-1]) * 1e3:.1f} ms")
    print(f"a step with a save / the steps around it: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", default="gpt2-small")
    parser.add_argument("--targets", default="all")
    parser.add_argument("--where", help="directory for the run (the temporary one unless told)")
    for name, value in (("rank", 8), ("ranks", 1), ("threads", 1), ("saves", 10), ("every", 4), ("sequences", 4), ("length", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    environment = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_hwloc_base_binding_policy="none")
    launcher = ["mpirun", "--oversubscribe", "-n", arguments.ranks] if arguments.ranks > 1 else []
    with tempfile.TemporaryDirectory(dir=arguments.where) as folder:
        path = prepare(arguments, folder)
        run(*launcher, arguments.program, "train", path, env=environment)
        report(folder)


main()
