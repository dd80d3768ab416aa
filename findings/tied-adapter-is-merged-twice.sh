#!/usr/bin/env bash
# PEFT 0.21.2: with ensure_weight_tying, the option for models with tied embeddings, an adapter of the
# embedding is merged twice.
#
# The option lets the head and the embedding have one and the same pair of factors, and so they compute
# before merging. Each of the two then adds its product to its weight when it is merged, and both
# weights are one.
# Expected: the same logits after merge_and_unload, and an embedding that has moved by B·A once.
# Seen: other logits, by as much as their size, and an embedding that has moved by 2·B·A.
# For a program that merges such an adapter: add it to one of the two.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with peft==0.21.2 transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 quietly "$python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64, tie_word_embeddings=True,
                     initializer_range=0.2)
ids = torch.arange(12)[None]
seen = {}
for target in ("q_proj", "embed_tokens"):
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=[target], ensure_weight_tying=True, init_lora_weights=False)).eval()
    layer = next(module for name, module in model.named_modules() if name.endswith(target))
    with torch.no_grad():
        before, old, delta = model(ids).logits, layer.get_base_layer().weight.clone(), layer.get_delta_weight("default")
        merged = model.merge_and_unload()
        after, new = merged(ids).logits, next(module for name, module in merged.named_modules() if name.endswith(target)).weight
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    times = float(((new - old) * delta).sum() / (delta * delta).sum())
    seen[target] = float((after - before).abs().max() / before.abs().max()), times
    print(f"adapter of {target}: merging changes the logits by {seen[target][0]:.1e} of the largest and the weight by {times:.3f} · B·A")
assert seen["q_proj"][0] < 1e-4 and abs(seen["q_proj"][1] - 1) < 1e-3, "this has changed"
assert seen["embed_tokens"][0] > 1e-2 and abs(seen["embed_tokens"][1] - 2) < 1e-3, "this has changed"
PYTHON
