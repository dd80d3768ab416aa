#!/usr/bin/env bash
# transformers 5.24.0: a Falcon model with ALiBi computes other logits with eager attention than with
# sdpa.
#
# The ways to compute attention are expected to differ by rounding alone. With eager attention the
# mask that is handed to the layers has the bias in it already, and the layers add it again, so each
# score gets it twice. sdpa, the default, adds it once.
# Expected: equal logits. Seen: off by a tenth of the largest.
# For a reference: take sdpa.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch
from transformers import FalconConfig, FalconForCausalLM

sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=64, initializer_range=0.2)
kind = dict(multi_query=False, parallel_attn=False, new_decoder_architecture=False)
ids = torch.arange(24).reshape(1, 24)
difference = {}
for alibi in (False, True):
    logits = {}
    for way in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = FalconForCausalLM(FalconConfig(alibi=alibi, attn_implementation=way, **kind, **sizes)).eval()
        with torch.no_grad():
            logits[way] = model(ids).logits
    difference[alibi] = float((logits["eager"] - logits["sdpa"]).abs().max() / logits["sdpa"].abs().max())
    print(f"alibi {alibi}: the logits of eager and sdpa differ by {difference[alibi]:.1e} of the largest")
assert difference[False] < 1e-4 and difference[True] > 1e-2, "this has changed"
PYTHON
