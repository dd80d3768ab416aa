#!/usr/bin/env bash
# PyTorch 2.13.0 on a CPU: the same fp32 NaN becomes 0xFFFF or 0x7FC0 in bf16, as its tensor lies in
# memory.
#
# The vector code for contiguous tensors writes all ones, the scalar code for strided ones the usual
# quiet NaN; the sign and payload of the input are kept by neither.
# Expected: one conversion, one result. Seen: two.
# For a comparison of files bit for bit: NaN must be compared as NaN, or its form be fixed.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with torch==2.13.0 numpy==2.3.5
OMP_NUM_THREADS=1 "$python" - <<'PYTHON'
import torch

row = torch.full((64,), float("nan"))
column = torch.full((64, 2), float("nan"))[:, 0]
forms = [{hex(v & 0xFFFF) for v in x.to(torch.bfloat16).view(torch.int16).tolist()} for x in (row, column)]
print("contiguous:", forms[0], " strided:", forms[1])
assert forms == [{"0xffff"}, {"0x7fc0"}], "this has changed"
PYTHON
