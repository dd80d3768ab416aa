"""Predicted and measured time of a step on 1, 2 and 4 ranks: `bench machine` measures the machine, with as many ranks and threads as the grid has where there are cores for them,
`plan` predicts, and after it `bench step` measures, in turn, for some rounds, so that a disturbance of the machine meets both. Prints measured / predicted of every grid; with
--within X ends with 1 where a median is further off."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

PROGRAM = os.environ.get("MPILORA", "mpilora")
SOURCE = os.environ.get("MPILORA_SOURCE_DIR", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))


def run(words, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: exit {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout


def launch(ranks):
    return ["mpirun", "-n", ranks, "--oversubscribe", "--bind-to", "none"] if ranks > 1 else []


def predict(config, machine, ranks, tp):
    return run([PROGRAM, "plan", config, "--json", "--machine", machine, "--ranks", ranks, "--set", f"parallel.tp={tp}"], 1)


def measure(o, ranks, tp, threads):
    words = [PROGRAM, "bench", "step", "--json", "--model", o.model, "--methods", "lora,full", "--targets", "q,v", "--rank", 8, "--sequences", o.sequences,
             "--length", o.length, "--tp", tp, "--rounds", o.steps, "--seconds", 0]
    return run(launch(ranks) + words, threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=os.path.join(SOURCE, "configs", "models", "gpt2-small.yaml"))
    parser.add_argument("--grids", default="1x1,2x1,1x2,4x1,2x2", help="dpxtp,…")
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--within", type=float)
    o = parser.parse_args()
    cores, far = os.cpu_count(), []
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        config, machine = os.path.join(folder, "run.yaml"), os.path.join(folder, "machine.yaml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f"base: {o.model}\nmethod: {{rank: 8, targets: [q, v]}}\ndata: {{max_len: {o.length}}}\n"
                       f"batch: {{sequences: {o.sequences}, micro: {o.sequences}}}\n")
        for _ in range(o.rounds):
            for grid in o.grids.split(","):
                dp, tp = map(int, grid.split("x"))
                threads = max(1, cores // (dp * tp))
                run(launch(min(cores, dp * tp)) + [PROGRAM, "bench", "machine", "--out", machine, "--seconds", 1], threads)
                plan = predict(config, machine, dp * tp, tp)
                step = measure(o, dp * tp, tp, threads)
                for predicted, measured in zip(plan["methods"], step["methods"]):
                    time, phases = predicted["time"], measured["phases"]
                    ratio = measured["step_s"] / time["step_s"]
                    ratios.setdefault((grid, predicted["name"]), []).append(ratio)
                    parts = ", ".join(f"{p} {time[p]:.3f}/{phases[p]:.3f}" for p in ("forward_s", "backward_s", "comm_s", "optimizer_s"))
                    print(f"{grid} {predicted['name']}: predicted {time['step_s']:.3f} s, measured {measured['step_s']:.3f} s, "
                          f"ratio {ratio:.3f} ({parts})", flush=True)
    for (grid, method), values in ratios.items():
        median = statistics.median(values)
        print(f"dp x tp {grid}, {method}: measured / predicted {median:.3f} ({min(values):.3f} to {max(values):.3f}, {len(values)} rounds)")
        if o.within is not None and abs(median - 1) > o.within:
            far.append(f"{grid} {method}")
    if far:
        sys.exit(f"further than {o.within:.0%} off: {', '.join(far)}")


main()
