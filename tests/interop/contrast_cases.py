"""Runs of objective contrastive that golden curves exist of: shared by make_contrast_golden.py and test_contrast.py. The encoders are the bare ones of
encoder_models.py, the decoders those of reference_models.py."""

import random

import encoder_models as encoders
import reference_models as reference

ROWS = 6  # a step
LORA = {**reference.DEFAULTS, "method": "lora", "schedule": "constant", "warmup": 0, "steps": 10, "lr": 5e-3, "weight_decay": 0.1, "clip_norm": 1.0}
BITFIT = {**LORA, "method": "bitfit"}
FULL = {**LORA, "method": "full", "steps": 5, "lr": 1e-3}
CASES = {  # negatives: of each row
    "bert": {**LORA, "model": "bert-bare", "pooling": "mean", "negatives": 0},
    "bert-full": {**FULL, "model": "bert-bare", "pooling": "cls", "negatives": 1},
    "bert-bitfit": {**BITFIT, "model": "bert-bare", "pooling": "mean", "negatives": 1},
    "roberta-dot": {**LORA, "model": "roberta-padded", "pooling": "mean", "negatives": 2, "temperature": 5.0, "normalise": False, "lr": 1e-3},
    "deberta-v3": {**LORA, "model": "deberta-v3", "pooling": "mean", "negatives": 0, "temperature": 0.1},
    "modernbert": {**LORA, "model": "modernbert-bare", "pooling": "mean", "negatives": 0},
    "llama": {**LORA, "model": "llama", "targets": ["q", "v"], "pooling": "last", "negatives": 1},
    "gpt2-full": {**FULL, "model": "gpt2", "pooling": "mean", "negatives": 0},
}
CASES = {name: {"temperature": 0.05, "normalise": True, **case} for name, case in CASES.items()}


def is_encoder(case):
    return case["model"] in encoders.MODELS


def ids(source, before):
    """1 … 20 tokens; one text in three begins as the one before it does, which decoders compute once."""
    own = [10 + int(130 * source.random() * source.random()) for _ in range(source.randint(1, 20))]
    return before[:9] + own[:9] if before and source.random() < 0.33 else own


def rows(name, count, negatives):
    source, out, before = random.Random(f"contrast:{name}:{negatives}"), [], []
    for _ in range(count):
        texts = []
        for _ in range(2 + negatives):
            before = ids(source, before)
            texts.append(before)
        row = {"anchor_ids": texts[0], "positive_ids": texts[1]}
        if negatives:
            row["negative_ids"] = texts[2] if negatives == 1 else texts[2:]
        out.append(row)
    return out


def texts(row):
    """The anchor, the positive and the negatives."""
    negative = row.get("negative_ids", [])
    return [row["anchor_ids"], row["positive_ids"]] + ([negative] if negative and isinstance(negative[0], int) else negative)


def data(case):
    return {"train": rows("train", 11, case["negatives"]), "valid": rows("valid", 8, case["negatives"])}


def write_model(directory, case):
    if is_encoder(case):
        encoders.write_model(directory, case["model"], encoders.golden()[case["model"]]["tensors"])
    else:
        reference.write_model(directory, case["model"])


def write_adapter(directory, case):
    if is_encoder(case):
        encoders.write_adapter(directory, case["model"], encoders.golden()[case["model"]]["tensors"], "")
    else:
        reference.write_adapter(directory, case)
