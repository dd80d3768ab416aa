"""plan --quantise: a description is planned as the base that import --init random --quantise makes of it, to the byte, on any grid; what cannot be is refused as in training;
175 billion parameters in blocks fit into a node."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

# Names are held in memory, too: those of description and base are of one length.
DESCRIPTION, BASE = "model-0.yaml", "model-000.h5"
# What a process has beside what is accounted for, which is measured.
MEASURED = ("runtime_floor_bytes", "process_bytes_by_activations")
# name -> description, words of --quantise: rows that fit; that are no multiple of 256, of 32; heads that are tied, and not; positions; what tp may be.
MODELS = {
    "llama": ("{family: llama, layers: 2, width: 512, heads: 8, kv_heads: 2, mlp_width: 1024, vocab: 300, context: 64}",
              (("q4_k",), ("q4_k", "--head-dtype", "q8_0"), ("q6_k", "--head-dtype", "bf16"), ("mxfp4",)), (1, 2)),
    "tied": ("{family: gemma3_text, layers: 2, width: 640, heads: 4, kv_heads: 1, head_dim: 128, mlp_width: 2048, vocab: 300, context: 64, window: 16}",
             (("q4_k",), ("q5_k",), ("q4_0", "--head-dtype", "fp32")), (1, 2)),
    "positions": ("{family: gpt2, layers: 3, width: 192, heads: 6, vocab: 300, context: 64}", (("q8_0",), ("q5_k",), ("iq4_nl",)), (1, 2)),
    "ragged": ("{family: opt, layers: 1, width: 48, heads: 2, vocab: 100, context: 64}", (("q5_1",), ("q4_k",)), (1,)),
    "nothing fits": ("{family: gpt2, layers: 1, width: 40, heads: 2, mlp_width: 72, vocab: 100, context: 64}", (("q4_0",),), (1, 2)),
    "alibi": ("{family: bloom, layers: 2, width: 256, heads: 4, vocab: 260, context: 64}", (("q4_1", "--head-dtype", "q6_k"),), (1, 2)),
}  # fmt: skip

checks = harness.Checks()


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def config(folder, name, base, **sections):
    given = {"method": {"name": "lora", "rank": 4}, "batch": {"sequences": 4, "micro": 2}, "data": {"max_len": 64}, **sections}
    return harness.write_config(f"{folder}/{name}.yaml", base=f"{folder}/{base}", **given)


def without_measured(value):
    if isinstance(value, dict):
        return {key: without_measured(one) for key, one in value.items() if key not in MEASURED}
    return [without_measured(one) for one in value] if isinstance(value, list) else value


def plan(path, *words):
    return without_measured(json.loads(harness.mpilora("plan", path, "--json", *words)))


def differences(a, b, where=""):
    """Paths of what two plans have differently."""
    if type(a) is not type(b) or not isinstance(a, (dict, list)):
        return [] if a == b else [f"{where}: {a} of the description, {b} of the base"]
    keys = range(max(len(a), len(b))) if isinstance(a, list) else a.keys() | b.keys()
    return [text for key in keys for text in differences(a[key], b[key], f"{where}.{key}")]


def check_equal(folder, name, model, words, parallel):
    """With `words` of --quantise, or none."""
    write(f"{folder}/{DESCRIPTION}", model)
    quantise = ["--quantise", *words] if words else []
    dtype = ["--dtype", "fp32"] if "fp32" in words else []
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/{DESCRIPTION}", *quantise, *dtype, f"{folder}/{BASE}")
    frozen = set()
    for tp in parallel:
        grid = ["--ranks", 4, "--nodes", 2, "--set", f"parallel.tp={tp}"]
        described = plan(config(folder, "run", DESCRIPTION), *grid, *quantise)
        made = plan(config(folder, "run", BASE), *grid)
        frozen.add(made["methods"][0]["per_rank"]["frozen"])
        for text in differences(described, made)[:4]:
            checks.that(False, f"{name}, {' '.join(words)}, tp {tp}: {text}")
    checks.that(len(frozen) == len(parallel), f"{name}: the frozen bytes are {frozen}")


def check_runs(folder):
    """Several runs in one job, and a pipeline."""
    model, _, _ = MODELS["llama"]
    write(f"{folder}/{DESCRIPTION}", model)
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/{DESCRIPTION}", "--quantise", "q5_0", f"{folder}/{BASE}")
    for what, sections in (("pp", {"parallel": {"pp": 2}}), ("runs", {"runs": [{"dir": "two", "set": {"method.rank": 2}}, {"dir": "eight", "set": {"method.rank": 8}}]})):
        described = plan(config(folder, "run", DESCRIPTION, **sections), "--quantise", "q5_0")
        made = plan(config(folder, "run", BASE, **sections))
        checks.that(described == made, f"{what}: {differences(described, made)[:4]}")


def check_search(folder):
    """A search counts the blocks in every grid, and says what falls back once."""
    model, _, _ = MODELS["tied"]
    write(f"{folder}/{DESCRIPTION}", model)
    path = config(folder, "run", DESCRIPTION)
    words = ("plan", path, "--search", "--nodes", 1, "--ranks-per-node", 2, "--memory-per-node", "200G", "--machine", f"{harness.SOURCE}/configs/machines/cluster-2x32.yaml",
             "--json")  # fmt: skip
    plain, done = json.loads(harness.mpilora(*words)), harness.start(*words, "--quantise", "q4_k")
    blocks = json.loads(done.stdout)
    key = lambda grid: (grid["tp"], grid["micro"], grid["activations"])
    wide = {key(grid): grid["node_bytes"] for grid in plain["grids"]}
    checks.that(blocks["grids"] and all(grid["node_bytes"] < wide[key(grid)] for grid in blocks["grids"]), f"search: {blocks['grids']} beside {wide}")
    checks.that(done.stderr.count("become q5_0 in the place of q4_k") == 1, f"search says {done.stderr}")


def check_refusals(folder):
    write(f"{folder}/{DESCRIPTION}", MODELS["llama"][0])
    write(f"{folder}/narrow.yaml", MODELS["positions"][0])
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/narrow.yaml", "--quantise", "q8_0", f"{folder}/{BASE}")
    described, based, narrow = (config(folder, name, base) for name, base in (("d", DESCRIPTION), ("b", BASE), ("n", "narrow.yaml")))
    full = ("--set", "method.name=full")
    cases = [
        ("a base file", based, ("--quantise", "q8_0"), (BASE, "is a base file")),
        ("no such format", described, ("--quantise", "q2_k"), ('"q2_k" is not one of q8_0',)),
        ("a format that blocks are not", described, ("--quantise", "bf16"), ('"bf16" is not one of q8_0',)),
        ("no such head", described, ("--quantise", "q8_0", "--head-dtype", "q9"), ("--head-dtype", '"q9"')),
        ("a head alone", described, ("--head-dtype", "q8_0"), ("--head-dtype belongs to --quantise",)),
        ("full", described, ("--quantise", "q8_0", *full), ("method.name", "full trains every weight", DESCRIPTION, "plan without --quantise")),
        ("full of a base", based, full, ("method.name", "full trains every weight", BASE, "--dtype bf16")),
    ]  # fmt: skip
    for what, path, words, expected in cases:
        done = harness.start("plan", path, *words)
        checks.that(done.returncode == 2 and all(text in done.stderr for text in expected), f"{what}: exit {done.returncode}: {done.stderr}")
        checks.that(done.stderr.count("\n") == 1 and not done.stdout, f"{what}: more than a line: {done.stdout}{done.stderr}")
    # 6 heads of 32 columns on 6 ranks are one block of 32 each; Q8_0 allows it, 192 columns in Q4_K would fall back; 4 heads of 80 do not.
    write(f"{folder}/cut.yaml", "{family: llama, layers: 1, width: 320, heads: 4, head_dim: 80, mlp_width: 320, vocab: 100, context: 64}")
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/cut.yaml", "--quantise", "q8_0", f"{folder}/cut.h5")
    grid = ("--ranks", 4, "--set", "parallel.tp=4")
    of_base = harness.start("plan", config(folder, "c", "cut.h5"), *grid)
    of_description = harness.start("plan", config(folder, "c", "cut.yaml"), *grid, "--quantise", "q8_0")
    checks.that(of_base.returncode == 2 and "would cut the q8_0 blocks of layers.0.attn.o.weight" in of_base.stderr, f"tp 4: {of_base.stderr}")
    checks.that((of_description.returncode, of_description.stderr) == (of_base.returncode, of_base.stderr), f"tp 4 of a description: {of_description.stderr}")
    # A rank without any of the MLP's units.
    for width, words, expected in ((96, ("--quantise", "q8_0"), "the 3 q8_0 blocks in a row of layers.0.mlp.down.weight; choose 1 or 2, or a base in bf16"), (96, (), None), (3, (), "an MLP 3 wide; choose 1 or 2")):
        write(f"{folder}/thin.yaml", f"{{family: llama, layers: 1, width: 128, heads: 4, head_dim: 32, mlp_width: {width}, vocab: 100, context: 64}}")
        thin = harness.start("plan", config(folder, "c", "thin.yaml"), *grid, *words)
        good = thin.returncode == 0 if expected is None else thin.returncode == 2 and f"parallel.tp: 4 ranks cannot share out {expected}" in thin.stderr
        checks.that(good, f"an MLP {width} wide, {words}: exit {thin.returncode}: {thin.stderr}")
    checks.that(harness.start("plan", narrow, "--ranks", 6, "--set", "parallel.tp=6", "--quantise", "q8_0").returncode == 0, "heads of whole blocks are refused")


def check_node():
    """GPT-3 175B, rank 8 on q and v, one sequence of 2,048 tokens: 8 ranks of a node of 128 GB. Layers' inputs, 4.8 GB, are divided over tp."""
    path, base = f"{harness.SOURCE}/configs/runs/gpt3-175b-node.yaml", f"base={harness.SOURCE}/configs/models/gpt3-175b.yaml"
    for tp, pp in ((8, 1), (2, 4), (1, 8)):
        grid = ("--set", base, "--set", f"parallel.tp={tp}", "--set", f"parallel.pp={pp}")
        result = json.loads(harness.mpilora("plan", path, "--json", "--ranks", 8, "--quantise", "q4_k", *grid))
        node = result["methods"][0]["node_bytes"] + 8 * result["runtime_floor_bytes"]
        checks.that(98e9 < node < 120e9, f"GPT-3 175B, tp {tp}, pp {pp}: {node} bytes of a node")


def main():
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, formats, parallel) in MODELS.items():
            for words in ((), *formats):
                check_equal(folder, name, model, words, parallel)
        check_runs(folder)
        check_search(folder)
        check_refusals(folder)
        check_node()
    checks.end()


main()
