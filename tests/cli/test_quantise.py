"""import --quantise: the bytes of a matrix in the file, llama.cpp's choices for head, positions and rows that do not fit, random bases, and what is refused."""

import os
import random
import re
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import gguf_models
import harness

WIDTH, MLP, VOCAB = 64, 256, 96
checks = harness.Checks()


def write_model(path, rng, spoil=None):
    """A Llama of one layer in fp32: name -> list of rows."""
    shapes = {"token_embd": (VOCAB, WIDTH), "output": (VOCAB, WIDTH), "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (WIDTH, WIDTH), "blk.0.attn_v": (WIDTH, WIDTH),
              "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (MLP, WIDTH), "blk.0.ffn_up": (MLP, WIDTH), "blk.0.ffn_down": (WIDTH, MLP)}  # fmt: skip
    single = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]
    values = {name: [[single(rng.gauss(0, 0.05)) for _ in range(cols)] for _ in range(rows)] for name, (rows, cols) in shapes.items()}
    if spoil:
        name, row, column, value = spoil
        values[name][row][column] = value
    tensors = {f"{name}.weight": (shapes[name], b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)) for name, rows in values.items()}
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        tensors[f"{name}.weight"] = ((WIDTH,), struct.pack(f"<{WIDTH}f", *[1.0] * WIDTH))
    gguf_models.write_file(path, "llama", {
        "block_count": 1, "embedding_length": WIDTH, "feed_forward_length": MLP, "attention.head_count": 2, "context_length": 64,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0, "rope.dimension_count": WIDTH // 2,
    }, tensors)  # fmt: skip
    return values


def q8_0(row):
    """Blocks of a row, with every operation in fp32 as ggml does it."""
    single = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]
    out = b""
    for at in range(0, len(row), 32):
        block = row[at : at + 32]
        d = single(max(map(abs, block)) / 127)
        scale = single(1 / d) if d else 0.0
        codes = [int(abs(single(x * scale)) + 0.5) * (1 if x > 0 else -1) for x in block]
        out += struct.pack("<e32b", d, *codes)
    return out


def check_bytes(folder, values):
    told = harness.start("import", f"{folder}/model.gguf", f"{folder}/q8_0.h5", "--quantise", "q8_0")
    checks.that(told.returncode == 0 and "9 × q8_0" in told.stdout, f"q8_0: {told.stdout}{told.stderr}")
    changed = float(re.search(r"changed the weights by (\S+) of", told.stderr)[1])
    checks.that(0.003 < changed < 0.008, f"q8_0 says that it changed the weights by {changed}")
    with open(f"{folder}/q8_0.h5", "rb") as file:
        content = file.read()
    for name in ("token_embd", "output", "blk.0.attn_v", "blk.0.attn_output", "blk.0.ffn_gate", "blk.0.ffn_down"):
        wanted = b"".join(map(q8_0, values[name]))
        checks.that(content.count(wanted) == 1, f"{name}: the file does not have its blocks")
    halves = lambda rows: [rows[head * 32 + 2 * i + half] for head in range(2) for half in range(2) for i in range(16)]
    checks.that(content.count(b"".join(map(q8_0, halves(values["blk.0.attn_q"])))) == 1, "attn_q: the file does not have its blocks, halves of heads apart")
    harness.mpilora("verify", f"{folder}/q8_0.h5")
    for dtype, says in (("bf16", "become bf16, which rounds what they decode to"), ("fp32", "become fp32, with all their digits")):
        harness.mpilora("import", f"{folder}/model.gguf", f"{folder}/out.h5", "--quantise", "q8_0", "--dtype", dtype)
        told = harness.start("export", "--format", "hf", "--base", f"{folder}/out.h5", f"{folder}/hf-{dtype}")
        checks.that(told.returncode == 0 and says in told.stderr, f"export --format hf of blocks beside {dtype}: {told.stderr}")


def formats_of(path):
    return dict(re.findall(r"name (\S+), shape .*?, dtype (\S+)", harness.mpilora("inspect", path)))


