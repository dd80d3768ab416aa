"""LoRA's variants laid over PEFT's: losses and gradient norms of 10 steps on 1, 2 and 4 ranks; evaluation, merging, export and import of what was trained;
a resumed run, and what it refuses. tests/golden/variants.json comes from make_variants_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import reference_models as reference
import reference_variants as variants

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "variants.json")
LAYOUTS = {"1 rank": (1, 1, 6), "dp 2": (2, 1, 2), "tp 2": (1, 2, 4), "dp 2, tp 2": (2, 2, 6)}  # name: (dp, tp, micro)
LOSS, NORM = 5e-6, 1e-4


def prepare(folder, names):
    for model in {variants.CASES[name]["model"] for name in names}:
        reference.write_model(f"{folder}/{model}", model)
        harness.mpilora("import", f"{folder}/{model}", f"{folder}/{model}.h5", "--dtype", "fp32")
        for part, data in (("train", reference.TRAIN), ("valid", reference.VALID)):
            reference.write_data(f"{folder}/{part}.jsonl", data)
            base = f"{folder}/{model}.h5"
            harness.mpilora("tokenize", "--base", base, "--format", "ids", f"{folder}/{part}.jsonl", f"{folder}/{model}-{part}.h5")
    for name in names:
        case = variants.CASES[name]
        if variants.has_initial_adapter(case):
            variants.write_adapter(f"{folder}/{name}.adapter", case)


def write_config(folder, name, run_dir, layout, **more):
    case = variants.CASES[name]
    _, tp, micro = LAYOUTS[layout]
    model = f"{folder}/{case['model']}"
    method = {"name": "lora", **{key: case[key] for key in ("rank", "alpha", "targets", "scaling")}, **case["method"]}
    method.setdefault("init", f"{folder}/{name}.adapter")
    return harness.write_config(
        f"{run_dir}.yaml",
        run={"dir": run_dir, "seed": 1},
        base=f"{model}.h5",
        method=method,
        data={"train": f"{model}-train.h5", "valid": f"{model}-valid.h5", "max_len": case["max_len"], "shuffle": False},
        batch={"sequences": reference.SEQUENCES, "micro": micro},
        optim={key: case[key] for key in ("lr", "weight_decay", "clip_norm", "schedule", "warmup", "label_smoothing")},
        train={"steps": variants.STEPS, **more},
        parallel={"tp": tp},
        precision="fp32",
    )


def place(folder, name, layout):
    return f"{folder}/{name}-{layout.replace(' ', '').replace(',', '-')}"


def check_run(checks, folder, name, golden, layout):
    dp, tp, _ = LAYOUTS[layout]
    run_dir = place(folder, name, layout)
    config = write_config(folder, name, run_dir, layout)
    harness.mpilora("train", config, ranks=dp * tp)
    metrics, summary = harness.read_metrics(run_dir), harness.read_summary(run_dir)
    label = f"{name}, {layout}"
    worst = checks.close(f"{label}: loss", [line["loss"] for line in metrics], golden["loss"], LOSS)
    norm = checks.close(f"{label}: grad_norm", [line["grad_norm"] for line in metrics], golden["grad_norm"], NORM)
    valid = checks.close(f"{label}: valid_loss", summary["valid_loss"], golden["valid_loss"], LOSS)
    checks.that(summary["params_trainable"] == golden["trainable"], f"{label}: {summary['params_trainable']} parameters, PEFT {golden['trainable']}")
    for category in ("frozen", "trainable", "gradient", "optimizer", "activation", "workspace"):
        measured, planned = summary["memory"][category], summary["memory"]["predicted"][category]
        start = category == "workspace" and not variants.has_initial_adapter(variants.CASES[name])  # decompositions, divided among the ranks
        checks.that(measured == planned or (start and measured < planned), f"{label}: {category}: {measured} bytes, planned {planned}")
    print(f"{label}: loss {worst:.2g}, grad_norm {norm:.2g}, valid {valid:.2g}", flush=True)
    return config, run_dir


def evaluate(config, *words, ranks=0):
    return json.loads(harness.mpilora("eval", config, "--json", *words, ranks=ranks))["loss"]


def check_files(checks, folder, name, golden, config, run_dir):
    """What was trained, as it is, on two ranks, through a PEFT directory, and merged, has PEFT's loss."""
    base = f"{folder}/{variants.CASES[name]['model']}.h5"
    trained, merged, exported = f"{run_dir}/adapter.h5", f"{run_dir}/merged.h5", f"{run_dir}/peft"
    harness.mpilora("merge", "--base", base, "--adapter", trained, "--dtype", "fp32", merged)
    harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", trained, exported)
    found = {
        "adapter.h5": evaluate(config, "--adapter", trained),
        "adapter.h5, tp 2": evaluate(config, "--adapter", trained, "--set", "parallel.tp=2", ranks=2),
        "PEFT directory": evaluate(config, "--adapter", exported),
        "merged": evaluate(config, "--set", f"base={merged}"),
    }
    for way, loss in found.items():
        checks.close(f"{name}: eval, {way}", loss, golden["valid_loss"], LOSS)
    if variants.has_initial_adapter(variants.CASES[name]):
        checks.close(f"{name}: eval, initial", evaluate(config, "--adapter", f"{folder}/{name}.adapter"), golden["start_loss"], LOSS)
    with open(f"{exported}/adapter_config.json") as file:
        config = json.load(file)
    for key, value in variants.CASES[name]["peft"].items():
        if key == "layers_to_transform":
            checks.that(config[key] == value, f"{name}: exported {key} {config[key]}, expected {value}")
    checks.that(config["use_dora"] == variants.CASES[name]["method"].get("dora", False), f"{name}: exported use_dora {config['use_dora']}")


