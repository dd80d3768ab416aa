"""A LoRA step on a base in blocks beside the same model in bf16: runs of both in turn, clock and processor seconds a step.

Rows are the shapes of compare_torch.py with four sequences a step: 1 GPT-2 124M (the fused q|k|v), 2 SmolLM2-135M (q and v), 3 two layers of width 4096; or a YAML file of any model (q and v).
In a turn every base has two runs, of one step and of some more; their difference is what the steps took without the start. The order of the bases reverses from turn to turn. Printed are
bf16's seconds by those of the base in blocks: the median over the turns, least and most, of processor seconds and of the clock. The machine may be busy: only ratios of neighbours count.

usage: python3 tests/bench/block_base.py MPILORA [--rows 1 2 3 | MODEL.yaml] [--formats q8_0,q4_k,mxfp4] [--tokens 2048 160] [--turns 3] [--steps 3] [--threads 1] [--product PATH] [--folder DIR]
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile

from torch_comparison.our_side import SOURCE
from torch_comparison.rows import ROWS

SEQUENCES = 4
WANTED = {2048: 0.97, 160: 0.90}  # of bf16's tokens a second


def run(words, threads):
    """Processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(w) for w in words], text=True, capture_output=True, timeout=3600, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise SystemExit(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def prepare(options, model, folder, names):
    os.makedirs(folder, exist_ok=True)
    for name in names:
        words = [options.mpilora, "import", "--init", "random", "--config", model, f"{folder}/{name}.h5"]
        if not os.path.exists(words[-1]):
            run(words + (["--quantise", name] if name != "bf16" else []), options.threads)


def make_data(options, folder, tokens):
    lines, length = f"{folder}/lines-{tokens}.jsonl", tokens // SEQUENCES
    with open(lines, "w") as file:
        for i in range(16 * SEQUENCES):
            file.write(json.dumps({"input_ids": [(i * 131 + 7 * j + j * j) % 250 for j in range(length)]}) + "\n")
    run([options.mpilora, "tokenize", "--base", f"{folder}/bf16.h5", "--format", "ids", lines, f"{folder}/data-{tokens}.h5"], options.threads)


def steps(options, folder, name, targets, tokens, count):
    """Processor seconds of a run of so many steps, and the seconds of its last ones by the clock."""
    data, length = f"{folder}/data-{tokens}.h5", tokens // SEQUENCES
    home = f"{folder}/run-{name}"
    config = {"run": {"dir": home}, "base": f"{folder}/{name}.h5", "method": {"name": "lora", "rank": 8, "targets": targets}, "data": {"train": data, "max_len": length},
              "batch": {"sequences": SEQUENCES, "micro": SEQUENCES}, "train": {"steps": count}, "precision": "bf16"}  # fmt: skip
    if options.product:
        config["kernels"] = {"product": options.product}
    with open(f"{folder}/config.yaml", "w") as file:
        json.dump(config, file)
    cpu = run([options.mpilora, "train", f"{folder}/config.yaml", "--fresh"], options.threads)
    with open(f"{home}/metrics.jsonl") as file:
        lines = [json.loads(line) for line in file]
    return cpu, statistics.median(line["step_s"] for line in lines[1:] or lines), lines[-1]["loss"]


def turn(options, folder, names, targets, tokens):
    found = {}
    for name in names:
        start, _, _ = steps(options, folder, name, targets, tokens, 1)
        cpu, clock, loss = steps(options, folder, name, targets, tokens, 1 + options.steps)
        found[name] = ((cpu - start) / options.steps, clock, loss)
    return found


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def compare(options, title, model, targets, folder, tokens):
    formats = options.formats.split(",")
    names = ["bf16", *formats]
    prepare(options, model, folder, names)
    make_data(options, folder, tokens)
    for name in names:
        steps(options, folder, name, targets, tokens, 1)  # measures the paths, which later starts remember
    ratios = {name: ([], []) for name in formats}
    for number in range(options.turns):
        found = turn(options, folder, names[:: -1 if number % 2 else 1], targets, tokens)
        for name in formats:
            for kind in range(2):
                ratios[name][kind].append(found["bf16"][kind] / found[name][kind])
        print(f"# turn {number + 1}:", ", ".join(f"{name} {cpu:.2f} s of processors, {clock:.2f} s, loss {loss:.4f}" for name, (cpu, clock, loss) in found.items()), flush=True)
    wanted = f", wanted {WANTED[tokens]}" if tokens in WANTED else ""
    for name in formats:
        print(f"{title}, {tokens} tokens, {name}: {spread(ratios[name][0])} by processor seconds, {spread(ratios[name][1])} by the clock{wanted}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mpilora")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rows", nargs="+", type=int, choices=ROWS, default=[1, 2, 3])
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 160])
    parser.add_argument("--formats", default="q8_0,q4_k,mxfp4")
    parser.add_argument("--product")
    parser.add_argument("--folder")
    for name, value in (("turns", 3), ("steps", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    shapes = [(os.path.basename(options.model), options.model, ["q", "v"])] if options.model else []
    for number in [] if options.model else options.rows:
        shapes.append((f"row {number}", f"{SOURCE}/configs/models/{ROWS[number].model}.yaml", ROWS[number].our_targets))
    with tempfile.TemporaryDirectory() as temporary:
        for title, model, targets in shapes:
            folder = os.path.join(options.folder or temporary, title.replace(" ", "-"))
            for tokens in options.tokens:
                compare(options, title, model, targets, folder, tokens)


if __name__ == "__main__":
    main()
