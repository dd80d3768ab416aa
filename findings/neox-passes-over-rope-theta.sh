#!/usr/bin/env bash
# transformers 5.24.0: rope_theta and partial_rotary_factor at the top of a configuration have no effect
# on GPT-NeoX (Pythia), and are followed by Llama, StableLM and the other families.
#
# GPT-NeoX had its own words first, rotary_emb_base and rotary_pct, and only these are taken into
# rope_parameters; the usual ones are kept in the configuration as fields that nothing reads, without a
# warning. Version 4 wrote both pairs into every config.json, so that either looks like the one to edit.
# Expected: a larger rope_theta, as one sets for longer texts, changes the logits. Seen: it changes
# StableLM's and not GPT-NeoX's, which rotary_emb_base changes.
# For writers of configurations: rope_parameters says it for every family. For readers: where both words
# are there and disagree, no reading is safe.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 quietly "$python" - <<'PYTHON'
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, StableLmConfig, StableLmForCausalLM

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64, "initializer_range": 0.2}
ids = torch.arange(40)[None]


def logits(kind, config, **more):
    torch.manual_seed(0)
    with torch.no_grad():
        return kind(config(**SIZES, **more)).eval()(ids).logits


seen = {}
for kind, config in ((StableLmForCausalLM, StableLmConfig), (GPTNeoXForCausalLM, GPTNeoXConfig)):
    plain = logits(kind, config)
    for key, value in (("rope_theta", 500.0), ("partial_rotary_factor", 0.5), ("rotary_emb_base", 500.0), ("rotary_pct", 0.5)):
        apart = float((logits(kind, config, **{key: value}) - plain).abs().max())
        seen[kind, key] = apart > 0
        print(f"{kind.__name__}: {key} {value} changes logits by {apart:.1e}")
assert [seen[StableLmForCausalLM, key] for key in ("rope_theta", "partial_rotary_factor")] == [True, True], "this has changed"
assert [seen[GPTNeoXForCausalLM, key] for key in ("rope_theta", "partial_rotary_factor", "rotary_emb_base", "rotary_pct")] == [False, False, True, True], "this has changed"
PYTHON
