#!/usr/bin/env bash
# transformers 5.24.0: a directory in FP8 blocks whose matrices are no whole blocks wide loads as
# other weights, without a word, where the width happens to divide by the number of scales.
#
# config.json says weight_block_size [128, 128] and each matrix has ceil(rows / 128) × ceil(columns /
# 128) scales: the last block is cut short, as DeepSeek's own code and compressed-tensors write it.
# Reading, transformers takes the side over the number of scales as the block: 192 columns with two
# scales become two blocks of 96, and columns 96 to 127 get the scale of the second block.
# Expected: each weight times the scale of block (row / 128, column / 128). Seen: so for a side of 256;
# for 192 a third of the columns of each row that carries two scales is wrong.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 accelerate==1.15.0 torch==2.13.0 numpy==2.3.5
FOLDER=$folder OMP_NUM_THREADS=1 quietly "$python" - <<'PYTHON'
import json
import os

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

BLOCK, NAME = 128, "model.layers.0.mlp.gate_proj"
shares = {}
for width in (256, 192):
    folder = f"{os.environ['FOLDER']}/{width}"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=width, intermediate_size=256, num_hidden_layers=1,
                                 num_attention_heads=4, num_key_value_heads=4)).save_pretrained(folder)
    tensors, meant = load_file(f"{folder}/model.safetensors"), {}
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        weight = tensors[name]
        rows, columns = (-(-side // BLOCK) for side in weight.shape)
        scales = torch.arange(1, rows * columns + 1).reshape(rows, columns) / 1024
        wide = scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[: weight.shape[0], : weight.shape[1]]
        tensors[name] = (weight / wide).to(torch.float8_e4m3fn)
        tensors[name.replace("weight", "weight_scale_inv")] = scales
        meant[name] = tensors[name].float() * wide
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    config = json.load(open(f"{folder}/config.json"))
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic",
                                     "weight_block_size": [BLOCK, BLOCK], "dequantize": True}
    json.dump(config, open(f"{folder}/config.json", "w"))
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()[NAME + ".weight"]
    shares[width] = float(((found - meant[NAME + ".weight"]).abs() > 1e-6).float().mean())
    print(f"{width} columns in blocks of {BLOCK}: {100 * shares[width]:.1f} % of the weights of {NAME} are others than the file's")
assert shares[256] == 0 and 0.1 < shares[192] < 0.2, "this has changed"
PYTHON
