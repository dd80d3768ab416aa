"""Attention whose scores are in the hundreds and thousands, as models with large biases of keys have them: gradients in bf16 are of the size that they
have in fp32. Backward makes probabilities again from what forward kept, so forward must have computed with just these numbers: a score of 1,000 that was
rounded in between is off by several units, and its exponential by as many powers of e."""

import array
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

checks = harness.Checks()
MODELS = {  # of one layer: below a second one the scores' own gradients would decide, and rounded they are others
    "llama": "{family: llama, layers: 1, width: 32, mlp_width: 64, heads: 2, kv_heads: 1, vocab: 97, context: 64}",
    "qwen3": "{family: qwen3, layers: 1, width: 32, mlp_width: 64, heads: 2, kv_heads: 2, vocab: 97, context: 64}",  # norms of each head of queries and keys
    "olmo2": "{family: olmo2, layers: 1, width: 32, mlp_width: 64, heads: 2, vocab: 97, context: 64}",  # of all heads
}
LARGER = 400  # queries and keys, so scores by the square
SEQUENCES = [[(7 * i * i + 5 * s * i + s) % 97 for i in range(20 + 3 * s)] for s in range(6)]


def is_larger(name):
    """Weights that make queries and keys, or the norms behind them."""
    return name.endswith(("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight"))


def enlarge(path):
    with open(path, "rb") as file:
        data = bytearray(file.read())
    length = int.from_bytes(data[:8], "little")
    for name, tensor in json.loads(data[8 : 8 + length]).items():
        if not is_larger(name):
            continue
        assert tensor["dtype"] == "F32", tensor
        first, last = (8 + length + at for at in tensor["data_offsets"])
        numbers = array.array("f", bytes(data[first:last]))
        factor = 40 if "norm" in name else LARGER
        data[first:last] = array.array("f", [factor * x for x in numbers]).tobytes()
    with open(path, "wb") as file:
        file.write(data)


def norm_of(config, *settings):
    words = [word for setting in settings for word in ("--set", setting)]
    done = harness.start("train", config, "--fresh", *words)
    if done.returncode:
        return float("nan")
    with open(config) as file:
        return harness.read_metrics(json.load(file)["run"]["dir"])[0]["grad_norm"]


def check_model(folder, name):
    harness.make_base(folder, MODELS[name], dtype="fp32")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/base.h5", f"{folder}/hf")
    enlarge(f"{folder}/hf/model.safetensors")
    harness.mpilora("import", f"{folder}/hf", f"{folder}/base.h5", "--dtype", "fp32")
    harness.make_data(folder, SEQUENCES)
    config = harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", method={"name": "lora", "rank": 4, "targets": ["v"]}, precision="fp32",
                                  data={"train": f"{folder}/data.h5", "max_len": 48}, batch={"sequences": 6, "micro": 3}, train={"steps": 1})  # fmt: skip
    expected = norm_of(config)
    for settings in (["memory.activations=full"], ["memory.activations=selective"], ["memory.activations=checkpoint"], ["numerics=grid"], ["kernels.vector=ref"]):
        found = norm_of(config, "precision=bf16", *settings)
        checks.that(expected / 2 < found < 2 * expected, f"{name}, {settings}: gradient norm {found} in bf16, {expected} in fp32")


def main():
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            check_model(folder, name)
    checks.end()


main()
