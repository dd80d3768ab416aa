"""export --format hf: the directory holds the tensors of the model that was imported (in bf16 the rounded matrices), under its names and in its layout, and
is imported again as the same base, tokenizer included; what cannot be written leaves everything as it was. No torch here: interop/check_export.py loads such
directories into transformers."""

import json
import os
import resource
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "interop")]
import broken_files
import harness
import reference_models as reference

USAGE, INPUT, RESOURCE = 2, 3, 4
# What must say the same in the configuration that is written; where the source leaves it out, transformers' own default.
SIZES = ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size", "max_position_embeddings"]
LLAMA = [*SIZES, "rms_norm_eps", "tie_word_embeddings", "rope_theta"]
KEYS = {
    "gpt2": ["n_layer", "n_embd", "n_head", "vocab_size", "n_positions", "n_ctx", "activation_function", "layer_norm_epsilon"],
    "llama": [*LLAMA[:-1], "head_dim", "attention_bias", "mlp_bias"],
    "mistral": [*LLAMA, "head_dim", "sliding_window"],
    "qwen2": [*LLAMA, "use_sliding_window", "sliding_window"],
    "qwen3": [*LLAMA, "head_dim", "attention_bias", "use_sliding_window", "sliding_window"],
}
DEFAULTS = {"activation_function": "gelu_new", "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}


def inspect(path):
    return json.loads(harness.mpilora("inspect", path, "--json"))


def export(base, out):
    harness.mpilora("export", "--format", "hf", "--base", base, out)


def tensors(directory):
    """name → (type, shape, bytes), without the prefix that old GPT-2 files lack."""
    header, data = broken_files.read_safetensors(directory)
    header.pop("__metadata__", None)
    return {
        name.removeprefix("transformer."): (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def rounded(data):
    """fp32 to bf16: to nearest, ties to even."""
    words = struct.unpack(f"<{len(data) // 4}I", data)
    return struct.pack(f"<{len(words)}H", *((w + 0x7FFF + (w >> 16 & 1)) >> 16 for w in words))


def check_tensors(checks, label, dtype, source, out):
    wanted, found = tensors(source), tensors(out)
    checks.that(sorted(found) == sorted(wanted), f"{label}: other names: {sorted(set(found) ^ set(wanted))}")
    for name in sorted(set(wanted) & set(found)):
        _, shape, data = wanted[name]
        narrow = dtype == "bf16" and len(shape) == 2
        expected = ("BF16" if narrow else "F32", shape, rounded(data) if narrow else data)
        checks.that(found[name] == expected, f"{label}: {name} differs: {found[name][:2]}, expected {expected[:2]}")


def check_config(checks, label, source, out):
    with open(f"{source}/config.json") as file:
        wanted = json.load(file)
    with open(f"{out}/config.json") as file:
        found = json.load(file)
    for key in KEYS[wanted["model_type"]]:
        value = wanted.get("n_positions" if key == "n_ctx" else key, DEFAULTS.get(key))  # llama.cpp's converter asks for n_ctx
        checks.that(found.get(key) == value, f"{label}: {key} is {found.get(key)}, expected {value}")


def check_again(checks, label, dtype, base, out):
    """The export, imported, is the base."""
    again = f"{base}.again.h5"
    harness.mpilora("import", out, again, "--dtype", dtype)
    first, second = inspect(base), inspect(again)
    for key in ("architecture", "dtype", "content_sha256", "tokenizer_sha256", "tensors"):
        checks.that(first[key] == second[key], f"{label}: {key} after the second import: {second[key]}, before {first[key]}")


def check_models(checks, folder):
    for name in reference.MODELS:
        source = f"{folder}/{name}"
        reference.write_model(source, name)
        for dtype in ("fp32", "bf16"):
            base, out, label = f"{source}-{dtype}.h5", f"{source}-{dtype}", f"{name} {dtype}"
            harness.mpilora("import", source, base, "--dtype", dtype)
            export(base, out)
            check_tensors(checks, label, dtype, source, out)
            check_config(checks, label, source, out)
            check_again(checks, label, dtype, base, out)


def byte_level_alphabet():
    """The character that stands for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def write_tokenizer(directory):
    """All bytes, one merge, an end of text."""
    os.makedirs(directory)
    alphabet = byte_level_alphabet()
    words = [alphabet[byte] for byte in range(256)] + ["th", "<|endoftext|>"]
    reference.write_json(f"{directory}/vocab.json", {word: i for i, word in enumerate(words)})
    with open(f"{directory}/merges.txt", "w") as file:
        file.write("#version: 0.2\nt h\n")


def check_tokenizer(checks, folder):
    """A random base with a tokenizer; then one without over it: the tokenizer's files go."""
    write_tokenizer(f"{folder}/tokenizer")
    shape = "family: gpt2\nlayers: 2\nwidth: 40\nmlp_width: 56\nheads: 4\nvocab: 300\ncontext: 32\n"
    with open(f"{folder}/random.yaml", "w") as file:
        file.write(shape)
    random = ("import", "--init", "random", "--config", f"{folder}/random.yaml")
    base, bare, out = f"{folder}/random.h5", f"{folder}/bare.h5", f"{folder}/random"
    harness.mpilora(*random, "--tokenizer", f"{folder}/tokenizer", base)
    harness.mpilora(*random, bare)
    export(base, out)
    checks.that(inspect(base)["tokenizer_sha256"] is not None, "the random base has no tokenizer")
    check_again(checks, "with a tokenizer", "bf16", base, out)
    with open(f"{out}/config.json") as file:
        end = json.load(file).get("eos_token_id")
    checks.that(end == 257, f"eos_token_id {end}, expected 257")
    everything = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    checks.that(sorted(os.listdir(out)) == everything, f"the export holds {sorted(os.listdir(out))}")
    export(bare, out)
    checks.that(sorted(os.listdir(out)) == everything[:2], f"an export without a tokenizer holds {sorted(os.listdir(out))}")


def check_tokenizer_files(checks, folder):
    """A random base takes what --tokenizer says beside the vocabulary, which goes out as it came in, but nothing of the model that it was made for."""
    source, base, out = f"{folder}/named", f"{folder}/named.h5", f"{folder}/named-out"
    write_tokenizer(source)
    vocabulary = set(os.listdir(source))
    template = "{% for message in messages %}{{ message.content }}<|endoftext|>{% endfor %}"
    reference.write_json(f"{source}/tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"})
    reference.write_json(f"{source}/special_tokens_map.json", {"eos_token": "<|endoftext|>", "pad_token": "th"})
    reference.write_json(f"{source}/generation_config.json", {"eos_token_id": [257, 10]})
    with open(f"{source}/chat_template.jinja", "w") as file:
        file.write(template)
    kept = sorted(set(os.listdir(source)) - vocabulary)
    reference.write_json(f"{source}/config.json", {"model_type": "llama", "hidden_size": 7, "pad_token_id": 5})
    reference.write_json(f"{source}/modules.json", [])
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/random.yaml", "--tokenizer", source, base)
    checks.that(inspect(base).get("chat_template") == template, "a random base has not the chat template of --tokenizer")
    export(base, out)
    expected = sorted([*kept, "config.json", "model.safetensors", "tokenizer.json"])
    checks.that(sorted(os.listdir(out)) == expected, f"of --tokenizer: the export holds {sorted(os.listdir(out))}, expected {expected}")
    for name in sorted(set(kept) & set(os.listdir(out))):
        with open(f"{source}/{name}", "rb") as given, open(f"{out}/{name}", "rb") as written:
            checks.that(given.read() == written.read(), f"of --tokenizer: {name} came back changed")
    with open(f"{out}/config.json") as file:
        config = json.load(file)
    checks.that(config["model_type"] == "gpt2" and "pad_token_id" not in config, f"of --tokenizer: another model's config.json: {config}")


def generated(base, prompt="The", *more):
    """The bytes of a continuation: ids of the tokenizer above are bytes, ids beyond it have no text."""
    words = harness.command("generate", "--base", base, "--prompt", prompt, "--max-new", 8, "--precision", "fp32", *more)
    return subprocess.run(words, capture_output=True, timeout=120, check=True).stdout[:-1]


def check_kept_files(checks, folder):
    """What came beside the weights goes out byte for byte, after a merge, too; every token that generation_config.json, else config.json, names ends a continuation."""
    source, base, merged, out = f"{folder}/chat", f"{folder}/chat.h5", f"{folder}/chat-merged.h5", f"{folder}/chat-out"
    export(f"{folder}/random.h5", source)
    harness.mpilora("import", source, base, "--dtype", "fp32")
    whole = generated(base)
    end = next((byte for byte in whole if byte != whole[0]), whole[0])
    cut = whole[: whole.index(end)]
    with open(f"{source}/config.json") as file:
        config = json.load(file)
    reference.write_json(f"{source}/config.json", config | {"eos_token_id": [257, end], "pad_token_id": 256, "bos_token_id": 257})
    harness.mpilora("import", source, base, "--dtype", "fp32")
    checks.that(generated(base) == cut != whole, f"config.json: {generated(base)!r}, expected {cut!r}")
    begun = generated(base, "<|endoftext|>")
    checks.that(generated(base, "") == begun != generated(base, "<|endoftext|>", "--special-tokens", "text"), "an empty prompt is not the beginning token")
    spelt = harness.start("generate", "--base", base, "--prompt", "<|endoftext|>a<|endoftext|>", "--max-new", 1, "--special-tokens", "text").stderr
    checks.that("spell 2 special tokens, which stay text" in spelt, f"special tokens that stay text are not counted: {spelt!r}")
    meant = harness.start("generate", "--base", base, "--prompt", "<|endoftext|>", "--max-new", 1).stderr
    checks.that("special" not in meant, f"special tokens that are tokens are warned of: {meant!r}")
    reference.write_json(f"{source}/generation_config.json", {"eos_token_id": [256, 257], "temperature": 0.6})
    with open(f"{source}/chat_template.jinja", "w", newline="") as file:
        file.write("{% for m in messages %}<|im_start|>{{ m.role }}\r\n{% endfor %}")
    reference.write_json(f"{source}/special_tokens_map.json", {"pad_token": "th", "additional_special_tokens": ["<|endoftext|>"]})
    harness.mpilora("import", source, base, "--dtype", "fp32")
    checks.that(generated(base) == whole, "generation_config.json does not stand above config.json")
    factors = (([2, 40], bytes(320)), ([120, 2], bytes(960)))
    harness.make_peft(f"{folder}/chat-adapter", 2, 4, {f"transformer.h.{layer}.attn.c_attn": factors for layer in range(2)})
    harness.mpilora("merge", "--base", base, "--adapter", f"{folder}/chat-adapter", "--dtype", "fp32", merged)
    for label, file in (("import", base), ("merge", merged)):
        export(file, out)
        for name in sorted(os.listdir(source)):
            same = os.path.exists(f"{out}/{name}") and open(f"{out}/{name}", "rb").read() == open(f"{source}/{name}", "rb").read()
            checks.that(same or name in ("config.json", "model.safetensors"), f"{label}: {name} came back changed")
        with open(f"{out}/config.json") as file:
            config = json.load(file)
            found = [config[key] for key in ("eos_token_id", "pad_token_id", "bos_token_id")]
            checks.that(found == [[257, end], 256, 257], f"{label}: special tokens {found}")
    export(f"{folder}/random.h5", out)
    checks.that("chat_template.jinja" not in os.listdir(out), "the files of an earlier export stay")


def check_saved_embeddings(checks, folder):
    """A PEFT directory may hold an embedding and a head, as PEFT saves them after a resize: the base's own say nothing, others take their place at both
    ends of a tied base. Two that differ, another vocabulary, and a factor of the head that no target means are refused by name."""
    base, factors = f"{folder}/chat.h5", {f"transformer.h.{layer}.attn.c_attn": (([2, 40], bytes(320)), ([120, 2], bytes(960))) for layer in range(2)}
    _, shape, data = tensors(f"{folder}/chat")["wte.weight"]
    own = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))  # bf16 as fp32
    other = own[:-2] + b"\0\0"
    embed, head, larger = "transformer.wte.weight", "lm_head.weight", [shape[0] + 1, shape[1]]
    for number, (saved, code, needle) in enumerate([
        ({embed: (shape, own)}, 0, ""), ({head: (shape, own)}, 0, ""), ({embed: (shape, other)}, 0, ""), ({embed: (shape, other), head: (shape, other)}, 0, ""),
        ({embed: (shape, other), head: (shape, other[:-4] + own[:4])}, INPUT, "the base ties embedding and head"),
        ({"transformer.wte.base_layer.weight": (shape, other)}, INPUT, "differs from the base's own"),
        ({embed: (larger, own + bytes(4 * shape[1]))}, INPUT, "301 × 40, the base's is 300 × 40"),
        ({"lm_head.lora_A.weight": ([2, 40], bytes(320))}, INPUT, "belongs to no module"),
    ]):
        peft = harness.make_peft(f"{folder}/embeddings-{number}", 2, 4, factors)
        pairs = {f"base_model.model.{module}.lora_{letter}.weight": pair[i] for module, pair in factors.items() for i, letter in enumerate("AB")}
        harness.write_safetensors(f"{peft}/adapter_model.safetensors", pairs | {f"base_model.model.{name}": value for name, value in saved.items()})
        out = f"{folder}/embeddings-{number}-out"
        done = harness.start("export", "--format", "peft", "--base", base, "--adapter", peft, out)
        checks.that(done.returncode == code and needle in done.stderr, f"{list(saved)}: exit {done.returncode}: {done.stderr!r}, expected {needle!r}")
        if done.returncode == 0:
            header, data = broken_files.read_safetensors(out, "adapter_model.safetensors")
            entries = [header[f"base_model.model.{name}"] for name in (embed, head) if f"base_model.model.{name}" in header]
            ends = [data[slice(*entry["data_offsets"])] for entry in entries]
            checks.that(ends == ([other] * 2 if other in [raw for _, raw in saved.values()] else []), f"{list(saved)}: {len(ends)} ends came back")


