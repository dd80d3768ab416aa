"""--activations q8: log-probabilities and losses near those of exact activations, the same with every instruction set, on two ranks, one token at a time and several;
results say so; what it is not for is refused."""

import json
import os
import random
import sys
import tempfile

try:
    import numpy
except ImportError:
    print("numpy is not installed: skipped")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import gguf_models
import harness

checks = harness.Checks()
WIDTH, MLP, HEADS, KV_HEADS, VOCAB, LAYERS = 256, 512, 4, 2, 257, 2
FORMATS = ["q8_0", "q4_k", "q5_1"]


def write_model(path):
    """Random weights and a tokenizer of bytes."""
    rng = numpy.random.default_rng(19)
    shapes = {"token_embd": (VOCAB, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in (("attn_q", (WIDTH, WIDTH)), ("attn_k", (WIDTH // 2, WIDTH)), ("attn_v", (WIDTH // 2, WIDTH)), ("attn_output", (WIDTH, WIDTH)),
                   ("ffn_gate", (MLP, WIDTH)), ("ffn_up", (MLP, WIDTH)), ("ffn_down", (WIDTH, MLP)))}  # fmt: skip
    tensors = {f"{name}.weight": (shape, rng.normal(0, 0.08, shape).astype("<f4").tobytes()) for name, shape in shapes.items()}
    for name in ("output_norm", *(f"blk.{layer}.{norm}" for layer in range(LAYERS) for norm in ("attn_norm", "ffn_norm"))):
        tensors[f"{name}.weight"] = ((WIDTH,), numpy.ones(WIDTH, "<f4").tobytes())
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    gguf_models.write_file(path, "llama", {
        "block_count": LAYERS, "embedding_length": WIDTH, "feed_forward_length": MLP, "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "context_length": 128,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0, "rope.dimension_count": WIDTH // HEADS, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": [*(chr(b) if b in plain else chr(256 + others.index(b)) for b in range(256)), "ab"],
        "tokenizer.ggml.merges": ["a b"],
    }, tensors)  # fmt: skip


def log_probs(folder, base, *words, ranks=0, vector=None):
    """Of three prompts: lists of a token and its log-probability, of the prompt and what follows."""
    if vector:
        os.environ["MPILORA_VECTOR_PATH"] = vector
    said = harness.mpilora("generate", "--base", base, "--prompts", f"{folder}/prompts.jsonl", "--max-new", 6, "--logprobs", 0, "--echo", "--precision", "fp32", *words, ranks=ranks)
    os.environ.pop("MPILORA_VECTOR_PATH", None)
    lines = [json.loads(line) for line in said.splitlines()]
    checks.that(all(line.get("activations") == ("q8" if "q8" in words else None) for line in lines), f"{words}: the lines do not tell the activations: {lines[0]}")
    return [list(zip(line["logprobs"]["tokens"], line["logprobs"]["logprobs"])) for line in lines]


def distance(a, b):
    """The third smallest, as far as both chose the same tokens. Where a sum has other last bits, a code may become its neighbour, and from that token on results differ by as much
    as rounding changes them; but some tokens stand before all such."""
    both = []
    for one, other in zip(a, b):
        for (token, x), (found, y) in zip(one, other):
            if token != found:
                break
            both += [abs(x - y)] if x is not None else []
    return sorted(both)[2] if len(both) > 15 else float("inf")


def results(folder):
    for kind in FORMATS:
        base = f"{folder}/{kind}.h5"
        harness.mpilora("import", f"{folder}/model.gguf", base, "--quantise", kind)
        exact, rounded = log_probs(folder, base), log_probs(folder, base, "--activations", "q8")
        off = distance(exact, rounded)
        checks.that(1e-4 < off < 0.1, f"{kind}: log-probabilities differ by {off} from those of exact activations")
        for vector in ("ref", "generic", "avx2"):
            other = distance(rounded, log_probs(folder, base, "--activations", "q8", vector=vector)) if kind == "q4_k" or vector == "ref" else 0.0
            checks.that(other < 1e-5, f"{kind}, {vector}: log-probabilities differ by {other} from those of the widest instructions")
        other = distance(rounded, log_probs(folder, base, "--activations", "q8", "--batch", 1, ranks=2))
        checks.that(other < 1e-5, f"{kind}: log-probabilities of two ranks differ by {other}")


def evaluation(folder):
    config = harness.write_config(f"{folder}/eval.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/q4_k.h5", data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"})
    exact = json.loads(harness.mpilora("eval", config, "--json"))
    rounded = json.loads(harness.mpilora("eval", config, "--json", "--activations", "q8"))
    checks.that("activations" not in exact and rounded["activations"] == "q8", f"eval --json does not tell the activations: {rounded}")
    checks.that(0 < abs(exact["loss"] - rounded["loss"]) < 1e-2, f"eval: loss {rounded['loss']} with q8, {exact['loss']} without")
    return config


def refusals(folder, config):
    plain = ["generate", "--base", f"{folder}/base.h5", "--prompts", f"{folder}/prompts.jsonl"]
    kept = ["generate", "--base", f"{folder}/q4_k.h5", "--prompts", f"{folder}/prompts.jsonl"]
    for words, texts in (([*plain, "--activations", "q8"], ["--activations q8", "base.h5", "--quantise"]),
                         (["eval", config, "--set", f"base={folder}/base.h5", "--activations", "q8"], ["--activations q8", "base.h5"]),
                         ([*kept, "--activations", "q4"], ["--activations q4", "exact or q8"]),
                         (["eval", config, "--activations", "Q8"], ["--activations Q8", "exact or q8"])):
        done = harness.start(*words)
        lines = done.stderr.strip().splitlines()
        checks.that(done.returncode == 2 and len(lines) == 1 and all(text in lines[0] for text in texts), f"{words}: {done.returncode}, {done.stderr}")


with tempfile.TemporaryDirectory() as folder:
    write_model(f"{folder}/model.gguf")
    harness.mpilora("import", f"{folder}/model.gguf", f"{folder}/base.h5")
    rng = random.Random(5)
    harness.make_data(folder, [[rng.randrange(VOCAB) for _ in range(40)] for _ in range(6)])
    with open(f"{folder}/prompts.jsonl", "w") as file:
        for n in (1, 5, 11):
            file.write(json.dumps({"prompt_ids": [rng.randrange(VOCAB) for _ in range(n)]}) + "\n")
    results(folder)
    refusals(folder, evaluation(folder))
checks.end()
