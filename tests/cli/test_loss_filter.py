"""loss.filter: a run says in metrics.jsonl what it left out, learns nearly as without, on two ranks, too; off has the bits of a run without the key; it is a part of what a
run is; plan knows it; where it has no meaning, or the result is to be exact, it is refused."""

import json
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

checks = harness.Checks()
MODEL = "{family: llama, layers: 2, width: 48, mlp_width: 96, heads: 4, kv_heads: 2, vocab: 3000, context: 64}"
STEPS = 60


def write_data(folder):
    """Sequences that a model soon knows: each token is followed by the next one, of twenty that are far apart."""
    draw = random.Random(3)
    with open(f"{folder}/ids.jsonl", "w") as file:
        for _ in range(64):
            first = draw.randrange(20)
            file.write(json.dumps({"input_ids": [(first + i) % 20 * 150 for i in range(24)]}) + "\n")
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/ids.jsonl", f"{folder}/data.h5")


def configure(folder, **sections):
    return harness.write_config(
        f"{folder}/run.yaml",
        **{
            "base": f"{folder}/base.h5",
            "method": {"name": "full"},
            "data": {"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"},
            "batch": {"sequences": 8, "micro": 4},
            "run": {"dir": f"{folder}/whole"},
            "optim": {"lr": 0.01},
            "train": {"steps": STEPS, "save_every": STEPS},
            "precision": "fp32",
            **sections,
        },
    )


def train(folder, name, *sets, ranks=0):
    words = [word for setting in sets for word in ("--set", setting)]
    harness.mpilora("train", f"{folder}/run.yaml", "--set", f"run.dir={folder}/{name}", *words, ranks=ranks)
    return harness.read_metrics(f"{folder}/{name}")


def refused(folder, what, words, *needles):
    done = harness.start(*words)
    checks.that(done.returncode == 2 and all(needle in done.stderr for needle in needles), f"{what}: {done.returncode}, {done.stderr}")


def digest(folder, name):
    return harness.mpilora("verify", "--digest", f"{folder}/{name}").split()[0]


def check_runs(folder):
    whole = train(folder, "whole")
    off = train(folder, "off", "loss.filter=off")
    checks.that(digest(folder, "whole") == digest(folder, "off"), "off has other bits than without the key")
    checks.that(all("filtered" not in line for line in off), f"off reports what was left out: {off[-1]}")
    for ranks, *sets in ((0,), (2, "parallel.tp=2"), (2, "parallel.tp=1"), (2, "parallel.pp=2"), (0, "kernels.product=blas")):
        name = "-".join(["filtered", str(ranks), *sets])
        lines = train(folder, name, "loss.filter=2^-14", *sets, ranks=ranks)
        checks.that(digest(folder, name) != digest(folder, "whole"), f"{name}: the same bits as without: nothing was left out")
        checks.that(lines[0]["loss"] == whole[0]["loss"] or abs(lines[0]["loss"] - whole[0]["loss"]) < 1e-5, f"{name}: first loss {lines[0]['loss']}, whole {whole[0]['loss']}")
        # A model that knows nothing gives every token 1/3000 > 2^-14; one that knows much leaves most out.
        checks.that(lines[0]["filtered"] == 0.0 and lines[0]["filtered_most"] == 0.0, f"{name}: {lines[0]}")
        checks.that(lines[-1]["filtered"] > 0.3 and 0.0 < lines[-1]["filtered_most"] < 0.2, f"{name}: {lines[-1]}")
        checks.that(abs(lines[-1]["loss"] - whole[-1]["loss"]) < 0.02 * whole[0]["loss"], f"{name}: last loss {lines[-1]['loss']}, whole {whole[-1]['loss']}")


def check_identity(folder):
    new = ("train", f"{folder}/run.yaml", "--set", f"train.steps={STEPS + 2}", "--set")
    refused(folder, "resumed without", [*new, f"run.dir={folder}/filtered-0"], "loss.filter")
    refused(folder, "resumed with", [*new, f"run.dir={folder}/whole", "--set", "loss.filter=2^-14"], "loss.filter")
    plans = [json.loads(harness.mpilora("plan", f"{folder}/run.yaml", "--json", "--set", f"loss.filter={value}")) for value in ("off", "2^-14")]
    checks.that([m["per_rank"] for m in plans[0]["methods"]] == [m["per_rank"] for m in plans[1]["methods"]], f"plan needs other bytes with loss.filter: {plans}")
    with open(f"{folder}/filtered-0/config.yaml") as file:
        checks.that(f"filter: {2**-14:.17g}" in file.read(), "config.yaml does not say the number")


def check_refusals(folder):
    config = f"{folder}/run.yaml"
    never = ("train", config, "--set", f"run.dir={folder}/never", "--set", "loss.filter=1e-4", "--set")
    refused(folder, "numerics", [*never, "numerics=grid"], "loss.filter", "numerics")
    refused(folder, "label smoothing", [*never, "optim.label_smoothing=0.1"], "loss.filter", "label_smoothing")
    refused(folder, "dpo", [*never, "objective.name=dpo"], "loss.filter", "dpo")
    refused(folder, "classify", [*never, "objective.name=classify"], "loss.filter", "classify")
    refused(folder, "several runs", [*never, f"runs=[{{dir: {folder}/a, set: {{}}}}, {{dir: {folder}/b, set: {{}}}}]", "--set", "method.name=lora"], "loss.filter")
    for where in (["--set", "loss.filter=1e-4", "--methods", "lora"], ["--methods", "lora:loss.filter=1e-4"]):
        refused(folder, f"compare {where}", ["compare", config, *where, "--out", f"{folder}/compared"], "loss.filter", "compare")


with tempfile.TemporaryDirectory() as folder:
    harness.make_base(folder, MODEL, "fp32")
    write_data(folder)
    configure(folder)
    check_runs(folder)
    check_identity(folder)
    check_refusals(folder)
checks.end()