def leading(w):
    """σ·u·vᵀ of the largest singular value of rows `w`, by power iteration."""
    v = [1.0 + 0.01 * j for j in range(len(w[0]))]
    for _ in range(3000):
        u = [sum(x * y for x, y in zip(row, v)) for row in w]
        v = [sum(u[i] * w[i][j] for i in range(len(w))) for j in range(len(v))]
        norm = sum(x * x for x in v) ** 0.5
        v = [x / norm for x in v]
    u = [sum(x * y for x, y in zip(row, v)) for row in w]
    return [[a * b for b in v] for a in u]


def first_column(w):
    """q·qᵀ·W, q the direction of the first column: Q_1·R_1 of W's QR decomposition."""
    norm = sum(row[0] ** 2 for row in w) ** 0.5
    q = [row[0] / norm for row in w]
    along = [sum(q[i] * w[i][j] for i in range(len(w))) for j in range(len(w[0]))]
    return [[a * b for b in along] for a in q]


def check_changed_bases(checks, folder):
    """PiSSA's and OLoRA's directories hold A and B of what PEFT leaves of W: merged, W + s·B·A less what it took out (transformers and PEFT 0.21 give the same loss)."""
    base, merged, out, scale = f"{folder}/chat.h5", f"{folder}/changed.h5", f"{folder}/changed", 2.0
    name = "transformer.h.0.attn.c_attn"
    raw = tensors(f"{folder}/chat")["h.0.attn.c_attn.weight"][2]
    stored = struct.unpack("<4800f", b"".join(b"\0\0" + raw[i : i + 2] for i in range(0, len(raw), 2)))
    w = [[stored[i * 120 + o] for i in range(40)] for o in range(120)]
    a, b = [0.01 * (j % 7 - 3) for j in range(40)], [0.01 * (o % 5 - 2) for o in range(120)]
    for start, taken in (("pissa", leading(w)), ("olora", [[scale * x for x in row] for row in first_column(w)])):
        peft = harness.make_peft(f"{folder}/{start}", 1, 2, {name: (([1, 40], struct.pack("<40f", *a)), ([120, 1], struct.pack("<120f", *b)))})
        with open(f"{peft}/adapter_config.json") as file:
            config = json.load(file)
        reference.write_json(f"{peft}/adapter_config.json", config | {"init_lora_weights": start, "layers_to_transform": [0]})
        harness.mpilora("merge", "--base", base, "--adapter", peft, "--dtype", "fp32", merged)
        export(merged, out)
        found = struct.unpack("<4800f", tensors(out)["h.0.attn.c_attn.weight"][2])
        wrong = max(abs(found[i * 120 + o] - (w[o][i] + scale * b[o] * a[i] - taken[o][i])) for i in range(40) for o in range(120))
        checks.that(wrong < 1e-6, f"{start}: off by {wrong}")


