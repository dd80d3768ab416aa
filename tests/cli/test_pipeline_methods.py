"""Pipeline stages with the other methods and objectives: losses, gradient norms, evaluations, results and checkpoints as on one rank (test_pipeline.py)."""

import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), HERE]
import grid_runs
import harness
import test_pipeline as pipeline

LORA = {"name": "lora", "rank": 4, "targets": ["all"]}
METHODS = {
    "full, tied head": ("gpt2", {"name": "full"}, [(1, 1, 2)]),
    "full, untied head": ("llama", {"name": "full"}, [(1, 2, 2)]),
    "prefixes in layers": ("gpt2", {"name": "prefix_layer", "prefix_init": "random"}, [(1, 1, 3)]),
    "bottlenecks": ("llama", {"name": "adapter_l"}, [(1, 1, 2)]),
    "dora, both ends": ("llama", {**LORA, "targets": ["all", "head"], "dora": True}, [(1, 1, 2)]),
    "compacter": ("llama", {"name": "compacter", "bottleneck": 8, "factors": 4}, [(1, 1, 2), (1, 2, 2)]),
    "pissa": ("gpt2", {**LORA, "init": "pissa"}, [(1, 1, 2)]),
    "prefixes from tokens": ("llama", {"name": "prefix_layer", "prefix": 3, "infix": 1, "prefix_init": "vocabulary"}, [(1, 2, 2)]),
    "keys from tokens": ("llama", {"name": "prefix_kv", "prefix": 3, "infix": 0, "prefix_init": "vocabulary"}, [(1, 1, 4)]),
    "trained tokens, tied": ("gpt2", {"name": "lora", "rank": 4, "trainable_tokens": [3, 7, 200]}, [(1, 1, 2)]),
}
BERT = "family: bert\nlayers: 3\nwidth: 32\nmlp_width: 64\nheads: 4\nvocab: 257\ncontext: 128\ntoken_types: 2\n"


def ids(i, length):
    return [(i * i + 7 * j + i * j * j) % 257 for j in range(length)]


PAIRS = [{"prompt_ids": ids(i, 8 + i), "chosen_ids": ids(i + 3, 6), "rejected_ids": ids(i + 5, 4 + i % 3)} for i in range(13)]
LABELS = [{"input_ids": ids(i, 8 + 3 * i), "label": i % 3} for i in range(13)]
RELATED = [{"anchor_ids": ids(i, 8 + i), "positive_ids": ids(i + 3, 6), "negative_ids": ids(i + 5, 4 + i % 3)} for i in range(13)]
TEXTS = [{"input_ids": ids(i, 5 + 3 * i)} for i in range(13)]
# Some of its micro-batches of one text have no token that is hidden.
MASKED = {"name": "mlm", "mask_token": 1, "mask_probability": 0.1}
# Name: model, objective, rows, grid, what is other than in LORA.
OBJECTIVES = {
    "dpo": (pipeline.MODELS["llama"], {"name": "dpo"}, PAIRS, (1, 1, 2), {}),
    "aot": (pipeline.MODELS["llama"], {"name": "dpo", "loss_type": "aot"}, PAIRS, (2, 1, 2), {}),
    "kto": (pipeline.MODELS["llama"], {"name": "kto"}, PAIRS, (2, 1, 2), {"dropout": 0.1}),
    "classify": (BERT, {"name": "classify"}, LABELS, (1, 1, 2), {}),
    "contrastive": (BERT, {"name": "contrastive"}, RELATED, (2, 1, 2), {"dropout": 0.1}),
    "mlm": (BERT, MASKED, TEXTS, (1, 2, 2), {}),
}
checks = pipeline.checks


def prepare_objective(folder, model, rows):
    os.mkdir(folder)
    harness.make_base(folder, model, "fp32")
    with open(f"{folder}/data.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")


def check_objective(name, folder):
    model, objective, rows, grid, other = OBJECTIVES[name]
    prepare_objective(folder, model, rows)
    for run, on in (("whole", (1, 1, 1)), ("stages", grid)):
        grid_runs.train(pipeline.write_config(folder, {**LORA, **other}, run, objective=objective, batch={"sequences": 6, "micro": 1}), on)
    pipeline.check_same(name, f"{folder}/stages", f"{folder}/whole")
    for line in harness.read_metrics(f"{folder}/stages"):  # of the replica that sends more; rows of a pass before the gradients count in both
        sent = 4 * pipeline.WIDTH * line["computed_tokens"]
        checks.that(sent / grid[0] <= line["piped_bytes"] < sent / (grid[0] - 0.9), f"{name}: {line['piped_bytes']} bytes sent in step {line['step']}, {sent} by all rows")
    found, expected = ([json.loads(line) for line in open(f"{folder}/{run}/evaluations.jsonl")] for run in ("stages", "whole"))
    for one, other in zip(found, expected, strict=True):
        for key in set(other) - {"time"}:
            # A reward is a small difference of two log probabilities, and so is kl: exact to what those are exact to.
            size = abs(other["logps_chosen"]) if key.startswith(("rewards_", "kl")) else abs(other[key])
            checks.that(one[key] == other[key] or abs(one[key] - other[key]) < 1e-6 * size, f"{name}: {key} {one[key]}, of one rank {other[key]}")


