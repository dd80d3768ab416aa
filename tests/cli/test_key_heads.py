"""Fewer key/value heads than ranks of tp, end to end: one head or two on groups of 4.

A run, saved on one grid and resumed on another, has the losses and the gradient's norms of one rank that was never stopped (within 1e-5 in fp32), leaves the same adapter
or model, takes the bytes that plan says, and generates the same; a tp that heads do not allow is refused with those that would do.
"""

import json
import os
import shutil
import sys
import tempfile


HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import harness

STEPS, HALF = 4, 2
LORA = {"name": "lora", "rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["all"], "dora": True}
CASES = {
    "qwen3, two heads": ("family: qwen3", 2, LORA),
    "phi3, fused, one head": ("family: phi3", 1, {**LORA, "targets": ["qkv_proj", "o_proj"], "dora": False, "dropout": 0.1}),
    "qwen2, one head, full": ("family: qwen2", 1, {"name": "full"}),
}
GRIDS = {"1x1": (1, 1), "1x4": (1, 4), "2x2": (2, 2)}
checks = harness.Checks()


def model_of(family, kv_heads, heads=4):
    return f"{family}\nlayers: 2\nwidth: {16 * heads}\nmlp_width: 160\nheads: {heads}\nkv_heads: {kv_heads}\nvocab: 401\ncontext: 128\n"


def prepare(folder, family, kv_heads):
    os.mkdir(folder)
    harness.make_base(folder, model_of(family, kv_heads), "fp32")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/base.h5", f"{folder}/hf")
    shutil.copy(f"{harness.SOURCE}/tests/golden/tokenizer/gpt2/tokenizer.json", f"{folder}/hf")
    harness.mpilora("import", f"{folder}/hf", "--dtype", "fp32", f"{folder}/base.h5")
    harness.make_data(folder, [[(i * i + 7 * j + i * j * j) % 257 for j in range(20 + 5 * i)] for i in range(12)])


def write_config(folder, method, name, **train):
    return harness.write_config(
        f"{folder}/{name}.yaml",
        run={"dir": f"{folder}/{name}", "seed": 5},
        base=f"{folder}/base.h5",
        method=method,
        data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5", "max_len": 96},
        batch={"sequences": 4, "micro": 2},
        optim={"lr": 1e-3, "schedule": "constant", "warmup": 3},
        train={"steps": STEPS, **train},
        kernels={"product": "native"},
        precision="fp32",
    )


def train(config, grid, *words):
    dp, tp = GRIDS[grid]
    harness.mpilora("train", config, "--set", f"parallel.tp={tp}", *words, ranks=dp * tp if dp * tp > 1 else 0)


def check_losses(what, folder, name):
    found, expected = harness.read_metrics(f"{folder}/{name}"), harness.read_metrics(f"{folder}/whole")
    checks.that([line["step"] for line in found] == list(range(1, STEPS + 1)), f"{what}: steps {[line['step'] for line in found]}")
    return max(checks.close(f"{what}: {key}", [line[key] for line in found], [line[key] for line in expected], 1e-5) for key in ("loss", "grad_norm"))


def evaluate(folder, name, method, tp=1):
    """Of what the run left, which is a base where all of it trained."""
    full = method["name"] == "full"
    left = ["--set", f"base={folder}/{name}/model.h5"] if full else ["--adapter", f"{folder}/{name}/adapter.h5"]
    return json.loads(harness.mpilora("eval", f"{folder}/whole.yaml", *left, "--json", "--set", f"parallel.tp={tp}", ranks=tp if tp > 1 else 0))["loss"]


def check_left(what, folder, name, method, tp):
    """What the run left, against what one rank left."""
    found, expected = evaluate(folder, name, method, tp), evaluate(folder, "whole", method)
    checks.that(abs(found - expected) < 1e-5 * expected, f"{what}, evaluated with tp {tp}: loss {found}, that of one rank {expected}")


def check_continuations(what, folder, method):
    """Greedy: 4 ranks take a tp of 4."""
    full = method["name"] == "full"
    left = ["--base", f"{folder}/whole/model.h5"] if full else ["--base", f"{folder}/base.h5", "--adapter", f"{folder}/whole/adapter.h5"]
    words = [word for prompt in ("The Eagle", "Blue Spice is", "a") for word in ("--prompt", prompt)]
    one, four = (harness.mpilora("generate", *left, *words, "--precision", "fp32", "--max-new", 12, "--json", ranks=ranks) for ranks in (0, 4))
    checks.that(one and one == four, f"{what}: continuations of one rank {one}, of four {four}")


def check_bytes(what, folder, method, name, grid):
    dp, tp = GRIDS[grid]
    plan = json.loads(harness.mpilora("plan", f"{folder}/{name}.yaml", "--json", "--ranks", dp * tp, "--set", f"parallel.tp={tp}"))
    row = next(m for m in plan["methods"] if m["name"] == method["name"])
    memory = harness.read_summary(f"{folder}/{name}")["memory"]
    for kind in ("frozen", "trainable", "gradient", "optimizer", "activation"):
        planned, took = row["per_rank"][kind], memory[kind]
        checks.that(planned == took, f"{what}: {kind}: planned {planned} bytes, the run took {took}")


def check_case(root, number, what, family, kv_heads, method):
    folder = f"{root}/{number}"
    prepare(folder, family, kv_heads)
    train(write_config(folder, method, "whole"), "1x1")
    train(write_config(folder, method, "four"), "1x4")
    worst = check_losses(f"{what}, tp 4", folder, "four")
    check_left(f"{what}, tp 4", folder, "four", method, 4)
    check_continuations(what, folder, method)
    check_bytes(f"{what}, tp 4", folder, method, "four", "1x4")
    for first in ("1x1", "1x4"):
        train(write_config(folder, method, first, steps=HALF), first)
    for first, then in (("1x1", "1x4"), ("1x4", "1x1"), ("1x4", "2x2")):
        name = f"{first}-{then}"
        shutil.copytree(f"{folder}/{first}", f"{folder}/{name}")
        train(write_config(folder, method, name), then, *(["--set", "memory.shard_optimizer=true"] if then == "2x2" else []))
        worst = max(worst, check_losses(f"{what}, saved on {first}, resumed on {then}", folder, name))
    check_left(f"{what}, resumed on 2x2", folder, "1x4-2x2", method, 1)
    print(f"{what}: largest relative difference {worst:.3g}", flush=True)


def main():
    with tempfile.TemporaryDirectory() as root:
        for number, (what, case) in enumerate(CASES.items()):
            check_case(root, number, what, *case)
    checks.end()


main()
