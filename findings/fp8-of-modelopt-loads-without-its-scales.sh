#!/usr/bin/env bash
# transformers 5.24.0: a directory that NVIDIA's ModelOpt has packed in FP8 loads as other weights.
#
# config.json says quant_method "modelopt", which transformers does not know: it says so in a warning
# and goes on as if the directory were not packed. Each weight is E4M3 and has the shape of the
# matrix, so it fits, and is converted; "weight_scale" beside it belongs to no module and is left.
# Expected: a refusal. Seen: the codes, up to 448, as weights, every matrix too large by
# 1 / weight_scale.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 accelerate==1.15.0 torch==2.13.0 numpy==2.3.5
FOLDER=$folder OMP_NUM_THREADS=1 quietly "$python" - <<'PYTHON'
import json
import os

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

folder, name = f"{os.environ['FOLDER']}/model", "model.layers.0.mlp.gate_proj.weight"
torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1,
                             num_attention_heads=4, num_key_value_heads=4)).save_pretrained(folder)
tensors = load_file(f"{folder}/model.safetensors")
for key in [n for n in tensors if n.endswith("_proj.weight")]:
    scale = tensors[key].abs().max() / 448
    tensors[key] = (tensors[key] / scale).to(torch.float8_e4m3fn)
    tensors[key + "_scale"] = scale
meant = tensors[name].float() * tensors[name + "_scale"]
save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
config = json.load(open(f"{folder}/config.json"))
config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"],
                                 "producer": {"name": "modelopt", "version": "0.47.0"}}
json.dump(config, open(f"{folder}/config.json", "w"))
found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()[name]
print(f"largest weight of {name}: {meant.abs().max():.4f} is meant, {found.abs().max():.0f} was loaded")
assert torch.equal(found, tensors[name].float()), "this has changed"
PYTHON
