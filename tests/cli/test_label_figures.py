"""Figures of labels: what `eval` and evaluations.jsonl say is what `score --task` makes of the predictions that were written, on any
grid; what has no labels has no predictions."""

import json
import os
import random
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "interop")]
import harness
import reference_models as reference

checks = harness.Checks()
WORDS = "the river runs to a valley where boats go and ships were seen at sea".split()
GRIDS = {"1 rank": (0, 1), "dp 2": (2, 1), "dp 2, tp 2": (4, 2)}


def texts(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(draw.randint(2, 9))) for _ in range(count)]


def conll(count, seed):
    tag = lambda word: "B-SEA" if word in ("sea", "ships") else "B-LAND" if word in ("valley", "river") else "O"
    return "\n".join("".join(f"{word} {tag(word)}\n" for word in text.split()) for text in texts(count, seed))


def rows(label):
    return lambda count, seed: "".join(json.dumps({"text": text, "label": label(text)}) + "\n" for text in texts(count, seed))


# objective, task of `score`, what a file holds, options of `tokenize`, figures
TASKS = {
    "two": ("classify", "classify", rows(lambda text: "wet" if "sea" in text or "river" in text else "dry"), [], ["accuracy", "f1", "f1_micro", "f1_macro", "matthews"]),
    "four": ("classify", "classify", rows(lambda text: len(text) % 4), ["--labels", "4"], ["accuracy", "f1_micro", "f1_macro", "matthews"]),
    "bits": ("classify", "multilabel", rows(lambda text: [int(word in text) for word in ("sea", "boats", "a")]), [], ["accuracy", "f1_micro", "f1_macro"]),
    "numbers": ("regress", "regress", rows(lambda text: 0.25 * len(text.split())), ["--labels", "number"], ["pearson", "spearman"]),
    "tokens": ("tokens", "tokens", conll, ["--format", "conll", "--labels", "O,B-SEA,B-LAND"], ["accuracy", "f1_micro", "f1_macro"]),
}


def check_task(name):
    objective, task, make, options, figures = TASKS[name]
    for part, count in (("train", 48), ("valid", 23)):
        with open(f"{name}.{part}", "w") as file:
            file.write(make(count, len(part)))
        harness.mpilora("tokenize", "--base", "base.h5", f"{name}.{part}", f"{name}.{part}.h5", "--max-len", 24, *options)
    config = harness.write_config(f"{name}.yaml", run={"dir": name, "seed": 1}, base="base.h5", method={"name": "lora", "rank": 4, "targets": ["q", "v"]}, objective={"name": objective},
                                  data={"train": f"{name}.train.h5", "valid": f"{name}.valid.h5"}, batch={"sequences": 8, "micro": 4}, optim={"lr": 1e-2},
                                  train={"steps": 12}, precision="fp32")
    harness.mpilora("train", config)
    found = {}
    for grid, (ranks, tp) in GRIDS.items():
        words = ["eval", config, "--adapter", f"{name}/adapter.h5", "--json", "--predictions", "out.jsonl", "--set", f"parallel.tp={tp}"]
        found[grid] = json.loads(harness.mpilora(*words, ranks=ranks))
        scored = json.loads(harness.mpilora("score", "--task", task, "out.jsonl", "--json", *(["--positive", "wet"] if name == "two" else [])))
        checks.that(list(found[grid]) == ["loss", *figures, "rows"], f"{name}: eval says {list(found[grid])}")
        for key in figures:
            checks.that(abs(found[grid][key] - scored[key]) < 1e-6, f"{name}, {grid}: {key} is {found[grid][key]}, score --task says {scored[key]}")
            checks.that(abs(found[grid][key] - found["1 rank"][key]) < 1e-5, f"{name}, {grid}: {key} is {found[grid][key]}, on 1 rank {found['1 rank'][key]}")
        with open("out.jsonl") as file:
            predictions = [json.loads(line) for line in file]
        checks.that(len(predictions) == 23, f"{name}: {len(predictions)} predictions")
    with open(f"{name}/evaluations.jsonl") as file:
        last = [json.loads(line) for line in file][-1]
    checks.that(all(abs(last[key] - found["1 rank"][key]) < 1e-5 for key in figures), f"{name}: evaluations.jsonl has {last}, eval {found['1 rank']}")
    return predictions


def check_order(found):
    """Labels of the file are those that were told apart, in the file's order and by their names."""
    with open("two.valid") as file:
        truth = [json.loads(line)["label"] for line in file]
    checks.that([line["label"] for line in found] == truth, "two: labels of the predictions are not the file's")
    checks.that({line["prediction"] for line in found} <= {"wet", "dry"}, f"two: {found}")


def check_names():
    """The names go into the adapter, a merged base, and what `export` writes of it; they are told apart from others."""
    harness.mpilora("merge", "--base", "base.h5", "--adapter", "two/adapter.h5", "--dtype", "fp32", "merged.h5")
    harness.mpilora("export", "--format", "hf", "--base", "merged.h5", "directory")
    with open("directory/config.json") as file:
        config = json.load(file)
    checks.that(config.get("id2label") == {"0": "dry", "1": "wet"} and config.get("label2id") == {"dry": 0, "wet": 1}, f"exported names: {config.get('id2label')} {config.get('label2id')}")
    harness.mpilora("train", "two.yaml", "--set", "run.dir=full", "--set", "method.name=full", "--set", "train.steps=1")
    harness.mpilora("export", "--format", "hf", "--base", "full/model.h5", "full-directory")
    with open("full-directory/config.json") as file:
        checks.that(json.load(file).get("id2label") == {"0": "dry", "1": "wet"}, "names of a model that was trained whole")
    harness.mpilora("tokenize", "--base", "base.h5", "two.valid", "other.h5", "--labels", "wet,dry")
    done = harness.start("eval", "two.yaml", "--adapter", "two/adapter.h5", "--set", "data.valid=other.h5")
    checks.that(done.returncode == 3 and '["dry","wet"] apart, but other.h5 has ["wet","dry"]' in done.stderr, f"other order: {done.returncode} {done.stderr}")


def check_refused():
    with open("plain.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts(4, 1))
    harness.mpilora("tokenize", "--base", "base.h5", "plain.jsonl", "plain.h5")
    config = harness.write_config("plain.yaml", run={"dir": "plain"}, base="base.h5", data={"valid": "plain.h5"})
    for words, code, says in (
        (["eval", config, "--predictions", "out.jsonl"], 2, "leave --predictions out"),
        (["eval", "two.yaml", "--adapter", "two/adapter.h5", "--predictions", "nowhere/out.jsonl"], 4, "nowhere"),
        (["eval", "two.yaml", "--adapter", "two/adapter.h5", "--set", "data.valid=four.valid.h5"], 3, "a head for 2 labels, but the data have 4"),
        (["train", "two.yaml", "--set", "run.dir=other", "--set", "data.valid=four.valid.h5"], 3, "--labels"),
    ):
        done = harness.start(*words)
        checks.that(done.returncode == code and says in done.stderr, f"{words}: {done.returncode} {done.stderr!r}, expected {code} {says!r}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        reference.MODELS["words"] = {**reference.MODELS["llama"], "vocab_size": 700}
        reference.write_model("model", "words")
        shutil.copy(os.path.join(harness.SOURCE, "tests", "golden", "tokenizer", "bert", "tokenizer.json"), "model")
        harness.mpilora("import", "model", "base.h5", "--dtype", "fp32")
        for name in ("four", "bits", "numbers", "tokens"):
            check_task(name)
        check_order(check_task("two"))
        check_names()
        check_refused()
        os.chdir("/")
    checks.end()


main()
