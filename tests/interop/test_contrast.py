"""Objective contrastive laid over the curves of sentence-transformers' loss in PyTorch, on every grid and for any batch.micro; data with and without
negatives; what is refused. tests/golden/contrast.json comes from make_contrast_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import contrast_cases as cases
import encoder_models as encoders
import harness
import score_curves

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "contrast.json")
WHOLE = {"1 rank, whole": (1, 1, 6), "dp 2, whole": (2, 1, 3)}  # one micro-batch on each replica, in which the vectors meet
EVERYWHERE = ["bert-full", "llama"]  # the others on one rank


def prepare(folder, name, case):
    cases.write_model(f"{folder}/{name}-model", case)
    if case["method"] == "lora":
        cases.write_adapter(f"{folder}/{name}-adapter", case)
    score_curves.prepare_data(folder, name, cases.data(case))


def method_of(folder, name, case):
    if case["method"] != "lora":
        return {"name": case["method"]}
    init = f"{folder}/{name}-adapter"
    if cases.is_encoder(case):
        return encoders.lora_method(case, init)
    return {"name": "lora", "init": init, **{key: case[key] for key in ("rank", "alpha", "targets")}}


def write_config(folder, name, run_dir, tp=1, micro=4, **objective):
    case = cases.CASES[name]
    objective = {"name": "contrastive", **{key: case[key] for key in ("temperature", "pooling", "normalise")}, **objective}
    return score_curves.write_config(folder, name, run_dir, case, method_of(folder, name, case), objective, cases.ROWS, tp, micro)


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
