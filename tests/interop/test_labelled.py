"""Texts, pairs and words with labels against transformers: the same ids, token types and labels at every length. Data sets are
equal where their content hashes are, which cover all of these: one is made of the text, the other of golden ids.
tests/golden/labelled.json comes from make_labelled_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import labelled_cases as cases

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "labelled.json")
MODEL = "{family: llama, layers: 1, width: 8, heads: 2, kv_heads: 1, mlp_width: 12, vocab: 1100, context: 64}"


def tokenize(folder, base, name, text, *more):
    """The content's hash."""
    with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
        file.write(text)
    harness.mpilora("tokenize", "--base", base, f"{folder}/{name}", f"{folder}/out.h5", *more)
    return json.loads(harness.mpilora("inspect", f"{folder}/out.h5", "--json"))["content_sha256"]


def lines(rows):
    return "\n".join(json.dumps(row) for row in rows)


def check(checks, folder, base, name, length, golden):
    label = lambda i: ["no", "yes"][i % 2]
    texts = {
        "single": [{"text": a, "label": label(i)} for i, (a, _) in enumerate(cases.texts())],
        "pairs": [{"text_a": a, "text_b": b, "label": label(i)} for i, (a, b) in enumerate(cases.texts())],
    }
    for kind, rows in texts.items():
        types = golden["types"] if kind == "pairs" else [[0] * len(ids) for ids in golden[kind]]
        expected = [{"input_ids": ids, "token_type_ids": one, "label": label(i)} for i, (ids, one) in enumerate(zip(golden[kind], types))]
        found = tokenize(folder, base, "rows.jsonl", lines(rows), "--max-len", length)
        checks.that(found == tokenize(folder, base, "ids.jsonl", lines(expected)), f"{name}, {length} tokens: {kind} differ from transformers'")
    text = "\n".join("".join(f"{word} X {tag}\n" for word, tag in one) for one in cases.sentences())
    found = tokenize(folder, base, "words.conll", text, "--format", "conll", "--max-len", length, "--labels", ",".join(cases.TAGS))
    expected = [{"input_ids": ids, "token_labels": labels} for ids, labels in zip(golden["words"], golden["labels"])]
    expected = tokenize(folder, base, "ids.jsonl", lines(expected), "--labels", ",".join(cases.TAGS))
    checks.that(found == expected, f"{name}, {length} tokens: words or their labels differ from transformers'")


def main():
    checks = harness.Checks()
    with open(GOLDEN) as file:
        golden = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/model.yaml", "w") as file:
            file.write(MODEL)
        for name in cases.TOKENIZERS:
            os.makedirs(f"{folder}/{name}")
            with open(f"{folder}/{name}/tokenizer.json", "w", encoding="utf-8") as file:
                file.write(cases.tokenizer_json(harness.SOURCE, name))
            base = f"{folder}/{name}.h5"
            harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--tokenizer", f"{folder}/{name}", base)
            for length in cases.LENGTHS:
                check(checks, folder, base, name, length, golden[f"{name} {length}"])
    checks.end()


main()
