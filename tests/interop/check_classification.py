"""Heads for labels against transformers, PEFT and TRL. For developers; beside what make_golden.py asks for it needs trl==1.16.*:

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_classification.py [families | trl]...

families: models of every family that has such a class in transformers, drawn by transformers with every optional feature on, give the same scores here;
  a LoRA adapter that mpilora trains beside the head gives the same in PEFT, the merged and exported model in transformers.
trl: tests/golden/classification.json over TRL's own RewardTrainer."""

import json
import os
import re
import sys
import tempfile

import datasets
import peft
import tokenizers
import torch
import transformers
import trl

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import classification_cases as cases
import family_models as families
import gpt_models
import harness
import make_classification_golden as golden
import preference_cases
import reference_models as reference

SCORES = ("rewards_chosen", "rewards_rejected")


# ---- families ------------------------------------------------------------------------------------------------------------


def class_of(name):
    stem = re.sub("ForCausalLM|LMHeadModel", "", families.MODELS[name]["architectures"][0])
    return getattr(transformers, ("Gemma3Text" if stem == "Gemma3" else stem) + "ForSequenceClassification", None)


def draw(name, kind, folder):
    config = kind.config_class(**{key: value for key, value in families.MODELS[name].items() if key != "architectures"}, num_labels=1)
    torch.manual_seed(1)
    model = kind._from_config(config, attn_implementation="sdpa" if name in gpt_models.SDPA else "eager").eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.15 + (1.0 if p.dim() == 1 and "weight" in key and "gemma" not in name else 0.0))
    model.save_pretrained(folder)
    return unpadded(model)


def unpadded(model):
    (model.get_base_model() if hasattr(model, "get_base_model") else model).config.pad_token_id = None
    return model.eval()


def scores(model, pair):
    with torch.no_grad():
        return [golden.scores(model, pair["prompt_ids"] + pair[key])[0].item() for key in ("chosen_ids", "rejected_ids")]


def compare(checks, what, model, config, folder, *words):
    """Pair by pair: a data set of one pair says both scores."""
    for number, pair in enumerate(cases.PAIRS["valid"][:3]):
        found = json.loads(harness.mpilora("eval", config, "--json", "--set", f"data.valid={folder}/pair{number}.h5", *words))
        for key, expected in zip(SCORES, scores(model, pair)):
            checks.that(abs(found[key] - expected) <= 1e-5 * max(1.0, abs(expected)), f"{what}: {key} of pair {number}: {found[key]}, {expected} there")


def check_family(checks, name, kind, folder):
    model = draw(name, kind, f"{folder}/model")
    base = f"{folder}/base.h5"
    harness.mpilora("import", f"{folder}/model", base, "--dtype", "fp32")
    for number, pair in enumerate(cases.PAIRS["valid"][:3]):
        preference_cases.write_pairs(f"{folder}/pair.jsonl", [pair])
        harness.mpilora("tokenize", "--base", base, f"{folder}/pair.jsonl", f"{folder}/pair{number}.h5")
    preference_cases.write_pairs(f"{folder}/train.jsonl", cases.PAIRS["train"])
    harness.mpilora("tokenize", "--base", base, f"{folder}/train.jsonl", f"{folder}/train.h5")
    config = harness.write_config(
        f"{folder}/run.yaml",
        run={"dir": f"{folder}/run", "seed": 7},
        base=base,
        method={"name": "lora", "rank": 4, "alpha": 16, "targets": ["all"]},
        objective={"name": "reward"},
        data={"train": f"{folder}/train.h5", "valid": f"{folder}/pair0.h5"},
        batch={"sequences": 4, "micro": 2},
        optim={"lr": 1e-2},
        train={"steps": 4},
        precision="fp32",
    )
    compare(checks, f"{name}: the base", model, config, folder)
    harness.mpilora("train", config, ranks=2)
    adapter = f"{folder}/run/adapter.h5"
    harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", adapter, f"{folder}/peft")
    adapted = unpadded(peft.PeftModel.from_pretrained(model, f"{folder}/peft"))
    compare(checks, f"{name}: PEFT", adapted, config, folder, "--adapter", adapter)
    compare(checks, f"{name}: PEFT's directory", adapted, config, folder, "--adapter", f"{folder}/peft")
    adapted.save_pretrained(f"{folder}/again")
    compare(checks, f"{name}: what PEFT saves again", adapted, config, folder, "--adapter", f"{folder}/again")
    harness.mpilora("merge", "--base", base, "--adapter", adapter, "--dtype", "fp32", f"{folder}/merged.h5")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/merged.h5", f"{folder}/hf")
    loaded, report = kind.from_pretrained(f"{folder}/hf", dtype=torch.float32, attn_implementation=model.config._attn_implementation, output_loading_info=True)
    checks.that(not report["unexpected_keys"] and not report["missing_keys"] and loaded.num_labels == 1, f"{name}: transformers reads our directory with {report}")
    compare(checks, f"{name}: merged", unpadded(loaded), config, folder, "--set", f"base={folder}/merged.h5")


def check_families(checks):
    for name in families.MODELS:
        kind = class_of(name)
        if not kind:
            print(f"{name}: no class in transformers")
            continue
        with tempfile.TemporaryDirectory() as folder:
            check_family(checks, name, kind, folder)
        print(f"{name}: {kind.__name__}", flush=True)


# ---- TRL -----------------------------------------------------------------------------------------------------------------


class InOrder(trl.RewardTrainer):
    def _get_train_sampler(self, *words, **options):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def train(settings, objective, folder):
    words = tokenizers.models.WordLevel({str(i): i for i in range(203)}, unk_token="0")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), eos_token="0", pad_token="202")
    pairs = [cases.PAIRS["train"][i % len(cases.PAIRS["train"])] for i in range(settings["steps"] * cases.ROWS)]
    rows = [{key: pair["prompt_ids"] + pair[key] for key in ("chosen_ids", "rejected_ids")} for pair in pairs]
    options = trl.RewardConfig(
        output_dir=f"{folder}/out",
        per_device_train_batch_size=cases.ROWS,
        max_steps=settings["steps"],
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["clip_norm"],
        logging_steps=1,
        center_rewards_coefficient=objective.get("center_rewards"),
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    model = golden.load_model(folder, settings, 1)
    trainer = InOrder(model=model, args=options, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


def check_trl(checks):
    with open(golden.GOLDEN) as file:
        curves = json.load(file)
    for name, (settings, objective) in cases.CASES.items():
        if objective["name"] != "reward":
            continue
        with tempfile.TemporaryDirectory() as folder:
            lines = train(settings, objective, folder)
        margins = [a - b for a, b in zip(curves[name]["rewards_chosen"], curves[name]["rewards_rejected"])]
        for key, expected, bound in (("loss", curves[name]["loss"], 2e-5), ("grad_norm", curves[name]["grad_norm"], 1e-3), ("margin", margins, 1e-3)):
            size = max(map(abs, expected))
            worst = max(abs(line[key] - b) / max(abs(b), 0.1 * size, 1e-2) for line, b in zip(lines, expected, strict=True))
            print(f"{name}: {key} {worst:.2g}", flush=True)
            checks.that(worst <= bound, f"{name}: {key} differs by {worst:.2g}")


if __name__ == "__main__":
    checks = harness.Checks()
    for word in sys.argv[1:] or ["families", "trl"]:
        {"families": check_families, "trl": check_trl}[word](checks)
    checks.end()
