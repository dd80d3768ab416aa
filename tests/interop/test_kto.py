"""Objective kto, laid over PyTorch's curves on every grid; pairs taken apart; a resumed run; what tokenize and train refuse of it."""

import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import preference_cases as cases
from test_preference_errors import refused
from test_preferences import check_curves, check_evaluated, check_resumed, prepare, write_config


def check_rows(checks, folder):
    row = {"prompt_ids": [1, 2], "completion_ids": [3], "label": True}
    pair = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}
    bad = {
        "a number": ([row, {**row, "label": 1}], "line 2", "no truth value", "true or false"),
        "a word": ([row, row, {**row, "label": "true"}], "line 3", "no truth value"),
        "no label": ([row, {"prompt_ids": [1], "completion_ids": [2]}], "line 2", '"label" is missing'),
        "empty": ([{**row, "completion_ids": []}], "line 1", "has no token"),
        "pairs before": ([pair, row], "line 2", "the rows before it do not"),
        "pairs after": ([row, pair], "line 2", "rows before it have not"),
        "plain rows after": ([row, {"input_ids": [1, 2]}], "1 others have not", ""),
        "classes before": ([{"input_ids": [1], "label": 0}, row], "line 2", "the rows before it do not"),
        "classes after": ([row, {"input_ids": [1], "label": 0}], "line 2", "the rows before it"),
    }
    for name, (rows, *parts) in bad.items():
        cases.write_pairs(f"{folder}/bad.jsonl", rows)
        refused(checks, name, ["tokenize", "--base", f"{folder}/llama.h5", f"{folder}/bad.jsonl", f"{folder}/bad.h5"], 3, *parts)
        checks.that(not os.path.exists(f"{folder}/bad.h5"), f"{name}: a data set was written")


def check_refused(checks, folder):
    config = write_config(folder, "kto", f"{folder}/refused", 1, 4)
    cases.write_pairs(f"{folder}/plain.jsonl", [{"input_ids": [1, 2, 3]}])
    harness.mpilora("tokenize", "--base", f"{folder}/llama.h5", f"{folder}/plain.jsonl", f"{folder}/plain.h5")
    refused(checks, "no labels", ["train", config, "--set", f"data.train={folder}/plain.h5"], 3, "does not say which answers are wanted")
    for name, part in (("sft", "would learn"), ("dpo", "would learn")):
        refused(checks, f"answers for {name}", ["train", config, "--set", f"objective.name={name}"], 3, part)
    bad = {
        "one row": ("at least 2", "batch.sequences=1", "batch.micro=1"),
        "another's loss": ("no loss of objective kto", "objective.loss_type=sigmoid"),
        "a list": ("has one loss", "objective.loss_type=[kto, apo_zero_unpaired]"),
        "weights of 0": ("nothing is learnt", "objective.desirable_weight=0", "objective.undesirable_weight=0"),
        "weights of another": ("is of kto", "objective.name=dpo", "objective.undesirable_weight=2"),
        "an order that is shuffled": ("data.shuffle would undo", "objective.pair_order=blocks", "data.shuffle=true"),
        "an order of another": ("is of kto", "objective.name=dpo", "objective.pair_order=blocks"),
        "kto's loss": ("no loss of objective dpo", "objective.name=dpo", "objective.loss_type=kto"),
    }
    for name, (part, *sets) in bad.items():
        refused(checks, name, ["train", config, *(word for one in sets for word in ("--set", one))], 2, part)
    checks.that(not os.path.exists(f"{folder}/refused"), "a refused run made its folder")


def check_blocks(checks, folder):
    """Pairs in blocks are what rows in that order are."""
    rows = cases.TRAIN
    cases.write_pairs(f"{folder}/block-pairs.jsonl", rows)
    cases.write_pairs(f"{folder}/block-rows.jsonl", cases.apart(rows)[::2] + cases.apart(rows)[1::2])
    curves = {}
    for name, more in (("block-pairs", ["objective.pair_order=blocks"]), ("block-rows", []), ("mixed", [])):
        data = "block-pairs" if name == "mixed" else name
        harness.mpilora("tokenize", "--base", f"{folder}/llama.h5", f"{folder}/{data}.jsonl", f"{folder}/{data}.h5")
        sets = [f"data.train={folder}/{data}.h5", f"data.valid={folder}/{data}.h5", "train.steps=7", *more]
        config = write_config(folder, "kto", f"{folder}/run-{name}", 1, 3)
        harness.mpilora("train", config, *(word for one in sets for word in ("--set", one)))
        curves[name] = [[line[key] for key in ("loss", "kl", "grad_norm")] for line in harness.read_metrics(f"{folder}/run-{name}")], harness.read_summary(f"{folder}/run-{name}")["valid_loss"]
    checks.that(curves["block-pairs"] == curves["block-rows"], f"pairs in blocks: {curves['block-pairs']}, rows in that order {curves['block-rows']}")
    checks.that(curves["block-pairs"] != curves["mixed"], "pairs in blocks are as pairs that are mixed")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_curves(checks, folder, [name for name in cases.CASES if name.startswith("kto")])
        check_resumed(checks, folder, "kto")
        check_blocks(checks, folder)
        for name in ("kto", "kto-full"):
            check_evaluated(checks, folder, name)
        check_rows(checks, folder)
        check_refused(checks, folder)
    checks.end()


if __name__ == "__main__":
    main()
