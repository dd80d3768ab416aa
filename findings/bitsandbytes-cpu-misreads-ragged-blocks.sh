#!/usr/bin/env bash
# bitsandbytes 0.50.2 on a CPU with AVX-512: where the rows of a matrix are no multiple of the block
# size, what quantize_4bit has packed comes out of dequantize_4bit as other numbers, without a word.
#
# Blocks run over the flattened matrix, so the last block of a row goes on in the next one; that is
# how the packed bytes and scales are written, and how the files on the hub are made. The kernel with
# AVX-512 takes a row as whole blocks and reads another block's scale; the one without does not.
# Expected: each number is its code times the scale of block number (index / block size), as for
# rows that the block size divides, on every processor. Seen: so there, and so without AVX-512, but
# with it errors as large as the numbers elsewhere.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with bitsandbytes==0.50.2 torch==2.13.0 numpy==2.3.5
OMP_NUM_THREADS=1 quietly "$python" - <<'PYTHON'
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

BLOCK = 64
torch.manual_seed(0)
wrong = {}
for rows, columns in ((8, 128), (8, 96), (3, 160)):
    weights = torch.randn(rows, columns)
    packed, state = quantize_4bit(weights, blocksize=BLOCK, quant_type="nf4")
    found = dequantize_4bit(packed, state)
    halves = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten()[: rows * columns].long()
    meant = (state.code[halves] * state.absmax[torch.arange(rows * columns) // BLOCK]).reshape(rows, columns)
    wrong[columns] = float((found - meant).abs().max())
    print(f"rows of {columns} in blocks of {BLOCK}: largest error {float((meant - weights).abs().max()):.2f} as packed, "
          f"{float((found - weights).abs().max()):.2f} as dequantize_4bit reads it")
with open("/proc/cpuinfo", encoding="ascii") as file:
    wide = "avx512f" in file.read()
print("this processor has" if wide else "this processor lacks", "AVX-512")
assert wrong[128] == 0 and all((wrong[columns] > 0.5 if wide else wrong[columns] == 0) for columns in (96, 160)), "this has changed"
PYTHON
