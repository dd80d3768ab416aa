"""Pipeline stages, end to end: every grid with stages has the losses, gradient norms and evaluations of one rank (within 1e-6 in fp32, and in the same order of sums bit for
bit), leaves the same adapter or model, and keeps within the memory that plan says.

Runs are killed and resumed on other grids; what cannot be divided is refused in one line that names what would fit.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import grid_runs
import harness

STEPS, WIDTH = 4, 32
LORA = {"name": "lora", "rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["all"]}
MODELS = {
    "llama": "family: llama\nlayers: 4\nwidth: 32\nmlp_width: 80\nheads: 4\nkv_heads: 2\nvocab: 257\ncontext: 128\n",
    "gpt2": "family: gpt2\nlayers: 5\nwidth: 32\nheads: 4\nvocab: 257\ncontext: 128\n",
}
# Name: model, method, grids as (dp, tp, pp); each is trained on alone and compared with one rank.
CASES = {
    "llama lora": ("llama", LORA, [(2, 1, 2), (1, 2, 2), (1, 1, 4)]),
    "gpt2 lora": ("gpt2", LORA, [(1, 1, 2)]),
    "llama, lora on the last layers": ("llama", {**LORA, "dropout": 0.0, "layers": [3]}, [(1, 1, 2)]),
}
checks = harness.Checks()


def prepare(folder, model):
    os.mkdir(folder)
    harness.make_base(folder, MODELS[model], "fp32")
    harness.make_data(folder, [[(i * i + 7 * j + i * j * j) % 257 for j in range(20 + 5 * i)] for i in range(14)])


def write_config(folder, method, name, **sections):
    return harness.write_config(
        f"{folder}/{name}.yaml",
        **{
            "run": {"dir": f"{folder}/{name}", "seed": 5},
            "base": f"{folder}/base.h5",
            "method": method,
            "data": {"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5", "max_len": 96},
            "batch": {"sequences": 7, "micro": 1},
            "optim": {"lr": 1e-3, "schedule": "constant", "warmup": 3},
            "train": {"steps": STEPS, "eval_every": 2},
            "kernels": {"product": "native"},
            "precision": "fp32",
            **sections,
        },
    )


def check_same(what, found, expected, bound=1e-6):
    grid_runs.check_same(checks, what, found, expected, bound)
    left, right = (harness.read_summary(run)["allreduce_bytes_per_step"] for run in (found, expected))
    checks.that(left == right, f"{what}: summed bytes {left}, of one rank {right}")


def check_memory(what, config, run, method, grid):
    grid_runs.check_memory(checks, what, config, run, method, grid, above=1.04)


def check_bytes(what, config, run, method, grid, messages):
    """Bytes that the busiest rank sent to its neighbours, a step: of each message a token's stream, fp32. What plan says is exact where all sequences are equally
    long."""
    lines, summary = harness.read_metrics(run), harness.read_summary(run)
    planned = grid_runs.plan(config, grid)["methods"][method["name"] == "full"]["piped_bytes_per_step"]
    for line in lines:
        found = line["piped_bytes"]
        checks.that(found == planned, f"{what}: {found} bytes sent in step {line['step']}, planned {planned}")
        checks.that(found == 4 * WIDTH * line["computed_tokens"] // grid[0] * messages, f"{what}: {found} bytes sent in step {line['step']}: {line}")
    checks.that(summary["piped_bytes_per_step"] == planned, f"{what}: summary.json has {summary['piped_bytes_per_step']} bytes a step, planned {planned}")


def check_parts(what, folder, label, method, grid):
    """Ranks of tp keep parts of what layers start from, of each micro-batch on its way."""
    config = write_config(folder, method, f"{label}-again", memory={"activations": "checkpoint"})
    grid_runs.train(config, grid)
    check_same(f"{what}, checkpoint", f"{folder}/{label}-again", f"{folder}/whole")
    check_memory(f"{what}, checkpoint", config, f"{folder}/{label}-again", method, grid)


# Model, method, grid, messages a micro-batch of the rank that sends most.
SENT = {
    "one stage": ("llama", LORA, (2, 1, 1), 0),
    "two stages": ("llama", LORA, (1, 1, 2), 1),
    "four stages": ("llama", LORA, (1, 1, 4), 2),
    "two stages, two replicas": ("llama", LORA, (2, 1, 2), 1),
    "two stages of two": ("llama", LORA, (1, 2, 2), 1),
    "the last layer": ("llama", {**LORA, "layers": [3]}, (1, 1, 4), 1),
    "the last two layers": ("llama", {**LORA, "layers": [2, 3]}, (1, 1, 4), 1),
    "from the second layer on": ("llama", {**LORA, "layers": [1, 2, 3]}, (1, 1, 4), 2),
    "the base's last layers": ("gpt2", {"name": "top", "top": 1}, (1, 1, 3), 1),
    "biases": ("gpt2", {"name": "bitfit"}, (1, 1, 3), 2),
    "full": ("gpt2", {"name": "full"}, (1, 1, 3), 2),
}


def check_sent(folder):
    for model in MODELS:
        prepare(f"{folder}-{model}", model)
        harness.make_data(f"{folder}-{model}", [[(i * i + 7 * j + i * j * j) % 257 for j in range(40)] for i in range(16)])
    for name, (model, method, grid, messages) in SENT.items():
        config = write_config(f"{folder}-{model}", method, name.replace(" ", "-"), batch={"sequences": 8, "micro": 3}, train={"steps": 2})
        grid_runs.train(config, grid)
        check_bytes(f"bytes, {name}", config, f"{folder}-{model}/{name.replace(' ', '-')}", method, grid, messages)


def check_left(what, folder, run, method):
    """Adapter or model against what one rank left, evaluated by one rank."""
    full = method["name"] == "full"
    left = lambda name: ["--set", f"base={folder}/{name}/model.h5"] if full else ["--adapter", f"{folder}/{name}/adapter.h5"]
    found, expected = (json.loads(harness.mpilora("eval", f"{folder}/whole.yaml", *left(name), "--json"))["loss"] for name in (run, "whole"))
    checks.that(abs(found - expected) < 1e-6 * expected, f"{what}: what it left has a loss of {found}, what one rank left {expected}")


def check_resumed(what, folder, method, grids):
    """Killed after a checkpoint on each grid, gone on with on the next one."""
    name = "resumed"
    for i, grid in enumerate(grids):
        done = (i + 2) * STEPS // (len(grids) + 1)
        grid_runs.train(write_config(folder, method, name, train={"steps": STEPS, "eval_every": 2, "save_every": 1}), grid, "--set", f"train.steps={done}")
    check_same(f"{what}, resumed", f"{folder}/{name}", f"{folder}/whole")
    check_left(f"{what}, resumed", folder, name, method)


def check_case(name, folder):
    model, method, grids = CASES[name]
    prepare(folder, model)
    whole = write_config(folder, method, "whole")
    grid_runs.train(whole, (1, 1, 1))
    for grid in grids:
        label = "x".join(map(str, grid))
        what = f"{name} on {label}"
        config = write_config(folder, method, label)
        grid_runs.train(config, grid)
        check_same(what, f"{folder}/{label}", f"{folder}/whole")
        check_memory(what, config, f"{folder}/{label}", method, grid)
        if grid[1] > 1:
            check_parts(what, folder, label, method, grid)
        if grid[0] == 1 and "layers" not in method:
            for line in harness.read_metrics(f"{folder}/{label}"):
                sent = 4 * WIDTH * line["computed_tokens"] * (2 if grid[2] > 2 else 1)
                checks.that(line["piped_bytes"] == sent, f"{what}: {line['piped_bytes']} bytes sent in step {line['step']}, {sent} by its rows")
    if len(grids) > 2:
        check_resumed(name, folder, method, [grids[-1], (2, 1, 1), grids[0]])


REFUSED = {
    "more stages than layers": (["parallel.pp=5"], 5, "parallel.pp: 5 stages, but the model has 4 layers; choose at most 4"),
    "stages that do not divide": (["parallel.pp=3"], 4, "parallel.pp: 3 stages of tp 1 do not divide the 4 ranks of this job; start a multiple of 3 ranks, or choose pp 1, 2 or 4"),
    "with tp": (["parallel.pp=4", "parallel.tp=2"], 4, "parallel.pp: 4 stages of tp 2 do not divide the 4 ranks of this job; start a multiple of 8 ranks, or choose pp 1 or 2"),
}


def check_refused(folder):
    prepare(folder, "llama")
    config = write_config(folder, LORA, "refused")
    for name, (sets, ranks, text) in REFUSED.items():
        done = harness.start("train", config, *[word for one in sets for word in ("--set", one)], ranks=ranks)
        lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora ")]
        checks.that(done.returncode == 2 and len(lines) == 1 and text in lines[0], f"{name}: ended with {done.returncode}\n{done.stderr}")
        done = harness.start("plan", config, "--ranks", ranks, *[word for one in sets for word in ("--set", one)])
        checks.that(done.returncode == 2 and text.split(" of this job")[0].split(" yet")[0] in done.stderr, f"plan, {name}: ended with {done.returncode}\n{done.stderr}")


def check_ends(folder):
    """A number that is none on one stage ends all with 5 and one line; a signal saves and ends with 75, and the run goes on elsewhere."""
    prepare(folder, "gpt2")
    config = write_config(folder, {**LORA, "dropout": 0.0}, "whole", train={"steps": 60, "save_every": 1000})
    done = harness.start("train", config, *grid_runs.words_of((1, 1, 2)), "--set", "run.dir=" + folder + "/nan", "--set", "optim.lr=1e38", "--set", "optim.clip_norm=null", ranks=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora train: step ")]
    checks.that(done.returncode == 5 and len(lines) == 1, f"not a number: ended with {done.returncode}\n{done.stderr}")
    grid_runs.train(config, (1, 1, 1))
    stopped = write_config(folder, {**LORA, "dropout": 0.0}, "stopped", train={"steps": 60, "save_every": 1000})
    running = subprocess.Popen(harness.command("train", stopped, *grid_runs.words_of((1, 1, 3)), ranks=3), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while harness.count_lines(f"{folder}/stopped/metrics.jsonl") < 3 and time.monotonic() < until:
        time.sleep(0.02)
    for rank in harness.ranks_of(running.pid):
        os.kill(rank, signal.SIGUSR1)
    said = running.communicate(timeout=60)[1]
    checks.that(running.returncode == 75 and 3 <= harness.count_lines(f"{folder}/stopped/metrics.jsonl") < 60, f"a signal: ended with {running.returncode}\n{said}")
    grid_runs.train(stopped, (1, 1, 2))
    check_same("stopped and resumed", f"{folder}/stopped", f"{folder}/whole", 1e-5)


def main():
    folder = tempfile.mkdtemp()
    try:
        for i, name in enumerate(CASES):
            check_case(name, f"{folder}/{i}")
        check_sent(f"{folder}/sent")
        check_refused(f"{folder}/refused")
        check_ends(f"{folder}/ends")
    finally:
        shutil.rmtree(folder)
    checks.end()


if __name__ == "__main__":
    main()
