"""Adapters that mpilora trained, exported and loaded by PEFT, have the loss that mpilora reports. For developers: needs what make_golden.py needs.

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_peft.py
"""

import os
import sys
import tempfile

import peft

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import reference_models as reference
import torch_side

# Beside the golden cases' targets those that PEFT can only say in other words: q and v of GPT-2's fused projection.
MORE = {
    "gpt2-qv": {**reference.CASES["gpt2-qkv"], "targets": ["q", "v"]},
    "gpt2-qv-rslora": {**reference.CASES["gpt2-qkv"], "targets": ["q", "v"], "scaling": "rslora"},
}


def train(folder, name, case):
    """A short run from mpilora's own initial adapter on two ranks: (the exported directory, its loss)."""
    model, run_dir = f"{folder}/{case['model']}", f"{folder}/{name}"
    config = harness.write_config(
        f"{run_dir}.yaml",
        run={"dir": run_dir, "seed": 7},
        base=f"{model}.h5",
        method={"name": "lora", **{key: case[key] for key in ("rank", "alpha", "targets", "scaling")}},
        data={"train": f"{model}-train.h5", "valid": f"{model}-valid.h5", "max_len": case["max_len"]},
        batch={"sequences": reference.SEQUENCES, "micro": 2},
        optim={"lr": 5e-3},
        train={"steps": reference.STEPS},
        parallel={"tp": 2},
        precision="fp32",
    )
    harness.mpilora("train", config, ranks=2)
    exported = f"{run_dir}/peft"
    harness.mpilora("export", "--format", "peft", "--base", f"{model}.h5", "--adapter", f"{run_dir}/adapter.h5", exported)
    return exported, harness.read_summary(run_dir)["valid_loss"]


def prepare(folder, model):
    reference.write_model(f"{folder}/{model}", model)
    harness.mpilora("import", f"{folder}/{model}", f"{folder}/{model}.h5", "--dtype", "fp32")
    for part, data in (("train", reference.TRAIN), ("valid", reference.VALID)):
        reference.write_data(f"{folder}/{part}.jsonl", data)
        harness.mpilora("tokenize", "--base", f"{folder}/{model}.h5", "--format", "ids", f"{folder}/{part}.jsonl", f"{folder}/{model}-{part}.h5")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        for model in reference.MODELS:
            prepare(folder, model)
        for name, case in (reference.CASES | MORE).items():
            if case["method"] != "lora":
                continue
            exported, loss = train(folder, name, case)
            model = torch_side.load_model(f"{folder}/{name}", case["model"])
            before = torch_side.evaluate(model, case["max_len"])
            after = torch_side.evaluate(peft.PeftModel.from_pretrained(model, exported), case["max_len"])
            print(f"{name}: base {before:.6f}, PEFT {after:.6f}, mpilora {loss:.6f}")
            checks.close(f"{name}: loss", loss, after, 2e-5)
            checks.that(abs(before - after) > 1e-3, f"{name}: the adapter changes nothing")
    checks.end()


main()
