"""What tokenize, train and eval refuse of preferences: one line, before any work, nothing written."""

import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import preference_cases as cases
import reference_models as reference
from test_preferences import prepare, write_config


def refused(checks, what, words, code, *parts):
    done = harness.start(*words)
    checks.that(done.returncode == code and all(p in done.stderr for p in parts), f"{what}: code {done.returncode}, {done.stderr}")


def check_refused(checks, folder):
    pair = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}
    bad = {
        "equal": ([pair, {**pair, "rejected_ids": [3]}], "line 2", "chosen and rejected are equal"),
        "empty": ([{**pair, "chosen_ids": []}], "line 1", "has no token"),
        "missing": ([{"prompt_ids": [1], "chosen_ids": [3]}], "line 1", '"rejected_ids" is missing'),
        "mixed": ([{"input_ids": [1, 2]}, pair], "line 2", "rows before it have not"),
        "mixed the other way": ([pair, {"input_ids": [1, 2]}], "1 others have not", ""),
        "range": ([{**pair, "chosen_ids": [100000]}], "line 1", "outside the vocabulary"),
    }
    for name, (rows, *parts) in bad.items():
        cases.write_pairs(f"{folder}/bad.jsonl", rows)
        refused(checks, name, ["tokenize", "--base", f"{folder}/llama.h5", f"{folder}/bad.jsonl", f"{folder}/bad.h5"], 3, *parts)
        checks.that(not os.path.exists(f"{folder}/bad.h5"), f"{name}: a data set was written")
    config = write_config(folder, "dpo", f"{folder}/refused", 1, 4)
    reference.write_data(f"{folder}/plain.jsonl", reference.TRAIN)
    harness.mpilora("tokenize", "--base", f"{folder}/llama.h5", f"{folder}/plain.jsonl", f"{folder}/plain.h5")
    refused(checks, "no pairs", ["train", config, "--set", f"data.train={folder}/plain.h5"], 3, "has no pairs")
    refused(checks, "pairs for sft", ["train", config, "--set", "objective.name=sft"], 3, "has pairs of chosen and rejected")
    refused(checks, "type", ["train", config, "--set", "objective.loss_type=sigmod"], 2, "sigmoid", "hinge", "discopop")
    refused(checks, "exo_pair", ["train", config, "--set", "objective.loss_type=exo_pair"], 2, "label_smoothing")
    refused(checks, "simpo's type", ["train", config, "--set", "objective.name=simpo", "--set", "objective.loss_type=hinge"], 2, "no loss of objective simpo")
    bad = {
        "a list for cpo": ("cpo has one loss", "name=cpo", "loss_type=[sigmoid, hinge]"),
        "weights": ("2 numbers for the 1 members", "loss_weights=[1, 2]"),
        "weights of 0": ("nothing is learnt", "loss_type=[sigmoid, sft]", "loss_weights=[0, 0]"),
        "twice": ("hinge is named twice", "loss_type=[hinge, hinge]"),
        "an empty list": ("0 members", "loss_type=[]"),
        "ld_alpha": ("is of dpo and ipo", "name=simpo", "ld_alpha=0.5"),
        "sft_weight": ("cpo and simpo have cpo_alpha", "name=simpo", "sft_weight=0.5"),
    }
    for name, (part, *sets) in bad.items():
        refused(checks, name, ["train", config, *(word for one in sets for word in ("--set", f"objective.{one}"))], 2, part)
    refused(checks, "dropout", ["train", config, "--set", "objective.loss_type=aot", "--set", "method.dropout=0.1"], 2, "aot", "set it to 0")
    done = harness.start("train", config, "--set", "objective.label_smoothing=0.1", "--set", "train.steps=1", "--set", f"run.dir={folder}/smoothed")
    checks.that(done.returncode == 0 and "label_smoothing: is set, but no loss type" in done.stderr, f"label_smoothing without a reader: {done.stderr}")
    for number, (name, sets) in enumerate({"beta": ("name=reward", "beta=0.5"), "gamma": ("gamma=0.7",), "cpo_alpha": ("cpo_alpha=0.5",), "": ("name=cpo", "beta=0.5", "cpo_alpha=0.5")}.items()):
        words = [word for one in sets for word in ("--set", f"objective.{one}")]
        done = harness.start("train", config, *words, "--set", "train.steps=1", "--set", "method.init=null", "--set", f"run.dir={folder}/unread-{number}")
        warned = [line for line in done.stderr.splitlines() if "does not read it" in line]
        checks.that(done.returncode == 0 and len(warned) == bool(name) and (not name or f"objective.{name}: is set" in warned[0]), f"{sets}: exit {done.returncode}: {done.stderr}")
    refused(checks, "a reference without a use", ["eval", config, "--reference", f"{folder}/llama.h5", "--set", "objective.name=simpo"], 2, "leave --reference out")
    refused(checks, "a reference that is none", ["eval", config, "--reference", f"{folder}/plain.h5"], 3, "plain.h5")
    checks.that(not os.path.exists(f"{folder}/refused"), "a refused run made its folder")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_refused(checks, folder)
    checks.end()


if __name__ == "__main__":
    main()
