"""Objective dpo, laid over PyTorch's curves on every grid; a resumed run. tests/golden/preferences.json
comes from make_preference_golden.py."""

import glob
import json
import math
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import preference_cases as cases
import reference_models as reference

with open(os.path.join(harness.SOURCE, "tests", "golden", "preferences.json")) as golden_file:
    GOLDENS = json.load(golden_file)
LAYOUTS = {"1 rank": (1, 1, 4), "dp 2": (2, 1, 1), "tp 2": (1, 2, 3), "dp 2, tp 2": (2, 2, 2)}
EVERYWHERE = ["dpo", "dpo-sum-full", "orpo", "kto"]  # the others on one rank
BOUNDS = {"loss": 2e-5, "grad_norm": 1e-3, "rewards_margin": 1e-3, "kl": 1e-3}


def prepare(folder):
    for model in ("gpt2", "llama"):
        reference.write_model(f"{folder}/{model}", model)
        harness.mpilora("import", f"{folder}/{model}", f"{folder}/{model}.h5", "--dtype", "fp32")
        parts = {"train": cases.TRAIN, "valid": cases.VALID, "judged-train": cases.JUDGED_TRAIN, "judged-valid": cases.JUDGED_VALID}
        for part, data in parts.items():
            cases.write_pairs(f"{folder}/{part}.jsonl", data)
            harness.mpilora("tokenize", "--base", f"{folder}/{model}.h5", f"{folder}/{part}.jsonl", f"{folder}/{model}-{part}.h5")
    reference.write_adapter(f"{folder}/adapter", cases.LORA)


def write_config(folder, name, run_dir, tp, micro):
    settings, objective = cases.CASES[name]
    method = {"name": "full"}
    if settings["method"] == "lora":
        method = {"name": "lora", **{key: settings[key] for key in ("rank", "alpha", "targets")}, "init": f"{folder}/adapter"}
    model = f"{folder}/{settings['model']}"
    kind = "-judged" if objective["name"] == "kto" and name != "kto-pairs" else ""
    return harness.write_config(
        f"{run_dir}.yaml",
        run={"dir": run_dir, "seed": 1},
        base=f"{model}.h5",
        method=method,
        objective=objective,
        data={"train": f"{model}{kind}-train.h5", "valid": f"{model}{kind}-valid.h5", "shuffle": False},
        batch={"sequences": cases.PAIRS, "micro": micro},
        optim={"lr": settings["lr"], "weight_decay": settings["weight_decay"], "clip_norm": settings["clip_norm"]},
        train={"steps": cases.STEPS},
        parallel={"tp": tp},
        precision="fp32",
    )


def forget_references(folder):
    """What earlier runs have left of their references beside the data sets: each run finds its own."""
    paths = glob.glob(f"{folder}/*.reference-*")
    for path in paths:
        os.remove(path)
    return paths


def check_curve(checks, folder, name, golden, layout):
    dp, tp, micro = LAYOUTS[layout]
    run_dir = f"{folder}/{name}-{layout.replace(' ', '').replace(',', '-')}"
    forget_references(folder)
    harness.mpilora("train", write_config(folder, name, run_dir, tp, micro), ranks=dp * tp if dp * tp > 1 else 0)
    metrics = harness.read_metrics(run_dir)
    for key, bound in BOUNDS.items():
        if key not in golden:
            continue
        found, expected = [line.get(key) for line in metrics], golden[key]
        size = max(map(abs, expected))
        checks.that(
            len(found) == cases.STEPS and all(abs(a - b) <= bound * max(abs(b), 0.1 * size, 1e-2) for a, b in zip(found, expected)),
            f"{name}, {layout}: {key} {found}, expected {expected}",
        )
    checks.close(f"{name}, {layout}: valid_loss", harness.read_summary(run_dir)["valid_loss"], golden["valid_loss"], 5e-5)
    if "rewards_accuracy" not in golden:
        return
    # a margin that is 0 but for rounding is on either side of it
    sure = [i for i, margin in enumerate(golden["rewards_margin"]) if abs(margin) > 1e-4]
    checks.that(
        all(abs(metrics[i]["rewards_accuracy"] - golden["rewards_accuracy"][i]) < 1e-9 for i in sure) and sure,
        f"{name}, {layout}: rewards_accuracy {[line['rewards_accuracy'] for line in metrics]}, expected {golden['rewards_accuracy']}",
    )


def check_curves(checks, folder, names):
    for name in names:
        for layout in LAYOUTS if name in EVERYWHERE else ["1 rank"]:
            check_curve(checks, folder, name, GOLDENS[name], layout)


