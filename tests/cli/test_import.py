"""import, export --format hf and inspect: Hugging Face directories made here go in and come out with the same tensors; what is missing, too much, of another
shape or damaged is refused with the right exit code and one line that names it, and what was there stays."""
import array
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

MPILORA = os.environ["MPILORA"]
SHARED = pathlib.Path(os.environ.get("MPILORA_SHARED_DATA", pathlib.Path(os.environ.get("MPILORA_SOURCE_DIR", ".")) / "../shared/data"))
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 11, "n_positions": 6, "n_inner": None}
NEOX = {"model_type": "gpt_neox", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 11, "max_position_embeddings": 16, "hidden_act": "gelu"}
LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 4, "vocab_size": 11, "max_position_embeddings": 16, "attention_bias": True, "tie_word_embeddings": False, "hidden_act": "silu",
    "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 8},
}


def call(*words, expect=0, contains=()):
    """contains: in the one line of an error, or among the warnings."""
    done = subprocess.run([MPILORA, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, f"{words}: exit {done.returncode}, expected {expect}: {done.stderr}"
    for part in [contains] if isinstance(contains, str) else contains:
        assert part in done.stderr, f"{words}: {done.stderr!r} lacks {part!r}"
    assert expect == 0 or done.stderr.count("\n") == 1, f"{words}: more than one line: {done.stderr!r}"
    return done.stdout


# ---- directories ----


def gpt2_shapes(prefix="transformer."):
    shapes = {"wte.weight": (11, 8), "wpe.weight": (6, 8), "ln_f.weight": (8,), "ln_f.bias": (8,)}
    for i in range(2):
        for name, rows, cols in (("attn.c_attn", 8, 24), ("attn.c_proj", 8, 8), ("mlp.c_fc", 8, 32), ("mlp.c_proj", 32, 8)):
            shapes[f"h.{i}.{name}.weight"], shapes[f"h.{i}.{name}.bias"] = (rows, cols), (cols,)
        for name in ("ln_1", "ln_2"):
            shapes[f"h.{i}.{name}.weight"] = shapes[f"h.{i}.{name}.bias"] = (8,)
    return {prefix + name: shape for name, shape in shapes.items()}


def llama_shapes():
    shapes = {"model.embed_tokens.weight": (11, 8), "model.norm.weight": (8,), "lm_head.weight": (11, 8)}
    for i in range(2):
        layer = f"model.layers.{i}."
        for name, rows, cols in (("q", 16, 8), ("k", 8, 8), ("v", 8, 8), ("o", 8, 16)):
            shapes[f"{layer}self_attn.{name}_proj.weight"], shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows, cols), (rows,)
        for name, rows, cols in (("gate", 12, 8), ("up", 12, 8), ("down", 8, 12)):
            shapes[f"{layer}mlp.{name}_proj.weight"] = (rows, cols)
        shapes[layer + "input_layernorm.weight"] = shapes[layer + "post_attention_layernorm.weight"] = (8,)
    return shapes


def count(shape):
    n = 1
    for side in shape:
        n *= side
    return n


def values_of(name, shape):
    """Numbers that fp32, bf16 and fp16 all hold exactly."""
    rng = random.Random(name)
    return [rng.randrange(-128, 128) / 64 for _ in range(count(shape))]


def pack(values, dtype):
    if dtype in ("F16", "F64"):
        return struct.pack(f"<{len(values)}{'e' if dtype == 'F16' else 'd'}", *values)
    whole = array.array("f", values).tobytes()
    return whole if dtype == "F32" else b"".join(whole[i + 2 : i + 4] for i in range(0, len(whole), 4))


def write_safetensors(path, shapes, dtype="F32", values=None):
    """values: name → numbers other than its own."""
    header, data = {}, b""
    for name, shape in shapes.items():
        content = pack((values or {}).get(name, values_of(name, shape)), dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    content = path.read_bytes()
    (n,) = struct.unpack("<Q", content[:8])
    header, tensors = json.loads(content[8 : 8 + n]), {}
    header.pop("__metadata__", None)
    for name, entry in header.items():
        raw = content[8 + n + entry["data_offsets"][0] : 8 + n + entry["data_offsets"][1]]
        if entry["dtype"] == "BF16":
            raw = b"".join(b"\0\0" + raw[i : i + 2] for i in range(0, len(raw), 2))
        values = array.array("f")
        values.frombytes(raw)
        tensors[name] = (tuple(entry["shape"]), values.tolist())
    return tensors


def make(folder, config, shapes, dtype="F32"):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", shapes, dtype)
    return folder


def inspect(path):
    return json.loads(call("inspect", path, "--json"))


# ---- round trips ----


def check_round_trip(folder, source, shapes, dtype):
    base, out = folder / f"{source.name}-{dtype}.h5", folder / f"{source.name}-{dtype}-out"
    call("import", source, base, "--dtype", dtype)
    call("export", "--format", "hf", "--base", base, out)
    found = read_safetensors(out / "model.safetensors")
    assert set(found) == set(shapes), set(found) ^ set(shapes)
    for name, shape in shapes.items():
        assert found[name] == (shape, values_of(name, shape)), f"{source.name} {dtype}: {name} came back changed"
    call("import", out, folder / "again.h5", "--dtype", dtype)
    assert inspect(base)["content_sha256"] == inspect(folder / "again.h5")["content_sha256"]
    assert inspect(base)["dtype"] == dtype and inspect(base)["params_total"] == sum(map(count, shapes.values()))
    return inspect(base)


def check_round_trips(folder):
    for dtype in ("F32", "F16", "BF16", "F64"):
        make(folder / f"gpt2-{dtype}", GPT2, gpt2_shapes(), dtype)
    shapes = gpt2_shapes()
    found = [check_round_trip(folder, folder / f"gpt2-{stored}", shapes, dtype) for stored in ("F32", "F16", "BF16", "F64") for dtype in ("fp32", "bf16")]
    assert len({f["content_sha256"] for f in found}) == 2, "the same numbers in another storage type are other contents"
    assert found[0]["source_sha256"] == found[1]["source_sha256"] != found[2]["source_sha256"]
    make(folder / "llama", LLAMA, llama_shapes())
    architecture = check_round_trip(folder, folder / "llama", llama_shapes(), "fp32")["architecture"]
    assert architecture["rope_theta"] == 5e5 and architecture["rope_scaling"]["factor"] == 8 and architecture["kv_heads"] == 2
    old = {k: v for k, v in LLAMA.items() if k != "rope_parameters"} | {"rope_theta": 5e5, "rope_scaling": {**LLAMA["rope_parameters"], "type": "llama3"}}
    make(folder / "llama-old", old, llama_shapes())
    assert check_round_trip(folder, folder / "llama-old", llama_shapes(), "fp32")["architecture"] == architecture
    content = inspect(folder / "gpt2-F32-fp32.h5")["content_sha256"]
    for check in (check_variants, check_heads, check_overlays, check_unrelated):
        check(folder, content)


def check_variants(folder, content):
    """No prefix, buffers and a tied head beside the weights, a sharded index: all the same model."""
    bare = {name: shape for name, shape in gpt2_shapes("").items()}
    source = make(folder / "bare", GPT2, bare)
    call("import", source, folder / "bare.h5", "--dtype", "fp32")
    assert inspect(folder / "bare.h5")["params_total"] == sum(map(count, bare.values()))
    extra = make(folder / "extra", GPT2, {})
    shapes = gpt2_shapes() | {"transformer.h.0.attn.bias": (1, 1, 6, 6), "transformer.h.1.attn.masked_bias": (1,), "lm_head.weight": (11, 8)}
    write_safetensors(extra / "model.safetensors", shapes, values={"lm_head.weight": values_of("transformer.wte.weight", (11, 8))})
    call("import", extra, folder / "extra.h5", "--dtype", "fp32")
    assert inspect(folder / "extra.h5")["content_sha256"] == content
    sharded, names = folder / "sharded", list(gpt2_shapes())
    sharded.mkdir()
    shutil.copy(folder / "gpt2-F32/config.json", sharded)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, inside in parts.items():
        write_safetensors(sharded / part, {name: gpt2_shapes()[name] for name in inside})
    index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    call("import", sharded, folder / "sharded.h5", "--dtype", "fp32")
    assert inspect(folder / "sharded.h5")["content_sha256"] == content
    for place, why in (("../a.safetensors", "not the name of a file"), ("c.safetensors", "c.safetensors"), ("b.safetensors", "is not there")):
        index["weight_map"][names[0]] = place
        (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
        call("import", sharded, folder / "no.h5", expect=3, contains=why)


def check_heads(folder, content):
    """tie_word_embeddings beside what the files hold, as transformers 5.24 reads it: the later of a pair with two values counts, the one that is there for both."""
    wte, head = "transformer.wte.weight", "lm_head.weight"
    both = gpt2_shapes() | {head: (11, 8)}
    call("import", make(folder / "untied", GPT2 | {"tie_word_embeddings": False}, both), folder / "untied.h5", "--dtype", "fp32")
    call("import", make(folder / "two", GPT2, both), folder / "two.h5", "--dtype", "fp32", contains=("ties", wte, head, "transformers 5"))
    assert inspect(folder / "two.h5")["content_sha256"] == inspect(folder / "untied.h5")["content_sha256"] != content
    alone = make(folder / "head", GPT2, {})
    shapes = {name: shape for name, shape in both.items() if name != wte}
    write_safetensors(alone / "model.safetensors", shapes, values={head: values_of(wte, (11, 8))})
    call("import", alone, folder / "head.h5", "--dtype", "fp32")
    assert inspect(folder / "head.h5")["content_sha256"] == content


def check_absent_head(folder):
    """A decoder that AutoModel saved has no head though it is not tied: the embedding stands in, which is said. With the prefix something is missing."""
    shapes = {name: shape for name, shape in llama_shapes().items() if name != "lm_head.weight"}
    bare = {name.removeprefix("model."): shape for name, shape in shapes.items()}
    values = {name.removeprefix("model."): values_of(name, shape) for name, shape in shapes.items()}
    source = make(folder / "headless", LLAMA | {"architectures": ["LlamaModel"]}, {})
    write_safetensors(source / "model.safetensors", bare, values=values)
    call("import", source, folder / "headless.h5", "--dtype", "fp32", contains=("no lm_head.weight", "vectors of texts"))
    call("import", make(folder / "tied-llama", LLAMA | {"tie_word_embeddings": True}, shapes), folder / "tied-llama.h5", "--dtype", "fp32")
    assert inspect(folder / "headless.h5")["content_sha256"] == inspect(folder / "tied-llama.h5")["content_sha256"]
    call("import", make(folder / "cut", LLAMA, shapes), folder / "no.h5", expect=3, contains=("lm_head.weight is missing", "tie_word_embeddings"))
    write_safetensors(source / "model.safetensors", bare | {"lm_head.weight": (11, 8)}, values=values)
    call("import", source, folder / "headed.h5", "--dtype", "fp32")
    assert not inspect(folder / "headed.h5")["architecture"]["tied_head"]


def check_overlays(folder, content):
    """A tensor in two files is the last one's by name, as in transformers, whatever weight_map says; another meaning of weight_map is named."""
    wte = "transformer.wte.weight"
    for name, whole, overlay, warning in (("over", "a.safetensors", "b.safetensors", ()), ("under", "b.safetensors", "a.safetensors", "weight_map")):
        source = folder / name
        source.mkdir()
        shutil.copy(folder / "gpt2-F32/config.json", source)
        write_safetensors(source / whole, gpt2_shapes(), values={wte: [0.5] * 88} if name == "over" else None)
        write_safetensors(source / overlay, {wte: (11, 8)}, values=None if name == "over" else {wte: [0.5] * 88})
        index = {"weight_map": {tensor: whole for tensor in gpt2_shapes()} | {wte: overlay}}
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
        call("import", source, folder / f"{name}.h5", "--dtype", "fp32", contains=(wte, "last file by name") if warning else ())
        assert inspect(folder / f"{name}.h5")["content_sha256"] == content, name
    for kind, why in (([], "is an array, expected an object"), ({wte: 1}, f"weight_map.{wte}\" is an integer, expected a string")):
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": kind}))
        call("import", source, folder / "no.h5", expect=3, contains=why)


def check_unrelated(folder, content):
    """What no tensor of the model and no key that is read has: it is named, or says nothing; where it is read it is refused."""
    more = gpt2_shapes() | {"transformer.h.0.lora": (2,), "transformer.h.1.lora": (2,)}
    call("import", make(folder / "more", GPT2, more), folder / "more.h5", "--dtype", "fp32", contains=("transformer.h.0.lora", "2 such"))
    assert inspect(folder / "more.h5")["content_sha256"] == content
    (folder / "more/config.json").write_text(json.dumps(GPT2 | {"time_step_limit": [0, float("inf"), float("-inf")], "max_length": 10**30, "x": "NaN\\"}))
    call("import", folder / "more", folder / "more.h5", "--dtype", "fp32")
    assert inspect(folder / "more.h5")["content_sha256"] == content
    for key, value, kind in (("layer_norm_epsilon", float("nan"), "a string"), ("n_embd", 10**30, "a number")):
        (folder / "more/config.json").write_text(json.dumps(GPT2 | {key: value}))
        call("import", folder / "more", folder / "no.h5", expect=3, contains=f'"{key}" is {kind}, expected')


def check_tokenizers(folder):
    """What cannot be read of a tokenizer leaves the weights without one, and is named; so does one with more tokens than the vocabulary."""
    source = make(folder / "tokenizer", GPT2, gpt2_shapes())
    model = {"type": "BPE", "vocab": {"a": 0, "b": GPT2["vocab_size"]}, "merges": []}
    for tokenizer, why in (({"model": {"type": "Oracle"}}, '"Oracle", which is not known'), ({"model": model, "normalizer": {"type": "Polish"}}, '"Polish"'),
                           ({"model": model}, f"has {GPT2['vocab_size'] + 1} tokens")):
        (source / "tokenizer.json").write_text(json.dumps(tokenizer))
        out = call("import", source, folder / "bare.h5", "--dtype", "fp32", contains=("warning", why, "the base gets no tokenizer"))
        assert "no tokenizer" in out and not inspect(folder / "bare.h5")["tokenizer_sha256"], out


# ---- refusals ----


def check_configs(folder):
    source = make(folder / "config", GPT2, gpt2_shapes())
    cases = [
        (GPT2 | {"model_type": "mamba"}, "mamba"), (GPT2 | {"n_head": 3}, "width"), (GPT2 | {"n_layer": "2"}, "n_layer"), (GPT2 | {"n_embd": None}, "n_embd"),
        (GPT2 | {"activation_function": "mish"}, "mish"), (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT2 | {"add_cross_attention": True}, "add_cross_attention"), (GPT2 | {"is_causal": False}, "is_causal"), (LLAMA | {"is_causal": 0}, "is_causal"), (GPT2 | {"quantization_config": {}}, "quantization_config"),
        (LLAMA | {"sliding_window": 4}, "sliding_window"), (LLAMA | {"rope_parameters": {"rope_type": "proportional"}}, "known are default, linear"),
        (LLAMA | {"num_key_value_heads": 3}, "key/value"), (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (NEOX | {"rope_theta": 500.0}, ("rope_theta: 500", "rotary_emb_base", "10000")), (NEOX | {"rope_theta": 500.0, "rotary_emb_base": 700}, ("rope_theta: 500", "rotary_emb_base", "700")),
        (NEOX | {"partial_rotary_factor": 0.5}, ("partial_rotary_factor: 0.5", "rotary_pct", "0.25")),
        (NEOX | {"rope_theta": 10000.0, "partial_rotary_factor": 0.25}, ".weight is missing"), (NEOX | {"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 3.0, "partial_rotary_factor": 0.5}}, ".weight is missing"),
        (GPT2 | {"n_layer": 3}, "h.2.ln_1.weight is missing"), 
        (GPT2 | {"vocab_size": 12}, ("wte.weight", "[11, 8]", "[12, 8]")), (GPT2 | {"tie_word_embeddings": False}, "lm_head.weight is missing"),
    ]
    for config, why in cases:
        (source / "config.json").write_text(json.dumps(config))
        call("import", source, folder / "no.h5", expect=3, contains=why)
    for text in ("", "{", '{"model_type": "gpt2", "model_type": "gpt2"}', json.dumps(GPT2) + "x", "[" * 100000, '{"n_layer": NaN}'):
        (source / "config.json").write_text(text)
        call("import", source, folder / "no.h5", expect=3, contains="config.json")
    (source / "config.json").unlink()
    call("import", source, folder / "no.h5", expect=3, contains="config.json")


def check_finite(folder, shapes):
    """A weight that is no number, or none any more in the base's type: its tensor, row and column."""
    wte, bias = "transformer.wte.weight", "transformer.h.1.mlp.c_fc.bias"
    source = make(folder / "finite", GPT2, shapes)
    for name, bad, dtype, kept, said in (
        (wte, float("nan"), "F32", "bf16", "embed.weight: row 2, column 3"), (wte, float("-inf"), "F32", "fp32", "embed.weight: row 2, column 3"), (wte, float("inf"), "F16", "fp32", "too large for fp32"),
        (wte, 1e39, "F64", "fp32", "embed.weight: row 2, column 3"), (wte, 3.4e38, "F32", "bf16", "too large for bf16"), (bias, float("nan"), "BF16", "bf16", "layers.1.mlp.fc.bias: row 19, column 0"),
    ):  # fmt: skip
        values = values_of(name, shapes[name])
        values[19] = bad
        write_safetensors(source / "model.safetensors", shapes, dtype, {name: values})
        call("import", source, folder / "no.h5", "--dtype", kept, expect=3, contains=("has a weight that is not finite or too large for", said))
    values[19] = 3.4e38
    write_safetensors(source / "model.safetensors", shapes, "F32", {bias: values})
    call("import", source, folder / "large.h5", "--dtype", "fp32")
    (folder / "large.h5").unlink()


def check_weights(folder):
    shapes = gpt2_shapes()
    missing = {n: s for n, s in shapes.items() if n != "transformer.h.1.mlp.c_fc.bias"}
    call("import", make(folder / "w1", GPT2, missing), folder / "no.h5", expect=3, contains="transformer.h.1.mlp.c_fc.bias is missing")
    turned = shapes | {"transformer.h.0.mlp.c_fc.weight": (32, 8)}
    call("import", make(folder / "w3", GPT2, turned), folder / "no.h5", expect=3, contains=("c_fc.weight", "[32, 8]", "[8, 32]"))
    check_finite(folder, shapes)
    whole = (folder / "gpt2-F32/model.safetensors").read_bytes()
    (folder / "w1/model.safetensors").write_bytes(whole[:-1])
    call("import", folder / "w1", folder / "no.h5", expect=3, contains="model.safetensors")
    (folder / "w1/model.safetensors").unlink()
    call("import", folder / "w1", folder / "no.h5", expect=3, contains="no weights there")
    assert not list(folder.glob("no.h5*")), "a refused import left a file"


def check_command_line(folder):
    source, base = folder / "gpt2-F32", folder / "kept.h5"
    call("import", source, base)
    before = base.read_bytes()
    call("import", source, base, "--dtype", "fp16", expect=2, contains="fp16")
    call("import", source, expect=2)
    call("import", "--init", "random", base, expect=2, contains="--config")
    call("import", folder / "none", base, expect=3, contains="none")
    call("import", folder / "w1", base, expect=3)
    (folder / "bad.gguf").write_bytes(b"GGUF" + bytes(7))
    call("import", folder / "bad.gguf", base, expect=3, contains="bad.gguf")
    assert base.read_bytes() == before, "a refused import changed the older base"
    call("import", source, folder / "no/such/place.h5", expect=4, contains="no/such/place.h5")
    call("export", "--format", "hf", "--base", base, folder / "gpt2-F32-fp32-out")
    (folder / "full").mkdir()
    (folder / "full/precious.txt").write_text("keep me")
    call("export", "--format", "hf", "--base", base, folder / "full", expect=2, contains="precious.txt")
    assert [f.name for f in (folder / "full").iterdir()] == ["precious.txt"]
    call("export", "--format", "hf", "--base", base, "--adapter", base, folder / "out", expect=2, contains="merge")
    call("export", "--format", "hf", "--base", source / "config.json", folder / "out", expect=3, contains="config.json")
    call("inspect", source / "config.json", expect=3, contains="config.json")
    call("inspect", expect=2)
    assert "params_total" in call("inspect", base)
    damaged = folder / "damaged.h5"
    damaged.write_bytes(before[:-1])
    call("inspect", damaged, expect=3, contains="damaged.h5")
    assert not list(folder.glob("*.tmp-*"))


def check_random(folder):
    model = folder / "model.yaml"
    model.write_text("family: llama\nlayers: 2\nwidth: 32\nmlp_width: 48\nheads: 4\nkv_heads: 2\nvocab: 64\ncontext: 32\n")
    hashes = []
    for seed in (1, 1, 2):
        call("import", "--init", "random", "--config", model, "--seed", seed, "--dtype", "fp32", folder / "random.h5")
        hashes.append((inspect(folder / "random.h5")["content_sha256"], inspect(folder / "random.h5")["source_sha256"]))
    assert hashes[0] == hashes[1] and hashes[0][0] != hashes[2][0] and hashes[0][1] != hashes[2][1]
    call("export", "--format", "hf", "--base", folder / "random.h5", folder / "random")
    tensors = read_safetensors(folder / "random/model.safetensors")
    for name, wide in (("model.layers.0.mlp.up_proj.weight", 0.02), ("model.layers.1.mlp.down_proj.weight", 0.01)):
        deviation = (sum(x * x for x in tensors[name][1]) / len(tensors[name][1])) ** 0.5
        assert abs(deviation / wide - 1) < 0.1, f"{name}: deviation {deviation}, expected {wide}"
    assert set(tensors["model.norm.weight"][1]) == {1.0}


def check_real(folder):
    source = SHARED / "tiny-random-gpt2"
    if not source.is_dir():
        print(f"{source} is not there: that part is skipped")
        return
    call("import", source, folder / "real.h5", "--dtype", "fp32")
    call("export", "--format", "hf", "--base", folder / "real.h5", folder / "real")
    before, after = read_safetensors(source / "model.safetensors"), read_safetensors(folder / "real/model.safetensors")
    for name, tensor in after.items():
        assert before.get(name, before.get(name.removeprefix("transformer."))) == tensor, f"{name} came back changed"


def main():
    with tempfile.TemporaryDirectory(prefix="mpilora-import-") as name:
        folder = pathlib.Path(name)
        check_round_trips(folder)
        check_absent_head(folder)
        check_tokenizers(folder)
        check_configs(folder)
        check_weights(folder)
        check_command_line(folder)
        check_random(folder)
        check_real(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
