#!/usr/bin/env bash
# PEFT 0.21.2: an adapter of GPT-NeoX (Pythia) that was trained with transformers 4.57.6 loads with
# transformers 5.24.0 without its head.
#
# Version 5 calls the head lm_head in memory and still reads embed_out of the model's files, so that
# bases load as before. PEFT's directories have the module's name of the day: embed_out is no module of
# the model any more, and what cannot be placed is left out. As long as one other target is there, no
# error and no word of it comes.
# Expected: the logits that the adapter was saved with, or a refusal. Seen: other logits, by as much as
# their size, and no parameter of the head.
# For a reader of such directories: take both names for the head.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with peft==0.21.2 transformers==4.57.6 torch==2.13.0
cat >"$folder/shared.py" <<'PYTHON'
import os
import sys
import warnings

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

folder, ids = sys.argv[1], torch.arange(12)[None]


def base():
    return transformers.GPTNeoXForCausalLM.from_pretrained(f"{folder}/base")
PYTHON
OMP_NUM_THREADS=1 PYTHONPATH=$folder quietly "$python" - "$folder" <<'PYTHON'
from shared import *

torch.manual_seed(0)
config = transformers.GPTNeoXConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64, initializer_range=0.2)
transformers.GPTNeoXForCausalLM(config).save_pretrained(f"{folder}/base")
for name, targets in (("inner", ["query_key_value"]), ("head", ["query_key_value", "embed_out"])):
    model = get_peft_model(base(), LoraConfig(r=4, target_modules=targets, init_lora_weights=False)).eval()
    model.save_pretrained(f"{folder}/{name}")
    torch.save(model(ids).logits.detach(), f"{folder}/{name}.pt")
PYTHON
"$python" -m pip install --quiet --disable-pip-version-check transformers==5.24.0
OMP_NUM_THREADS=1 PYTHONPATH=$folder quietly "$python" - "$folder" <<'PYTHON'
from shared import *

apart = {}
for name in ("inner", "head"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base(), f"{folder}/{name}").eval()
    saved = torch.load(f"{folder}/{name}.pt")
    apart[name] = float((model(ids).logits - saved).abs().max() / saved.abs().max())
    factors = sum("lora_" in key for key, _ in model.named_parameters())
    said = any("head" in str(w.message) or "embed_out" in str(w.message) for w in caught)
    print(f"adapter {name}: {factors} factors in the model, logits off by {apart[name]:.1e} of the largest; a warning of the head: {said}")
    assert factors == 2 and not said, "this has changed"
assert apart["inner"] < 1e-5 and apart["head"] > 0.1, "this has changed"
PYTHON