def check_evaluated(checks, folder, name, ranks=0):
    """eval of what a run left gives what the run found on data.valid."""
    run_dir = f"{folder}/{name}-1rank"
    result = ["--adapter", f"{run_dir}/adapter.h5"]
    if name.endswith("full"):
        result = ["--set", f"base={run_dir}/model.h5", *(["--reference", f"{folder}/gpt2.h5"] if name.startswith(("dpo", "kto")) else [])]
    found = json.loads(harness.mpilora("eval", f"{run_dir}.yaml", *result, "--json", ranks=ranks))
    checks.close(f"{name}, eval: loss", found["loss"], harness.read_summary(run_dir)["valid_loss"], 1e-6)
    keys = {"loss", "rewards_margin", "rewards_chosen", "rewards_rejected", "logps_chosen", "logps_rejected"}
    keys |= {"kl", "answers"} if name.startswith("kto") else {"rewards_accuracy", "pairs"}
    checks.that(set(found) == keys, f"{name}, eval: {sorted(found)}, expected {sorted(keys)}")
    checks.close(f"{name}, eval: rewards_margin", found["rewards_margin"], GOLDENS[name]["valid_margin"], 1e-3)
    with open(f"{run_dir}/evaluations.jsonl") as file:
        last = json.loads(file.read().splitlines()[-1])
    checks.that(keys - {"loss", "pairs", "answers"} <= set(last), f"{name}, evaluations.jsonl: {sorted(last)}")
    for key in keys & set(last):
        checks.close(f"{name}, evaluations.jsonl: {key}", last[key], found[key], 1e-4)


def check_resumed(checks, folder, name):
    """A run of four steps that goes on to ten gives what a run of ten gives."""
    run_dir = f"{folder}/{name}-resumed"
    config = write_config(folder, name, run_dir, 1, 4)
    harness.mpilora("train", config, "--set", "train.steps=4")
    harness.mpilora("train", config)
    resumed, whole = harness.read_metrics(run_dir), harness.read_metrics(f"{folder}/{name}-1rank")
    for key in ("loss", "grad_norm", "rewards_margin"):
        checks.that([line[key] for line in resumed] == [line[key] for line in whole], f"{name} resumed: {key} differs")


def check_shared(checks, folder):
    """Runs over the same base and data take the reference from the first of them, not where it is damaged; a folder that refuses leaves runs as they are."""
    forget_references(folder)
    words = ["--set", "train.steps=2", "--set", "data.valid=null"]

    def run(name, case="dpo", *more):
        done = harness.start("train", write_config(folder, case, f"{folder}/shared-{name}", 1, 4), *words, *more)
        checks.that(done.returncode == 0, f"shared reference, {name}: {done.stderr}")
        return [line["loss"] for line in harness.read_metrics(f"{folder}/shared-{name}")], "the reference of" in done.stdout + done.stderr

    first, found = run("first")
    path = glob.glob(f"{folder}/llama-train.h5.reference-*")
    checks.that(not found and len(path) == 1, f"shared reference: {path} after the first run, taken: {found}")
    checks.that(run("second") == (first, True), "shared reference: the second run did not take it")
    checks.that(not run("other", "dpo-ld")[1], "shared reference: ld_alpha has another, which was not found anew")
    begun, found = run("begun", "dpo", "--set", f"method.init={folder}/shared-first/adapter.h5")
    checks.that(not found and abs(begun[0] - math.log(2)) < 1e-6, f"shared reference: a run that begins as an adapter took the base's: first loss {begun[0]}")
    checks.that(run("base") == (first, True), "shared reference: a run from the base did not take its own")
    for name, taken in (("exact", False), ("exact-again", True)):  # whose bits are those of every grid
        checks.that(run(name, "dpo", "--set", "numerics=grid")[1] == taken, f"shared reference: {name}: numerics grid did not keep to its own")
    with open(path[0], "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"damaged!")
    checks.that(run("damaged") == (first, False), "shared reference: a damaged one was taken")
    checks.that(run("again") == (first, True), "shared reference: it was not written again")
    forget_references(folder)
    os.mkdir(path[0])  # no file can be renamed to that
    checks.that(run("refused") == (first, False), "shared reference: a name that is taken ends the run")
    os.rmdir(path[0])


def is_single(name):
    """Objective dpo with one loss type; the others are test_preference_kinds.py's, and test_kto.py's."""
    return name.startswith("dpo") and not name.startswith(("dpo-sum", "dpo-ld", "dpo-aot"))


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_curves(checks, folder, [name for name in cases.CASES if is_single(name)])
        for name in ("dpo", "dpo-full"):
            check_resumed(checks, folder, name)
        check_evaluated(checks, folder, "dpo", 2)
        check_shared(checks, folder)
    checks.end()


if __name__ == "__main__":
    main()