def check_choices(folder):
    said = {}
    for name in ("q4_k", "q5_k", "q6_k", "q4_0", "mxfp4"):
        done = harness.start("import", f"{folder}/model.gguf", f"{folder}/{name}.h5", "--quantise", name)
        checks.that(done.returncode == 0, f"{name}: exit {done.returncode}: {done.stderr}")
        said[name], found = done.stderr, formats_of(f"{folder}/{name}.h5")
        small = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}.get(name, name)
        checks.that(found["layers.0.mlp.down.weight"] == name, f"{name}: mlp.down, whose rows fit, is {found['layers.0.mlp.down.weight']}")
        for tensor in ("embed", "layers.0.attn.q", "layers.0.mlp.up"):
            checks.that(found[f"{tensor}.weight"] == small, f"{name}: {tensor}, of {WIDTH} columns, is {found[f'{tensor}.weight']}, expected {small}")
        checks.that(found["head.weight"] == "q8_0", f"{name}: the head is {found['head.weight']}")
        checks.that(found["layers.0.norm1.weight"] == "fp32", f"{name}: a norm is {found['layers.0.norm1.weight']}")
    checks.that("7 matrices become q5_0 in the place of q4_k" in said["q4_k"] and f"({WIDTH} weights)" in said["q4_k"], f"q4_k does not say what falls back: {said['q4_k']}")
    checks.that("in the place of q4_0" not in said["q4_0"], f"q4_0: {said['q4_0']}")
    for word, expected in (("q4_1", "q4_1"), ("bf16", "bf16")):
        harness.mpilora("import", f"{folder}/model.gguf", f"{folder}/head.h5", "--quantise", "q4_0", "--head-dtype", word)
        found = formats_of(f"{folder}/head.h5")
        checks.that(found["head.weight"] == expected and found["embed.weight"] == "q4_0", f"--head-dtype {word}: {found}")


def check_random(folder):
    """Width 256, tied: the embedding is the head. GPT-2: positions stay; width 48 has no whole blocks."""
    cases = {
        "fits": ("{family: llama, layers: 1, width: 256, heads: 4, mlp_width: 512, vocab: 100, context: 64, tied_head: true}", "q4_k",
                 {"embed.weight": "q6_k", "layers.0.attn.q.weight": "q4_k", "layers.0.mlp.down.weight": "q4_k"}),
        "positions": ("{family: gpt2, layers: 1, width: 64, heads: 2, vocab: 100, context: 64}", "q5_0",
                      {"position.weight": "bf16", "embed.weight": "q8_0", "layers.0.attn.o.weight": "q5_0"}),
        "ragged": ("{family: gpt2, layers: 1, width: 48, heads: 2, vocab: 100, context: 64}", "q4_0", {"embed.weight": "bf16", "layers.0.mlp.proj.weight": "q4_0"}),
    }  # fmt: skip
    for name, (model, format, wanted) in cases.items():
        with open(f"{folder}/{name}.yaml", "w") as file:
            file.write(model)
        done = harness.start("import", "--init", "random", "--config", f"{folder}/{name}.yaml", "--quantise", format, f"{folder}/{name}.h5")
        checks.that(done.returncode == 0, f"{name}: {done.stderr}")
        found = formats_of(f"{folder}/{name}.h5")
        for tensor, dtype in wanted.items():
            checks.that(found.get(tensor) == dtype, f"{name}: {tensor} is {found.get(tensor)}, expected {dtype}")
    checks.that(re.search(r"become bf16 in the place of q4_0, whose blocks of 32 do not fit their rows \(48", done.stderr), f"ragged: {done.stderr}")


def check_refusals(folder, rng):
    base = ("import", f"{folder}/model.gguf", f"{folder}/no.h5")
    for words, said in (
        (("--quantise", "q2_k"), "q2_k"), (("--quantise", "bf16"), "is not one of q8_0"), (("--head-dtype", "q8_0"), "--head-dtype belongs to --quantise"),
        (("--quantise", "q8_0", "--dtype", "keep"), "--dtype keep"), (("--quantise", "q8_0", "--head-dtype", "q9"), "q9"),
    ):  # fmt: skip
        done = harness.start(*base, *words)
        checks.that(done.returncode == 2 and said in done.stderr, f"{words}: exit {done.returncode}: {done.stderr}")
    for value in (float("nan"), float("inf"), 1e30):
        write_model(f"{folder}/bad.gguf", rng, spoil=("blk.0.ffn_down", 9, 70, value))
        done = harness.start("import", f"{folder}/bad.gguf", f"{folder}/bad.h5", "--quantise", "q4_0")
        words = ("mlp.down.weight", "row 9", "block 2", "q4_0")
        checks.that(done.returncode == 3 and all(word in done.stderr for word in words), f"{value}: exit {done.returncode}: {done.stderr}")
        checks.that(not os.path.exists(f"{folder}/bad.h5"), f"{value}: a base was written")


def main():
    rng = random.Random(8)
    with tempfile.TemporaryDirectory() as folder:
        values = write_model(f"{folder}/model.gguf", rng)
        check_bytes(folder, values)
        check_choices(folder)
        check_random(folder)
        check_refusals(folder, rng)
    checks.end()


main()
