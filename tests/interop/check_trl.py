"""Lays tests/golden/preferences.json over TRL's own DPOTrainer: losses, gradient norms and reward margins of ten steps of every case of objectives dpo and ipo.
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

import preference_cases as cases
import reference_models as reference
import torch_side

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "preferences.json")
BOUNDS = {"loss": ("loss", 2e-5), "grad_norm": ("grad_norm", 1e-3), "rewards/margins": ("rewards_margin", 1e-3)}


class InOrder(trl.DPOTrainer):
    """Rows of ids as they are, one after the other."""

    def _prepare_dataset(self, dataset, *words, **options):
        return dataset

    def _get_train_sampler(self, *words, **options):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def train(settings, objective, folder):
    words = tokenizers.models.WordLevel({str(i): i for i in range(203)}, unk_token="0")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), eos_token="0", pad_token="202")
    model = torch_side.load_model(folder, settings["model"])
    if settings["method"] == "lora":
        reference.write_adapter(f"{folder}/adapter", settings)
        model = peft.PeftModel.from_pretrained(model, f"{folder}/adapter", is_trainable=True)
    rows = [cases.TRAIN[i % len(cases.TRAIN)] for i in range(cases.STEPS * cases.PAIRS)]
    options = trl.DPOConfig(
        output_dir=f"{folder}/out",
        per_device_train_batch_size=cases.PAIRS,
        max_steps=cases.STEPS,
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["clip_norm"],
        logging_steps=1,
        beta=objective.get("beta", 0.1),
        loss_type=[objective.get("loss_type", "ipo" if objective["name"] == "ipo" else "sigmoid")],
        label_smoothing=objective.get("label_smoothing", 0.0),
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        precompute_ref_log_probs=settings["method"] == "full",  # else it looks for the base by its path
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = InOrder(model=model, args=options, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


def main():
    wrong = 0
    with open(GOLDEN) as file:
        curves = json.load(file)
    names = sys.argv[1:] or [name for name, (_, objective) in cases.CASES.items() if objective["name"] in ("dpo", "ipo")]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            lines = train(*cases.CASES[name], folder)
        worst = {}
        for key, (ours, bound) in BOUNDS.items():
            size = max(map(abs, curves[name][ours]))
            pairs = list(zip((line[key] for line in lines), curves[name][ours], strict=True))
            worst[key] = max(abs(a - b) / max(abs(b), 0.1 * size, 1e-2) for a, b in pairs)
            wrong += worst[key] > bound
        print(f"{name}: " + ", ".join(f"{key} {value:.2g}" for key, value in worst.items()), flush=True)
    sys.exit(f"{wrong} wrong" if wrong else 0)


if __name__ == "__main__":
    main()
