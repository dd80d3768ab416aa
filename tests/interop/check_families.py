"""What mpilora trains of the tiny models of family_models.py and writes, other programs read with the same loss: adapters by PEFT, bases by transformers.
For developers: needs what make_golden.py needs.

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_families.py [NAME]...
"""

import os
import sys
import tempfile

import peft
import torch
import transformers

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import family_models as families
import harness
import make_families_golden as golden
import reference_models as reference
import torch_side

# Beside every linear layer, parts of what a family has fused.
MORE = {"phi3": [["q", "v", "up"], ["qkv", "gate"]], "glm4": [["q", "gate", "up"]]}


def train(folder, name, targets, number):
    model, run_dir = f"{folder}/{name}", f"{folder}/{name}-{number}"
    config = harness.write_config(
        f"{run_dir}.yaml",
        run={"dir": run_dir, "seed": 7},
        base=f"{model}.h5",
        method={"name": "lora", "rank": 4, "alpha": 16, "targets": targets},
        data={"train": f"{model}-train.h5", "valid": f"{model}-valid.h5", "max_len": reference.CONTEXT},
        batch={"sequences": reference.SEQUENCES, "micro": 2},
        optim={"lr": 1e-2},
        train={"steps": 10},
        parallel={"tp": 2},
        precision="fp32",
    )
    harness.mpilora("train", config, ranks=2)
    exported = f"{run_dir}/peft"
    harness.mpilora("export", "--format", "peft", "--base", f"{model}.h5", "--adapter", f"{run_dir}/adapter.h5", exported)
    again = harness.start("train", config, "--set", f"run.dir={run_dir}-again", "--set", f"method.init={exported}", ranks=2)
    return exported, harness.read_summary(run_dir)["valid_loss"], again


def check(checks, folder, name, shapes):
    model = f"{folder}/{name}"
    families.write_model(model, name, shapes)
    harness.mpilora("import", model, f"{model}.h5", "--dtype", "fp32")
    for part, data in (("train", reference.TRAIN), ("valid", reference.VALID)):
        reference.write_data(f"{folder}/{part}.jsonl", data)
        harness.mpilora("tokenize", "--base", f"{model}.h5", "--format", "ids", f"{folder}/{part}.jsonl", f"{model}-{part}.h5")
    harness.mpilora("export", "--format", "hf", "--base", f"{model}.h5", f"{model}.hf")
    kind = getattr(transformers, families.MODELS[name]["architectures"][0])
    loaded, report = kind.from_pretrained(f"{model}.hf", dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    checks.that(not report["unexpected_keys"] and not report["missing_keys"], f"{name}: transformers reads our directory with {report}")
    before = torch_side.evaluate(loaded.eval(), reference.CONTEXT)
    checks.close(f"{name}: the base that we write, by transformers", before, families.golden()[name]["base_loss"], 1e-5)
    for number, targets in enumerate([["all"], *MORE.get(name, [])]):
        exported, loss, again = train(folder, name, targets, number)
        with tempfile.TemporaryDirectory() as there:
            base = golden.load(there, name, shapes)
            after = torch_side.evaluate(peft.PeftModel.from_pretrained(base, exported), reference.CONTEXT)
        print(f"{name}, {targets}: base {before:.6f}, PEFT {after:.7f}, mpilora {loss:.7f}", flush=True)
        checks.close(f"{name}, {targets}: loss", loss, after, 1e-5)
        checks.that(abs(before - after) > 1e-3, f"{name}, {targets}: the adapter changes nothing")
        checks.that(again.returncode == 0, f"{name}, {targets}: a run from what was exported: {again.stderr}")


def main():
    checks = harness.Checks()
    for name in sys.argv[1:] or families.MODELS:
        with tempfile.TemporaryDirectory() as folder:
            check(checks, folder, name, families.golden()[name]["tensors"])
    checks.end()


main()