def check_unsayable(checks, folder):
    """What a family's config.json has no key for would be read as another model."""
    sizes = "layers: 1, width: 32, heads: 2, vocab: 40, context: 16"
    for family, more, needle in (("bloom", "mlp_width: 64", "mlp_width is 64"), ("opt", "mlp_width: 64, norm_eps: 0.001", "norm_eps is 0.001"), ("gptj", "rope_width: 8, rope_theta: 500.0", "rope_theta is 500"),
                                ("llama", "mlp_width: 64, qkv_bias: true", "_bias is "), ("qwen2", "mlp_width: 64, kv_heads: 2, o_bias: true", "o_bias is true")):
        harness.make_base(folder, f"{{family: {family}, {sizes}, {more}}}\n")
        done = harness.start("export", "--format", "hf", "--base", f"{folder}/base.h5", f"{folder}/new")
        checks.that(done.returncode == INPUT and needle in done.stderr and done.stderr.count("\n") == 1, f"{family}, {more}: exit {done.returncode}: {done.stderr!r}")


def check_refusals(checks, folder):
    base, out, taken = f"{folder}/llama-fp32.h5", f"{folder}/llama-fp32", f"{folder}/taken"
    os.makedirs(taken)
    with open(f"{taken}/thesis.tex", "w") as file:
        file.write("mine")
    cases = [
        ("a directory with other files", USAGE, "thesis.tex", [base, taken]),
        ("a file", USAGE, "random.yaml", [base, f"{folder}/random.yaml"]),
        ("an adapter", USAGE, "merge", [base, f"{folder}/new", "--adapter", base]),
        ("no base", INPUT, "none.h5", [f"{folder}/none.h5", f"{folder}/new"]),
        ("no base file", INPUT, "random.yaml", [f"{folder}/random.yaml", f"{folder}/new"]),
        ("below a file", RESOURCE, "random.yaml", [base, f"{folder}/random.yaml/new"]),
    ]
    for label, code, needle, words in cases:
        done = harness.start("export", "--format", "hf", "--base", *words)
        checks.that(done.returncode == code and needle in done.stderr, f"{label}: exit {done.returncode}: {done.stderr!r}, expected {code}")
    check_unsayable(checks, folder)
    checks.that(os.listdir(taken) == ["thesis.tex"], "files in the directory of somebody else")
    checks.that(not os.path.exists(f"{folder}/new"), "a refused export made its directory")
    check_full_disk(checks, folder, base, out)


