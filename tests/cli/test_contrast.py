"""Objective contrastive from texts to a run: the loss of `eval` is that of `embed`'s vectors; dropout and batch.micro do not meet; plan knows the run; what is
refused, and with which words."""

import json
import math
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import test_embed

checks = harness.Checks()
WORDS = "red door blue lantern river runs sea below the bridge a cat sat on one mat behind seven hills".split()
ENCODER, DECODER = test_embed.ENCODER, test_embed.DECODER


def sentence(i):
    return " ".join(WORDS[(i * 7 + j * (i % 5 + 1)) % len(WORDS)] for j in range(i % 6 + 1))


def rows(first, count, negatives=0):
    out = []
    for i in range(first, first + count):
        row = {"anchor": sentence(i), "positive": sentence(2 * i + 1)}
        if negatives:
            row["negative"] = sentence(i + 9) if negatives == 1 else [sentence(i + 9 + k) for k in range(negatives)]
        out.append(row)
    return out


def write_rows(path, data):
    with open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in data)
    return path


def tokenize(base, name, data):
    harness.mpilora("tokenize", "--base", f"{base}.h5", write_rows(f"{name}.jsonl", data), f"{name}.h5")


def config(name, base, train=None, valid=None, **sections):
    data = {"shuffle": False, **({"train": f"{train}.h5"} if train else {}), **({"valid": f"{valid}.h5"} if valid else {})}
    whole = {"run": {"dir": name}, "base": f"{base}.h5", "method": {"name": "lora", "rank": 4, "targets": ["q", "v"]}, "objective": {"name": "contrastive"}, "data": data, "batch": {"sequences": 6, "micro": 2}, "optim": {"lr": 1e-3}, "train": {"steps": 3}, "precision": "fp32"}
    for key, value in sections.items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) and key in whole else value
    return harness.write_config(f"{name}.yaml", **whole)


def loss_of(vectors, texts, step, temperature):
    """Mean loss and accuracy of rows of so many texts, `step` rows at a time."""
    total, right, count = 0.0, 0, len(vectors) // texts
    for first in range(0, count, step):
        block = [vectors[i * texts : (i + 1) * texts] for i in range(first, min(first + step, count))]
        candidates = [row[k] for k in range(1, texts) for row in block]
        for i, row in enumerate(block):
            x = [sum(a * b for a, b in zip(row[0], c)) / temperature for c in candidates]
            total += math.log(sum(math.exp(v - max(x)) for v in x)) + max(x) - x[i]
            right += x.index(max(x)) == i
    return total / count, right / count


def check_vectors(base, pooling, negatives):
    """eval on data of texts, and the same from the vectors that embed makes of them."""
    data, name = rows(3, 10, negatives), f"{base}-{pooling}"
    tokenize(base, name, data)
    texts = [text for row in data for text in [row["anchor"], row["positive"], *([row["negative"]] if negatives == 1 else row.get("negative", []))]]
    with open(f"{name}.txt", "w") as file:
        file.write("\n".join(texts) + "\n")
    vectors = test_embed.embed(f"{os.getcwd()}/{base}.h5", f"{name}.txt", "--normalise", "--pooling", pooling)[0]
    expected = loss_of(vectors, 2 + negatives, 6, 0.05)
    for ranks, tp in ((0, 1), (2, 1), (2, 2)):
        found = json.loads(harness.mpilora("eval", config("eval", base, valid=name, objective={"pooling": pooling}, parallel={"tp": tp}), "--json", ranks=ranks))
        checks.close(f"{name}, {ranks} ranks: loss", found["loss"], expected[0], 1e-5)
        checks.that(abs(found["accuracy"] - expected[1]) < 1e-9 and found["rows"] == 10, f"{name}: {found}, expected {expected}")


def check_dropout():
    """Both passes of a step drop the same, so that batch.micro changes nothing."""
    losses = {}
    for micro, ranks in ((6, 0), (2, 0), (3, 2), (1, 2)):
        name = f"dropout-{micro}-{ranks}"
        harness.mpilora("train", config(name, "encoder", "train", "valid", method={"dropout": 0.3}, optim={"lr": 2e-2}, batch={"micro": micro}), ranks=ranks)
        losses[name] = [line["loss"] for line in harness.read_metrics(name)]
    first = next(iter(losses.values()))
    for name, found in losses.items():
        checks.that(all(abs(a - b) < 2e-5 * abs(b) for a, b in zip(found, first)), f"{name}: {found}, expected {first}")
    harness.mpilora("train", config("plain", "encoder", "train", "valid", optim={"lr": 2e-2}))
    checks.that(abs(harness.read_metrics("plain")[-1]["loss"] - first[-1]) > 1e-3 * first[-1], "dropout changes no loss")


