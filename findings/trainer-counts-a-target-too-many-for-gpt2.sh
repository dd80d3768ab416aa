#!/usr/bin/env bash
# transformers 5.24.0: the losses that Trainer reports for GPT-2, eval_loss too, are (n - 1) / n of the
# mean over the targets, n being a sequence's length; those of Llama are the mean.
#
# A sequence of n tokens has n - 1 targets. Trainer leaves the first label out of its count only where
# it knows that the loss shifts the labels, and it tells that from the class's name: …ForCausalLM. The
# class of GPT-2 is called GPT2LMHeadModel, and its loss shifts all the same.
# Expected: of equally long rows, loss and eval_loss are the mean of what the model itself gives. Seen: a
# perplexity that is too good, the more so the shorter the texts.
# For a comparison of GPT-2 with others: multiply by n / (n - 1), or count the targets oneself.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 accelerate==1.15.0 torch==2.13.0
OMP_NUM_THREADS=1 quietly "$python" - "$folder" <<'PYTHON' | grep -v "^{'"
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
gpt2 = GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
llama = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64)
MODELS = {"GPT-2": GPT2LMHeadModel(gpt2).eval(), "Llama": LlamaForCausalLM(llama).eval()}
arguments = TrainingArguments(sys.argv[1], per_device_train_batch_size=8, per_device_eval_batch_size=8, max_steps=1, learning_rate=0.0, logging_steps=1,
                              save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True)
ratios = {}
for name, model in MODELS.items():
    for length in (8, 32):
        ids = torch.randint(0, 64, (8, length), generator=torch.Generator().manual_seed(1))
        rows = [{"input_ids": row, "labels": row} for row in ids]
        with torch.no_grad():
            meant = float(model(input_ids=ids, labels=ids).loss)
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        loss = float(next(line for line in trainer.state.log_history if "loss" in line)["loss"])
        eval_loss = trainer.evaluate()["eval_loss"]
        ratios[name, length] = loss / meant, eval_loss / meant
        print(f"{name}, rows of {length} tokens: the model's loss {meant:.4f}, Trainer's {loss:.4f}, eval_loss {eval_loss:.4f}, ratio {eval_loss / meant:.4f}")
for (name, length), pair in ratios.items():
    wanted = (length - 1) / length if name == "GPT-2" else 1.0
    assert all(abs(ratio - wanted) < 1e-3 for ratio in pair), "this has changed"
PYTHON
