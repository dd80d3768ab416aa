"""Encoders laid over transformers and PEFT (tests/golden/encoders.json, by make_encoder_golden.py): vectors of texts by every pooling on every grid, with
adapters in and out, bases out and back; what is for models that write is refused."""

import json
import os
import shutil
import struct
import sys
import tempfile

try:
    import numpy
except ImportError:
    print("numpy is not installed: skipped")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import encoder_models as encoders
import family_models as families
import harness

BOUND = 1e-5  # of the largest number
GRIDS = {"mean": (0, 1), "cls": (2, 1), "last": (2, 2)}  # ranks, tp


def inspect(path):
    return json.loads(harness.mpilora("inspect", path, "--json"))


def embed(folder, base, *words, ranks=0, tp=1):
    out = f"{folder}/out.npy"
    harness.mpilora("embed", "--base", base, f"{folder}/texts.txt", out, "--tp", tp, *words, ranks=ranks)
    return numpy.load(out)


def check_hdf5(checks, folder, base):
    """The same matrix, which lies in the file as it is."""
    expected, out = embed(folder, base), f"{folder}/out.h5"
    said = json.loads(harness.mpilora("embed", "--base", base, f"{folder}/texts.txt", out, "--json"))
    with open(out, "rb") as file:
        content = file.read()
    checks.that(expected.tobytes() in content and b"embeddings" in content, "HDF5: the matrix is not in it")
    expected = {"texts": len(encoders.TEXTS), "width": 48, "tokens": sum(min(len(ids) + 2, encoders.CONTEXT) for ids in encoders.TEXTS), "cut": 1, "max_len": encoders.CONTEXT, "pooling": "mean", "normalised": False}
    checks.that(said == expected, f"--json: {said}, expected {expected}")


def compare(checks, label, found, expected):
    expected = numpy.array(expected)
    if not checks_shape(checks, label, found, expected):
        return
    off = float(numpy.abs(found - expected).max() / numpy.abs(expected).max())
    checks.that(off <= BOUND, f"{label}: off by {off:.3g}")
    print(f"{label}: {off:.2g}", flush=True)


def checks_shape(checks, label, found, expected):
    checks.that(found.shape == expected.shape and found.dtype == numpy.float32, f"{label}: {found.dtype} {found.shape}, expected {expected.shape}")
    return found.shape == expected.shape


def prepare(checks, folder, name, shapes):
    directory, base = f"{folder}/{name}", f"{folder}/{name}.h5"
    encoders.write_model(directory, name, shapes)
    encoders.write_tokenizer(directory, name)
    done = harness.start("import", directory, base, "--dtype", "fp32")
    config = encoders.MODELS[name]
    labelled = config["architectures"][0].endswith(("SequenceClassification", "TokenClassification"))
    taken = ("classifier", "pooler") if labelled else ("pooler",) if config["model_type"] == "bert" else ()
    left = sum("classifier" in key or "pooler" in key for key in shapes if not any(word in key for word in taken))
    said = f"{left} tensors of a head are left out" if left else ""
    checks.that(done.returncode == 0 and said in done.stderr and ("left out" in done.stderr) == (left > 0), f"{name}: import: {done.returncode}, {done.stderr}")
    masked = config["architectures"][0].endswith("MaskedLM")
    checks.that(("transform" in inspect(base)["architecture"]) == masked, f"{name}: a head for masked tokens: {not masked}")
    with open(f"{folder}/texts.txt", "w") as file:
        file.writelines(families.text(ids) + "\n" for ids in encoders.TEXTS)
    return directory, base


def check_vectors(checks, folder, name, golden, base):
    for pooling, (ranks, tp) in GRIDS.items():
        found = embed(folder, base, "--pooling", pooling, ranks=ranks, tp=tp)
        compare(checks, f"{name}, {pooling}, {ranks} ranks, tp {tp}", found, golden["vectors"][pooling])


