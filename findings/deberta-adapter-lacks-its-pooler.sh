#!/usr/bin/env bash
# PEFT 0.21.2, transformers 5.24.0: a LoRA adapter of a DeBERTa-v2/v3 classifier gives other logits
# in every process that loads it.
#
# DebertaV2ForSequenceClassification has a pooler that a checkpoint of the bare model lacks, so it is
# drawn anew at each start. PEFT saves the classifier of a SEQ_CLS adapter, and not the pooler.
# Expected: base and adapter together give the logits that were trained. Seen: they depend on the seed.
# For a writer of such adapters: keep every layer that the base's file lacks, here
# modules_to_save=["pooler", "classifier"].
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with peft==0.21.2 transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - "$folder" <<'PYTHON'
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, DebertaV2Model

folder = sys.argv[1]
torch.manual_seed(0)
DebertaV2Model(DebertaV2Config(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64)).save_pretrained(f"{folder}/base")


def classifier(seed):
    torch.manual_seed(seed)
    return DebertaV2ForSequenceClassification.from_pretrained(f"{folder}/base")


tokens = torch.arange(5, 15)[None]
model = get_peft_model(classifier(1), LoraConfig(task_type="SEQ_CLS", r=2)).eval()
model.save_pretrained(f"{folder}/adapter")
saved = [name for name in load_file(f"{folder}/adapter/adapter_model.safetensors") if "lora" not in name]
before = model(tokens).logits
after = [PeftModel.from_pretrained(classifier(seed), f"{folder}/adapter").eval()(tokens).logits for seed in (1, 2)]
print("saved beside the factors:", saved)
print("same seed:", torch.equal(after[0], before), " another seed:", float((after[1] - before).abs().max()))
assert not any("pooler" in name for name in saved) and torch.equal(after[0], before) and not torch.allclose(after[1], before, atol=1e-4), "this has changed"
PYTHON
