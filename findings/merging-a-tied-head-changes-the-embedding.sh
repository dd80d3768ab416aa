#!/usr/bin/env bash
# PEFT 0.21.2: merging an adapter of lm_head into a model with tied embeddings gives another model.
#
# Before merging the adapter acts on the head alone. merge_and_unload adds its product to the head's
# weight, which is the embedding's as well, so the inputs change, too. A warning when the adapter is
# attached speaks of complications.
# Expected: the same logits after merging. Seen: others, by more than their size.
# For a program that merges: untie the two first.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with peft==0.21.2 transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64, tie_word_embeddings=True)
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)).eval()
ids = torch.randint(0, 64, (1, 12))
with torch.no_grad():
    before = model(ids).logits
    embedding = model.get_input_embeddings().weight.clone()
    merged = model.merge_and_unload()
    after = merged(ids).logits
moved = float((merged.get_input_embeddings().weight - embedding).norm() / embedding.norm())
change = float((after - before).abs().max() / before.abs().max())
print(f"merging an adapter of lm_head: logits change by {change:.1e} of the largest, the embedding by {moved:.1e} in norm")
assert change > 1 and moved > 1e-2, "this has changed"
PYTHON