def check_adapter(checks, folder, name, golden, shapes, base):
    """Under the names of a model with a head and of the bare one; out again as PEFT has it."""
    prefix = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta.", "modernbert": "model.", "deberta-v2": "deberta.", "deberta": "deberta."}[encoders.MODELS[name]["model_type"]]
    encoders.write_adapter(f"{folder}/{name}.headed", name, shapes, prefix)
    encoders.write_adapter(f"{folder}/{name}.bare", name, shapes, "")
    for adapter in ("headed", "bare"):
        found = embed(folder, base, "--adapter", f"{folder}/{name}.{adapter}", ranks=4 if adapter == "headed" else 0, tp=2 if adapter == "headed" else 1)
        compare(checks, f"{name}, adapter, {adapter}", found, golden["adapted"])
    merged = f"{folder}/{name}-merged.h5"
    harness.mpilora("merge", "--base", base, "--adapter", f"{folder}/{name}.bare", "--dtype", "fp32", merged)
    compare(checks, f"{name}, merged", embed(folder, merged), golden["adapted"])


def check_parts(checks, folder, name, shapes, base):
    """An adapter of output.dense alone, whose name is the end of attention.output.dense, out and back."""
    first, again = f"{folder}/parts", f"{folder}/parts.again"
    encoders.write_adapter(first, name, shapes, "", lambda path: path.endswith("output.dense") and "attention" not in path)
    harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", first, again)
    with open(f"{again}/adapter_config.json") as file:
        targets = json.load(file)["target_modules"]
    meant = [f"encoder.layer.{layer}.attention.output.dense" for layer in range(3)] + ["pooler.dense"]
    checks.that(not any(path == word or path.endswith(f".{word}") for path in meant for word in targets), f"{name}: parts: {targets}")
    found, expected = embed(folder, base, "--adapter", again), embed(folder, base, "--adapter", first)
    compare(checks, f"{name}, parts out and back", found, expected)
    checks.that(float(numpy.abs(found - embed(folder, base)).max()) > 1e-3, f"{name}: parts change nothing")


def check_back(checks, folder, name, base):
    harness.mpilora("export", "--format", "hf", "--base", base, f"{folder}/{name}.hf")
    done = harness.start("import", f"{folder}/{name}.hf", f"{folder}/{name}-back.h5", "--dtype", "fp32")
    found, expected = inspect(f"{folder}/{name}-back.h5"), inspect(base)
    checks.that("left out" not in done.stderr, f"{name}, out and back: {done.stderr}")
    for key in ("architecture", "content_sha256"):
        checks.that(found[key] == expected[key], f"{name}, out and back: {key} {found[key]}, expected {expected[key]}")


def check_parts_of_a_head(checks, folder, name, shapes):
    """A head for masked tokens that lacks a tensor is none."""
    rest = {key: shape for key, shape in shapes.items() if not key.endswith("transform.dense.bias")}
    encoders.write_model(f"{folder}/{name}-parts", name, rest)
    done = harness.start("import", f"{folder}/{name}-parts", f"{folder}/{name}-parts.h5")
    checks.that(done.returncode == 0 and "4 tensors of a head are left out, the first is cls.predictions" in done.stderr, f"{name}, part of a head: {done.returncode}, {done.stderr}")
    checks.that("transform" not in inspect(f"{folder}/{name}-parts.h5")["architecture"], f"{name}: part of a head is taken")


