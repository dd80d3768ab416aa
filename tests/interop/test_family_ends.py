"""Families whose models elsewhere in these tests have only tied or only untied ends, with the other ones (tests/golden/family_ends.json, by
make_ends_golden.py): steps of method full, in which both ends' gradients meet, on two ranks that cut the vocabulary."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import family_models as families
import harness
import reference_models as reference

LOSS, NORM = 5e-6, 1e-4


def write_config(folder, name):
    case = families.ENDS_CASE
    return harness.write_config(
        f"{folder}/{name}.yaml",
        run={"dir": f"{folder}/{name}-run", "seed": 1},
        base=f"{folder}/{name}.h5",
        method={"name": "full"},
        data={"train": f"{folder}/train-{vocab_of(name)}.h5", "valid": f"{folder}/valid-{vocab_of(name)}.h5", "max_len": case["max_len"], "shuffle": False},
        batch={"sequences": reference.SEQUENCES, "micro": 6},
        optim={key: case[key] for key in ("lr", "weight_decay", "clip_norm", "schedule", "warmup", "label_smoothing")},
        train={"steps": case["steps"]},
        parallel={"tp": 2},
        precision="fp32",
    )


def vocab_of(name):
    return (families.MODELS | reference.MODELS)[name]["vocab_size"]


def tokenize(folder, name):
    for part, data in (("train", reference.TRAIN), ("valid", reference.VALID)):
        out = f"{folder}/{part}-{vocab_of(name)}.h5"
        if not os.path.exists(out):
            reference.write_data(f"{folder}/{part}.jsonl", data)
            harness.mpilora("tokenize", "--base", f"{folder}/{name}.h5", "--format", "ids", f"{folder}/{part}.jsonl", out)


def main():
    checks, known = harness.Checks(), families.golden()
    with open(families.ENDS_GOLDEN) as file:
        golden = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or families.ENDS:
            families.write_other_ends(f"{folder}/{name}", name, known)
            harness.mpilora("import", f"{folder}/{name}", f"{folder}/{name}.h5", "--dtype", "fp32")
            tokenize(folder, name)
            harness.mpilora("train", write_config(folder, name), ranks=2)
            metrics, summary, expected = harness.read_metrics(f"{folder}/{name}-run"), harness.read_summary(f"{folder}/{name}-run"), golden[name]
            label = f"{name}, {'tied' if expected['tied'] else 'untied'}"
            loss = checks.close(f"{label}: loss", [line["loss"] for line in metrics], expected["loss"], LOSS)
            norm = checks.close(f"{label}: grad_norm", [line["grad_norm"] for line in metrics], expected["grad_norm"], NORM)
            checks.close(f"{label}: valid_loss", summary["valid_loss"], expected["valid_loss"], LOSS)
            checks.that(summary["params_trainable"] == expected["trainable"], f"{label}: {summary['params_trainable']} parameters, expected {expected['trainable']}")
            print(f"{label}: loss {loss:.2g}, grad_norm {norm:.2g}", flush=True)
    checks.end()


main()
