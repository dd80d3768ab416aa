"""A base whose matrices stay in blocks (import --dtype keep) against the same weights dequantised to fp32: training, evaluation, generation, resuming, merging,
plan, tp 2 and node-shared copies give the same numbers from fewer bytes; what blocks cannot do is refused."""

import json
import os
import random
import re
import shutil
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import gguf_models
import harness

# name: number, weights, bytes, {where fp16 factors lie: a value that makes weights of about 1/20}
FORMATS = {
    "Q8_0": (8, 32, 34, {0: 2**-11}), "Q4_0": (2, 32, 18, {0: 2**-8}), "Q4_1": (3, 32, 20, {0: 2**-8, 2: -(2**-5)}), "Q5_0": (6, 32, 22, {0: 2**-9}),
    "Q5_1": (7, 32, 24, {0: 2**-9, 2: -(2**-5)}), "Q4_K": (12, 256, 144, {0: 2**-14, 2: 2**-11}), "Q5_K": (13, 256, 176, {0: 2**-15, 2: 2**-11}),
    "Q6_K": (14, 256, 210, {208: 2**-16}), "IQ4_NL": (20, 32, 18, {0: 2**-12}), "MXFP4": (39, 32, 17, {}),
}  # fmt: skip
WIDTH, MLP, HEADS, KV_HEADS, VOCAB, LAYERS = 256, 512, 4, 2, 257, 2
MATRICES = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH), "attn_v": (WIDTH // 2, WIDTH), "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (MLP, WIDTH), "ffn_up": (MLP, WIDTH), "ffn_down": (WIDTH, MLP)}  # fmt: skip
# Every format once at least; a rank of two has half of attn_output's columns, 128, which are whole blocks of 32.
KINDS = [
    {"attn_q": "Q4_K", "attn_k": "Q5_K", "attn_v": "Q6_K", "attn_output": "Q8_0", "ffn_gate": "Q4_0", "ffn_up": "Q4_1", "ffn_down": "Q4_K"},
    {"attn_q": "Q5_0", "attn_k": "Q5_1", "attn_v": "IQ4_NL", "attn_output": "MXFP4", "ffn_gate": "Q6_K", "ffn_up": "MXFP4", "ffn_down": "Q5_K"},
]
STEPS = 4
STRUCTURES = 192 << 10  # bytes of structures that no plan counts; the same beside a base in fp32
checks = harness.Checks()
written = {}  # the tensors of model.gguf


def letters():
    """GPT-2's letters for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) if b in plain else chr(256 + others.index(b)) for b in range(256)]


def blocks(kind, rows, cols, rng):
    number, weights, size, factors = FORMATS[kind]
    made = []
    for _ in range(rows * cols // weights):
        block = bytearray(rng.randbytes(size))
        for at, value in factors.items():
            struct.pack_into("<e", block, at, value * (1 + rng.random()))
        if kind == "MXFP4":
            block[0] = 120 + rng.randrange(2)
        made.append(bytes(block))
    return (rows, cols), b"".join(made), number


def write_model(path, kinds=KINDS, spoil=None):
    """spoil(name, bytearray of its blocks): changes a tensor before it is written."""
    rng = random.Random(19)
    one = struct.pack(f"<{WIDTH}f", *[1.0] * WIDTH)
    tensors = {"token_embd.weight": blocks("Q8_0", VOCAB, WIDTH, rng), "output_norm.weight": ((WIDTH,), one)}
    for layer in range(LAYERS):
        for name, (rows, cols) in MATRICES.items():
            tensors[f"blk.{layer}.{name}.weight"] = blocks(kinds[layer][name], rows, cols, rng)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = ((WIDTH,), one)
    for name, (shape, data, *number) in tensors.items():
        if spoil:
            data = bytearray(data)
            spoil(name, data)
        tensors[name] = (shape, bytes(data), *number)
        if not spoil and kinds is KINDS:
            written[name] = bytes(data)
    gguf_models.write_file(path, "llama", {
        "block_count": LAYERS, "embedding_length": WIDTH, "feed_forward_length": MLP, "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS, "context_length": 128, "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0,
        "rope.dimension_count": WIDTH // HEADS, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*letters(), "ab"], "tokenizer.ggml.merges": ["a b"],
    }, tensors)  # fmt: skip


def prepare(folder):
    write_model(f"{folder}/model.gguf")
    said = harness.start("import", f"{folder}/model.gguf", f"{folder}/wide.h5", "--dtype", "fp32").stderr
    checks.that(re.search(r"15 matrices .* --dtype keep would hold them", said), f"import does not say what keep would save: {said}")
    told = harness.mpilora("import", f"{folder}/model.gguf", f"{folder}/kept.h5", "--dtype", "keep")
    for kind in FORMATS:
        checks.that(f"× {kind.lower()}" in told, f"import --dtype keep does not count {kind}: {told}")
    with open(f"{folder}/data.jsonl", "w") as file:
        for i in range(12):
            file.write(json.dumps({"input_ids": [(i * i + 7 * j + j * j * i) % 257 for j in range(30 + 5 * i)]}) + "\n")
    harness.mpilora("tokenize", "--base", f"{folder}/kept.h5", "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")
    harness.mpilora("verify", f"{folder}/kept.h5")


def configure(folder, name, base, method=None, tp=1, steps=STEPS, **more):
    return harness.write_config(f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}", "seed": 3}, base=f"{folder}/{base}.h5",
                                method=method or {"name": "lora", "rank": 4, "targets": ["all"]},
                                data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5", "max_len": 96}, batch={"sequences": 4, "micro": 2},
                                optim={"lr": 1e-3, "schedule": "constant"}, train={"steps": steps, "save_every": 2}, parallel={"tp": tp},
                                precision="fp32", **more)  # fmt: skip


def train(folder, name, base, ranks=0, **settings):
    harness.mpilora("train", configure(folder, name, base, **settings), ranks=ranks)
    return harness.read_metrics(f"{folder}/{name}")


def compare(what, found, expected):
    for key in ("loss", "grad_norm"):
        checks.close(f"{what}: {key}", [line[key] for line in found], [line[key] for line in expected], 2e-5)


def blocks_bytes():
    count = VOCAB * WIDTH // 32 * 34
    for layer in KINDS:
        for name, kind in layer.items():
            count += MATRICES[name][0] * MATRICES[name][1] // FORMATS[kind][1] * FORMATS[kind][2]
    return count + (2 * LAYERS + 1) * WIDTH * 4


def check_training(folder):
    wide = train(folder, "wide-lora", "wide")
    compare("one rank", train(folder, "kept-lora", "kept"), wide)
    compare("tp 2", train(folder, "kept-tp", "kept", ranks=2, tp=2), wide)
    dora = {"name": "lora", "rank": 4, "dora": True, "targets": ["q", "down"]}
    compare("DoRA", train(folder, "kept-dora", "kept", method=dora, steps=2), train(folder, "wide-dora", "wide", method=dora, steps=2))
    check_pissa(folder)
    memory = harness.read_summary(f"{folder}/kept-lora")["memory"]
    checks.that(0 <= memory["frozen"] - blocks_bytes() < 64 * 20, f"{memory['frozen']} frozen bytes for {blocks_bytes()} of blocks, norms and nothing else")
    peak, wide_memory = memory["total_peak_bytes"], harness.read_summary(f"{folder}/wide-lora")["memory"]
    checks.that(wide_memory["total_peak_bytes"] - peak >= 0.98 * (wide_memory["frozen"] - memory["frozen"]), "the peak did not fall by what blocks save")
    plan = json.loads(harness.mpilora("plan", f"{folder}/kept-lora.yaml", "--ranks", 1, "--json"))["methods"][0]
    checks.that(plan["per_rank"]["frozen"] == memory["frozen"], f"plan counts {plan['per_rank']['frozen']} frozen bytes")
    checks.that(abs(plan["total_bytes_per_rank"] - peak) <= STRUCTURES, f"plan says {plan['total_bytes_per_rank']} bytes, the run took {peak}")


def check_pissa(folder):
    """The factors come out of what the layers make, where a base in fp32 loses them itself: with dropout, on 1, 2 and 4 ranks, resumed, and as the adapter that is written."""
    pissa = {"name": "lora", "rank": 4, "init": "pissa", "targets": ["q", "v", "o", "up", "down"], "dropout": 0.1}
    wide = train(folder, "wide-pissa", "wide", method=pissa)
    compare("PiSSA", train(folder, "kept-pissa", "kept", method=pissa), wide)
    compare("PiSSA, tp 2", train(folder, "kept-pissa-tp", "kept", method=pissa, ranks=2, tp=2), wide)
    compare("PiSSA, dp 2, tp 2", train(folder, "kept-pissa-4", "kept", method=pissa, ranks=4, tp=2), wide)
    train(folder, "kept-pissa-half", "kept", method=pissa, steps=STEPS // 2, ranks=2)
    compare("PiSSA, resumed", train(folder, "kept-pissa-half", "kept", method=pissa), wide)
    compare("PiSSA, share_frozen on", train(folder, "kept-pissa-on", "kept", method=pissa, ranks=2, memory={"share_frozen": "on"}), wide)
    for name in ("kept-pissa-4", "kept-pissa-on"):
        checks.that(harness.read_summary(f"{folder}/{name}")["memory"]["frozen_shared_by"] == 2, f"PiSSA, {name}: replicas do not share blocks that stay as they are")
    for words in (("train", configure(folder, "wide-pissa-on", "wide", method=pissa, memory={"share_frozen": "on"})), ("plan", f"{folder}/wide-pissa-on.yaml", "--ranks", 2)):
        done = harness.start(*words, ranks=2 if words[0] == "train" else 0)
        refused(f"{words[0]}: PiSSA, whose weights change, share_frozen on", done, 2, "memory.share_frozen", "pissa")
        said = [line for line in done.stderr.splitlines() if line.startswith("mpilora")]
        checks.that(len(said) == 1 and not os.path.exists(f"{folder}/wide-pissa-on"), f"{words[0]}: PiSSA, share_frozen on: {done.stderr}")
    for base in ("kept", "wide"):
        with open(f"{folder}/{base}-pissa/evaluations.jsonl") as file:
            last = json.loads(file.read().splitlines()[-1])["valid_loss"]
        checks.close(f"PiSSA's adapter, {base}", evaluate(folder, base, "--adapter", f"{folder}/{base}-pissa/adapter.h5"), last, 2e-5)
    memory = harness.read_summary(f"{folder}/kept-pissa")["memory"]
    plan = json.loads(harness.mpilora("plan", f"{folder}/kept-pissa.yaml", "--ranks", 1, "--json"))["methods"][0]
    checks.close("PiSSA: plan", plan["total_bytes_per_rank"], memory["predicted"]["total_bytes"], 0.02)
    checks.that(plan["per_rank"]["frozen"] == memory["frozen"] and memory["total_peak_bytes"] <= plan["total_bytes_per_rank"], f"PiSSA: plan {plan['per_rank']}, run {memory}")


def check_bf16(folder):
    """precision bf16 by the processor's instructions for it, where it has them: near the losses of the base in bf16, whose embedding alone is rounded otherwise."""
    harness.mpilora("import", f"{folder}/model.gguf", f"{folder}/narrow.h5")
    lines = {}
    for base in ("kept", "narrow"):
        config = configure(folder, f"narrow-{base}", base, steps=3, kernels={"product": "native-bf16"})
        done = harness.start("train", config, "--set", "precision=bf16")
        if done.returncode == 2 and "cannot run here" in done.stderr:
            print("no native-bf16 here")
            return
        checks.that(done.returncode == 0, f"bf16, {base}: {done.stderr}")
        lines[base] = harness.read_metrics(f"{folder}/narrow-{base}")
    checks.that("native-bf16" in lines["kept"][0]["kernel"], f"bf16: kernel {lines['kept'][0]['kernel']}")
    checks.close("bf16: loss", [x["loss"] for x in lines["kept"]], [x["loss"] for x in lines["narrow"]], 1e-3)


def check_shared(folder):
    """Two replicas with a copy each and with one for both: the same bits."""
    lines = {}
    for share in ("off", "on"):
        lines[share] = train(folder, f"share-{share}", "kept", ranks=2, steps=2, memory={"share_frozen": share})
    checks.that([x["loss"] for x in lines["on"]] == [x["loss"] for x in lines["off"]], "share_frozen changes the losses")
    shared = harness.read_summary(f"{folder}/share-on")["memory"]["frozen_shared_by"]
    checks.that(shared == 2, f"share_frozen: shared by {shared}")


def check_unequal(folder):
    """An MLP whose blocks three ranks cannot share out evenly: each has whole ones, and the numbers are those of one rank. What would cut a block of the heads says which sizes would not."""
    lora, dora, pissa = ({"name": "lora", "rank": 2, "targets": ["q", "o", "down"] if family == "llama" else ["q", "o", "proj"], **more} for family, more in (("llama", {}), ("llama", {"dora": True}), ("gpt2", {"init": "pissa"})))
    for name, model, words, methods in (
        ("few", f"{{family: llama, layers: 2, width: 96, heads: 6, kv_heads: 6, mlp_width: 160, vocab: {VOCAB}, context: 128}}", ("q8_0",), {"LoRA": lora, "DoRA": dora}),
        ("large", f"{{family: gpt2, layers: 1, width: 768, heads: 6, mlp_width: 1280, vocab: {VOCAB}, context: 128}}", ("q4_k", "--head-dtype", "q6_k"), {"PiSSA": pissa}),
    ):
        with open(f"{folder}/{name}.model", "w") as file:
            file.write(model)
        harness.mpilora("import", "--init", "random", "--config", f"{folder}/{name}.model", "--quantise", *words, f"{folder}/{name}.h5")
        for what, method in methods.items():
            one = train(folder, f"{name}-{what}-1", name, method=method, steps=3)
            compare(f"{what}, 5 blocks on 3 ranks", train(folder, f"{name}-{what}-3", name, method=method, steps=3, ranks=3, tp=3), one)
        memory = harness.read_summary(f"{folder}/{name}-{what}-3")["memory"]
        plan = json.loads(harness.mpilora("plan", f"{folder}/{name}-{what}-3.yaml", "--ranks", 3, "--json"))["methods"][0]
        checks.that(plan["per_rank"]["frozen"] == memory["frozen"], f"{what}, 5 blocks on 3 ranks: plan {plan['per_rank']}, run {memory}")
        checks.close(f"{what}, 5 blocks on 3 ranks: plan", plan["total_bytes_per_rank"], memory["predicted"]["total_bytes"], 0.02)
    for ranks, name, text in ((2, "few", "would cut the q8_0 blocks of layers.0.attn.o.weight (32 weights in a block, 48 columns a rank); choose 1 or 3"), (6, "large", "choose 1 or 3")):
        for words in (("train", configure(folder, f"never-{ranks}", name, tp=ranks)), ("plan", f"{folder}/never-{ranks}.yaml", "--ranks", ranks)):
            done = harness.start(*words, ranks=ranks if words[0] != "plan" else 0)
            refused(f"{words[0]}, tp {ranks} that cuts a block", done, 2, text)
        checks.that(not os.path.exists(f"{folder}/never-{ranks}"), f"tp {ranks} that cuts a block: something was written")


def check_resume(folder):
    """Half, then the rest, is the whole; the same run does not go on with another base."""
    train(folder, "half", "kept", steps=STEPS // 2)
    shutil.copytree(f"{folder}/half", f"{folder}/other")
    lines = train(folder, "half", "kept")
    checks.that([x["loss"] for x in lines] == [x["loss"] for x in harness.read_metrics(f"{folder}/kept-lora")], "a resumed run is not the run that went through")
    done = harness.start("train", configure(folder, "other", "wide"))
    refused("resumed with the fp32 base", done, 2, "base")


def evaluate(folder, base, *words):
    config = configure(folder, f"eval-{base}", base)
    return json.loads(harness.mpilora("eval", config, "--json", *words))["loss"]


def check_use(folder):
    """eval and generate, alone and with the adapter; merged, which is in bf16."""
    adapter = ("--adapter", f"{folder}/kept-lora/adapter.h5")
    for words in ((), adapter):
        checks.close(f"eval {words[:1]}", evaluate(folder, "kept", *words), evaluate(folder, "wide", *words) if not words else evaluate(
            folder, "wide", "--adapter", f"{folder}/wide-lora/adapter.h5"), 2e-5)  # fmt: skip
        out = [harness.mpilora("generate", "--base", f"{folder}/{base}.h5", "--prompt", "abc", "--max-new", 12, "--precision", "fp32",
                               *(word.replace("kept-lora", f"{base}-lora") for word in words)) for base in ("kept", "wide")]  # fmt: skip
        checks.that(out[0] == out[1] and len(out[0]) > 4, f"generate {words[:1]}: {out}")
    harness.mpilora("merge", "--base", f"{folder}/kept.h5", *adapter, f"{folder}/merged.h5")
    checks.close("merged, in bf16", evaluate(folder, "merged"), evaluate(folder, "kept", *adapter), 2e-3)


def formats_of(path):
    return dict(re.findall(r"name (\S+), shape .*?, dtype (\S+)", harness.mpilora("inspect", path)))


def check_merge(folder):
    """merge --dtype: to fp32, to one format, and to the formats that the base has, where what did not change keeps its bytes."""
    train(folder, "part", "kept", method={"name": "lora", "rank": 4, "targets": ["q", "v"]})
    adapter, base = f"{folder}/part/adapter.h5", formats_of(f"{folder}/kept.h5")
    wanted = evaluate(folder, "kept", "--adapter", adapter)
    for dtype, bound in (("fp32", 2e-5), ("bf16", 2e-3), ("q8_0", 5e-3), ("q4_k", 3e-2)):
        done = harness.start("merge", "--base", f"{folder}/kept.h5", "--adapter", adapter, "--dtype", dtype, f"{folder}/as-{dtype}.h5")
        checks.that(done.returncode == 0, f"merge --dtype {dtype}: {done.stderr}")
        checks.that(("changed the weights by" in done.stderr) == (dtype[0] == "q"), f"merge --dtype {dtype} says: {done.stderr}")
        found = formats_of(f"{folder}/as-{dtype}.h5")
        checks.that(found["layers.0.attn.q.weight"] == dtype, f"merge --dtype {dtype}: q is {found['layers.0.attn.q.weight']}")
        checks.close(f"merge --dtype {dtype}", evaluate(folder, f"as-{dtype}"), wanted, bound)
    harness.mpilora("merge", "--base", f"{folder}/kept.h5", "--adapter", adapter, "--dtype", "keep", f"{folder}/all-keep.h5")
    checks.that(formats_of(f"{folder}/all-keep.h5") == base, "merge --dtype keep of q and v: other formats")
    train(folder, "q", "kept", method={"name": "lora", "rank": 4, "targets": ["q"]})
    adapter = f"{folder}/q/adapter.h5"
    done = harness.start("merge", "--base", f"{folder}/kept.h5", "--adapter", adapter, "--dtype", "keep", f"{folder}/as-keep.h5")
    checks.that(done.returncode == 0 and "changed the weights by" in done.stderr, f"merge --dtype keep: {done.stderr}")
    checks.that(formats_of(f"{folder}/as-keep.h5") == base, f"merge --dtype keep: {formats_of(f'{folder}/as-keep.h5')}")
    checks.close("merge --dtype keep", evaluate(folder, "as-keep"), evaluate(folder, "kept", "--adapter", adapter), 2e-2)
    with open(f"{folder}/as-keep.h5", "rb") as file, open(f"{folder}/kept.h5", "rb") as original:
        content, before = file.read(), original.read()
    for merged in ("as-keep", "as-q4_k"):
        if merged == "as-q4_k":
            harness.mpilora("merge", "--base", f"{folder}/kept.h5", "--adapter", adapter, "--dtype", "q4_k", f"{folder}/as-q4_k.h5")
        words = ("merge", "--subtract", "--original", f"{folder}/kept.h5", "--base", f"{folder}/{merged}.h5", "--adapter", adapter, f"{folder}/back.h5")
        harness.mpilora(*words)
        with open(f"{folder}/back.h5", "rb") as file:
            checks.that(file.read() == before, f"merge --subtract of {merged}: not the base in blocks")
    harness.mpilora("verify", f"{folder}/as-keep.h5")
    for name, (rows, cols) in MATRICES.items():
        raw = written[f"blk.1.{name}.weight"]
        if name not in ("attn_q", "attn_k"):  # whose rows have another order
            checks.that(content.count(raw) == 1, f"merge --dtype keep: the blocks of {name} are not those of the base")
    done = harness.start("merge", "--base", f"{folder}/wide.h5", "--adapter", f"{folder}/wide-lora/adapter.h5", "--dtype", "keep", f"{folder}/no.h5")
    refused("keep without blocks", done, 2, "no matrix in blocks")
    done = harness.start("merge", "--base", f"{folder}/kept.h5", "--adapter", adapter, "--dtype", "q2_k", f"{folder}/no.h5")
    refused("no format of merge", done, 2, "q2_k")


def refused(what, done, code, *words):
    checks.that(done.returncode == code and all(word in done.stderr for word in words), f"{what}: exit {done.returncode}, expected {code}: {done.stderr}")


def spoiler(tensor, block, size, at, raw):
    def spoil(name, data):
        if name == tensor:
            data[block * size + at : block * size + at + len(raw)] = raw

    return spoil


def check_refusals(folder):
    half = lambda x: struct.pack("<e", x)
    for tensor, number, size, at, raw, row, block in (
        ("blk.0.ffn_gate.weight", 8 * 5 + 3, 18, 0, half(float("nan")), 5, 3),
        ("blk.0.ffn_down.weight", 2 * 7 + 1, 144, 2, half(float("inf")), 7, 1),
        ("blk.1.attn_output.weight", 8 * 200 + 7, 17, 0, b"\xff", 200, 7),
    ):
        write_model(f"{folder}/bad.gguf", spoil=spoiler(tensor, number, size, at, raw))
        for dtype in ("keep", "bf16"):
            done = harness.start("import", f"{folder}/bad.gguf", f"{folder}/bad.h5", "--dtype", dtype)
            refused(f"{tensor}, a scale that is no number, {dtype}", done, 3, tensor, f"row {row}", f"block {block}")
            checks.that(not os.path.exists(f"{folder}/bad.h5"), f"{tensor}: a base was written")
    check_headers(folder)
    check_damaged(folder)
    done = harness.start("train", configure(folder, "full", "kept", method={"name": "full"}))
    refused("full on blocks", done, 2, "method.name", "blocks", "--dtype bf16")
    for key, method in (("method.modules_to_save: layers.0.mlp.down.weight", {"modules_to_save": ["layers.0.mlp.down"]}), ("method.top", {"name": "top"})):
        done = harness.start("train", configure(folder, "saved", "kept", method={"name": "lora", "targets": ["q"]} | method))
        refused("what trains of blocks", done, 2, key, "blocks", "--dtype bf16")
    kinds = [dict(KINDS[0], attn_output="Q4_K"), KINDS[1]]
    write_model(f"{folder}/cut.gguf", kinds)
    harness.mpilora("import", f"{folder}/cut.gguf", f"{folder}/cut.h5", "--dtype", "keep")
    done = harness.start("train", configure(folder, "cut", "cut", tp=2), ranks=2)
    refused("tp that cuts a block", done, 2, "parallel.tp: 2", "attn.o.weight", "choose 1")
    done = harness.start("import", f"{folder}/wide.h5", f"{folder}/x.h5", "--dtype", "keep")
    checks.that(done.returncode == 3, f"a base is no source: exit {done.returncode}")


def check_headers(folder):
    """Rows of a stored tensor that are no multiple of its block, and types that are not read."""
    def refuse(kind, number, cols, *words):
        gguf_models.write_file(f"{folder}/header.gguf", "llama", {"block_count": 1}, {"blk.0.ffn_up.weight": ((4, cols), bytes(4096), number)})
        for dtype in ("keep", "bf16"):
            done = harness.start("import", f"{folder}/header.gguf", f"{folder}/header.h5", "--dtype", dtype)
            refused(f"{kind}, rows of {cols}, {dtype}", done, 3, "blk.0.ffn_up.weight", *words)
            checks.that(done.stderr.count("\n") == 1 and not os.path.exists(f"{folder}/header.h5"), f"{kind}: {done.stderr}")

    for kind, (number, weights, *_) in FORMATS.items():
        for cols in (weights // 2, weights + 1, 3 * weights - 16):
            refuse(kind, number, cols, f"rows of {cols} are no multiple of {kind}'s blocks of {weights}")
    for kind, number in (("IQ2_XXS", 16), ("NVFP4", 40), ("Q1_0", 41), ("unknown", 31), ("unknown", 77)):
        refuse(kind, number, 256, f"storage type {kind} ({number})")


def check_damaged(folder):
    """A base whose blocks were damaged after they were written: whoever reads them names the place, on one rank and on several."""
    with open(f"{folder}/kept.h5", "rb") as file:
        content = file.read()
    infinite, adapter = struct.pack("<e", float("inf")), f"{folder}/part/adapter.h5"
    for tensor, name, row, block in (("ffn_down", "mlp.down", 7, 1), ("ffn_down", "mlp.down", 250, 0), ("ffn_gate", "mlp.gate", 300, 5), ("attn_v", "attn.v", 100, 0)):
        _, weights, size, factors = FORMATS[KINDS[0][tensor]]
        at = content.index(written[f"blk.0.{tensor}.weight"]) + (row * MATRICES[tensor][1] // weights + block) * size + max(factors)
        with open(f"{folder}/damaged.h5", "wb") as file:
            file.write(content[:at] + infinite + content[at + 2 :])
        words = (f"layers.0.{name}.weight", f"row {row}, block {block}:", KINDS[0][tensor].lower())
        config = configure(folder, "damaged", "damaged")
        for ranks, sets in ((0, ()), (2, ("parallel.tp=2",)), (4, ("parallel.tp=2", "memory.share_frozen=on"))):
            done = harness.start("train", config, *(word for each in sets for word in ("--set", each)), ranks=ranks)
            refused(f"train on a damaged {tensor}, {ranks} ranks", done, 3, *words)
        checks.that(not os.path.exists(f"{folder}/damaged/metrics.jsonl"), f"a damaged {tensor}: there are steps")
        for what, call in (
            ("eval", ("eval", config)), ("generate", ("generate", "--base", f"{folder}/damaged.h5", "--prompt", "abc")),
            ("merge", ("merge", "--base", f"{folder}/damaged.h5", "--adapter", adapter, f"{folder}/no.h5")),
        ):  # fmt: skip
            refused(f"{what} of a damaged {tensor}", harness.start(*call), 3, *words)
    checks.that(not os.path.exists(f"{folder}/no.h5"), "a damaged base: a merged one was written")


def main():
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_training(folder)
        check_bf16(folder)
        check_shared(folder)
        check_unequal(folder)
        check_resume(folder)
        check_use(folder)
        check_merge(folder)
        check_refusals(folder)
    checks.end()


main()
