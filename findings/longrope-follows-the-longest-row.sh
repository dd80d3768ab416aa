#!/usr/bin/env bash
# transformers 5.24.0: with rope_type longrope a sequence's logits depend on how long the other rows
# of its batch are.
#
# A padded batch is expected to give what its rows give alone. longrope has one list of factors for
# up to original_max_position_embeddings positions and another beyond; which one is taken for the
# whole batch is decided by its longest row, so that one long row turns the short ones differently.
# Expected: equal logits. Seen: other logits beside a longer row, the same beside a short one.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch
from transformers import Phi3Config, Phi3ForCausalLM

torch.manual_seed(0)
rope = dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1.0] * 8, long_factor=[4.0] * 8, original_max_position_embeddings=16)
config = Phi3Config(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=64, pad_token_id=0,
                    max_position_embeddings=64, original_max_position_embeddings=16, rope_parameters=rope, initializer_range=0.2)
model = Phi3ForCausalLM(config).eval()
short, long = torch.randint(1, 64, (10,)), torch.randint(1, 64, (24,))


def first_row(*rows):
    length = max(len(row) for row in rows)
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    with torch.no_grad():
        return model(ids, attention_mask=mask).logits[0, : len(rows[0])]


alone = first_row(short)
change = {name: float((first_row(short, other) - alone).abs().max() / alone.abs().max()) for name, other in (("as short", short.flip(0)), ("longer", long))}
print("logits of a sequence of 10 tokens, beside those it has alone:", {f"with a row that is {name}": f"{value:.1e}" for name, value in change.items()})
assert change["as short"] < 1e-4 and change["longer"] > 1e-2, "this has changed"
PYTHON