def check_first_names(checks, folder, name, base):
    """gamma and beta, as BERT's own files call weight and bias of a LayerNorm."""
    with open(f"{folder}/{name}/model.safetensors", "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header, data = json.loads(file.read(size)), file.read()
    first = {key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): entry for key, entry in header.items()}
    shutil.copytree(f"{folder}/{name}", f"{folder}/{name}-first")
    text = json.dumps(first).encode()
    with open(f"{folder}/{name}-first/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    done = harness.start("import", f"{folder}/{name}-first", f"{folder}/{name}-first.h5", "--dtype", "fp32")
    if done.returncode == 0:
        for key in ("architecture", "content_sha256"):
            checks.that(inspect(f"{folder}/{name}-first.h5")[key] == inspect(base)[key], f"{name}, gamma and beta: another {key}")
    checks.that(done.returncode == 0 and first != header, f"{name}, gamma and beta: exit {done.returncode}, {done.stderr}")


def check_refusals(checks, folder, name, base):
    """What only a model that writes can do, before anything is computed."""
    with open(f"{folder}/data.jsonl", "w") as file:
        file.write(json.dumps({"input_ids": [3, 4, 5]}) + "\n")
    harness.mpilora("tokenize", "--base", base, "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")
    data = {"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"}
    config = harness.write_config(f"{folder}/run.yaml", base=base, run={"dir": f"{folder}/run"}, method={"name": "lora", "rank": 2, "targets": ["q"]}, data=data, batch={"sequences": 1, "micro": 1}, train={"steps": 1})
    for words in (("generate", "--base", base, "--prompt", "<3>"), ("train", config), ("eval", config), ("bench", "generate", "--base", base)):
        done = harness.start(*words)
        checks.that(done.returncode == 2 and "an encoder" in done.stderr and done.stderr.count("\n") == 1, f"{name}: {words[0]}: exit {done.returncode}, {done.stderr}")
    checks.that(not os.path.exists(f"{folder}/run"), f"{name}: train has made {folder}/run")
    harness.mpilora("plan", config)


def check_deberta(checks, folder, name):
    """What a configuration may not say, each by its name; what it may leave out."""
    directory, path = f"{folder}/{name}", f"{folder}/{name}/config.json"
    with open(path) as file:
        plain = json.load(file)
    refused = {
        "pos_att_type": ["c2p|p2p", ["c2q"], 7],
        "relative_attention": [False],
        "conv_act": ["mish"],
        "conv_groups": [2],
        "conv_kernel_size": [4, 3],
        "position_buckets": [1, 22],
        "num_hidden_layers": [1],
        "embedding_size": [24],
        "max_relative_positions": ["zzz"],
    }
    said = {("position_buckets", 22): "relative_buckets", ("position_buckets", 1): "relative_buckets", ("num_hidden_layers", 1): "convolution", ("embedding_size", 24): "of its own width", ("conv_kernel_size", 4): "conv_kernel", ("conv_kernel_size", 3): "encoder.conv.conv.weight has shape [48, 48, 5], expected [48, 48, 3]"}
    for key, values in refused.items():
        for value in values:
            harness.write_config(path, **plain | {key: value})
            done = harness.start("import", directory, f"{folder}/refused.h5")
            expected = key if isinstance(value, list) else said.get((key, value), key)
            checks.that(done.returncode == 3 and expected in done.stderr and done.stderr.count("\n") == 1, f"{name}, {key} {value}: exit {done.returncode}, {done.stderr}")
    harness.write_config(path, **plain | {"conv_groups": 1, "position_buckets": None, "conv_act": "tanh"})
    done = harness.start("import", directory, f"{folder}/{name}-again.h5", "--dtype", "fp32")
    checks.that(done.returncode == 0 and inspect(f"{folder}/{name}-again.h5")["content_sha256"] == inspect(f"{folder}/{name}.h5")["content_sha256"], f"{name}: exit {done.returncode}, {done.stderr}")


def main():
    checks, golden = harness.Checks(), encoders.golden()
    for name in sys.argv[1:] or encoders.MODELS:
        with tempfile.TemporaryDirectory() as folder:
            shapes = golden[name]["tensors"]
            directory, base = prepare(checks, folder, name, shapes)
            check_vectors(checks, folder, name, golden[name], base)
            check_adapter(checks, folder, name, golden[name], shapes, base)
            check_back(checks, folder, name, base)
            if encoders.MODELS[name]["model_type"] != "modernbert":
                check_first_names(checks, folder, name, base)
            if name == "bert":
                check_hdf5(checks, folder, base)
                check_parts(checks, folder, name, shapes, base)
                check_refusals(checks, folder, name, base)
                check_parts_of_a_head(checks, folder, name, shapes)
            if name == "deberta-v2":
                check_deberta(checks, folder, name)
    checks.end()


main()
