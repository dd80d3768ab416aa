#!/usr/bin/env bash
# compressed-tensors 0.17.1 and 0.20.0: matrices of "pack-quantized" in 3, 5, 6 and 7 bits that the
# older version wrote come out of the newer one as other numbers, without a word.
#
# Since 0.18 values lie in their 32-bit words without gaps. Before, no value crossed a word: ten of 3
# bits, and two bits of nothing. The names of the tensors and the configuration are the same, so only
# the number of words in a row tells the layouts apart.
# Expected: a file means the same to both versions, or is refused. Seen: so in 2, 4 and 8 bits, which
# divide a word; otherwise most numbers differ.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with compressed-tensors==0.17.1 psutil==7.2.2 transformers==5.24.0 torch==2.13.0 numpy==2.3.5
FOLDER=$folder quietly "$python" - <<'PYTHON'
import os

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

torch.manual_seed(0)
written = {}
for bits in range(2, 9):
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (64, 256), dtype=torch.int8)
    written[bits] = values, pack_to_int32(values, bits)
torch.save(written, f"{os.environ['FOLDER']}/written.pt")
PYTHON
python_with compressed-tensors==0.20.0
FOLDER=$folder quietly "$python" - <<'PYTHON'
import os

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

shares = {}
for bits, (values, packed) in torch.load(f"{os.environ['FOLDER']}/written.pt").items():
    shares[bits] = float((unpack_from_int32(packed, bits, values.shape) != values).float().mean())
    print(f"{bits} bits, rows of {values.shape[1]}: {packed.shape[1]} words written by 0.17.1, {pack_to_int32(values, bits).shape[1]} by 0.20.0; "
          f"0.20.0 reads {100 * shares[bits]:.0f} % of the former's numbers as others")
assert all((shares[bits] > 0.4) == (32 % bits != 0) and (shares[bits] == 0) == (32 % bits == 0) for bits in shares), "this has changed"
PYTHON
