"""Training curves of every method laid over PyTorch's: losses, gradient norms and validation of 10 steps, on one rank and on 2 x 2, from mpilora's own initial values.
tests/golden/methods.json comes from make_method_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import method_cases as cases
import reference_models as reference

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "methods.json")
BOUNDS = {"loss": 5e-6, "grad_norm": 1e-4}  # found: 1.5e-7 and 1.5e-6


def write_config(folder, name):
    case = cases.CASES[name]
    return harness.write_config(
        f"{folder}/{name}.yaml",
        run={"dir": f"{folder}/{name}", "seed": cases.SEED},
        base=f"{folder}/{case['model']}.h5",
        method={"name": case["method"], "prefix_init": case["prefix_init"], **case["sizes"], **({key: case[key] for key in ("rank", "alpha", "targets")} if case["targets"] else {})},
        data={"train": f"{folder}/{case['model']}-train.h5", "valid": f"{folder}/{case['model']}-valid.h5", "max_len": case["max_len"], "shuffle": False},
        batch={"sequences": reference.SEQUENCES, "micro": 4},
        optim={key: case[key] for key in ("lr", "weight_decay", "clip_norm", "schedule", "warmup")},
        train={"steps": cases.STEPS},
        precision="fp32",
    )


def main():
    checks = harness.Checks()
    with open(GOLDEN) as file:
        curves = json.load(file)
    checks.that(set(curves) == set(cases.CASES), "the golden file has other cases than method_cases.py")
    with tempfile.TemporaryDirectory() as folder:
        for model in ("gpt2", "llama"):
            reference.write_model(f"{folder}/{model}", model)
            harness.mpilora("import", f"{folder}/{model}", f"{folder}/{model}.h5", "--dtype", "fp32")
            for part, data in (("train", reference.TRAIN), ("valid", reference.VALID)):
                reference.write_data(f"{folder}/{part}.jsonl", data)
                harness.mpilora("tokenize", "--base", f"{folder}/{model}.h5", "--format", "ids", f"{folder}/{part}.jsonl", f"{folder}/{model}-{part}.h5")
        for name, golden in curves.items():
            for ranks in (0, 4):
                config = write_config(folder, name)
                harness.mpilora("train", config, "--fresh", *(["--set", "parallel.tp=2"] if ranks else []), ranks=ranks)
                metrics, summary = harness.read_metrics(f"{folder}/{name}"), harness.read_summary(f"{folder}/{name}")
                label = f"{name}, {ranks or 1} ranks"
                worst = [checks.close(f"{label}: {key}", [line[key] for line in metrics], golden[key], bound) for key, bound in BOUNDS.items()]
                worst.append(checks.close(f"{label}: valid_loss", summary["valid_loss"], golden["valid_loss"], BOUNDS["loss"]))
                found = summary["params_trainable"]
                checks.that(found == golden["trainable"], f"{label}: {found} trained, expected {golden['trainable']}")
                print(f"{label}: loss {worst[0]:.2g}, norm {worst[1]:.2g}, valid {worst[2]:.2g}", flush=True)
    checks.end()


main()
