#!/usr/bin/env bash
# transformers 5.24.0, torch 2.13.0: the embedding of the token that pad_token_id names is never
# trained, also where it is an ordinary token of the texts.
#
# pad_token_id is expected to concern padding. The models hand it to torch.nn.Embedding as
# padding_idx, which leaves that row out of the gradient wherever it occurs. Where the pad token is
# the end of text, as many configurations have it, full fine-tuning does not train its embedding.
# Expected: the same gradient with and without pad_token_id. Seen: none with it.
# For comparisons of full fine-tuning: set pad_token_id to a token that no text has.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

ids = torch.tensor([[5, 7, 2, 9, 2, 11]])
norms = {}
for pad in (None, 2):
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64, pad_token_id=pad)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[2] = 0.01  # the same row in both models
    model(ids, labels=ids).loss.backward()
    norms[pad] = float(model.model.embed_tokens.weight.grad[2].norm())
    print(f"pad_token_id {pad}: the gradient of token 2's embedding has norm {norms[pad]:.3f}")
assert norms[None] > 0 and norms[2] == 0, "this has changed"
PYTHON
