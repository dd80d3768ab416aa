"""Several LoRA runs in one job beside the same runs one after the other: whole processes, start and loading included, in an order that reverses from turn to turn.

What is compared: the clock (and processor) seconds of all runs together with those of the runs in turn, and the peak memory of the one process with the largest of the
others. Only ratios of one turn count; nothing else should be running. Not part of CTest.

usage: python3 tests/bench/together.py MPILORA [--model configs/models/smollm2-135m.yaml] [--runs 8] [--sequences 2] [--length 60] [--steps 20] [--turns 3] [--folder DIR]
"""
import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time


def run(*words):
    """(clock seconds, processor seconds)"""
    before, since = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([str(word) for word in words], text=True, capture_output=True, timeout=3600)
    if done.returncode:
        raise SystemExit(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - since, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def prepare(options, folder):
    run(options.mpilora, "import", "--init", "random", "--config", options.model, f"{folder}/base.h5")
    with open(f"{folder}/lines.jsonl", "w") as file:
        for i in range(64):
            file.write(json.dumps({"input_ids": [(i * 131 + 7 * j + j * j) % 250 for j in range(options.length)]}) + "\n")
    run(options.mpilora, "tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/lines.jsonl", f"{folder}/data.h5")


def write(options, folder, name, **more):
    config = {"base": f"{folder}/base.h5", "method": {"rank": 8, "targets": ["q", "v"]}, "data": {"train": f"{folder}/data.h5"},
              "batch": {"sequences": options.sequences, "micro": options.sequences}, "train": {"steps": options.steps, "save_every": 0}, **more}  # fmt: skip
    with open(f"{folder}/{name}.yaml", "w") as file:
        json.dump(config, file)
    return f"{folder}/{name}.yaml"


def peak(run_dir):
    with open(f"{run_dir}/summary.json") as file:
        return json.load(file)["memory"]["process_peak_bytes"]


def together(options, folder):
    runs = [{"dir": f"{folder}/together/{i}", "set": {"run.seed": i + 1, "optim.lr": 1e-4 * (i + 1)}} for i in range(options.runs)]
    seconds = run(options.mpilora, "train", write(options, folder, "together", runs=runs), "--fresh")
    return (*seconds, peak(f"{folder}/together/0"))


def in_turn(options, folder):
    clock = processor = most = 0
    for i in range(options.runs):
        home = f"{folder}/alone/{i}"
        path = write(options, folder, "alone", run={"dir": home, "seed": i + 1}, optim={"lr": 1e-4 * (i + 1)})
        seconds = run(options.mpilora, "train", path, "--fresh")
        clock, processor, most = clock + seconds[0], processor + seconds[1], max(most, peak(home))
    return clock, processor, most


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parser.add_argument("mpilora")
    parser.add_argument("--model", default=f"{source}/configs/models/smollm2-135m.yaml")
    parser.add_argument("--folder")
    for name, standard in (("runs", 8), ("sequences", 2), ("length", 60), ("steps", 20), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=standard)
    options = parser.parse_args()
    folder = options.folder or tempfile.mkdtemp()
    os.makedirs(folder, exist_ok=True)
    prepare(options, folder)
    ratios = []
    for turn in range(options.turns):
        order = (together, in_turn) if turn % 2 == 0 else (in_turn, together)
        found = {how: how(options, folder) for how in order}
        one, all_runs = found[together], found[in_turn]
        ratios.append([a / b for a, b in zip(all_runs, one)])
        print(f"turn {turn + 1}: in turn {all_runs[0]:.2f} s, together {one[0]:.2f} s: {ratios[-1][0]:.2f} x as fast, {ratios[-1][1]:.2f} x by processor time; "
              f"peak {one[2] / 1e6:.1f} MB together, {all_runs[2] / 1e6:.1f} MB alone", flush=True)  # fmt: skip
    for what, values in zip(("as fast", "by processor time"), zip(*ratios)):
        print(f"{statistics.median(values):.2f} x {what} (median; {min(values):.2f} to {max(values):.2f})")
    if not options.folder:
        shutil.rmtree(folder)


main()