def check_sent(folder):
    """Prefixes, pairs that are looked at twice, and labels, of sequences that are equally long: bytes sent are plan's."""
    pairs = [{"prompt_ids": ids(i, 8), "chosen_ids": ids(i + 3, 6), "rejected_ids": ids(i + 5, 6)} for i in range(13)]
    labels = [{"input_ids": ids(i, 12), "label": i % 3} for i in range(13)]
    texts = [{"input_ids": ids(i, 12)} for i in range(13)]
    cases = {
        "aot": (pipeline.MODELS["llama"], LORA, {"name": "dpo", "loss_type": "aot"}, pairs),
        "dpo": (pipeline.MODELS["llama"], LORA, {"name": "dpo"}, pairs),
        "classify": (BERT, LORA, {"name": "classify"}, labels),
        "kto": (pipeline.MODELS["llama"], LORA, {"name": "kto"}, [{"prompt_ids": ids(i, 8), "chosen_ids": ids(i + 3, 6), "rejected_ids": ids(i + 5, 6)} for i in range(13)]),
        "contrastive": (BERT, LORA, {"name": "contrastive"}, [{"anchor_ids": ids(i, 8), "positive_ids": ids(i + 3, 8)} for i in range(13)]),
        "mlm": (BERT, LORA, {**MASKED, "mask_probability": 1}, texts),
        "prefix": (pipeline.MODELS["llama"], {"name": "prefix_embed", "prefix_init": "random"}, {"name": "sft"}, texts),
    }
    for name, (model, method, objective, rows) in cases.items():
        prepare_objective(f"{folder}-{name}", model, rows)
        data = {"train": f"{folder}-{name}/data.h5", "share_prompts": False}
        config = pipeline.write_config(f"{folder}-{name}", method, "run", objective=objective, batch={"sequences": 6, "micro": 1}, train={"steps": 2}, data=data)
        grid_runs.train(config, (1, 1, 2))
        plan = json.loads(harness.mpilora("plan", config, *grid_runs.words_of((1, 1, 2)), "--json"))["methods"][0]["piped_bytes_per_step"]
        for line in harness.read_metrics(f"{folder}-{name}/run"):
            sent = 4 * pipeline.WIDTH * line["computed_tokens"]
            checks.that(line["piped_bytes"] == plan == sent, f"bytes, {name}: {line['piped_bytes']} sent, planned {plan}, {sent} by the rows")


def check_loftq():
    """Factors of what rounding has lost, of every stage's layers."""
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, pipeline.MODELS["llama"].replace("80", "96"), "fp32")
        harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--dtype", "fp32", "--quantise", "q4_0", "--head-dtype", "fp32", f"{folder}/blocks.h5")
        harness.make_data(folder, [ids(i, 20 + 5 * i) for i in range(14)])
        for run, grid in (("whole", (1, 1, 1)), ("stages", (1, 1, 2))):
            method = {**LORA, "init": "loftq", "original": f"{folder}/base.h5"}
            grid_runs.train(pipeline.write_config(folder, method, run, base=f"{folder}/blocks.h5"), grid)
        pipeline.check_same("loftq", f"{folder}/stages", f"{folder}/whole")


def main():
    folder = tempfile.mkdtemp()
    try:
        for i, name in enumerate(METHODS):
            pipeline.CASES[name] = METHODS[name]
            pipeline.check_case(name, f"{folder}/{i}")
            if METHODS[name][1]["name"] in ("full", "compacter") or name == "pissa":
                pipeline.check_resumed(name, f"{folder}/{i}", METHODS[name][1], [METHODS[name][2][0], (2, 1, 1)])
        for name in OBJECTIVES:
            check_objective(name, f"{folder}/{name}")
        check_sent(f"{folder}/sent")
        check_loftq()
    finally:
        shutil.rmtree(folder)
    checks.end()


if __name__ == "__main__":
    main()
