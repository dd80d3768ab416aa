"""The same model as a Hugging Face directory and as GGUF is the same base bit for bit, with the features that config.json says; what GGUF cannot say is
warned of; a config.json of another model is refused."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import gguf_models
import harness
import reference_models as reference

USAGE, INPUT = 2, 3
SAME = ("architecture", "content_sha256", "tensors")


def inspect(path):
    return json.loads(harness.mpilora("inspect", path, "--json"))


def check_model(checks, folder, name):
    directory, file, bases = f"{folder}/{name}", f"{folder}/{name}.gguf", {}
    reference.write_model(directory, name)
    gguf_models.write(file, name)
    config = f"{directory}/config.json"
    for dtype in ("fp32", "bf16"):
        harness.mpilora("import", directory, f"{folder}/hf.h5", "--dtype", dtype)
        harness.mpilora("import", file, f"{folder}/gguf.h5", "--dtype", dtype, "--hf-config", config)
        bases[dtype] = inspect(f"{folder}/hf.h5")
        found = inspect(f"{folder}/gguf.h5")
        for key in SAME:
            checks.that(found[key] == bases[dtype][key], f"{name}, {dtype}: {key} of GGUF is {found[key]}, of the directory {bases[dtype][key]}")
    checks.that(bases["fp32"]["architecture"]["window"] == reference.SHORT, f"{name}: window {bases['fp32']['architecture']['window']}")
    alone = harness.start("import", file, f"{folder}/alone.h5", "--dtype", "fp32")
    checks.that(alone.returncode == 0 and "window" in alone.stderr and "--hf-config" in alone.stderr, f"{name}: no warning of windows: {alone.stderr}")
    found = inspect(f"{folder}/alone.h5")
    checks.that(found["tensors"] == bases["fp32"]["tensors"] and found["architecture"]["window"] == 0, f"{name}: without a config.json: {found}")
    return file, config


def refuse(checks, code, words, *command):
    done = harness.start("import", *command)
    lines = done.stderr.strip().splitlines()
    good = done.returncode == code and len(lines) == 1 and all(word in lines[0] for word in words)
    checks.that(good, f"{command}: exit {done.returncode}, expected {code}, with {words}: {done.stderr}")


def check_tokenizer(checks, folder, file, config):
    """A directory's tokenizer in the place of the GGUF file's own: the base has it and its files, but nothing of the model that it was made for: config.json is
    the one of --hf-config. A tokenizer with too many tokens, or none, is refused."""
    source, base, out = f"{folder}/words", f"{folder}/words.h5", f"{folder}/words-out"
    os.mkdir(source)
    settings = {"eos_token": "<end>", "chat_template": "{{ messages[0].content }}"}

    def write(size):
        tokenizer = {"added_tokens": [{"id": size - 1, "content": "<end>", "special": True}], "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(size - 1)}, "unk_token": "w0"},
                     "pre_tokenizer": {"type": "Whitespace"}}
        reference.write_json(f"{source}/tokenizer.json", tokenizer)

    refuse(checks, INPUT, ["no tokenizer there", source], file, base, "--hf-config", config, "--tokenizer", source)
    with open(config) as stream:
        vocab = json.load(stream)["vocab_size"]
    reference.write_json(f"{source}/tokenizer_config.json", settings)
    write(vocab + 1)
    refuse(checks, INPUT, [f"{vocab + 1} tokens", source], file, base, "--hf-config", config, "--tokenizer", source)
    write(vocab)
    kept = ("sentencepiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    for name in ("sentencepiece.model", "tokenizer.model"):
        with open(f"{source}/{name}", "wb") as stream:
            stream.write(bytes(range(256)))
    reference.write_json(f"{source}/config.json", {"model_type": "gpt2", "pad_token_id": 3, "id2label": {"0": "no"}, "label2id": {"no": 0}})
    reference.write_json(f"{source}/modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}])
    reference.write_json(f"{source}/sentence_bert_config.json", {"max_seq_length": 9})
    own = f"{folder}/own-config.json"
    with open(config) as stream:
        reference.write_json(own, {**json.load(stream), "pad_token_id": 2})
    harness.mpilora("import", file, base, "--hf-config", own, "--tokenizer", source)
    harness.mpilora("export", "--format", "hf", "--base", base, out)
    for name in kept:
        with open(f"{source}/{name}", "rb") as given, open(f"{out}/{name}", "rb") as written:
            checks.that(given.read() == written.read(), f"{name} of --tokenizer did not go out again")
    found = sorted(os.listdir(out))
    checks.that(found == sorted((*kept, "config.json", "model.safetensors")), f"of --tokenizer: the export holds {found}")
    with open(f"{out}/config.json") as stream:
        found = json.load(stream)
    checks.that(found.get("pad_token_id") == 2 and "id2label" not in found, f"config.json: not of --hf-config: {found}")
    checks.that(inspect(base)["tokenizer_sha256"] != inspect(f"{folder}/gguf.h5")["tokenizer_sha256"], "the base has the file's tokenizer")
    refuse(checks, USAGE, ["--tokenizer", "has its own"], os.path.dirname(config), base, "--tokenizer", source)


def check_sizes_of_layers(checks, folder, alone):
    """A number for each layer, as llama.cpp reads these keys, too: the model where all are alike, else refused by key and layer."""
    keys = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    architecture, metadata, tensors = gguf_models.contents("qwen3")
    layers, path = metadata["block_count"], f"{folder}/lists.gguf"
    gguf_models.write_file(path, architecture, metadata | {key: [metadata[key]] * layers for key in keys}, tensors)
    harness.mpilora("import", path, f"{folder}/lists.h5", "--dtype", "fp32")
    checks.that(inspect(f"{folder}/lists.h5")["content_sha256"] == alone["content_sha256"], "sizes by layer: another base")
    for key in keys:
        for sizes, words in (([metadata[key]] * (layers - 1) + [metadata[key] + 1], [key, f"in layer {layers - 1}", "not supported"]), ([metadata[key]] * (layers + 1), [key, f"{layers + 1} numbers"])):
            gguf_models.write_file(path, architecture, metadata | {key: sizes}, tensors)
            refuse(checks, INPUT, words, path, f"{folder}/refused.h5")


def check_pooling(checks, folder):
    """llama.cpp's numbers for how a text becomes a vector; 0 (none) and 4 (a score) are no vector, and what comes later is named."""
    architecture, metadata, tensors = gguf_models.contents("qwen3")
    path, base = f"{folder}/pooled.gguf", f"{folder}/pooled.h5"
    for number, flag in ((0, None), (1, "mean_tokens"), (2, "cls_token"), (3, "lasttoken"), (4, None), (5, None)):
        gguf_models.write_file(path, architecture, metadata | {"pooling_type": number}, tensors)
        text = harness.start("import", path, base).stderr
        checks.that(("pooling_type 5 is not known" in text) == (number == 5), f"pooling_type {number}: {text}")
        harness.mpilora("export", "--format", "hf", "--base", base, f"{folder}/pooled-{number}")
        pooling = f"{folder}/pooled-{number}/1_Pooling/config.json"
        checks.that(os.path.exists(pooling) == os.path.exists(f"{folder}/pooled-{number}/modules.json") == bool(flag), f"pooling_type {number}: its files")
        if flag and os.path.exists(pooling):
            with open(pooling) as file:
                found = [key for key, value in json.load(file).items() if key.startswith("pooling_mode_") and value]
            checks.that(found == [f"pooling_mode_{flag}"], f"pooling_type {number}: {found}")
    gguf_models.write_file(path, architecture, metadata | {"pooling_type": "last"}, tensors)
    refuse(checks, INPUT, ["pooling_type", "a whole number"], path, base)


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: check_model(checks, folder, name) for name in gguf_models.ARCHITECTURE}
        out = f"{folder}/refused.h5"
        qwen3, config = files["qwen3"]
        harness.mpilora("import", qwen3, f"{folder}/alone.h5", "--dtype", "fp32")
        check_pooling(checks, folder)
        check_sizes_of_layers(checks, folder, inspect(f"{folder}/alone.h5"))
        refuse(checks, INPUT, ["qwen3", "Mistral"], qwen3, out, "--hf-config", files["mistral"][1])
        with open(config) as file:
            other = json.load(file) | {"rms_norm_eps": 1e-4}
        reference.write_json(f"{folder}/other.json", other)
        refuse(checks, INPUT, ["eps", "other.json"], qwen3, out, "--hf-config", f"{folder}/other.json")
        refuse(checks, USAGE, ["--hf-config"], f"{folder}/qwen3", out, "--hf-config", config)
        checks.that(not os.path.exists(out), "a refused import left a file")
        check_tokenizer(checks, folder, qwen3, config)
    checks.end()


main()
