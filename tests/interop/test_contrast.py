"""Objective contrastive laid over the curves of sentence-transformers' loss in PyTorch, on every grid and for any batch.micro; data with and without
negatives; what is refused. tests/golden/contrast.json comes from make_contrast_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import contrast_cases as cases
import harness
import preference_cases
import score_curves

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "contrast.json")
WHOLE = {"1 rank, whole": (1, 1, 6), "dp 2, whole": (2, 1, 3)}  # one micro-batch on each replica, in which the vectors meet
EVERYWHERE = ["bert-full", "llama"]  # the others on one rank


def prepare(folder, name, case):
    cases.write_model(f"{folder}/{name}-model", case)
    if case["method"] == "lora":
        cases.write_adapter(f"{folder}/{name}-adapter", case)
    harness.mpilora("import", f"{folder}/{name}-model", f"{folder}/{name}.h5", "--dtype", "fp32")
    for part, rows in cases.data(case).items():
        preference_cases.write_pairs(f"{folder}/{part}.jsonl", rows)
        harness.mpilora("tokenize", "--base", f"{folder}/{name}.h5", f"{folder}/{part}.jsonl", f"{folder}/{name}-{part}.h5")


def method_of(folder, name, case):
    if case["method"] != "lora":
        return {"name": case["method"]}
    own = {"rank": 4, "alpha": 12, "targets": ["all"]} if cases.is_encoder(case) else {key: case[key] for key in ("rank", "alpha", "targets")}
    return {"name": "lora", "init": f"{folder}/{name}-adapter", **own}


def write_config(folder, name, run_dir, tp=1, micro=4, **objective):
    case = cases.CASES[name]
    return harness.write_config(
        f"{run_dir}.yaml",
        run={"dir": run_dir, "seed": 1},
        base=f"{folder}/{name}.h5",
        method=method_of(folder, name, case),
        objective={"name": "contrastive", **{key: case[key] for key in ("temperature", "pooling", "normalise")}, **objective},
        data={"train": f"{folder}/{name}-train.h5", "valid": f"{folder}/{name}-valid.h5", "shuffle": False},
        batch={"sequences": cases.ROWS, "micro": micro},
        optim={"lr": case["lr"], "weight_decay": case["weight_decay"], "clip_norm": case["clip_norm"]},
        train={"steps": case["steps"]},
        parallel={"tp": tp},
        precision="fp32",
    )


def main():
    checks = harness.Checks()
    with open(GOLDEN) as file:
        curves = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        for name, golden in curves.items():
            prepare(folder, name, cases.CASES[name])
            layouts = score_curves.LAYOUTS if name in EVERYWHERE else WHOLE if name == "bert" else {"1 rank": (1, 1, 4)}
            for layout, sizes in layouts.items():
                score_curves.check_curve(checks, folder, name, golden, layout, write_config, sizes)
    checks.end()


if __name__ == "__main__":
    main()
