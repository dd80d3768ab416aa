#!/usr/bin/env bash
# transformers 5.24.0: sequences packed into one row by restarting position_ids attend to each other
# unless use_cache=False is given and attention_mask is not.
#
# The block mask of a packed row is made from position_ids only where there is neither a cache nor a
# mask. A plain call has use_cache=True by its configuration's default, and a collator that adds the
# usual attention_mask of ones switches the block mask off as well; neither says a word.
# Expected: a mask of ones means the same as no mask, and a cache changes no logits.
# Seen: only one of the three calls gives the second sequence the logits that it has alone.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64)).eval()
first, second = torch.arange(5, 13)[None], torch.arange(20, 28)[None]
both, positions = torch.cat([first, second], 1), torch.arange(8).repeat(2)[None]
alone = model(second).logits


def difference(**more):
    return float((model(both, position_ids=positions, **more).logits[:, 8:] - alone).abs().max() / alone.abs().max())


seen = {
    "plain call": difference(),
    "use_cache=False": difference(use_cache=False),
    "use_cache=False, mask of ones": difference(use_cache=False, attention_mask=torch.ones_like(both)),
}
for name, value in seen.items():
    print(f"{name}: the second sequence differs from itself alone by {value:.1e}")
apart = [value < 1e-5 for value in seen.values()]
assert apart == [False, True, False], "this has changed"
PYTHON
