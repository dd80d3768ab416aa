"""method.init: loftq: A and B of a run on a base in blocks begin as the best factors of what rounding has lost, as numpy finds them; where they hold all of it, the
first loss is the original's; tp 2 and a resumed run are the same; what cannot be is refused. The adapter belongs to the base in blocks, and so does what begins as it."""

import json
import math
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
        checks.that(not os.path.exists(f"{folder}/bad"), f"{more}: the run's folder is left behind")
    for said, more in (("rank of", {"rank": 3}), ("no pair for", {"targets": ["q", "v", "down", "up"]}), ("made by method lora", {"name": "adapter_h"})):
        taken = {"name": "lora", "init": f"{folder}/run/adapter.h5", "original": None} | more
        for ranks in (0, 2):
            done = harness.start("train", configuration(folder, "bad", method=taken), ranks=ranks)
            checks.that(done.returncode == 2 and said in done.stderr, f"method.init with {more}: exit {done.returncode}: {done.stderr}")
            checks.that(not os.path.exists(f"{folder}/bad"), f"method.init with {more}, {ranks} ranks: the run's folder is left behind")
    done = harness.start("train", configuration(folder, "warned", method={"original": f"{folder}/other.h5"}))
    checks.that(done.returncode == 0 and "imported from other files" in done.stderr, f"another original: exit {done.returncode}: {done.stderr}")


def check_home(folder):
    """The adapter of a run from loftq is refused by the original, from which the base was made; one that began at zero goes with either."""
    base, original, adapter = f"{folder}/base.h5", f"{folder}/original.h5", f"{folder}/whole/adapter.h5"
    begun = {"init": adapter, "original": None}
    harness.mpilora("train", configuration(folder, "behind", method=begun, optim={"lr": 0.01}))
    for ranks in (0, 2, 4):
        done = harness.start("train", configuration(folder, "elsewhere", base=original, method=begun), ranks=ranks)
        lines = [line for line in done.stderr.splitlines() if "loftq" in line]
        checks.that(done.returncode == 3 and len(lines) == 1 and "whole/adapter.h5" in lines[0], f"method.init on the original, {ranks} ranks: exit {done.returncode}: {done.stderr}")
        checks.that(not os.path.exists(f"{folder}/elsewhere"), "a run's folder is left behind")
    with open(f"{folder}/prompts.jsonl", "w") as file:
        file.write('{"prompt_ids": [1, 2, 3]}\n')
    for path in (adapter, f"{folder}/behind/adapter.h5"):
        said = json.loads(harness.mpilora("inspect", path, "--json")).get("base_content_sha256")
        checks.that(said == json.loads(harness.mpilora("inspect", base, "--json"))["content_sha256"], f"{path}: base_content_sha256 is {said}")
        for words in (
            ("eval", configuration(folder, "eval", base=original, method={"init": None, "original": None}), "--adapter", path),
            ("merge", "--base", original, "--adapter", path, f"{folder}/merged.h5"),
            ("export", "--format", "peft", "--base", original, "--adapter", path, f"{folder}/out-peft"),
            ("export", "--format", "gguf", "--base", original, "--adapter", path, f"{folder}/out.gguf"),
            ("generate", "--base", original, "--adapter", path, "--prompts", f"{folder}/prompts.jsonl", "--max-new", "2"),
        ):
            done = harness.start(*words)
            checks.that(done.returncode == 3 and path in done.stderr and "belongs to that base alone" in done.stderr, f"{words[:3]} on the original: exit {done.returncode}: {done.stderr}")
        checks.that(not any(os.path.exists(f"{folder}/{name}") for name in ("merged.h5", "out-peft", "out.gguf")), "something was written")
        harness.mpilora("merge", "--base", base, "--adapter", path, f"{folder}/merged.h5")
        os.remove(f"{folder}/merged.h5")
    done = harness.start("export", "--format", "peft", "--base", base, "--adapter", adapter, f"{folder}/warned-peft")
    checks.that(done.returncode == 0 and "which a PEFT directory cannot say" in done.stderr, f"export: exit {done.returncode}: {done.stderr}")
    harness.mpilora("eval", configuration(folder, "eval", base=original, method={"init": None, "original": None}), "--adapter", f"{folder}/none/adapter.h5")


def check_reference(folder):
    """What DPO measures from is the start of the run itself: a reference that another start has left beside the data set is not taken."""
    with open(f"{folder}/pairs.jsonl", "w") as file:
        for i in range(6):
            ids = [(5 * i + j * j) % 61 for j in range(14)]
            file.write(json.dumps({"prompt_ids": ids[:6], "chosen_ids": ids[6:], "rejected_ids": ids[:4]}) + "\n")
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", f"{folder}/pairs.jsonl", f"{folder}/pairs.h5")
    for name, method in (("zero", {"init": None, "original": None}), ("from-loftq", {}), ("from-adapter", {"init": f"{folder}/whole/adapter.h5", "original": None}), ("zero-again", {"init": None, "original": None})):
        done = harness.start("train", configuration(folder, f"dpo-{name}", method=method, data={"train": f"{folder}/pairs.h5"}, objective={"name": "dpo"}))
        checks.that(done.returncode == 0, f"dpo from {name}: exit {done.returncode}: {done.stderr}")
        checks.that(("the reference of" in done.stdout + done.stderr) == (name == "zero-again"), f"dpo from {name}: another start's reference: {done.stdout}{done.stderr}")
        checks.close(f"dpo from {name}: first loss", first_loss(folder, f"dpo-{name}"), math.log(2), 1e-6)


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
        check_home(folder)
        check_reference(folder)
        check_refusals(folder)
    checks.end()
    return 0


sys.exit(main())