def check_full_disk(checks, folder, base, out):
    """Files may not grow beyond some kB: exit 4, and the earlier export stays."""
    before = tensors(out)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

    words = harness.command("export", "--format", "hf", "--base", base, out)
    done = subprocess.run(words, text=True, capture_output=True, preexec_fn=limit, restore_signals=False, timeout=120)
    checks.that(done.returncode == RESOURCE and "model.safetensors" in done.stderr, f"a full disk: exit {done.returncode}: {done.stderr!r}")
    checks.that(tensors(out) == before, "a full disk: the earlier export changed")
    checks.that(sorted(os.listdir(out)) == ["config.json", "model.safetensors"], f"a full disk: left {sorted(os.listdir(out))}")
    for what, size in (("weights", 9000), ("what comes behind the weights", os.path.getsize(f"{out}/model.safetensors"))):
        new = f"{folder}/above/new"
        done = subprocess.run([*words[:-1], new], text=True, capture_output=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)), restore_signals=False, timeout=120)
        full = done.returncode == RESOURCE if what == "weights" else done.returncode in (0, RESOURCE)
        checks.that(full and os.path.exists(new) == (done.returncode == 0), f"a full disk, {what}: exit {done.returncode}, left {os.path.exists(new)}: {done.stderr!r}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory(prefix="mpilora-export-") as folder:
        check_models(checks, folder)
        check_tokenizer(checks, folder)
        check_tokenizer_files(checks, folder)
        check_kept_files(checks, folder)
        check_saved_embeddings(checks, folder)
        check_changed_bases(checks, folder)
        check_refusals(checks, folder)
    checks.end()


if __name__ == "__main__":
    main()