def check_run():
    """What a run says of itself, and plan of it before."""
    summary = harness.read_summary("plain")
    planned = json.loads(harness.mpilora("plan", "plain.yaml", "--json"))["methods"][0]["per_rank"]["communication"]
    found, predicted = summary["memory"]["communication"], summary["memory"]["predicted"]["communication"]
    checks.that(planned == predicted and 0 < predicted <= found, f"communication: planned {planned}, predicted {predicted}, found {found}")
    ratio = summary["memory"]["total_peak_bytes"] / summary["memory"]["predicted"]["total_bytes"]
    checks.that(0.99 <= ratio <= 1.01, f"accounted over predicted: {ratio}")
    with open("plain/evaluations.jsonl") as file:
        line = json.loads(file.readlines()[-1])
    checks.that(set(line) >= {"valid_loss", "accuracy"} and "perplexity" not in line, f"evaluations.jsonl: {line}")
    metrics = harness.read_metrics("plain")
    checks.that(all(0.0 <= line["accuracy"] <= 1.0 and "rewards_accuracy" not in line for line in metrics), f"metrics.jsonl: {metrics}")
    refused("objective.temperature", "train", config("plain", "encoder", "train", "valid", objective={"temperature": 0.1}), code=2)


def check_directory():
    """What the vectors were trained with is in the adapter, in the merged base and in the directory that goes out; a base that says it itself keeps its word."""
    with open("texts.txt", "w") as file:
        file.write("\n".join(WORDS) + "\n")
    here, modules = os.getcwd(), {"Transformer", "Pooling", "Normalize"}
    harness.mpilora("train", config("pooled", "encoder", "train", objective={"pooling": "cls", "normalise": False, "temperature": 9.0}))
    found, said = test_embed.embed(f"{here}/encoder.h5", "texts.txt", "--adapter", "pooled/adapter.h5")
    checks.that(said["pooling"] == "cls" and not said["normalised"], f"the adapter: {said}")
    expected = test_embed.embed(f"{here}/encoder.h5", "texts.txt", "--adapter", "pooled/adapter.h5", "--pooling", "cls")[0]
    checks.that(test_embed.distance(found, expected) == 0, "the adapter: other vectors than those of --pooling cls")
    harness.mpilora("merge", "--base", "encoder.h5", "--adapter", "pooled/adapter.h5", "--dtype", "fp32", "merged.h5")
    found, said = test_embed.embed(f"{here}/merged.h5", "texts.txt")
    checks.that(said["pooling"] == "cls" and test_embed.distance(found, expected) < 1e-5, f"the merged base: {said}, {test_embed.distance(found, expected)}")
    harness.mpilora("train", config("whole", "encoder", "train", method={"name": "full"}))
    for base, pooling, kinds in (("merged.h5", "cls", modules - {"Normalize"}), ("whole/model.h5", "mean", modules)):
        out = f"{base.replace('/', '-')}-out"
        harness.mpilora("export", "--format", "hf", "--base", base, out)
        with open(f"{out}/modules.json") as listed, open(f"{out}/1_Pooling/config.json") as pooled, open(f"{out}/sentence_bert_config.json") as length:
            found, mode, length = {module["type"].split(".")[-1] for module in json.load(listed)}, json.load(pooled), json.load(length)
        on = [key for key, value in mode.items() if value is True and key.startswith("pooling_mode")]
        checks.that(found == kinds and len(on) == 1 and pooling in on[0] and length["max_seq_length"] == 48, f"{base}: {found}, {mode}, {length}")
    harness.mpilora("import", "whole-model.h5-out", "known.h5", "--dtype", "fp32")
    harness.mpilora("train", config("kept", "known", "train"))
    said = json.loads(harness.mpilora("inspect", "kept/adapter.h5", "--json"))
    checks.that("pooling" not in said, f"an adapter of a base that says how vectors are made: {said}")


def check_choice():
    """Without objective.name the data choose it: in train, eval and plan."""
    labels = {"class": ["yes", "no"], "number": [0.5, 1.5], "bits": [[0, 1], [1, 1]], "tokens": None}
    chosen = {"class": "classify", "number": "regress", "bits": "classify", "tokens": "tokens"}
    for base in ("encoder", "decoder"):
        for kind, values in labels.items():
            data = [{"input_ids": [3, 4 + i, 5], **({"token_labels": [0, 1, -100]} if kind == "tokens" else {"label": values[i % 2]})} for i in range(6)]
            tokenize(base, f"{base}-{kind}", data)
            check_chosen(base, f"{base}-{kind}", chosen[kind])
    check_chosen("encoder", "train", "contrastive")
    check_chosen("decoder", "decoded", "contrastive")
    tokenize("decoder", "texts", [{"text": "the river runs"}] * 6)
    check_chosen("decoder", "texts", "sft")
    said = harness.start("train", config("none", "encoder", "encoder-class", objective={"name": "sft"}))
    checks.that(said.returncode == 2 and "predicts the next token" in said.stderr, f"sft that was given, on an encoder: {said.returncode} {said.stderr}")
    said = harness.start("eval", unnamed("none", "decoder", "decoder-class"), "--adapter", "chosen-decoder-class/adapter.h5", "--generate", "o.jsonl")
    checks.that(said.returncode == 2 and "classify has a head for labels, which continues no prompt" in said.stderr, f"a head that is to write: {said.returncode} {said.stderr}")


def unnamed(name, base, data):
    path = config(name, base, data, data, batch={"sequences": 3})
    with open(path) as file:
        written = json.load(file)
    del written["objective"]
    return harness.write_config(path, **written)


