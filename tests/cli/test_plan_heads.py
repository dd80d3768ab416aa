"""Memory of encoders with a head for labels: what training measures is what plan says, within 1 %, for LoRA and full; and there is no room for logits of a vocabulary,
which such a head does not have."""

import json
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

SIZES = {"layers": 2, "width": 64, "heads": 4, "context": 128}
FAMILIES = {
    "bert": {"token_types": 2},
    "roberta": {"token_types": 1},
    "deberta_v2": {"mlp_width": 256, "positions": "none", "relative_keys": True, "relative_queries": True, "relative_shared": True, "relative_norm": True,
                   "relative_distances": 64, "relative_buckets": 32},
}
VOCABULARIES = (500, 40_000)


def make_files(folder, family, vocab):
    """A base and a data set of 24 sequences in four classes, and the configuration of a run on them."""
    draw = random.Random(5)
    harness.make_base(folder, json.dumps({"family": family, "vocab": vocab, **SIZES, **FAMILIES[family]}))
    with open(f"{folder}/data.jsonl", "w") as file:
        for i in range(24):
            ids = [draw.randrange(5, 500) for _ in range(draw.randint(20, 100))]
            file.write(json.dumps({"input_ids": ids, "label": i % 4}) + "\n")
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", "--labels", "4", f"{folder}/data.jsonl", f"{folder}/data.h5")
    return harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", objective={"name": "classify"},
                                method={"name": "lora", "rank": 4}, data={"train": f"{folder}/data.h5"}, batch={"sequences": 12, "micro": 12},
                                optim={"lr": 1e-3}, train={"steps": 2}, precision="bf16", kernels={"product": "native"})


def check_family(checks, family):
    workspace = {}
    for vocab in VOCABULARIES:
        with tempfile.TemporaryDirectory() as folder:
            path = make_files(folder, family, vocab)
            methods = {m["name"]: m for m in json.loads(harness.mpilora("plan", path, "--json"))["methods"]}
            for name, plan in methods.items():
                harness.mpilora("train", path, "--fresh", "--set", f"method.name={name}")
                memory = harness.read_summary(f"{folder}/run")["memory"]
                what = f"{family}, {name}, {vocab} words"
                checks.close(f"{what}: measured, planned", memory["total_peak_bytes"], plan["total_bytes_per_rank"], 0.01)
                checks.close(f"{what}: measured workspace, planned", memory["workspace"], plan["per_rank"]["workspace"], 0.01)
                workspace[name, vocab] = memory["workspace"]
    for name in ("lora", "full"):
        few, many = (workspace[name, vocab] for vocab in VOCABULARIES)
        print(f"{family}, {name}: workspace {few} and {many} bytes")
        checks.close(f"{family}, {name}: workspace of many words and of few", many, few, 0.01)


def main():
    checks = harness.Checks()
    for family in FAMILIES:
        check_family(checks, family)
    checks.end()


main()
