#!/usr/bin/env bash
# transformers 5.24.0: a rope_scaling that names its kind with `type`, the key's first name, has no
# effect on Gemma 3, and is followed by Llama.
#
# Version 5 still takes `type` where there is no rope_type. Gemma 3 lays rope_scaling over defaults that
# have a rope_type of their own, default, so that there always is one; the factor is kept in the
# configuration and never used, without a warning.
# Expected: either name gives the same logits, as in Llama. Seen: with `type` Gemma 3's logits are those
# of a model without rope_scaling.
# For writers of configurations: write rope_type. For readers: look for `type` before any default.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 quietly "$python" - <<'PYTHON'
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
         "initializer_range": 0.2}
ids, same = torch.arange(40)[None], {}
for kind, config, more in ((LlamaForCausalLM, LlamaConfig, {}), (Gemma3ForCausalLM, Gemma3TextConfig, {"layer_types": ["full_attention"]})):
    logits = {}
    for key in (None, "type", "rope_type"):
        torch.manual_seed(0)
        model = kind(config(**SIZES, **more, rope_scaling={key: "linear", "factor": 8.0} if key else None)).eval()
        with torch.no_grad():
            logits[key] = model(ids).logits
    apart = {key: float((logits["type"] - logits[key]).abs().max() / logits[key].abs().max()) for key in ("rope_type", None)}
    same[kind] = apart["rope_type"] == 0, apart[None] == 0
    print(f"{kind.__name__}: with `type` logits are off by {apart['rope_type']:.1e} from those with rope_type, by {apart[None]:.1e} from those without a scaling")
assert same[LlamaForCausalLM] == (True, False) and same[Gemma3ForCausalLM] == (False, True), "this has changed"
PYTHON
