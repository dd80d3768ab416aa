"""A LoRA step on a base in blocks beside the same model in bf16: runs of both in turn, clock and processor seconds of the whole loop.

Each turn is `mpilora train` of a few steps once on the bf16 base and once on each base in blocks, in an order that reverses from turn to turn; what is compared are
the medians of the steps' seconds (metrics.jsonl, the first two left out) and of the processes' user time. The machine may be busy: only ratios of neighbours count.

usage: python3 tests/bench/block_base.py MPILORA MODEL.yaml [--formats q8_0,q4_k,mxfp4] [--tokens 2048] [--turns 5] [--steps 8] [--folder DIR] [--product PATH]
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile


def run(words, **more):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(w) for w in words], text=True, capture_output=True, timeout=1800, **more)
    if done.returncode:
        raise SystemExit(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stderr


def prepare(options, folder, formats):
    for name in ["bf16", *formats]:
        words = [options.mpilora, "import", "--init", "random", "--config", options.model, f"{folder}/{name}.h5"]
        if not os.path.exists(f"{folder}/{name}.h5"):
            run(words + (["--quantise", name] if name != "bf16" else []))
    length = min(options.length, options.tokens)
    with open(f"{folder}/lines.jsonl", "w") as file:
        for i in range(64):
            file.write(json.dumps({"input_ids": [(i * 131 + 7 * j + j * j) % 250 for j in range(length)]}) + "\n")
    run([options.mpilora, "tokenize", "--base", f"{folder}/bf16.h5", "--format", "ids", f"{folder}/lines.jsonl", f"{folder}/data.h5"])


def steps(options, folder, name, turn):
    home = f"{folder}/run-{name}-{turn}"
    sequences = max(1, options.tokens // options.length)
    config = {"run": {"dir": home}, "base": f"{folder}/{name}.h5", "method": {"name": "lora", "rank": 8, "targets": ["q", "v"]},
              "data": {"train": f"{folder}/data.h5", "max_len": min(options.length, options.tokens)}, "batch": {"sequences": sequences, "micro": sequences},
              "train": {"steps": options.steps}, "precision": "bf16"}  # fmt: skip
    if options.product:
        config["kernels"] = {"product": options.product}
    with open(f"{folder}/config.yaml", "w") as file:
        json.dump(config, file)
    user, said = run([options.mpilora, "train", f"{folder}/config.yaml", "--fresh"])
    with open(f"{home}/metrics.jsonl") as file:
        lines = [json.loads(line) for line in file]
    with open(f"{home}/summary.json") as file:
        summary = json.load(file)
    return statistics.median(line["step_s"] for line in lines[2:]), user, lines[-1]["loss"], summary


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mpilora")
    parser.add_argument("model")
    parser.add_argument("--formats", default="q8_0,q4_k,mxfp4")
    parser.add_argument("--product")
    parser.add_argument("--folder")
    for name, value in (("tokens", 2048), ("length", 512), ("turns", 5), ("steps", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    formats = options.formats.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        os.makedirs(folder, exist_ok=True)
        prepare(options, folder, formats)
        ratios = {name: [] for name in formats}
        work = {name: [] for name in formats}
        for turn in range(options.turns):
            names = ["bf16", *formats]
            found = {name: steps(options, folder, name, turn) for name in (names if turn % 2 == 0 else names[::-1])}
            for name in formats:
                ratios[name].append(found["bf16"][0] / found[name][0])
                work[name].append(found["bf16"][1] / found[name][1])
            print(f"turn {turn + 1}:", ", ".join(f"{name} {x[0]:.3f} s a step, {x[1]:.1f} s of processors, loss {x[2]:.4f}" for name, x in found.items()), flush=True)
        for name in formats:
            print(f"{name}: bf16's seconds a step by its own, median of {options.turns} turns: {statistics.median(ratios[name]):.3f} "
                  f"(least {min(ratios[name]):.3f}, most {max(ratios[name]):.3f}); of processor seconds: {statistics.median(work[name]):.3f}")  # fmt: skip


main()
