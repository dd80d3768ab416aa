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
EVERYWHERE = ["bert", "roberta-full", "deberta-v3", "deberta-distances", "deberta-v3-distances", "modernbert-full"]  # the others on one rank


def prepare(folder, name, case):
    """Method full begins with a base that has the head, LoRA with an adapter that brings it."""
    shapes = heads.shapes_of(case)
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


def check_distances(checks, folder, name):
    """The projections of distances in PEFT's directory: out again as they came, merged, counted by plan, and no part of `all`."""
    first, again, merged = f"{folder}/{name}-adapter", f"{folder}/{name}-again", f"{folder}/{name}-merged.h5"
    base, config = f"{folder}/{name}.h5", write_config(folder, name, f"{folder}/{name}-run")
    harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", first, again)
    before, after = (heads.read_safetensors(f"{directory}/adapter_model.safetensors") for directory in (first, again))
    checks.that(before == after, f"{name}, out and back: {sorted(set(before) ^ set(after))}")
    with open(f"{again}/adapter_config.json") as file:
        words = {word.split(".")[-1] for word in json.load(file)["target_modules"] if "pos_" in word}
    checks.that(words == ({"pos_proj", "pos_q_proj"} if name == "deberta-distances" else {"pos_key_proj", "pos_query_proj"}), f"{name}, target_modules: {words}")
    harness.mpilora("merge", "--base", base, "--adapter", first, "--dtype", "fp32", merged)
    losses = [json.loads(harness.mpilora("eval", config, "--json", *words))["loss"] for words in (["--adapter", first], ["--set", f"base={merged}"])]
    checks.close(f"{name}, merged", losses[1], losses[0], 1e-5)
    targets = encoders.lora_method(heads.CASES[name], "null")["targets"]
    counts = {}
    for chosen in (targets, targets[:-2]):
        plan = json.loads(harness.mpilora("plan", config, "--json", "--set", f"method.targets=[{', '.join(chosen)}]", "--set", "method.init=null"))
        counts[len(chosen)] = plan["methods"][0]["params_trainable"]
    layers, d = (heads.config_of(heads.CASES[name])[key] for key in ("num_hidden_layers", "hidden_size"))
    checks.that(counts[len(targets)] - counts[len(targets) - 2] == layers * 2 * encoders.RANK * 2 * d, f"{name}, plan: {counts}")


def main():
    checks = harness.Checks()
    with open(GOLDEN) as file:
        curves = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        for name, golden in curves.items():
            prepare(folder, name, heads.CASES[name])
            for layout in score_curves.LAYOUTS if name in EVERYWHERE else ["1 rank"]:
                score_curves.check_curve(checks, folder, name, golden, layout, write_config)
            if heads.CASES[name].get("distances"):
                check_distances(checks, folder, name)
    checks.end()


if __name__ == "__main__":
    main()
