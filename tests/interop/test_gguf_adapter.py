"""export --format gguf --adapter: alpha / rank · B·A of every tensor of llama.cpp's adapter file is what merging the adapter adds to that tensor of the model's GGUF
file, in its rows; and with --merge that model. Parts of a fused tensor, scales that differ, rsLoRA; what such a file cannot say is refused. PEFT directories of the same adapters say r and lora_alpha at the top where all
modules agree, for readers that know no patterns."""

import json
import os
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import family_models as families
import gguf_models as gguf
import harness
import reference_models as reference
import said_models as said
from test_gguf_export import refuse

USAGE, INPUT = 2, 3


def numbers(tensor):
    shape, kind, data = tensor
    assert kind == 0
    cols = shape[-1]
    flat = struct.unpack(f"<{len(data) // 4}f", data)
    return [flat[i : i + cols] for i in range(0, len(flat), cols)]


def added(path):
    """name of a tensor -> what the adapter of the file adds to it."""
    metadata, tensors = gguf.read_file(path)
    words = {key: metadata[key] for key in ("general.type", "adapter.type")}
    assert words == {"general.type": "adapter", "adapter.type": "lora"}, words
    out = {}
    for name in {name.rsplit(".", 1)[0] for name in tensors}:
        a, b = numbers(tensors[f"{name}.lora_a"]), numbers(tensors[f"{name}.lora_b"])
        scale = metadata["adapter.lora.alpha"] / len(a)
        out[name] = [[scale * sum(x * y for x, y in zip(row, column)) for column in zip(*a)] for row in b]
    return metadata, out


def check(checks, label, folder, base, adapter):
    """Returns how many tensors the adapter's file adapts."""
    export = ("export", "--format", "gguf", "--base", base)
    harness.mpilora(*export, f"{folder}/base.gguf")
    harness.mpilora(*export, "--adapter", adapter, f"{folder}/adapter.gguf")
    harness.mpilora(*export, "--adapter", adapter, "--merge", f"{folder}/merged.gguf")
    checks.that(not [name for name in os.listdir(folder) if ".tmp-" in name], f"{label}: left {os.listdir(folder)}")
    (said_base, before), (_, after) = gguf.read_file(f"{folder}/base.gguf"), gguf.read_file(f"{folder}/merged.gguf")
    metadata, deltas = added(f"{folder}/adapter.gguf")
    architecture = metadata["general.architecture"]
    checks.that(architecture == said_base["general.architecture"], f"{label}: architecture {architecture}")
    changed = {name for name in before if before[name][2] != after[name][2]}
    checks.that(changed == set(deltas), f"{label}: adapts {sorted(deltas)}, but merging changes {sorted(changed)}")
    for name in changed & set(deltas):
        one, two, delta = numbers(before[name]), numbers(after[name]), deltas[name]
        shape = (len(delta), len(delta[0]))
        checks.that(shape == (len(one), len(one[0])), f"{label}: {name} has a delta of {shape}")
        worst = max(abs(y - x - d) for xs, ys, ds in zip(one, two, delta) for x, y, d in zip(xs, ys, ds))
        checks.that(worst < 2e-6, f"{label}: {name} differs from the merged model by {worst}")
    return len(deltas)


def check_families(checks, folder):
    for name in ("llama", "qwen3", "phi3", "glm4", "cohere", "falcon-40b", "gpt_neox", "gemma"):
        source, base, adapter = f"{folder}/{name}", f"{folder}/{name}.h5", f"{folder}/{name}.peft"
        said.write_model(source, name)
        harness.mpilora("import", source, base, "--dtype", "fp32")
        if name in reference.MODELS:
            reference.write_adapter(adapter, {**reference.DEFAULTS, "model": name, "targets": ["all"]})
        else:
            families.write_adapter(adapter, name, said.shapes_of(name))
        check(checks, name, folder, base, adapter)
    with open(f"{folder}/llama.peft/adapter_config.json") as file:
        config = json.load(file)
    for label, change in (("patterns", {"alpha_pattern": {"q_proj": 40, "layers.1.mlp.down_proj": 3}}), ("rslora", {"use_rslora": True})):
        reference.write_json(f"{folder}/llama.peft/adapter_config.json", config | change)
        check(checks, label, folder, f"{folder}/llama.h5", f"{folder}/llama.peft")


