"""Encoders with heads for labels, laid over PyTorch's curves on every grid; adapters and bases with a head out and back; what is refused.
tests/golden/encoder_heads.json comes from make_encoder_heads_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import encoder_heads as heads
import encoder_models as encoders
import score_curves

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "encoder_heads.json")
EVERYWHERE = ["bert", "roberta-full", "deberta-v3", "modernbert-full"]  # the others on one rank


def prepare(folder, name, case):
    """Method full begins with a base that has the head, LoRA with an adapter that brings it."""
    shapes = encoders.golden()[case["model"]]["tensors"]
    if case["method"] == "lora":
        encoders.write_model(f"{folder}/{name}-model", case["model"], shapes, **case.get("config", {}))
        heads.write_adapter(f"{folder}/{name}-adapter", case, shapes)
    else:
        heads.write_scoring_model(f"{folder}/{name}-model", case, shapes)
    words = ["--labels", heads.LABELS] if case["kind"] in ("class", "tokens") else []
    score_curves.prepare_data(folder, name, heads.data(case), *words)


def write_config(folder, name, run_dir, tp=1, micro=4):
    case = heads.CASES[name]
    method = encoders.lora_method(case, f"{folder}/{name}-adapter") if case["method"] == "lora" else {"name": "full"}
    return score_curves.write_config(folder, name, run_dir, case, method, {"name": heads.OBJECTIVES[case["kind"]]}, heads.ROWS, tp, micro)


def main():
    checks = harness.Checks()
    with open(GOLDEN) as file:
        curves = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        for name, golden in curves.items():
            prepare(folder, name, heads.CASES[name])
            for layout in score_curves.LAYOUTS if name in EVERYWHERE else ["1 rank"]:
                score_curves.check_curve(checks, folder, name, golden, layout, write_config)
    checks.end()


if __name__ == "__main__":
    main()
