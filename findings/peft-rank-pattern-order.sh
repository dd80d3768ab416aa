#!/usr/bin/env bash
# PEFT 0.21.2, transformers 5.24.0: an adapter whose rank_pattern has two keys that both match a
# module does not come back after save_pretrained.
#
# In memory the first matching key of the dictionary counts, in the order in which it was written.
# adapter_config.json is written with its keys sorted, so that another key may stand first when the
# adapter is loaded: a module then has another rank than its tensors in the file.
# Expected: what was saved loads. Seen: RuntimeError, a size mismatch.
# For a reader: follow the order of the file, and compare the rank with the tensors' shapes.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with peft==0.21.2 transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - "$folder/adapter" <<'PYTHON'
import json
import sys

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64)
pattern = {"q_proj": 4, "layers.0.self_attn.q_proj": 8}  # "q_proj" stands first and matches every layer
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules=["q_proj"], rank_pattern=pattern))
ranks = [p.shape[0] for name, p in model.named_parameters() if "lora_A" in name]
model.save_pretrained(sys.argv[1])
order = list(json.load(open(f"{sys.argv[1]}/adapter_config.json"))["rank_pattern"])
print("ranks in memory:", ranks)
print("order in the file:", order)
try:
    PeftModel.from_pretrained(LlamaForCausalLM(config), sys.argv[1])
    loaded = True
except RuntimeError as error:
    loaded = False
    print("loading:", str(error).splitlines()[1].strip())
assert ranks == [4, 4] and order[0] != "q_proj" and not loaded, "this has changed"
PYTHON
