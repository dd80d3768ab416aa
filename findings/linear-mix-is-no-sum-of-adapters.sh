#!/usr/bin/env bash
# PEFT 0.21.2: add_weighted_adapter(combination_type="linear") does not give the weighted sum of what
# the adapters add to a weight.
#
# It mixes the factors A and the factors B apart, each by the root of the weight, so the product has
# the mixed terms B1·A2 and B2·A1 as well. "cat" is exact, at the sum of the ranks.
# Expected: delta = 0.5·delta1 + 0.5·delta2. Seen: off by more than half of it in norm.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with peft==0.21.2 transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64)
lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
model = get_peft_model(LlamaForCausalLM(config), lora, adapter_name="one")
model.add_adapter("two", lora)
layer = next(module for name, module in model.named_modules() if name.endswith("q_proj"))
wanted = 0.5 * layer.get_delta_weight("one") + 0.5 * layer.get_delta_weight("two")
error = {}
for kind in ("linear", "cat"):
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], kind, combination_type=kind)
    error[kind] = float((layer.get_delta_weight(kind) - wanted).norm() / wanted.norm())
print("relative error:", {kind: f"{value:.1e}" for kind, value in error.items()})
assert error["linear"] > 0.5 and error["cat"] < 1e-5, "this has changed"
PYTHON
