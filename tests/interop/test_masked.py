"""Objective mlm on every encoder family, laid over PyTorch's curves on every grid; models with a head for masked tokens out and back.
tests/golden/masked.json comes from make_masked_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import encoder_heads as heads
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


def evaluate(folder, name, base, *words):
    config = write_config(folder, name, f"{folder}/{name}-evaluated")
    return json.loads(harness.mpilora("eval", config, "--json", "--set", f"base={base}", *words))["loss"]


def check_adapter(checks, folder, name, own):
    """A PEFT directory with a head that its base lacks scores as the base that has it; goes out as it came, and into the base."""
    case, where = masked.CASES[name], f"{folder}/{name}-{'own' if own else 'saved'}"
    headed, bare, adapter, plain = (f"{where}-{word}" for word in ("headed", "bare", "peft", "plain"))
    (masked.write_own_model if own else masked.write_model)(headed, case)
    encoders.write_model(bare, case["model"], encoders.golden()[case["model"]]["tensors"], **case.get("config", {}))
    masked.write_headed_adapter(adapter, case, own)
    masked.write_adapter(plain, case)
    for directory in (headed, bare):
        harness.mpilora("import", directory, f"{directory}.h5", "--dtype", "fp32")
    expected = evaluate(folder, name, f"{headed}.h5", "--adapter", plain)
    checks.close(f"{where}: loss", evaluate(folder, name, f"{bare}.h5", "--adapter", adapter), expected, 1e-7)
    harness.mpilora("merge", "--base", f"{bare}.h5", "--adapter", adapter, "--dtype", "fp32", f"{where}-merged.h5")
    checks.close(f"{where}: merged", evaluate(folder, name, f"{where}-merged.h5"), expected, 1e-5)
    harness.mpilora("export", "--format", "peft", "--base", f"{bare}.h5", "--adapter", adapter, f"{adapter}-again")
    before, after = (heads.read_safetensors(f"{directory}/adapter_model.safetensors") for directory in (adapter, f"{adapter}-again"))
    checks.that(before == after, f"{where}, out and back: {[key for key in set(before) | set(after) if before.get(key) != after.get(key)]}")
    with open(f"{adapter}-again/adapter_config.json") as file:
        config = json.load(file)
    checks.that(config["task_type"] is None and config["modules_to_save"] == [masked.SAVED[case["model"]][0]] and config["bias"] == "none", f"{where}: {config}")


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
            if masked.CASES[name]["model"] in masked.SAVED:
                check_adapter(checks, folder, name, False)
        for name in ("roberta", "deberta"):
            check_adapter(checks, folder, name, True)
    checks.end()


if __name__ == "__main__":
    main()
