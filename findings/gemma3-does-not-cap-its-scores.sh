#!/usr/bin/env bash
# transformers 5.24.0: Gemma 3 takes attn_logit_softcapping from its configuration, keeps it, writes
# it out again, and computes as if it were not there.
#
# A key that Gemma 2 and Gemma 3 both have is expected to mean the same in both: scores are bounded
# by cap · tanh(score / cap). Gemma 2 does that with eager attention. Gemma 3's attention reads the
# value and hands it to nobody, so a model that was trained with a cap computes other logits.
# Expected: other logits with a cap of 0.5 than without one. Seen: of Gemma 3 the same bits.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=96, vocab_size=64,
             initializer_range=0.3, attn_implementation="eager")
ids = torch.arange(24).reshape(1, 24)
difference = {}
for name, config, kind in (("Gemma 2", Gemma2Config, Gemma2ForCausalLM), ("Gemma 3", Gemma3TextConfig, Gemma3ForCausalLM)):
    logits = []
    for cap in (None, 0.5):
        torch.manual_seed(0)
        model = kind(config(attn_logit_softcapping=cap, **sizes)).eval()
        assert model.config.to_dict()["attn_logit_softcapping"] == cap
        with torch.no_grad():
            logits.append(model(ids).logits)
    difference[name] = float((logits[0] - logits[1]).abs().max() / logits[0].abs().max())
    print(f"{name}: a cap of 0.5 on the scores changes the logits by {difference[name]:.1e} of the largest")
assert difference["Gemma 2"] > 1e-3 and difference["Gemma 3"] == 0, "this has changed"
PYTHON
