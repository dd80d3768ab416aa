#!/usr/bin/env bash
# TRL 1.16.0: DPOTrainer without ref_model takes for its reference the weights of the folder that the
# model was once loaded from, not those that the model has.
#
# A run of supervised fine-tuning and one of DPO in the same script, each with its trainer and the same
# model in between, is a usual thing. The second one's reference then is the base from before the
# first, which the policy has left already: it is held to, or rewarded against, the wrong model.
# Expected: before its first update policy and reference are the same, so the loss is ln 2 and the
# margin of the rewards 0. Seen: so if the fine-tuned model was saved and loaded in between; handed on
# in memory not, and no word of it.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with trl==1.16.0 transformers==5.24.0 accelerate==1.15.0 datasets==5.2.0 torch==2.13.0
FOLDER=$folder OMP_NUM_THREADS=1 quietly "$python" - <<'PYTHON' | grep -v "^{'"
import os

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

folder = os.environ["FOLDER"]
words = Tokenizer(models.WordLevel({word: i for i, word in enumerate("<end> <unknown> a b c d e f g".split())}, unk_token="<unknown>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>", unk_token="<unknown>")
common = dict(output_dir=f"{folder}/run", per_device_train_batch_size=4, max_steps=1, logging_steps=1, report_to=[], save_strategy="no",
              use_cpu=True, bf16=False, disable_tqdm=True)
answers = Dataset.from_list([{"prompt": "a b", "completion": " c d"}] * 4)
pairs = Dataset.from_list([{"prompt": "a b", "chosen": " c d", "rejected": " e f g"}] * 4)
torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
                             initializer_range=0.3)).save_pretrained(f"{folder}/base")


def start_of_dpo(model):
    trainer = DPOTrainer(model, args=DPOConfig(**common), train_dataset=pairs, processing_class=tokenizer)
    trainer.train()
    line = next(line for line in trainer.state.log_history if "loss" in line)
    return float(line["loss"]), float(line["rewards/margins"])


tuned = SFTTrainer(AutoModelForCausalLM.from_pretrained(f"{folder}/base"), args=SFTConfig(learning_rate=1e-2, **common),
                   train_dataset=answers, processing_class=tokenizer)
tuned.train()
tuned.save_model(f"{folder}/tuned")
seen = {"saved and loaded": start_of_dpo(AutoModelForCausalLM.from_pretrained(f"{folder}/tuned")), "handed on in memory": start_of_dpo(tuned.model)}
for name, (loss, margin) in seen.items():
    print(f"the fine-tuned model {name}: loss before DPO's first update {loss:.4f}, margin of the rewards {margin:+.4f}")
assert abs(seen["saved and loaded"][0] - 0.6931) < 2e-4 and abs(seen["handed on in memory"][0] - 0.6931) > 1e-2, "this has changed"
PYTHON