def check_parts(checks, folder):
    """q and v of GPT-2 are parts of attn_qkv, of other ranks each: one adapter of the sum of them."""
    source, base = f"{folder}/gpt2", f"{folder}/gpt2.h5"
    said.write_model(source, "gpt2")
    harness.mpilora("import", source, base, "--dtype", "fp32")
    with open(f"{folder}/data.jsonl", "w") as file:
        for i in range(8):
            file.write(json.dumps({"input_ids": [(7 * i * j + 3) % 211 for j in range(12)]}) + "\n")
    harness.mpilora("tokenize", "--base", base, "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")
    config = harness.write_config(
        f"{folder}/run.yaml",
        run={"dir": f"{folder}/run", "seed": 1},
        base=base,
        method={"name": "lora", "rank": 4, "alpha": 16, "targets": ["q", "v", "fc"], "rank_pattern": {"v": 2}},
        data={"train": f"{folder}/data.h5", "max_len": 12},
        batch={"sequences": 4},
        optim={"lr": 1e-1},
        train={"steps": 3},
        precision="fp32",
    )
    harness.mpilora("train", config)
    check(checks, "gpt2's q and v", folder, base, f"{folder}/run/adapter.h5")
    _, tensors = gguf.read_file(f"{folder}/adapter.gguf")
    shapes = tensors["blk.0.attn_qkv.weight.lora_a"][0], tensors["blk.0.attn_qkv.weight.lora_b"][0]
    checks.that(shapes == ([6, 48], [144, 6]), f"gpt2's q and v: {shapes}")
    return config, base


def check_peft(checks, folder, config, base):
    """q and v alone make c_attn of twice the rank; with fc beside them there are two ranks, and patterns."""
    for label, targets, wanted in (("q, v", ["q", "v"], (8, 32, {}, {})), ("q, v, fc", ["q", "v", "fc"], (4, 16, {"attn.c_attn": 8}, {"attn.c_attn": 32}))):
        with open(config) as file:
            settings = json.load(file)
        run = f"{folder}/peft-{len(targets)}"
        harness.write_config(f"{run}.yaml", **(settings | {"method": {"name": "lora", "rank": 4, "alpha": 16, "targets": targets}, "run": {"dir": run, "seed": 1}}))
        harness.mpilora("train", f"{run}.yaml")
        harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", f"{run}/adapter.h5", f"{run}.peft")
        with open(f"{run}.peft/adapter_config.json") as file:
            said = json.load(file)
        found = tuple(said[key] for key in ("r", "lora_alpha", "rank_pattern", "alpha_pattern"))
        checks.that(found == wanted and said["base_model_name_or_path"] is None, f"PEFT's configuration of {label}: {found}, expected {wanted}")


def check_refusals(checks, folder, config, base):
    for name, targets in (("bitfit", None), ("adapter_h", None), ("lora", ["embed"]), ("lora", ["head"])):
        method = {"name": name} | ({"targets": targets, "rank": 2, "alpha": 2} if targets else {})
        if name == "adapter_h":
            method["bottleneck"] = 4
        with open(config) as file:
            settings = json.load(file)
        run = f"{folder}/{name}-{targets}"
        harness.write_config(f"{run}.yaml", **(settings | {"method": method, "run": {"dir": run, "seed": 1}}))
        harness.mpilora("train", f"{run}.yaml")
        words = ["no GGUF file can say what method adapter_h"] if name == "adapter_h" else ["--merge", targets[0].replace("embed", "embedding") if targets else name]
        refuse(checks, USAGE, words, "export", "--format", "gguf", "--base", base, "--adapter", f"{run}/adapter.h5", f"{folder}/no-{name}.gguf")
    adapter = f"{folder}/saved"
    reference.write_adapter(adapter, {**reference.DEFAULTS, "model": "gpt2", "targets": ["proj"], "saved": ["ln_f"]})
    export = ("export", "--format", "gguf", "--base", base, "--adapter")
    refuse(checks, USAGE, ["norm"], *export, adapter, f"{folder}/no-saved.gguf")
    refuse(checks, USAGE, ["--dtype"], *export, f"{folder}/run/adapter.h5", "--dtype", "f16", f"{folder}/no-dtype.gguf")
    size = os.path.getsize(base)
    for words in ([], ["--merge"]):
        done = harness.start(*export, f"{folder}/run/adapter.h5", *words, base)
        checks.that(done.returncode == USAGE and "the base itself" in done.stderr and os.path.getsize(base) == size, f"over the base, {words}: {done.stderr}")
    harness.mpilora(*export, f"{folder}/run/adapter.h5", f"{folder}/lora.gguf")
    refuse(checks, INPUT, ["lora.gguf", "is a GGUF adapter", "--adapter"], "import", f"{folder}/lora.gguf", f"{folder}/no-base.h5")
    refuse(checks, INPUT, ["nothing-there"], *export, f"{folder}/nothing-there", f"{folder}/no-adapter.gguf")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        check_families(checks, folder)
        config, base = check_parts(checks, folder)
        check_peft(checks, folder, config, base)
        check_refusals(checks, folder, config, base)
    checks.end()


main()