def train_for(folder, name, label, *steps, ranks=1, layout="1 rank", more=()):
    """A run in as many starts, without a schedule, which would depend on the number of steps."""
    run_dir = f"{folder}/{name}-{label}"
    for count in steps:
        config = write_config(folder, name, run_dir, layout, steps=count)
        harness.mpilora("train", config, "--set", "optim.schedule=constant", *more, ranks=ranks)
    return config, run_dir


def losses(run_dir):
    return [line["loss"] for line in harness.read_metrics(run_dir)]


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def check_resume(checks, folder, name):
    """Stopped after 4 steps and gone on with: the same bytes on the same grid, the same losses on another; a changed value is refused."""
    _, whole = train_for(folder, name, "whole", variants.STEPS)
    kernels = harness.read_summary(whole)  # measured anew, another path may win
    more = [word for key in ("product", "vector") for word in ("--set", f"kernels.{key}={kernels[f'{key}_path']}")]
    config, resumed = train_for(folder, name, "resumed", 4, variants.STEPS, more=more)
    checks.that(losses(resumed) == losses(whole), f"{name}: resumed {losses(resumed)}, not stopped {losses(whole)}")
    checks.that(read_bytes(f"{resumed}/adapter.h5") == read_bytes(f"{whole}/adapter.h5"), f"{name}: a resumed run's adapter.h5 is another")
    train_for(folder, name, "moved", 4)
    _, moved = train_for(folder, name, "moved", variants.STEPS, ranks=4, layout="dp 2, tp 2")
    checks.close(f"{name}: resumed on another grid", losses(moved), losses(whole), LOSS)
    for change in CHANGES[name]:
        done = harness.start("train", config, "--set", "optim.schedule=constant", "--set", change)
        fine = done.returncode == 2 and change.split("=")[0] in done.stderr and done.stderr.count("\n") == 1
        checks.that(fine, f"{name}: resumed with {change}: exit {done.returncode}, {done.stderr}")


# What a resumed run refuses.
CHANGES = {
    "lora-plus-gpt2": ["method.lora_plus=8", "method.lora_plus=null"],
    "lora-plus-llama": [],
    "patterns-gpt2": ["method.rank_pattern={layers.1.attn.qkv: 7}", "method.alpha_pattern=null"],
    "dora-gpt2": ["method.dora=false"],
    "dora-llama": ["method.lora_plus=null"],
    "dora-scaled": [],
    "pissa-gpt2": ["method.init=null"],
    "pissa-llama": ["method.rank=5"],
    "tokens-llama": ["method.trainable_tokens=[3, 100-102]"],
    "tokens-ends": ["method.trainable_head_tokens=null"],
    "tokens-scaled": [],
    "tokens-gpt2": [],
    "bias-gpt2": ["method.bias=lora_only"],
    "bias-scaled": [],
    "bias-fused": [],
    "patterns-llama": ["method.layers=[0]", "method.layers=null"],
}


def main(begins):
    """The cases whose names begin so."""
    checks = harness.Checks()
    with open(GOLDEN) as file:
        curves = {name: golden for name, golden in json.load(file).items() if name.startswith(begins)}
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder, curves)
        for name, golden in curves.items():
            runs = [check_run(checks, folder, name, golden, layout) for layout in LAYOUTS]
            check_files(checks, folder, name, golden, *runs[0])
            check_resume(checks, folder, name)
    checks.end()


if __name__ == "__main__":
    main(("lora", "patterns", "dora", "pissa"))
