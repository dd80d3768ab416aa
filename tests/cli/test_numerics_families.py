"""numerics: grid in every family: a small model of each description in configs/models has the same digest, losses and norms on one rank with all sequences at once, and
on two ranks with two threads, one sequence at a time and little kept for backward. DeBERTa also with texts that have fewer tokens than distances."""

import glob
import json
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), HERE]
import harness
import test_numerics as numerics

# What makes any description small; what stands for features stays.
SIZES = {"layers": 2, "width": 64, "mlp_width": 96, "vocab": 257, "context": 700}
SHARES_DISTANCES = ("deberta", "deberta_v2")  # one sequence at a time


def value_of(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def describe(path):
    """A description is lines of KEY: VALUE."""
    with open(path) as file:
        model = {key: value_of(value.split("  #")[0].strip()) for key, value in (line.split(":", 1) for line in file if ":" in line and line[0] not in "# ")}
    few = model.get("kv_heads", model["heads"]) < model["heads"]
    model.update(SIZES, heads=4, **({"kv_heads": 2} if few else {}))
    for key, value in (("head_dim", 16), ("window", 40), ("embed_width", 32), ("rope_width", 8)):
        if key in model:
            model[key] = value
    for key in ("full_layers", "unrotated_layers"):
        if key in model:
            model[key] = [1]
    model.pop("rope_scaling", None)  # a mapping, which is not read here
    return model


def descriptions():
    """The first of each family."""
    found = {}
    for path in sorted(glob.glob(f"{harness.SOURCE}/configs/models/*.yaml")):
        model = describe(path)
        found.setdefault(model["family"], (os.path.basename(path), model))
    return found


def main():
    for family, (name, model) in descriptions().items():
        one = {"batch__micro": 1} if family in SHARES_DISTANCES else {}
        encoder = {"objective": {"name": "mlm", "mask_token": 3}} if family in ("bert", "roberta", "xlm_roberta", "modernbert", *SHARES_DISTANCES) else {}
        for longest in (None, 90) if family in SHARES_DISTANCES else (None,):
            with tempfile.TemporaryDirectory() as folder:
                harness.make_base(folder, json.dumps(model), "fp32")
                harness.make_data(folder, [ids[:longest] for ids in numerics.sequences()])
                numerics.configure(folder, **encoder)
                numerics.train(folder, "first", **one)
                numerics.train(folder, "other", ranks=2, threads=2, batch__micro=1, memory__activations="checkpoint")
                numerics.same(folder, f"{family} ({name}), at most {longest} tokens", "other", numerics.result(folder, "first"))
    print(f"{numerics.compared} families compared")
    numerics.checks.end()


main()
