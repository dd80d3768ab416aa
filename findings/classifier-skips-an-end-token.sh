#!/usr/bin/env bash
# transformers 5.24.0: a decoder that classifies, or gives a reward, reads its score one token too
# early where a text ends in the token that also pads, as texts do that are closed by an end token.
#
# The score is taken at the last token that is not pad_token_id; the attention mask, which says what
# is padding, is not asked. With the usual pad_token_id = eos_token_id the end token of a text never
# gets a score, though it is real, is attended to, and was asked for by who appended it.
# Expected: the score of a text with its end token, alone in its batch, mask all ones, is that of the
# end token. Seen: the score of the token before it, the same bits as without an end token.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with transformers==5.24.0 torch==2.13.0
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

END, OTHER = 1, 2
torch.manual_seed(0)
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                     num_labels=1, eos_token_id=END, pad_token_id=END, initializer_range=0.3)
model = LlamaForSequenceClassification(config).eval()
text = torch.arange(5, 15)
closed, marked = torch.cat([text, torch.tensor([END])]), torch.cat([text, torch.tensor([OTHER])])


def score(ids):
    with torch.no_grad():
        return float(model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits)


with torch.no_grad():
    hidden = model.model(input_ids=closed[None]).last_hidden_state
    at_end = float(model.score(hidden[0, -1]))
print(f"without an end token {score(text):.6f}, with one {score(closed):.6f}, at the end token {at_end:.6f}; with another last token {score(marked):.6f}")
assert abs(score(closed) - score(text)) < 1e-6 < 1e-3 < abs(score(closed) - at_end), "this has changed"
assert abs(score(marked) - score(text)) > 1e-3, "this has changed"
PYTHON
