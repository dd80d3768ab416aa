"""Pairs of answers and the objectives that golden curves exist of: shared by make_preference_golden.py and test_preferences.py."""

import json
import random

import reference_models as reference

STEPS = 10
PAIRS = 4  # a step
LORA = {**reference.DEFAULTS, "model": "llama", "targets": ["q", "v"], "lr": 1e-2, "schedule": "constant", "warmup": 0}
# transformers' Trainer decays neither biases nor norms, which mpilora does: compared without decay
FULL = {**LORA, "model": "gpt2", "method": "full", "lr": 1e-3, "weight_decay": 0.0}
TYPES = ["hinge", "ipo", "sigmoid_norm", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down"]
CASES = {  # name: (what trains, objective)
    "dpo": (LORA, {"name": "dpo"}),
    "dpo-full": (FULL, {"name": "dpo", "beta": 0.3}),
    **{f"dpo-{t}": (LORA, {"name": "dpo", "loss_type": t, "beta": 0.2}) for t in TYPES},
    "dpo-robust": (LORA, {"name": "dpo", "loss_type": "robust", "label_smoothing": 0.1}),
    "dpo-exo_pair": (LORA, {"name": "dpo", "loss_type": "exo_pair", "label_smoothing": 0.1}),
    # its slope changes within 1/400 of a nat: a larger step would enlarge what fp32 rounds
    "dpo-discopop": ({**LORA, "lr": 1e-3}, {"name": "dpo", "loss_type": "discopop"}),
    "dpo-aot": (LORA, {"name": "dpo", "loss_type": "aot", "label_smoothing": 0.1}),
    "dpo-aot_unpaired": (LORA, {"name": "dpo", "loss_type": ["aot_unpaired"], "beta": 0.3}),
    "dpo-sum": (LORA, {"name": "dpo", "loss_type": ["sigmoid", "aot", "sft", "bco_pair"], "loss_weights": [1, 0.5, 0.25, 0.3]}),
    "dpo-sum-full": (FULL, {"name": "dpo", "loss_type": ["nca_pair", "aot_unpaired"], "sft_weight": 0.5, "beta": 0.3}),
    "dpo-ld": (LORA, {"name": "dpo", "ld_alpha": 0.4, "beta": 0.3}),
    "ipo": (LORA, {"name": "ipo", "beta": 0.5}),
    "cpo": (LORA, {"name": "cpo"}),
    "cpo-smoothed": (LORA, {"name": "cpo", "label_smoothing": 0.2, "beta": 0.3}),
    "cpo-hinge": (LORA, {"name": "cpo", "loss_type": "hinge", "beta": 0.05}),
    "cpo-ipo": (LORA, {"name": "cpo", "loss_type": "ipo", "cpo_alpha": 0.0}),
    "kto": (LORA, {"name": "kto"}),
    "kto-full": (FULL, {"name": "kto", "beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5}),
    "kto-pairs": (LORA, {"name": "kto", "beta": 0.3}),  # of answers that were pairs
    "kto-apo_zero_unpaired": (LORA, {"name": "kto", "loss_type": "apo_zero_unpaired", "beta": 0.2}),
    "simpo": (LORA, {"name": "simpo", "beta": 2.0, "gamma": 1.0, "cpo_alpha": 0.0}),
    "simpo-smoothed": (LORA, {"name": "simpo", "beta": 2.0, "label_smoothing": 0.2}),
    "orpo": (LORA, {"name": "orpo", "beta": 0.5}),
    "orpo-full": (FULL, {"name": "orpo", "beta": 0.2}),
    "simpo-full": (FULL, {"name": "simpo", "beta": 2.0, "cpo_alpha": 0.5}),
}


def pairs(name, count):
    """Prompts of 1 … 20 tokens with two answers of 1 … 15, which begin alike in every third pair."""
    source, out = random.Random(f"pairs:{name}"), []

    def ids(least, most):
        return [int(200 * source.random() * source.random()) for _ in range(source.randint(least, most))]

    for index in range(count):
        prompt, chosen, rejected = ids(1, 20), ids(1, 15), ids(1, 15)
        if index % 3 == 0:
            start = ids(2, 6)
            chosen, rejected = start + [200, *chosen], start + [201, *rejected]
        out.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return out


def apart(rows):
    """Pairs as answers that are wanted or not."""
    sides = (("chosen_ids", True), ("rejected_ids", False))
    return [{"prompt_ids": row["prompt_ids"], "completion_ids": row[key], "label": label} for row in rows for key, label in sides]


def judged(name, count):
    """Answers of different prompts, three of five of them wanted."""
    return [apart([row])[0 if index % 5 < 3 else 1] for index, row in enumerate(pairs(name, count))]


TRAIN = pairs("train", 11)
VALID = pairs("valid", 5)
JUDGED_TRAIN = judged("judged", 12)
JUDGED_VALID = judged("judged valid", 7)


def data_of(name):
    """What a case trains on and is evaluated on, row by row."""
    if name == "kto-pairs":
        return apart(TRAIN), apart(VALID)
    return (JUDGED_TRAIN, JUDGED_VALID) if name.startswith("kto") else (TRAIN, VALID)


def partners(name, count):
    """Behind the prompt of each row stands the answer of the one before it, of pairs of the second before, among PAIRS rows each."""
    back, out = 2 if name == "kto-pairs" else 1, []
    for first in range(0, count, PAIRS):
        size = min(PAIRS, count - first)
        out += [first + (i - back) % size for i in range(size)]
    return out


def write_pairs(path, data):
    with open(path, "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in data)
