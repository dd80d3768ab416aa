#!/usr/bin/env bash
# PyTorch 2.13.0 on a CPU: in a model of bf16 weights the gradients of an embedding and of LayerNorm
# are added up over the tokens in bf16, those of a Linear's bias are not.
#
# A sum is expected to be kept in fp32 and rounded at its end, as torch.sum does it, matrix products
# do it, and index_add_ of the same rows does it. These gradients are running sums in bf16, of 8 bits,
# which take up nothing any more that is smaller than half a unit in their last place: a token that
# stands often in a batch has a gradient that depends on the order and stops growing.
# Expected: 8192 tokens with a gradient of 1 each give 8192 everywhere. Seen: 256 for the token's row of
# the embedding and for LayerNorm's bias. With gradients of either sign they are off by some per cent.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with torch==2.13.0 numpy==2.3.5
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch
import torch.nn.functional as F

TOKENS, WIDTH = 8192, 32
torch.manual_seed(0)
ids, inputs = torch.zeros(TOKENS, dtype=torch.long), torch.randn(TOKENS, WIDTH)


def gradients(dtype, arriving):
    parameters = {"embedding": torch.zeros(2, WIDTH), "LayerNorm's bias": torch.zeros(WIDTH), "Linear's bias": torch.zeros(WIDTH)}
    parameters = {name: value.to(dtype).requires_grad_() for name, value in parameters.items()}
    x, one = inputs.to(dtype), torch.ones(WIDTH, dtype=dtype)
    outputs = (F.embedding(ids, parameters["embedding"]), F.layer_norm(x, (WIDTH,), one, parameters["LayerNorm's bias"]),
               F.linear(x, torch.eye(WIDTH, dtype=dtype), parameters["Linear's bias"]))
    for output in outputs:
        output.backward(arriving.to(dtype))
    found = {name: value.grad.reshape(-1, WIDTH)[0] for name, value in parameters.items()}
    return found | {"index_add_": torch.zeros(2, WIDTH, dtype=dtype).index_add_(0, ids, arriving.to(dtype))[0]}


ones, signed = torch.ones(TOKENS, WIDTH), torch.randn(TOKENS, WIDTH).bfloat16().float()
of_ones, of_signed, exact = gradients(torch.bfloat16, ones), gradients(torch.bfloat16, signed), signed.double().sum(0)
error = {name: float((value - exact).norm() / exact.norm()) for name, value in of_signed.items()}
for name, value in of_ones.items():
    print(f"{name}: {TOKENS} gradients of 1 make {float(value[0]):.0f}; of either sign the sum is off by {100 * error[name]:.1f} %")
late = ("embedding", "LayerNorm's bias")
assert all((float(of_ones[name][0]) == 256) == (name in late) and (error[name] > 0.02) == (name in late) for name in error), "this has changed"
PYTHON
