#!/usr/bin/env bash
# transformers 5.24.0: of a tensor that stands in two files the last file by name is taken, whatever
# the index says.
#
# model.safetensors.index.json maps each tensor to a file (weight_map). A file with a few new tensors
# laid over an old checkpoint is therefore expected to count where weight_map names it. The names of
# the files are collected from weight_map, sorted, and all their tensors are read into one
# dictionary, so that the last file wins.
# Expected: the head that weight_map names. Seen: only where the overlay's name sorts behind the old
# file's; else the old head, without a warning.
# For a reader: take the last file by name to mean the same, and say so where weight_map differs.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - "$folder/model" <<'PYTHON'
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

folder = sys.argv[1]
torch.manual_seed(0)
sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64)
LlamaForCausalLM(LlamaConfig(initializer_range=0.5, tie_word_embeddings=False, **sizes)).save_pretrained(folder)
old = load_file(f"{folder}/model.safetensors")
os.remove(f"{folder}/model.safetensors")
new = {"lm_head.weight": old["lm_head.weight"] / 2}
counts = []
for first, second in (("a", "b"), ("b", "a")):  # names of the old file and of the overlay
    save_file(old, f"{folder}/{first}.safetensors", {"format": "pt"})
    save_file(new, f"{folder}/{second}.safetensors", {"format": "pt"})
    weight_map = dict.fromkeys(old, f"{first}.safetensors") | {"lm_head.weight": f"{second}.safetensors"}
    with open(f"{folder}/model.safetensors.index.json", "w") as file:
        json.dump({"metadata": {}, "weight_map": weight_map}, file)
    head = LlamaForCausalLM.from_pretrained(folder).lm_head.weight
    counts.append(torch.equal(head, new["lm_head.weight"]))
    print(f"weight_map says the head is in {second}.safetensors:", "it is read from there" if counts[-1] else "the old one is read")
assert counts == [True, False], "this has changed"
PYTHON
