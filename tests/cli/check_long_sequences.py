"""One step on a sequence of 32,768 tokens with two of the layers of Llama-3.2-1B, of its full width and vocabulary, by one rank and by two that share its tokens out
(parallel.cp) under numerics: grid: loss and gradient norm are the same bits, what is kept for backward is half of it a rank, and a process holds what plan says, within 3 %.
One token in 16 is a target, so that the time goes to the layers and not to the vocabulary: as long as 90 TFLOP take.

    python3 tests/cli/check_long_sequences.py [PROGRAM] [--tokens N] [--numerics fast] [--activations checkpoint]
"""

import argparse
import json
import os
import random
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import grid_runs
import harness

MODEL, LAYERS = f"{harness.SOURCE}/configs/models/llama-3.2-1b.yaml", 2
LORA = {"name": "lora", "rank": 8, "targets": ["q", "v"]}
HOURS, TARGETS_EVERY = 3600, 16
checks = harness.Checks()


def prepare(folder, tokens):
    with open(MODEL) as file:
        model = re.sub(r"(?m)^layers: \d+$", f"layers: {LAYERS}", file.read())
    harness.make_base(folder, model)
    draw = random.Random(3)
    ids = [draw.randrange(128256) for _ in range(tokens)]  # whole pieces of 512, so that two ranks can have halves
    with open(f"{folder}/data.jsonl", "w") as file:
        json.dump({"input_ids": ids, "labels": [id if j % TARGETS_EVERY == 0 else -100 for j, id in enumerate(ids)]}, file)
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")


def run(folder, cp, options):
    name, grid = f"{folder}/cp-{cp}", (1, 1, cp, 1)
    config = harness.write_config(
        f"{name}.yaml", run={"dir": name}, base=f"{folder}/base.h5", method=LORA, data={"train": f"{folder}/data.h5", "max_len": options.tokens},
        batch={"sequences": 1, "micro": 1}, train={"steps": 1}, memory={"activations": options.activations}, kernels={"product": "native"}, numerics=options.numerics)  # fmt: skip
    os.environ["OMP_NUM_THREADS"] = harness.WITHOUT_DELAY["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // cp))
    grid_runs.train(config, grid, timeout=2 * HOURS)
    memory, _ = grid_runs.check_memory(checks, f"cp {cp}", config, name, LORA, grid)
    step, process = harness.read_metrics(name)[0], memory["process_peak_bytes"]
    ratio = process / grid_runs.plan(config, grid)["methods"][0]["process_bytes_by_activations"][options.activations]
    checks.that(0.97 <= ratio <= 1.03, f"cp {cp}: a process held {process} bytes, {ratio} of what plan says")
    print(f"cp {cp}: loss {step['loss']!r}, grad_norm {step['grad_norm']!r}, {step['step_s']:.0f} s, {step.get('gathered_bytes', 0)} bytes gathered, kept {memory['activation']}, "
          f"accounted {memory['total_peak_bytes']}, a process {process} = {ratio:.4f} of what plan says", flush=True)  # fmt: skip
    return step, memory


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", nargs="?")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--numerics", default="grid")
    parser.add_argument("--activations", default="full")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder, options.tokens)
        (one, whole), (two, half) = (run(folder, cp, options) for cp in (1, 2))
    exact = options.numerics == "grid"
    for key, bound in (("loss", 1e-6), ("grad_norm", 1e-3)):  # layers in bf16: a rounding that falls otherwise is 0.4 % of a number
        checks.that(abs(two[key] - one[key]) <= (0 if exact else bound) * one[key], f"{key}: {two[key]!r} with cp 2, {one[key]!r} of one rank")
    checks.that(abs(2 * half["activation"] / whole["activation"] - 1) < 0.01, f"kept for backward: {half['activation']} a rank, {whole['activation']} of one")
    checks.end()


if __name__ == "__main__":
    main()
