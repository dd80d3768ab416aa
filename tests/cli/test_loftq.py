"""method.init: loftq: A and B of a run on a base in blocks begin as the best factors of what rounding has lost, as numpy finds them; where they hold all of it, the
first loss is the original's; tp 2 and a resumed run are the same; what cannot be is refused."""

import json
import os
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("numpy is not installed: skipped")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import base_numbers
import harness

MODEL = "{family: llama, layers: 2, width: 64, heads: 2, mlp_width: 128, vocab: 61, context: 48, tied_head: true}\n"
RANK, ALPHA = 5, 15.0
TARGETS = {"q": "self_attn.q_proj", "v": "self_attn.v_proj", "down": "mlp.down_proj"}
OURS = {"q": "attn.q", "v": "attn.v", "down": "mlp.down"}
checks = harness.Checks()


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length :]
    return {name: np.frombuffer(body[slice(*e["data_offsets"])], "<f4").reshape(e["shape"]) for name, e in header.items()}


def configuration(folder, name, **more):
    method = {"rank": RANK, "alpha": ALPHA, "targets": list(TARGETS), "init": "loftq", "original": f"{folder}/original.h5"} | more.pop("method", {})
    return harness.write_config(f"{folder}/{name}.yaml", **{"run": {"dir": f"{folder}/{name}"}, "base": f"{folder}/base.h5", "method": method, "data": {"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"},
                                "batch": {"sequences": 4, "micro": 4}, "optim": {"lr": 1e-30}, "train": {"steps": 1}, "precision": "fp32"} | more)  # fmt: skip


def factors(folder, name):
    harness.mpilora("export", "--format", "peft", "--base", f"{folder}/base.h5", "--adapter", f"{folder}/{name}/adapter.h5", f"{folder}/{name}-peft")
    return read_safetensors(f"{folder}/{name}-peft/adapter_model.safetensors")


def check_factors(folder):
    """s·B·A is the best approximation of rank r; A and B share its singular values."""
    harness.mpilora("train", configuration(folder, "run"))
    found, base, original = factors(folder, "run"), base_numbers.contents(f"{folder}/base.h5"), base_numbers.contents(f"{folder}/original.h5")
    for layer in range(2):
        for target, module in TARGETS.items():
            name = f"layers.{layer}.{OURS[target]}.weight"
            checks.that(base[name][0] == "q4_0", f"{name} is {base[name][0]}")
            lost = base_numbers.numbers(original[name]).astype(np.float64) - base_numbers.numbers(base[name])
            u, sigma, v = np.linalg.svd(lost, full_matrices=False)
            a, b = (found[f"base_model.model.model.layers.{layer}.{module}.lora_{x}.weight"].astype(np.float64) for x in "AB")
            best = (u[:, :RANK] * sigma[:RANK]) @ v[:RANK]
            off = np.linalg.norm(ALPHA / RANK * b @ a - best) / np.linalg.norm(best)
            checks.that(off < 1e-4, f"{name}: s·B·A is off the best approximation by {off:.2e}")
            roots = np.sqrt(sigma[:RANK] / (ALPHA / RANK))
            checks.close(f"{name}: rows of A", np.linalg.norm(a, axis=1).tolist(), roots.tolist(), 1e-4)
            checks.close(f"{name}: columns of B", np.linalg.norm(b, axis=0).tolist(), roots.tolist(), 1e-4)
    return found


def first_loss(folder, name):
    return harness.read_metrics(f"{folder}/{name}")[0]["loss"]


def check_runs(folder, found):
    harness.mpilora("train", configuration(folder, "none", method={"init": None, "original": None}))
    harness.mpilora("train", configuration(folder, "exact", base=f"{folder}/original.h5", method={"init": None, "original": None}))
    harness.mpilora("train", configuration(folder, "full", method={"rank": 64, "targets": ["all"]}))
    exact, all_of_it, blocks = (first_loss(folder, name) for name in ("exact", "full", "none"))
    checks.close("loss where the factors hold all that was lost", all_of_it, exact, 1e-6)
    checks.that(abs(blocks - exact) > 1e-5 * exact, f"losses: original {exact}, in blocks {blocks}")
    harness.mpilora("train", configuration(folder, "tp", parallel={"tp": 2}), ranks=2)
    for name, values in factors(folder, "tp").items():
        checks.that(np.array_equal(values, found[name]), f"tp 2: {name} differs")
    # four steps at once, and two and two without the original
    learning = {"optim": {"lr": 0.01}, "train": {"steps": 4, "save_every": 2}}
    harness.mpilora("train", configuration(folder, "whole", **learning))
    harness.mpilora("train", configuration(folder, "parts", optim={"lr": 0.01}, train={"steps": 2, "save_every": 2}))
    os.rename(f"{folder}/original.h5", f"{folder}/away.h5")
    harness.mpilora("train", configuration(folder, "parts", **learning))
    os.rename(f"{folder}/away.h5", f"{folder}/original.h5")
    with open(f"{folder}/whole/adapter.h5", "rb") as one, open(f"{folder}/parts/adapter.h5", "rb") as two:
        checks.that(one.read() == two.read(), "a resumed run ends elsewhere")
    harness.mpilora("eval", f"{folder}/parts.yaml", "--adapter", f"{folder}/parts/adapter.h5")


def check_refusals(folder):
    with open(f"{folder}/small.yaml", "w") as file:
        file.write(MODEL.replace("128", "96"))
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/small.yaml", f"{folder}/small.h5")
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--seed", "2", f"{folder}/other.h5")
    for code, said, more in (
        (2, "method.original: missing", {"method": {"original": None}}),
        (2, "loftq and method.dora", {"method": {"dora": True}}),
        (2, "loftq is for method.name lora", {"method": {"name": "lora+prefix_embed"}}),
        (2, "the base has no blocks", {"base": f"{folder}/original.h5"}),
        (2, "LoftQ is for the matrices of layers", {"method": {"targets": ["q", "head"]}}),
        (2, "loftq: rank 65", {"method": {"rank": 65}}),
        (3, "method.original", {"method": {"original": f"{folder}/nothing.h5"}}),
        (3, "another model", {"method": {"original": f"{folder}/small.h5"}}),
        (3, "has blocks itself", {"method": {"original": f"{folder}/base.h5"}}),
    ):
        done = harness.start("train", configuration(folder, "bad", **more), "--fresh")
        checks.that(done.returncode == code and said in done.stderr, f"{more}: exit {done.returncode}: {done.stderr}")
    done = harness.start("train", configuration(folder, "warned", method={"original": f"{folder}/other.h5"}))
    checks.that(done.returncode == 0 and "imported from other files" in done.stderr, f"another original: exit {done.returncode}: {done.stderr}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/model.yaml", "w") as file:
            file.write(MODEL)
        make = ("import", "--init", "random", "--config", f"{folder}/model.yaml", "--dtype", "fp32")
        harness.mpilora(*make, f"{folder}/original.h5")
        harness.mpilora(*make, "--quantise", "q4_0", "--head-dtype", "fp32", f"{folder}/base.h5")
        harness.make_data(folder, [[(7 * i + j * j) % 61 for j in range(12 + i)] for i in range(12)])
        found = check_factors(folder)
        check_runs(folder, found)
        check_refusals(folder)
    checks.end()
    return 0


sys.exit(main())
