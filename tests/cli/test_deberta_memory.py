"""Disentangled attention in memory that grows with the tokens, forward and backward: a training step on one text of 1,024, 2,048 and 4,096 tokens, what is accounted and
what the process has at most. One T x T matrix of a head would be 64 MiB at 4,096 tokens."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

LENGTHS = (1024, 2048, 4096)
HEADS = 2
MODEL = {"family": "deberta_v2", "layers": 2, "width": 32, "heads": HEADS, "mlp_width": 64, "vocab": 500, "context": 4096, "norm_eps": 1e-7, "positions": "none",
         "relative_keys": True, "relative_queries": True, "relative_shared": True, "relative_norm": True, "relative_distances": 512, "relative_buckets": 256}


def measure(folder, length):
    """Bytes of passes as they are accounted, and the process's peak."""
    with open(f"{folder}/{length}.jsonl", "w") as file:
        ids = [5 + (7 * k * k + k) % 490 for k in range(length)]
        file.write(json.dumps({"input_ids": ids, "label": 1}) + "\n")
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", "--labels", "2", f"{folder}/{length}.jsonl", f"{folder}/{length}.h5")
    path = harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", objective={"name": "classify"},
                                method={"name": "lora", "rank": 2, "targets": ["q", "v"]}, data={"train": f"{folder}/{length}.h5", "max_len": length},
                                batch={"sequences": 1, "micro": 1}, optim={"lr": 1e-3}, train={"steps": 1}, precision="fp32", kernels={"product": "native"})
    harness.mpilora("train", path, "--fresh")
    memory = harness.read_summary(f"{folder}/run")["memory"]
    return memory["activation"] + memory["workspace"], memory["process_peak_bytes"]


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, json.dumps(MODEL), dtype="fp32")
        accounted, process = zip(*(measure(folder, length) for length in LENGTHS))
    for length, bytes_of_passes, peak in zip(LENGTHS, accounted, process):
        print(f"{length} tokens: {bytes_of_passes / 1e6:.1f} MB in passes, {peak / 1e6:.1f} MB in the process")
    for what, found in (("accounted", accounted), ("process", process)):
        first, second = found[1] - found[0], found[2] - found[1]
        checks.that(second <= 2.3 * first, f"{what}: {found[2]} bytes at {LENGTHS[2]} tokens, {second} more than at half of them, which has {first} more than at a quarter")
    checks.that(process[2] - process[0] < 4 * LENGTHS[2] ** 2, f"the process grows by {process[2] - process[0]} bytes, a matrix of all queries and keys")
    checks.end()


main()
