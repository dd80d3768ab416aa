"""Objective mlm on every encoder family, laid over PyTorch's curves on every grid; models with a head for masked tokens out and back.
tests/golden/masked.json comes from make_masked_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import encoder_models as encoders
import masked_cases as masked
import score_curves

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "masked.json")
EVERYWHERE = ["bert", "modernbert"]  # the others on one rank


def prepare(folder, name, case):
    masked.write_model(f"{folder}/{name}-model", case)
    if case["method"] == "lora":
        masked.write_adapter(f"{folder}/{name}-adapter", case)
    score_curves.prepare_data(folder, name, {part: [{"input_ids": ids} for ids in rows] for part, rows in masked.data().items()})


def write_config(folder, name, run_dir, tp=1, micro=4):
    case = masked.CASES[name]
    method = encoders.lora_method(case, f"{folder}/{name}-adapter") if case["method"] == "lora" else {"name": "full"}
    objective = {"name": "mlm", "mask_probability": masked.PROBABILITY, "mask_replace": masked.REPLACE, "random_replace": masked.RANDOM, "mask_token": masked.MASK}
    return score_curves.write_config(folder, name, run_dir, case, method, objective, masked.ROWS, tp, micro, masked.SEED)


def check_back(checks, folder, name):
    """What a run has trained goes out as transformers has it, and comes back the same."""
    run_dir = f"{folder}/{name}-1rank"
    config, base = f"{run_dir}.yaml", f"{run_dir}/model.h5"
    if masked.CASES[name]["method"] == "lora":
        base = f"{folder}/{name}-merged.h5"
        harness.mpilora("merge", "--base", f"{folder}/{name}.h5", "--adapter", f"{run_dir}/adapter.h5", "--dtype", "fp32", base)
    harness.mpilora("export", "--format", "hf", "--base", base, f"{folder}/{name}-out")
    with open(f"{folder}/{name}-out/config.json") as file:
        written = json.load(file)
    checks.that(written["architectures"] == [masked.class_of(masked.CASES[name])], f"{name}: architectures {written['architectures']}")
    harness.mpilora("import", f"{folder}/{name}-out", f"{folder}/{name}-back.h5", "--dtype", "fp32")
    found = json.loads(harness.mpilora("eval", config, "--set", f"base={folder}/{name}-back.h5", "--json"))
    checks.close(f"{name}, out and back: loss", found["loss"], harness.read_summary(run_dir)["valid_loss"], 1e-6)


def main():
    checks = harness.Checks()
    with open(GOLDEN) as file:
        curves = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        for name, golden in curves.items():
            prepare(folder, name, masked.CASES[name])
            for layout in score_curves.LAYOUTS if name in EVERYWHERE else ["1 rank"]:
                score_curves.check_curve(checks, folder, name, golden, layout, write_config)
            check_back(checks, folder, name)
    checks.end()


if __name__ == "__main__":
    main()
