"""Lays tests/golden/preferences.json over TRL's own trainers: losses, gradient norms and reward margins of ten steps of every case.
For developers; beside what make_golden.py asks for it needs trl==1.16.*:
    venv/bin/python tests/interop/check_trl.py [case …]
"""

import json
import os
import sys
import tempfile

import datasets
import peft
import tokenizers
import torch
import transformers
import trl
from trl.experimental import cpo, orpo

import preference_cases as cases
import reference_models as reference
import torch_side

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "preferences.json")
BOUNDS = {"loss": ("loss", 2e-5), "grad_norm": ("grad_norm", 1e-3), "rewards/margins": ("rewards_margin", 1e-3), "kl": ("kl", 1e-3)}


def as_they_are(self, dataset, *words, **options):
    return dataset


def rotated(self, dataset, *words, **options):
    """The answers behind the prompts of others, as KTOTrainer makes them; its own rows would have to be texts."""

    def add(rows):
        return {"KL_completion_ids": [rows["completion_ids"][-1]] + rows["completion_ids"][:-1]}

    return dataset.map(add, batched=True, batch_size=cases.PAIRS)


def in_order(self, *words, **options):
    return torch.utils.data.SequentialSampler(self.train_dataset)


def spell_out(self, row, *words, **options):
    """What CPOTrainer and ORPOTrainer make of a row."""
    out = {"prompt_input_ids": row["prompt_ids"], "prompt_attention_mask": [1] * len(row["prompt_ids"])}
    for side in ("chosen", "rejected"):
        ids = row["prompt_ids"] + row[f"{side}_ids"]
        out |= {f"{side}_input_ids": ids, f"{side}_attention_mask": [1] * len(ids), f"{side}_labels": [-100] * len(row["prompt_ids"]) + row[f"{side}_ids"]}
    return out


def trainer_of(objective, common):
    """The trainer's class, which takes rows of ids as they are, one after the other, and its options."""
    name, beta = objective["name"], objective.get("beta", 0.1)
    kind = "ipo" if name == "ipo" else objective.get("loss_type", "sigmoid")
    own = {"_prepare_dataset": as_they_are, "_get_train_sampler": in_order, "tokenize_row": spell_out}
    if name in ("dpo", "ipo"):
        kinds = kind if isinstance(kind, list) else [kind]
        weights = objective.get("loss_weights", [1.0] * len(kinds))
        if "sft_weight" in objective:
            kinds, weights = [*kinds, "sft"], [*weights, objective["sft_weight"]]
        options = trl.DPOConfig(
            **common,
            beta=beta,
            loss_type=kinds,
            loss_weights=weights,
            label_smoothing=objective.get("label_smoothing", 0.0),
            ld_alpha=objective.get("ld_alpha"),
        )
        base = trl.DPOTrainer
    elif name == "kto":
        own |= {"_prepare_dataset": rotated}
        keys = {key: objective[key] for key in ("loss_type", "desirable_weight", "undesirable_weight") if key in objective}
        options, base = trl.KTOConfig(**common, beta=beta, **keys), trl.KTOTrainer
    elif name == "orpo":
        options, base = orpo.ORPOConfig(**common, beta=beta), orpo.ORPOTrainer
    else:
        options = cpo.CPOConfig(
            **common,
            beta=beta,
            loss_type="simpo" if name == "simpo" else kind,
            cpo_alpha=objective.get("cpo_alpha", 1.0),
            simpo_gamma=objective.get("gamma", 0.5),
            label_smoothing=objective.get("label_smoothing", 0.0),
        )
        base = cpo.CPOTrainer
    return type("InOrder", (base,), own), options


def train(name, settings, objective, folder):
    words = tokenizers.models.WordLevel({str(i): i for i in range(203)}, unk_token="0")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), eos_token="0", pad_token="202")
    model = torch_side.load_model(folder, settings["model"])
    if settings["method"] == "lora":
        reference.write_adapter(f"{folder}/adapter", settings)
        model = peft.PeftModel.from_pretrained(model, f"{folder}/adapter", is_trainable=True)
    data = cases.data_of(name)[0]
    rows = [data[i % len(data)] for i in range(cases.STEPS * cases.PAIRS)]
    common = {
        "output_dir": f"{folder}/out",
        "per_device_train_batch_size": cases.PAIRS,
        "max_steps": cases.STEPS,
        "learning_rate": settings["lr"],
        "lr_scheduler_type": "constant",
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["clip_norm"],
        "logging_steps": 1,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    if objective["name"] in ("dpo", "ipo", "kto"):
        common["precompute_ref_log_probs"] = settings["method"] == "full"  # else it looks for the base by its path
    kind, options = trainer_of(objective, common)
    trainer = kind(model=model, args=options, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


def main():
    wrong = 0
    with open(GOLDEN) as file:
        curves = json.load(file)
    # KTOTrainer puts answers behind the prompts of pairs in another way
    names = sys.argv[1:] or [name for name in cases.CASES if name != "kto-pairs"]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            lines = train(name, *cases.CASES[name], folder)
        worst = {}
        for key, (ours, bound) in BOUNDS.items():
            if ours not in curves[name]:
                continue
            size = max(map(abs, curves[name][ours]))
            pairs = list(zip((line[key] for line in lines), curves[name][ours], strict=True))
            worst[key] = max(abs(a - b) / max(abs(b), 0.1 * size, 1e-2) for a, b in pairs)
            wrong += worst[key] > bound
        print(f"{name}: " + ", ".join(f"{key} {value:.2g}" for key, value in worst.items()), flush=True)
    sys.exit(f"{wrong} wrong" if wrong else 0)


if __name__ == "__main__":
    main()
