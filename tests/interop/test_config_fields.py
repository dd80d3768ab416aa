"""Every key that transformers writes into a config.json (tests/golden/config_fields.json, by make_config_fields.py) stands in the table of docs/file-formats.md, and
the program does what the table says: keys that are ignored change nothing and are not spoken of, one that is read is refused where its value is of a wrong
kind, one that is refused is refused by name, and a key that nobody knows is named."""

import json
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import family_models as families
import harness

CHANGING = {"layer_norm_elementwise_affine": False, "scale_attn_weights": False}  # what a refused key must say to be refused, where that is not true
OBJECTS = {"rope_parameters"}


def table():
    """Key → how its row of the table begins."""
    with open(f"{harness.SOURCE}/docs/file-formats.md") as file:
        page = file.read().split("## Hugging Face's config.json: what is read")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", page, re.M)
    return {name: what for keys, what in rows for name in re.findall(r"`(\w+)`", keys)}


class Model:
    """A family's tiny model, imported with other keys again and again."""

    def __init__(self, folder, name):
        self.folder, self.base = f"{folder}/{name}", f"{folder}/{name}.h5"
        families.write_model(self.folder, name, families.golden()[name]["tensors"])
        with open(f"{self.folder}/config.json") as file:
            self.config = json.load(file)
        self.plain = self.read({})

    def read(self, keys):
        """Exit code, what is said, and what the base is."""
        harness.write_config(f"{self.folder}/config.json", **self.config | keys)
        done = harness.start("import", self.folder, self.base)
        if done.returncode:
            return done.returncode, done.stderr, None
        found = json.loads(harness.mpilora("inspect", self.base, "--json"))
        return 0, done.stderr, (found["architecture"], found["content_sha256"])


def check_family(checks, model, keys, rows, seen):
    family = model.config["model_type"]
    checks.that(model.plain[0] == 0 and "config.json" not in model.plain[1], f"{family}: {model.plain[1]}")
    silent = {key: "zzz" for key in keys if rows[key].startswith("ignored")}
    checks.that(model.read(silent) == model.plain, f"{family}: keys that are ignored: {model.read(silent)}")
    for key in keys:
        if key in seen or key == "model_type" or not rows[key].startswith(("read", "refused")):
            continue
        seen.add(key)
        wrong = rows[key].startswith("refused")
        code, said, _ = model.read({key: CHANGING.get(key, True) if wrong else 7 if key in OBJECTS else {"zzz": 1}})
        checks.that(code == 3 and key in said and said.count("\n") == 1, f"{family}, {key}: exit {code}, {said!r}")
    code, said, base = model.read({"no_such_key": 7, "nor_this": None})
    checks.that(code == 0 and "no_such_key" in said and "nor_this" not in said and base == model.plain[2], f"{family}, an unknown key: exit {code}, {said!r}")


def check_windows(checks, model):
    """A window of no position is none that a model can have, and does not stand for no window."""
    for value, code in ((0, 3), (-1, 3), (None, 0), (1, 0)):
        done = model.read({"sliding_window": value} | ({"layer_types": ["full_attention"] * 3} if value is None else {}))
        fine = done[0] == code and (not code or ("sliding_window" in done[1] and "expected at least 1, or null" in done[1] and done[1].count("\n") == 1))
        checks.that(fine, f"sliding_window {value}: exit {done[0]}, {done[1]!r}")


def check_key_heads(checks, model):
    """Falcon's new architecture without num_kv_heads has as many as heads; the tiny model's tensors have fewer."""
    heads, size = model.config["num_attention_heads"], model.config["hidden_size"]
    said = model.read({"num_kv_heads": None})[1]
    checks.that(f"expected [{3 * size}, {size}]" in said, f"Falcon with {heads} heads, num_kv_heads left out: {said!r}")


def main():
    checks, rows, seen, done = harness.Checks(), table(), set(), set()
    with open(f"{harness.SOURCE}/tests/golden/config_fields.json") as file:
        known = json.load(file)
    missing = {key for keys in known.values() for key in keys} - set(rows)
    checks.that(not missing, f"not in the table: {sorted(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in families.MODELS:
            model = Model(folder, name)
            family = model.config["model_type"]
            if family in done or missing:
                continue
            done.add(family)
            check_family(checks, model, sorted(known["every"] + known[family]), rows, seen)
        if not missing:
            check_key_heads(checks, Model(f"{folder}/again", "falcon-40b"))
            check_windows(checks, Model(f"{folder}/again", "gemma2"))
    checks.end()


main()
