"""Every field of PEFT's LoraConfig (tests/golden/peft_fields.json, by make_peft_fields.py) stands in the table of docs/file-formats.md, and the program does what
the table says: its saved default is read without a word, an ignored field is read whatever it says, a refused one that is set is refused by name in one line.
Lists of tokens that do not fit are refused, too."""

import json
import os
import re
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import reference_models as reference
import reference_variants as variants

CASE = "tokens-llama"
TOKENS = {  # trainable_token_indices: what the line says; the file has five rows of the embedding
    "[1, 2]": "is 5 × 48, expected 2 × 48",
    "[1, 2, 3, 4, 203]": "token 203 is not one of the base's 203",
    "[1, 2, 3, 4, -1]": "token -1 is not one of the base's 203",
    "[1, 2, 3, 4, 4]": "token 4 stands there twice",
    '{"q_proj": [1]}': "neither the embedding nor the head",
    '{"lm_head": [1]}': "lm_head.token_adapter.trainable_tokens_delta is missing",
    '"x"': "trainable_token_indices",
    "null": "belongs to no module",
}


def table():
    """Field → how its row of the table begins."""
    with open(f"{harness.SOURCE}/docs/file-formats.md") as file:
        page = file.read().split("## PEFT directories: what is read")[1]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", page, re.M)
    return {name: what for keys, what in rows for name in re.findall(r"`(\w+)`", keys)}


def read(folder, model, fields, more=None):
    """more: tensors beside the adapter's own."""
    directory = tempfile.mkdtemp(dir=folder)
    case = variants.CASES[CASE]
    variants.write_adapter(f"{directory}/adapter", case)
    if more:
        path = f"{directory}/adapter/adapter_model.safetensors"
        with open(path, "rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            header, data = json.loads(file.read(size)), file.read()
        header.pop("__metadata__", None)
        own = {name: (entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in header.items()}
        harness.write_safetensors(path, own | more)
    reference.write_json(f"{directory}/adapter/adapter_config.json", fields)
    return harness.start("export", "--format", "peft", "--base-name", "x", "--base", f"{folder}/{model}.h5", "--adapter", f"{directory}/adapter", f"{directory}/out")


def check_saved(checks, folder, model, own):
    """Modules that are saved whole: they have no factors though target_modules means them, and names are ends of paths, also within a word. DoRA on the embedding is refused."""
    targets = own["target_modules"]
    done = read(folder, model, own | {"target_modules": [*targets, "lm_head"], "modules_to_save": ["lm_head"], "trainable_token_indices": own["trainable_token_indices"]})
    checks.that("lora_A is missing" not in done.stderr, f"a target that is saved whole: exit {done.returncode}, {done.stderr!r}")
    done = read(folder, model, own | {"target_modules": ["embed_tokens"], "use_dora": True})
    fine = done.returncode == 3 and "magnitudes of an embedding" in done.stderr and done.stderr.count("\n") == 1
    checks.that(fine, f"DoRA on the embedding: exit {done.returncode}, {done.stderr!r}")
    norm = "base_model.model.model.layers.1.input_layernorm.weight"
    for name, code in (("norm", 0), ("layernorm", 0), ("layernor", 3)):
        done = read(folder, model, own | {"modules_to_save": [name]}, {norm: ([48], struct.pack("<48f", *range(48)))})
        checks.that(done.returncode == code and ("belongs to no module" in done.stderr) == (code == 3), f"modules_to_save {name}: exit {done.returncode}, {done.stderr!r}")


def embedding(folder, model):
    """Shape and numbers of the base's."""
    with open(f"{folder}/{model}/model.safetensors", "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        entry = json.loads(file.read(size))["model.embed_tokens.weight"]
        data = file.read()[slice(*entry["data_offsets"])]
    return entry["shape"], list(struct.unpack(f"<{len(data) // 4}f", data))


def check_copies(checks, folder, model, own):
    """PEFT saves an embedding or a head that it has wrapped with every tensor of the wrapper: those that it does not read are passed over where the one that it reads is
    there, and what a module was before must be the base's own, but for rows that train alone."""
    norm, embed = "base_model.model.model.norm", "base_model.model.model.embed_tokens"
    vector = ([48], struct.pack("<48f", *range(48)))
    saved = own | {"modules_to_save": ["norm"]}
    copies = {f"{norm}.modules_to_save.weight": vector, f"{norm}.original_module.weight": vector}
    for more, says in ((copies | {f"{norm}.weight": vector}, ""), (copies, "belongs to no module")):
        done = read(folder, model, saved, more)
        checks.that(done.returncode == (3 if says else 0) and says in done.stderr, f"copies of {sorted(more)}: exit {done.returncode}, {done.stderr!r}")
    shape, numbers = embedding(folder, model)
    for row, says in ((None, ""), (3, ""), (4, "differs from the base's own")):
        values = [x + (i // shape[1] == row) for i, x in enumerate(numbers)]
        packed = struct.pack(f"<{len(values)}f", *values)
        done = read(folder, model, own, {f"{embed}.token_adapter.base_layer.weight": (shape, packed)})
        fine = done.returncode == (3 if says else 0) and says in done.stderr and done.stderr.count("\n") == 1
        checks.that(fine, f"the embedding below tokens, row {row} another: exit {done.returncode}, {done.stderr!r}")


def main():
    checks = harness.Checks()
    with open(f"{harness.SOURCE}/tests/golden/peft_fields.json") as file:
        defaults = json.load(file)
    rows, own = table(), variants.peft_config(variants.CASES[CASE])
    checks.that(set(defaults) <= set(rows), f"not in the table: {sorted(set(defaults) - set(rows))}")
    with tempfile.TemporaryDirectory() as folder:
        model = variants.CASES[CASE]["model"]
        reference.write_model(f"{folder}/{model}", model)
        harness.mpilora("import", f"{folder}/{model}", f"{folder}/{model}.h5")
        done = read(folder, model, defaults | own)
        checks.that(done.returncode == 0 and "warning" not in done.stderr, f"defaults: exit {done.returncode}, {done.stderr}")
        check_saved(checks, folder, model, defaults | own)
        check_copies(checks, folder, model, defaults | own)
        for name in sorted(set(defaults) & set(rows)):
            done = read(folder, model, defaults | own | {name: [[0, 1]]})
            if rows[name].startswith("refused"):
                fine = done.returncode == 3 and name in done.stderr and done.stderr.count("\n") == 1
                checks.that(fine, f"{name} is set: exit {done.returncode}, {done.stderr!r}")
            elif rows[name].startswith("ignored"):
                checks.that(done.returncode == 0 and "warning" not in done.stderr, f"{name} is set: exit {done.returncode}, {done.stderr!r}")
        for word in ("pissa_niter_4", "corda", "loftq", "lora_ga"):
            done = read(folder, model, defaults | own | {"init_lora_weights": word})
            checks.that(done.returncode == 3 and word in done.stderr and "path_initial_model" in done.stderr, f"{word}: exit {done.returncode}, {done.stderr!r}")
        done = read(folder, model, defaults | own | {"no_such_field": 7})
        checks.that(done.returncode == 0 and "no_such_field" in done.stderr, f"an unknown field: exit {done.returncode}, {done.stderr!r}")
        for value, says in TOKENS.items():
            done = read(folder, model, defaults | own | {"trainable_token_indices": json.loads(value)})
            fine = done.returncode == 3 and says in done.stderr and done.stderr.count("\n") == 1
            checks.that(fine, f"tokens {value}: exit {done.returncode}, {done.stderr!r}")
    checks.end()


main()
