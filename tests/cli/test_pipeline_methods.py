"""Pipeline stages with the other methods and objectives: losses, gradient norms, evaluations, results and checkpoints as on one rank (test_pipeline.py)."""

import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), HERE]
import harness
import test_pipeline as pipeline

LORA = {"name": "lora", "rank": 4, "targets": ["all"]}
METHODS = {
    "full, tied head": ("gpt2", {"name": "full"}, [(1, 1, 2)]),
    "full, untied head": ("llama", {"name": "full"}, [(1, 2, 2)]),
    "prefixes in layers": ("gpt2", {"name": "prefix_layer", "prefix_init": "random"}, [(1, 1, 3)]),
    "bottlenecks": ("llama", {"name": "adapter_l"}, [(1, 1, 2)]),
    "dora, both ends": ("llama", {**LORA, "targets": ["all", "head"], "dora": True}, [(1, 1, 2)]),
    "trained tokens, tied": ("gpt2", {"name": "lora", "rank": 4, "trainable_tokens": [3, 7, 200]}, [(1, 1, 2)]),
}
BERT = "family: bert\nlayers: 3\nwidth: 32\nmlp_width: 64\nheads: 4\nvocab: 257\ncontext: 128\ntoken_types: 2\n"


def ids(i, length):
    return [(i * i + 7 * j + i * j * j) % 257 for j in range(length)]


PAIRS = [{"prompt_ids": ids(i, 8 + i), "chosen_ids": ids(i + 3, 6), "rejected_ids": ids(i + 5, 4 + i % 3)} for i in range(13)]
LABELS = [{"input_ids": ids(i, 8 + 3 * i), "label": i % 3} for i in range(13)]
OBJECTIVES = {
    "dpo": (pipeline.MODELS["llama"], {"name": "dpo"}, PAIRS, (1, 1, 2)),
    "aot": (pipeline.MODELS["llama"], {"name": "dpo", "loss_type": "aot"}, PAIRS, (2, 1, 2)),
    "classify": (BERT, {"name": "classify"}, LABELS, (1, 1, 2)),
}
checks = pipeline.checks


def check_objective(name, folder):
    model, objective, rows, grid = OBJECTIVES[name]
    os.mkdir(folder)
    harness.make_base(folder, model, "fp32")
    with open(f"{folder}/data.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")
    for run, on in (("whole", (1, 1, 1)), ("stages", grid)):
        pipeline.train(pipeline.write_config(folder, LORA, run, objective=objective, batch={"sequences": 6, "micro": 1}), on)
    pipeline.check_same(name, f"{folder}/stages", f"{folder}/whole")
    found, expected = ([json.loads(line) for line in open(f"{folder}/{run}/evaluations.jsonl")] for run in ("stages", "whole"))
    for one, other in zip(found, expected, strict=True):
        for key in set(other) - {"time"}:
            # A reward is a small difference of two log probabilities: it is exact to what those are exact to.
            size = abs(other["logps_chosen"]) if key.startswith("rewards_") else abs(other[key])
            checks.that(one[key] == other[key] or abs(one[key] - other[key]) < 1e-6 * size, f"{name}: {key} {one[key]}, of one rank {other[key]}")


def main():
    folder = tempfile.mkdtemp()
    try:
        for i, name in enumerate(METHODS):
            pipeline.CASES[name] = METHODS[name]
            pipeline.check_case(name, f"{folder}/{i}")
            if METHODS[name][1]["name"] == "full":
                pipeline.check_resumed(name, f"{folder}/{i}", METHODS[name][1], [METHODS[name][2][0], (2, 1, 1)])
        for name in OBJECTIVES:
            check_objective(name, f"{folder}/{name}")
    finally:
        shutil.rmtree(folder)
    checks.end()


if __name__ == "__main__":
    main()
