"""mpilora compare: the table of several methods and seeds, a method that fails, going on where it was stopped, and words that make no sense."""
import csv
import json
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: gpt2, layers: 2, width: 32, heads: 4, vocab: 61, context: 48}\n"


def configuration(folder, **data):
    return harness.write_config(
        f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", method={"rank": 2},
        data={"train": f"{folder}/data.h5", **data}, batch={"sequences": 4, "micro": 4}, optim={"lr": 0.01}, train={"steps": 3}, precision="fp32")


def check_table(checks, folder, path):
    words = ("compare", path, "--methods", "lora,lora:rank=4:targets=[q,k,v],bitfit:optim.lr=0.02,full,top:top=9", "--seeds", "1,2", "--out", f"{folder}/out")
    said = harness.mpilora(*words)
    checks.that("method.top: 9" in said, f"the failing row does not say why: {said}")
    full = [line.split() for line in said.splitlines() if line.startswith("full ")]
    checks.that(len(full) == 2 and len(full[1]) == 15, f"a method has a line of its run and one of its memory in 7 pairs: {full}")
    with open(f"{folder}/out/compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    checks.that([row["seeds"] for row in rows] == ["2", "2", "2", "2", "0"], f"seeds {[row['seeds'] for row in rows]}")
    checks.that([row["method"] for row in rows] == ["lora", "lora", "bitfit", "full", "top"], f"methods {rows}")
    trained = [2 * 2 * 2 * 2 * 32, 2 * 3 * 2 * 4 * 32, 2 * 11 * 32 + 32]
    checks.that([float(row["params_trainable"]) for row in rows[:3]] == trained, f"{[row['params_trainable'] for row in rows]}, expected {trained}")
    for row in rows[:4]:
        label = row["what"]
        checks.close(f"{label}: bytes summed", float(row["allreduce_bytes_per_step"]), 4 * float(row["params_trainable"]), 0)
        checks.close(f"{label}: memory beside the plan", float(row["memory_total"]), float(row["planned_total"]), 0.02)
        checks.that(float(row["valid_loss_min"]) <= float(row["valid_loss"]) <= float(row["valid_loss_max"]), f"{label}: spread")
        checks.that(float(row["valid_loss"]) < float(row["base_valid_loss"]), f"{label}: nothing was learned")
    found = json.loads(harness.mpilora("eval", path, "--json"))["loss"]
    checks.close("loss of the base", float(rows[0]["base_valid_loss"]), found, 1e-8)
    with open(f"{folder}/out/runs/bitfit-optim.lr-0.02-seed2/summary.json") as file:
        checks.that(json.load(file)["params_trainable"] == trained[2], "a run is not where it should be")
    return words


def check_going_on(checks, folder, words):
    """Finished runs stay, one that is gone is made again."""
    kept = f"{folder}/out/runs/lora-seed1/metrics.jsonl"
    before = os.stat(kept).st_mtime_ns
    os.rename(f"{folder}/out/runs/full-seed2", f"{folder}/gone")
    table = json.loads(harness.mpilora(*words, "--json"))
    checks.that(os.stat(kept).st_mtime_ns == before, "a finished run was run again")
    checks.that(table["rows"][3]["seeds"] == 2 and os.path.exists(f"{folder}/out/runs/full-seed2/summary.json"), "the missing run was not made")


def check_variants(checks, folder, path):
    """A configuration with LoRA's variants serves the others as well."""
    sets = [word for key in ("init=pissa", "lora_plus=4", "layers=[1]") for word in ("--set", f"method.{key}")]
    table = json.loads(harness.mpilora("compare", path, "--methods", "lora,bitfit,lora+prefix_embed", *sets, "--out", f"{folder}/variants", "--json"))
    checks.that([row["seeds"] for row in table["rows"]] == [1, 1, 1], f"with LoRA's variants: {table['rows']}")


def check_bases(checks, folder, path):
    """A row may have a base of its own: its loss is that of a run on it, its frozen bytes are the base's."""
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--seed", 1, "--quantise", "q8_0", f"{folder}/base8.h5")
    with open(f"{folder}/other.yaml", "w") as file:
        file.write(MODEL.replace("vocab: 61", "vocab: 67"))
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/other.yaml", f"{folder}/other.h5")
    words = f"lora,lora:base={folder}/base8.h5,lora:base={folder}/base8.h5:init=loftq:original={folder}/base.h5"
    rows = json.loads(harness.mpilora("compare", path, "--methods", words, "--out", f"{folder}/bases", "--together", 3, "--json"))["rows"]
    checks.that([row["seeds"] for row in rows] == [1, 1, 1], f"bases: {rows}")
    plain, packed = (row["memory_frozen"]["median"] for row in rows[:2])
    checks.that(packed < 0.6 * plain, f"bases: {packed} frozen bytes on Q8_0, {plain} on the other")
    for what, words, code, expected in (
        ("full on blocks", ("--methods", "lora,full", "--set", f"base={folder}/base8.h5"), 2, ("--methods: full: ", "method.name", "base8.h5 keeps them in blocks")),
        ("full on a row's blocks", ("--methods", f"lora,full:base={folder}/base8.h5"), 2, ("--methods: full:base", "keeps them in blocks")),
        ("a base of another vocabulary", ("--methods", f"lora,lora:base={folder}/other.h5", "--together", 2), 3, ("--methods: lora:base", "data.h5: made for a vocabulary of 61", "other.h5 has 67")),
        ("a base that is not there", ("--methods", f"lora,lora:base={folder}/none.h5"), 3, ("--methods: lora:base", "none.h5")),
    ):
        done = harness.start("compare", path, *words, "--out", f"{folder}/refused")
        checks.that(done.returncode == code and done.stderr.count("\n") == 1 and all(text in done.stderr for text in expected), f"{what}: exit {done.returncode}: {done.stderr}")
        checks.that(not os.path.exists(f"{folder}/refused"), f"{what}: something was begun")
    for row in rows[1:]:
        checks.that(row["loss_first"]["median"] != rows[0]["loss_first"]["median"], f"bases: the loss of {row['what']} is the other base's")


def check_words(checks, folder, path):
    for what, words, expected in (
        ("an unknown method", ("--methods", "lora,adapterH"), "adapterH"),
        ("a key without a value", ("--methods", "lora:rank"), "key=value"),
        ("a method twice", ("--methods", "lora,lora"), "twice"),
        ("an empty method", ("--methods", "lora,,full"), "--methods"),
        ("seeds that are none", ("--methods", "lora", "--seeds", "1,x"), "--seeds"),
        ("a seed twice", ("--methods", "lora", "--seeds", "1,2,1"), "twice"),
        ("a seed beyond 64 bits", ("--methods", "lora", "--seeds", "99999999999999999999"), "--seeds"),
        ("a value of the wrong type", ("--methods", "lora,full:optim.lr=x"), "full:optim.lr=x"),
        ("a key that is none", ("--methods", "lora:ranks=4"), "method.ranks"),
        ("a key twice", ("--methods", "lora:rank=4:rank=5"), "method.rank stands there twice"),
        ("a key twice, by both names", ("--methods", "lora:rank=4:method.rank=4"), "method.rank stands there twice"),
        ("another method", ("--methods", "lora:name=full"), "method.name belongs to the comparison"),
        ("a row's own place", ("--methods", "lora:run.dir=x"), "run.dir belongs to the comparison"),
        ("a row's own seed", ("--methods", "lora:run.seed=2"), "run.seed belongs to the comparison"),
        ("no method", (), "--methods is missing"),
        ("no rank", ("--methods", "lora", "--ranks", "0"), "--ranks"),
    ):
        done = harness.start("compare", path, *words, "--out", f"{folder}/none")
        lines = done.stderr.strip().splitlines()
        checks.that(done.returncode == 2 and len(lines) == 1 and expected in lines[0], f"{what}: exit {done.returncode}: {done.stderr}")
    done = harness.start("compare", path, "--methods", "lora", "--out", f"{folder}/none", ranks=2)
    checks.that(done.returncode == 2 and "start it alone" in done.stderr, f"under mpirun: exit {done.returncode}: {done.stderr}")
    checks.that(not os.path.exists(f"{folder}/none"), "something was begun")
    for name, command, words in (("compare.csv", "compare", ("--methods", "lora")), ("compare.h5", "compare", ("--methods", "lora")), ("scaling.h5", "scale", ("--ranks", "1")),
                                 ("runs/base.log", "compare", ("--methods", "lora"))):
        os.makedirs(f"{folder}/blocked/{name}")
        done = harness.start(command, path, *words, "--out", f"{folder}/blocked")
        checks.that(done.returncode == 4 and done.stderr.count("\n") == 1 and f"{folder}/blocked/{name}: is a directory" in done.stderr, f"{name} is a directory: {done.stderr}")
        checks.that(sorted(os.listdir(f"{folder}/blocked/runs")) == (["base.log"] if "log" in name else []), f"{name} is a directory: something was begun")
        shutil.rmtree(f"{folder}/blocked")
    configuration(folder)
    done = harness.start("compare", path, "--methods", "lora", "--out", f"{folder}/none")
    checks.that(done.returncode == 2 and "data.valid" in done.stderr, f"nothing to evaluate: exit {done.returncode}: {done.stderr}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL, "fp32")
        harness.make_data(folder, [[(5 * i + 3 * j) % 61 for j in range(20)] for i in range(8)])
        path = configuration(folder, valid=f"{folder}/data.h5")
        check_going_on(checks, folder, check_table(checks, folder, path))
        check_variants(checks, folder, path)
        check_bases(checks, folder, path)
        check_words(checks, folder, path)
    checks.end()


main()
