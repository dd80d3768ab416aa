#!/usr/bin/env bash
# transformers 5.24.0: Trainer with gradient accumulation makes the loss and the gradient of a
# sequence classifier N times as large as with one batch of the same rows.
#
# For causal models the loss of an accumulation window is divided by its number of target tokens.
# Classifiers take no such number, each micro-batch gives the mean of its own rows, and the N means
# are added up instead of averaged. With max_grad_norm set, clipping sets in N times as early.
# Expected: 4 micro-batches of 2 rows train as 1 batch of 8. Seen: the gradient norm is 4 times it.
# For a comparison: use one accumulation step on the side of Trainer.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 accelerate==1.15.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - "$folder" <<'PYTHON'
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

torch.manual_seed(0)
config = BertConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64,
                    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
start = BertForSequenceClassification(config).state_dict()
rows = [{"input_ids": torch.randint(5, 64, (12,)), "labels": i % 2} for i in range(8)]


def first_step(batch, accumulation):
    model = BertForSequenceClassification(config)
    model.load_state_dict(start)
    arguments = TrainingArguments(sys.argv[1], per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=1,
                                  logging_steps=1, report_to=[], save_strategy="no", max_grad_norm=1e9, use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    return next(line for line in trainer.state.log_history if "grad_norm" in line)


whole, parts = first_step(8, 1), first_step(2, 4)
ratio = {key: float(parts[key]) / float(whole[key]) for key in ("loss", "grad_norm")}
print("4 x 2 rows beside 1 x 8 rows:", {key: round(value, 3) for key, value in ratio.items()})
assert all(abs(value - 4.0) < 0.01 for value in ratio.values()), "this has changed"
PYTHON
