"""One arena a step: after the first step a step of training asks for no memory, whatever the method, model, product path, kept activations or grid.

tests/fault/allocation_shim.c is preloaded into `mpilora train` and counts malloc, calloc, realloc, memalign and mmap of rank 0 by the library that calls
them. The program and the C library on its behalf must not ask at all. Left out are what we call and cannot change, whose small blocks live no longer than
the call: Open MPI (requests; its plug-ins are gone when the process ends, so they have no name), libgomp (a team of threads where the
number differs from the last one's), OpenBLAS (a product's jobs) and oneDNN with the C++ library (a primitive's arguments).
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

SHIM = os.environ.get("MPILORA_ALLOCATION_SHIM", "")
MODELS = {
    "gpt2": "{family: gpt2, layers: 2, width: 64, heads: 4, vocab: 257, context: 128}",
    "llama": "{family: llama, layers: 2, width: 64, mlp_width: 160, heads: 4, kv_heads: 2, vocab: 257, context: 128}",
}
FOREIGN = re.compile(r"^unknown$|/(libmpi|libopen-|mca_|libpmix|libprrte|libevent|libuc[pst]|libfabric|libpsm|libgomp|libopenblas|libdnnl|libstdc)")
SEQUENCES, STEPS = 80, 5  # a micro-batch of 80 is more than the C library sorts without memory of its own
checks = harness.Checks()


def prepare(folder, family):
    """A base and a data set; neighbours of it begin alike. The longest sequences come late, so that no step is as large as the first."""
    model, base, lines, data = (os.path.join(folder, family + end) for end in (".yaml", ".h5", ".jsonl", ".data.h5"))
    with open(model, "w", encoding="ascii") as file:
        file.write(MODELS[family])
    harness.mpilora("import", "--init", "random", "--config", model, base)
    with open(lines, "w", encoding="ascii") as file:
        for i in range(STEPS * SEQUENCES):
            tokens = [(i // 4 * 31 + j) % 257 if j < 6 else (7 * i + 11 * j) % 257 for j in range(10 + i // 8)]
            file.write('{"input_ids": %s}\n' % tokens)
    harness.mpilora("tokenize", "--base", base, lines, data, "--format", "ids")
    return base, data


def count(folder, what, ranks, threads, **sections):
    """Places of rank 0 that asked for memory between the ends of the first and the last step: [(calls, library, offset)]."""
    where = os.path.join(folder, re.sub(r"\W+", "-", what))
    config = harness.write_config(where + ".yaml", run={"dir": where}, train={"steps": STEPS}, **sections)
    launcher = harness.launcher(ranks) if ranks > 1 else []
    shim = ["env", "LD_PRELOAD=" + SHIM, "ALLOCATIONS_FILE=" + where + ".allocations", f"ALLOCATIONS_TO={STEPS}", f"OMP_NUM_THREADS={threads}"]
    call = [*launcher, *shim, harness.PROGRAM, "train", config]
    done = subprocess.run(call, text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    if "cannot run here" in done.stderr:
        print(f"{what}: left out: {done.stderr.strip()}")
        return []
    if done.returncode:
        sys.exit(f"{shlex.join(call)} ended with {done.returncode}\n{done.stderr}")
    with open(where + ".allocations", encoding="utf-8") as file:
        lines = file.read().splitlines()
    seen = int(lines[-1].split()[1])
    checks.that(seen >= STEPS, f"{what}: the ends of {seen} steps were seen, expected at least {STEPS}")
    return [(int(calls), library, offset) for calls, library, offset in (line.split() for line in lines[:-1])]


def check(folder, what, source, ranks=1, threads=2, tp=1, method=None, precision="fp32", data=None, **sections):
    base, file = source
    found = count(folder, what, ranks, threads, base=base, method=method or {"targets": ["all"]}, precision=precision, parallel={"tp": tp},
                  data={"train": file, "max_len": 128, "shuffle": False, **(data or {})}, batch={"sequences": SEQUENCES, "micro": SEQUENCES}, **sections)
    for calls, library, offset in found:
        checks.that(FOREIGN.search(library), f"{what}: {calls} allocations in {STEPS - 1} steps, asked for by {library} {offset} (addr2line -f -e {library} {offset})")


def check_all(folder):
    gpt2, llama = prepare(folder, "gpt2"), prepare(folder, "llama")
    dropout = {"targets": ["all"], "dropout": 0.1}
    for path in ("native", "blas", "onednn", "ref"):
        check(folder, f"product path {path}", gpt2, precision="bf16", kernels={"product": path})
    check(folder, "fp32, chosen by measurement", gpt2)
    check(folder, "Llama, bf16", llama, precision="bf16")
    check(folder, "dropout", llama, method=dropout)
    check(folder, "full", gpt2, method={"name": "full"})
    check(folder, "full, bf16, Llama", llama, method={"name": "full"}, precision="bf16")
    for kept in ("selective", "checkpoint"):
        check(folder, f"activations {kept}", llama, precision="bf16", memory={"activations": kept})
    check(folder, "prompts computed each", gpt2, data={"share_prompts": False})
    check(folder, "prompts kept together", gpt2, data={"group_prompts": True, "shuffle": True})
    check(folder, "dp 2", gpt2, ranks=2, threads=1, precision="bf16")
    check(folder, "tp 2", llama, ranks=2, threads=1, tp=2, precision="bf16")


if not SHIM:
    print("skipped: the counting library does not go together with the sanitizers")
    sys.exit(77)
with tempfile.TemporaryDirectory() as scratch:
    check_all(scratch)
checks.end()