def check_chosen(base, data, objective):
    name = f"chosen-{data}"
    path = unnamed(name, base, data)
    planned = json.loads(harness.mpilora("plan", path, "--json"))["methods"][0]["params_trainable"]
    done = harness.start("train", path)
    said = f"objective.name is not given: {objective}, for the data have" in done.stderr + done.stdout
    checks.that(done.returncode == 0 and said == (objective != "sft"), f"{name}: {done.returncode} {done.stdout}{done.stderr}")
    with open(f"{name}/config.yaml") as file:
        checks.that(f"name: {objective}" in file.read(), f"{name}: config.yaml does not say {objective}")
    found = harness.read_summary(name)["params_trainable"]
    checks.that(planned == found, f"{name}: plan has {planned} parameters, the run {found}")
    again = harness.mpilora("train", path)
    done = json.loads(harness.mpilora("eval", path, "--adapter", f"{name}/adapter.h5", "--json"))
    expected = harness.read_summary(name)["valid_loss"]
    checks.that(abs(done["loss"] - expected) < 1e-5 * abs(expected) and ("perplexity" in done) == (objective == "sft"), f"{name}: eval {done}, the run {expected} {again}")


def refused(says, *words, code=3):
    done = harness.start(*words)
    checks.that(done.returncode == code and says in done.stderr and done.stderr.count("\n") == 1, f"{words}: {done.returncode} {done.stderr!r}, expected {code} {says!r}")


def check_rows():
    a = {"anchor": "x", "positive": "y"}
    for says, data in (
        ('line 1: "positive" is missing', [{"anchor": "x"}]),
        ('line 2: "positive" is empty', [a, {"anchor": "x", "positive": ""}]),
        ("line 2: has 1 negatives, the rows before it have 0", [a, {**a, "negative": "z"}]),
        ("line 2: has 1 negatives, the rows before it have 2", [{**a, "negative": ["z", "q"]}, {**a, "negative": "z"}]),
        ('line 1: "negative" is not a string', [{**a, "negative": 7}]),
        ("line 2: has an anchor, the rows before it have none", [{"prompt": "x", "completion": "y"}, a]),
        ("2 rows have an anchor, others have not", [a, a, {"prompt": "x", "completion": "y"}]),
        ('line 1: "label" changes what is trained', [{**a, "label": 1}]),
        ('line 1: "negative_ids" is no list of ids', [{"anchor_ids": [1], "positive_ids": [2], "negative_ids": [[3], []]}]),
        ("token id 300 is outside the vocabulary", [{"anchor_ids": [1], "positive_ids": [300]}]),
    ):
        refused(says, "tokenize", "--base", "encoder.h5", write_rows("bad.jsonl", data), "bad.h5")


def check_runs():
    tokenize("encoder", "more", rows(0, 8, 1))
    tokenize("decoder", "decoded", rows(0, 8))
    tokenize("decoder", "plainly", [{"prompt": "x", "completion": "y"}])
    for code, says, (words, sections) in (
        (3, "has no rows of texts that belong together", (["decoder", "plainly"], dict())),
        (3, "set objective.name to contrastive", (["decoder", "decoded"], dict(objective={"name": "sft"}))),
        (3, "set objective.name to contrastive", (["decoder", "decoded"], dict(objective={"name": "dpo"}))),
        (3, "has 1 negatives a row, train.h5 has 0", (["encoder", "train", "more"], dict())),
        (2, "batch.sequences: 1, but the texts of a step", (["encoder", "train"], dict(batch={"sequences": 1, "micro": 1}))),
        (2, "objective.temperature: is of contrastive", (["decoder", "plainly"], dict(objective={"name": "sft", "temperature": 1.0}))),
        (2, "objective.pooling: is of contrastive", (["decoder", "plainly"], dict(objective={"name": "sft", "pooling": "cls"}))),
        (2, "virtual tokens before a text", (["decoder", "decoded"], dict(method={"name": "lora+prefix_kv", "prefix": 2}))),
        (2, "which objective contrastive makes no vector with", (["decoder", "decoded"], dict(method={"targets": ["q", "head"]}))),
        (3, "train.h5 has 2 texts a row and more.h5 3", (["encoder"], dict(data={"train": [{"file": "train.h5", "weight": 1}, {"file": "more.h5", "weight": 1}]}))),
    ):
        refused(says, "train", config("bad", *words, **sections), code=code)


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run([sys.executable, f"{harness.SOURCE}/jobs/make_byte_tokenizer.py", "tokenizer"], check=True)
        for name, description in (("encoder", ENCODER), ("decoder", DECODER)):
            test_embed.make(folder, name, description)
        check_vectors("encoder", "mean", 0)
        check_vectors("encoder", "cls", 2)
        check_vectors("decoder", "last", 1)
        tokenize("encoder", "train", rows(0, 9))
        tokenize("encoder", "valid", rows(20, 7))
        check_dropout()
        check_run()
        check_directory()
        check_rows()
        check_runs()
        check_choice()
    checks.end()


main()
