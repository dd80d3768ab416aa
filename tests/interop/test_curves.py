"""Training curves laid over PyTorch's and PEFT's: the losses and gradient norms of 20 steps, on every grid and with every micro-batch size, from
the same initial adapter; then evaluation, merging and export of what was trained. tests/golden/curves.json comes from make_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import reference_models as reference

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "curves.json")
LAYOUTS = {  # name: (dp, tp, micro)
    "1 rank": (1, 1, reference.SEQUENCES),
    "1 rank, micro 1": (1, 1, 1),
    "dp 2": (2, 1, reference.SEQUENCES),
    "tp 2": (1, 2, 4),
    "dp 2, tp 2": (2, 2, 1),
}
BF16_LAYOUTS = ["1 rank", "dp 2, tp 2"]
# What PyTorch in double precision differs by is 1e-7; fp32 on other processors may add a little.
BOUNDS = {"fp32": {"loss": 5e-6, "grad_norm": 1e-4}, "bf16": {"loss": 2e-2, "grad_norm": 0.1}}


def prepare(folder):
    """Bases, data sets and initial adapters of all cases."""
    for model in reference.MODELS:
        reference.write_model(f"{folder}/{model}", model)
        for dtype in BOUNDS:
            harness.mpilora("import", f"{folder}/{model}", f"{folder}/{model}-{dtype}.h5", "--dtype", dtype)
        for part, data in (("train", reference.TRAIN), ("valid", reference.VALID)):
            reference.write_data(f"{folder}/{part}.jsonl", data)
            base = f"{folder}/{model}-fp32.h5"
            harness.mpilora("tokenize", "--base", base, "--format", "ids", f"{folder}/{part}.jsonl", f"{folder}/{model}-{part}.h5")
    for name, case in reference.CASES.items():
        if case["method"] == "lora":
            reference.write_adapter(f"{folder}/{name}.adapter", case)


def write_config(folder, name, run_dir, precision, tp, micro):
    case = reference.CASES[name]
    method = {"name": "full"}
    if case["method"] == "lora":
        keys = ("rank", "alpha", "targets", "scaling")
        method = {"name": "lora", **{key: case[key] for key in keys}, "modules_to_save": case["saved"] or None, "init": f"{folder}/{name}.adapter"}
    optim = {key: case[key] for key in ("lr", "weight_decay", "clip_norm", "schedule", "warmup", "label_smoothing")}
    model = f"{folder}/{case['model']}"
    return harness.write_config(
        f"{run_dir}.yaml",
        run={"dir": run_dir, "seed": 1},
        base=f"{model}-{precision}.h5",
        method=method,
        data={"train": f"{model}-train.h5", "valid": f"{model}-valid.h5", "max_len": case["max_len"], "shuffle": False},
        batch={"sequences": reference.SEQUENCES, "micro": micro},
        optim=optim,
        train={"steps": case["steps"]},
        parallel={"tp": tp},
        precision=precision,
    )


def check_run(checks, folder, name, golden, precision, layout):
    """Trains and compares; gives the configuration and the trained file."""
    dp, tp, micro = LAYOUTS[layout]
    run_dir = f"{folder}/run-{name}-{precision}-{layout.replace(' ', '').replace(',', '-')}"
    config = write_config(folder, name, run_dir, precision, tp, micro)
    harness.mpilora("train", config, ranks=dp * tp)
    metrics, summary = harness.read_metrics(run_dir), harness.read_summary(run_dir)
    label, worst = f"{name}, {precision}, {layout}", {}
    for key, bound in BOUNDS[precision].items():
        worst[key] = checks.close(f"{label}: {key}", [line[key] for line in metrics], golden[key], bound)
    bound = BOUNDS[precision]["loss"]
    worst["valid"] = checks.close(f"{label}: valid_loss", summary["valid_loss"], golden["valid_loss"], bound)
    trainable = golden["trainable"]
    checks.that(summary["params_trainable"] == trainable, f"{label}: params_trainable {summary['params_trainable']}, expected {trainable}")
    payload = {line["allreduce_bytes"] for line in metrics}
    checks.that(payload == {4 * trainable}, f"{label}: allreduce_bytes {payload}, expected {4 * trainable}")
    print(f"{label}: " + ", ".join(f"{key} {value:.2g}" for key, value in worst.items()), flush=True)
    trained = "adapter.h5" if reference.CASES[name]["method"] == "lora" else "model.h5"
    return config, f"{run_dir}/{trained}"


def evaluate(config, *words, ranks=0):
    return json.loads(harness.mpilora("eval", config, "--json", *words, ranks=ranks))["loss"]


def check_files(checks, folder, name, golden, config, trained):
    """The base, the initial adapter, and what was trained: as it is, merged, and through a PEFT directory, have the losses of PEFT."""
    case, bound = reference.CASES[name], BOUNDS["fp32"]["loss"]
    base = f"{folder}/{case['model']}-fp32.h5"
    losses = {"base_loss": [evaluate(config)]}
    if case["method"] == "lora":
        merged, exported = f"{trained}.merged.h5", f"{trained}.peft"
        harness.mpilora("merge", "--base", base, "--adapter", trained, "--dtype", "fp32", merged)
        harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", trained, exported)
        losses["start_loss"] = [evaluate(config, "--adapter", f"{folder}/{name}.adapter")]
        losses["valid_loss"] = [
            evaluate(config, "--adapter", trained),
            evaluate(config, "--adapter", exported, "--set", "parallel.tp=2", ranks=2),
            evaluate(config, "--set", f"base={merged}"),
        ]
    else:
        losses["valid_loss"] = [evaluate(config, "--set", f"base={trained}")]
    for key, found in losses.items():
        checks.close(f"{name}: eval, {key}", found, [golden[key]] * len(found), bound)


def main():
    checks = harness.Checks()
    with open(GOLDEN) as file:
        curves = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        for name, golden in curves.items():
            runs = [check_run(checks, folder, name, golden, "fp32", layout) for layout in LAYOUTS]
            check_files(checks, folder, name, golden, *runs[0])
            for layout in BF16_LAYOUTS:
                check_run(checks, folder, name, golden, "bf16", layout)
    checks.end()


main()
