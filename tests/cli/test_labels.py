"""mpilora tokenize of texts with labels: GLUE's tables with all that is odd in them, words with a class each, the order of the
classes, and bad input, each with its line."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "interop")]
import harness
import reference_models as reference

checks = harness.Checks()
TOKENIZER = os.path.join(harness.SOURCE, "tests", "golden", "tokenizer", "bert", "tokenizer.json")
MNLI = ["index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label"]


def make_base(name, id2label=None, **config):
    """A model directory with a tokenizer, and with classes in its config.json."""
    reference.MODELS[name] = {**reference.MODELS["llama"], "vocab_size": 700, **({"id2label": id2label} if id2label else {}), **config}
    reference.write_model(name, name)
    shutil.copy(TOKENIZER, name)
    harness.mpilora("import", name, f"{name}.h5")


def write(name, text):
    with open(name, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def table(*rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def tokenize(name, text, *words, base="base"):
    """(what is said, what `inspect` says of the data set)"""
    write(name, text)
    said = harness.mpilora("tokenize", "--base", f"{base}.h5", name, "out.h5", *words)
    return said, json.loads(harness.mpilora("inspect", "out.h5", "--json"))


def same(name, text, words, rows, *more):
    """A text makes the data set that rows of JSON make."""
    said, found = tokenize(name, text, *words, *more)
    expected = tokenize("rows.jsonl", "\n".join(map(json.dumps, rows)), *more)[1]
    checks.that(found["content_sha256"] == expected["content_sha256"], f"{name} {words}: is not {rows}\n{found}\n{expected}")
    return said, found


def refused(says, name, text, *words, code=3, base="base"):
    write(name, text)
    done = harness.start("tokenize", "--base", f"{base}.h5", name, "out.h5", *words)
    checks.that(done.returncode == code and says in done.stderr and done.stderr.count("\n") == 1, f"{name} {words}: {done.returncode} {done.stderr!r}, expected {code} {says!r}")


def one(text, label):
    return {"text": text, "label": label}


def two(a, b, label):
    return {"text_a": a, "text_b": b, "label": label}


def glue(task):
    return ["--format", "glue", "--task", task]


def check_glue():
    cola = table(["gj04", 1, "", "the river runs"], ["gj04", 0, "*", 'river "the runs'], ["gj04", 1, "", 'none "quotes" NA'])
    same("cola.tsv", cola, glue("cola"), [one("the river runs", "acceptable"), one('river "the runs', "unacceptable"), one('none "quotes" NA', "acceptable")], "--labels", "unacceptable,acceptable")
    found = tokenize("cola.tsv", cola, *glue("cola"))[1]
    checks.that(found["label_names"] == '["unacceptable","acceptable"]', f"cola: {found}")
    sst2 = table(["sentence", "label"], ["None", 0], ["NA ", 1], ["null", 0])
    same("sst2.tsv", sst2, glue("sst2"), [one("None", "negative"), one("NA ", "positive"), one("null", "negative")])
    mrpc = "\ufeff" + table(["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], [1, 7, 8, '"the river', 'a "river"'], [0, 7, 8, "x", "y"]).replace("\n", "\r\n")
    same("mrpc.txt", mrpc, glue("mrpc"), [two('"the river', 'a "river"', "equivalent"), two("x", "y", "not_equivalent")], "--labels", "not_equivalent,equivalent")
    stsb = table(["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"], [0, "g", "f", 2012, 1, "n", "n", "a river", "the river", "5.000"], [1, "g", "f", 2012, 1, "n", "n", "a", "b", "2.4"])
    same("stsb.tsv", stsb, glue("stsb"), [two("a river", "the river", 5.0), two("a", "b", 2.4)])
    qqp = table(["id", "qid1", "qid2", "question1", "question2", "is_duplicate"], [1, 2, 3, "where", "why", 0], [4, 5, 6, "where"], [7, 8, 9, "", "why", 1], [7, 8, 9, "sea", "the sea", 1])
    said, _ = same("qqp.tsv", qqp, glue("qqp"), [two("where", "why", "not_duplicate"), two("sea", "the sea", "duplicate")], "--labels", "not_duplicate,duplicate")
    checks.that("2 lines without a text or a label were left out" in said, f"qqp: {said}")
    for task, second in (("qnli", "question"), ("rte", "sentence1")):
        pairs = table(["index", second, "sentence" if task == "qnli" else "sentence2", "label"], [0, "a", "b", "not_entailment"], [1, "c", "d", "entailment"])
        same(f"{task}.tsv", pairs, glue(task), [two("a", "b", "not_entailment"), two("c", "d", "entailment")])
    wnli = table(["index", "sentence1", "sentence2", "label"], [0, "a", "b", 1], [1, "c", "d", 0])
    same("wnli.tsv", wnli, glue("wnli"), [two("a", "b", "entailment"), two("c", "d", "not_entailment")], "--labels", "not_entailment,entailment")


def check_order():
    """MNLI's classes have the base's numbers, whatever case its names have; without a base's they are sorted, never the task's."""
    mnli = table(MNLI, *[[i, i, i, "g", "", "", "", "", "a", "b", label, label] for i, label in enumerate(["neutral", "entailment", "-", "contradiction"])])
    sorted_names = '["contradiction","entailment","neutral"]'
    said, found = tokenize("mnli.tsv", mnli, *glue("mnli"))
    checks.that(found["label_names"] == sorted_names and "1 lines" in said and found["sequences"] == 3, f"mnli: {said} {found}")
    found = tokenize("mnli.tsv", mnli, *glue("mnli"), base="named")[1]
    checks.that(found["label_names"] == '["ENTAILMENT","NEUTRAL","CONTRADICTION"]', f"mnli of a base: {found}")
    refused("classes without names", "mnli.tsv", mnli, *glue("mnli"), base="unnamed")
    refused("3 classes without names", "two.jsonl", "\n".join(json.dumps(one(text, text)) for text in ("sea", "river")), base="unnamed")
    refused("classes without names", "two.jsonl", "\n".join(json.dumps(one(text, text)) for text in ("sea", "river")), base="double")
    refused("3 classes without names", "mnli.tsv", mnli, *glue("mnli"), base="counted")
    found = tokenize("mnli.tsv", mnli, *glue("mnli"), "--labels", "entailment,neutral,contradiction", base="unnamed")[1]
    checks.that(found["label_names"] == '["entailment","neutral","contradiction"]', f"mnli with --labels: {found}")
    few = tokenize("few.jsonl", "\n".join(json.dumps(two("a", "b", label)) for label in ("neutral", "neutral")), "--labels", "entailment,neutral,contradiction")[1]
    checks.that(few["label_count"] == 3, f"valid with fewer classes than train: {few}")


def check_words():
    conll = "-DOCSTART- -X- O O\n\nthe DT I-NP O\nriver NN I-NP B-LOC\n\n\nsea NN I-NP B-LOC\nruns VB I-VP O\n"
    said, found = tokenize("words.conll", conll, "--format", "conll")
    checks.that(found["label_kind"] == "tokens" and found["label_names"] == '["B-LOC","O"]' and found["sequences"] == 2 and found["targets"] == 4, f"conll: {said} {found}")
    refused("line 2: has one column", "bad.conll", "the O\nriver\n", "--format", "conll")
    refused("line 2: has 3 columns", "bad.conll", "the O\nriver NN O\n", "--format", "conll")
    refused('line 2: the label "B-PER" is none', "bad.conll", "the O\nriver B-PER\n", "--format", "conll", "--labels", "O,B-LOC")
    refused('every label is "O"', "bad.conll", "the O\nriver O\n", "--format", "conll")


def check_bad():
    good = json.dumps(one("the river", "no")) + "\n"
    for says, row in (
        ("line 2: the text is empty", one("", "no")),
        ("line 2: the text is empty", one(" \n", "no")),
        ("line 2: has two texts, the rows before have one", two("a", "b", "no")),
        ("line 2: \"label\" is null", one("a", None)),
        ("line 2: the label 1 is a number", one("a", 1)),
        ("line 2: \"label\" is a list", one("a", [1])),
        ("others have not", {"text": "a"}),
        ('line 2: "prompt" changes', {"text": "a", "label": "no", "prompt": "x"}),
        ('line 2: has "text" beside "text_a"', {"text": "a", "text_a": "b", "label": "no"}),
        ("line 2: expected", {"text_a": "b", "label": "no"}),
        ('line 2: "text" is not a string', one(5, "no")),
    ):
        refused(says, "bad.jsonl", good + json.dumps(row) + "\n")
    refused("line 1: the second text is empty", "bad.jsonl", json.dumps(two("a", "", "no")))
    refused("leave no room", "bad.jsonl", json.dumps(two("a", "b", "no")), "--max-len", "4")
    refused("a test set has no labels", "test.tsv", table(["index", "sentence"], [0, "the river"]), *glue("sst2"))
    refused("a test set has no labels", "test.tsv", table(["index", "sentence"], [0, "the river"]), *glue("cola"))
    refused('no column "sentence"', "test.tsv", table(["text", "label"], ["the river", 0]), *glue("sst2"))
    refused("line 3: has 3 fields between tabs, expected 2", "bad.tsv", table(["sentence", "label"], ["a", 0], ["a", "b", 0]), *glue("sst2"))
    refused('line 2: the label "2" of sst2 is neither 0 nor 1', "bad.tsv", table(["sentence", "label"], ["a", 2]), *glue("sst2"))
    refused("line 2: the text is empty", "bad.tsv", table(["sentence", "label"], ["", 1]), *glue("sst2"))
    refused("line 2: the score \"high\" is no number", "bad.tsv", table(["sentence1", "sentence2", "score"], ["a", "b", "high"]), *glue("stsb"))
    refused("--task is missing", "sst2.tsv", "x\n", "--format", "glue", code=2)
    refused("--task sst: expected cola", "sst2.tsv", "x\n", *glue("sst"), code=2)
    refused("is for --format glue", "sst2.tsv", "x\n", "--task", "sst2", code=2)
    for says, labels in (("no such file", "names"), ('"a" is there twice', "a,a"), ("name 2 is empty", "a,"), ("expected 2 to", "1"), ("expected 2 to", "-3")):
        refused(says, "good.jsonl", good, "--labels", labels, code=2)
    write("one.txt", "no\n")
    refused("1 names, expected two", "good.jsonl", good, "--labels", "one.txt")
    for name, text in (("zero.txt", "yes\nno\0w\n"), ("zero.json", '["yes", "no\\u0000w"]')):
        write(name, text)
        refused("name 2 has a zero byte", "good.jsonl", good, "--labels", name)
    checks.that("were cut to that: " in tokenize("long.jsonl", "\n".join(json.dumps(one("the river " * 40, label)) for label in "ab"))[0], "nothing said of texts that were cut")


def check_sparse():
    """An id among the labels would make a head with a row for each number below it; --labels, the base's head or rows of more of the classes mean it so."""
    rows = lambda *labels: "\n".join(json.dumps(one("the river", label)) for label in labels)
    words = lambda *labels: json.dumps({"input_ids": [1] * len(labels), "token_labels": labels})
    says = "labels go up to 1000000, but only 2 of these 1000001 classes occur"
    refused(f"{says}, and a head has a row for each; where that is meant say --labels 1000001, where they are numbers to regress --labels number", "ids.jsonl", rows(0, 1000000))
    refused(f"{says}, and a head has a row for each; where that is meant say --labels 1000001\n", "ids.jsonl", words(0, 1000000, -100))
    refused("but only 64 of these 1025 classes occur", "ids.jsonl", rows(*range(63), 1024))
    for labels, more, count, said in ((([0, 1000000]), ["--labels", "1000001"], 1000001, "1000001 classes, of which 2 occur"), ([*range(64), 1024], [], 1025, "1025 classes, of which 65 occur"),
                                      ([0, 1023], [], 1024, "1024 classes, of which 2 occur"), ([0, 1], [], 2, "2 classes\n")):  # fmt: skip
        text, found = tokenize("many.jsonl", rows(*labels), *more)
        checks.that(found["label_count"] == count and said in text, f"{len(labels)} labels {more}: {text} {found}")
    found = tokenize("many.jsonl", rows(0, 1999), base="wide")[1]
    checks.that(found["label_count"] == 2000, f"labels of a base with 3000 classes: {found}")


def check_supersenses():
    """A small folder of WordNet's form: no word on both sides, definitions once, examples left out, the same rows for the same seed."""
    os.makedirs("wordnet")
    lines = {"noun": ["  1 a licence"], "verb": [], "adj": [], "adv": []}
    for i in range(400):
        words = [f"w{i}", f"w{(i * 7) % 50}"][: 1 + i % 2]
        part, number = [("noun", 5), ("verb", 38), ("adj", 0)][i % 3]
        lines[part].append(f"{i:08d} {number:02d} n {len(words):02x} " + " ".join(f"{word}(p) 0" for word in words) + f' 000 | what is called {i} or so; "w{i} shows the word"')
    for part in lines:
        write(f"wordnet/data.{part}", "".join(line + "\n" for line in lines[part]))
    call = [sys.executable, os.path.join(harness.SOURCE, "jobs", "make_supersenses.py")]
    subprocess.run([*call, "senses", "--wordnet", "wordnet", "--valid", "0.3"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*call, "again", "--wordnet", "wordnet", "--valid", "0.3", "--rows", "50"], check=True, stdout=subprocess.DEVNULL)
    rows = {name: [json.loads(line) for line in open(f"{name}.jsonl")] for name in ("senses/train", "senses/valid", "again/train")}
    words = {name: {word for row in found for word in (f"w{row['text'].split()[3]}", *([f"w{int(row['text'].split()[3]) * 7 % 50}"] if int(row["text"].split()[3]) % 2 else []))} for name, found in rows.items()}
    checks.that(not words["senses/train"] & words["senses/valid"], f"words on both sides: {words['senses/train'] & words['senses/valid']}")
    checks.that(len(rows["senses/train"]) > 150 and len(rows["senses/valid"]) > 50, f"{len(rows['senses/train'])} and {len(rows['senses/valid'])} rows of 400")
    checks.that(all('"' not in row["text"] and row["label"] in ("noun.animal", "verb.motion", "adj.all") for found in rows.values() for row in found), "rows with an example or a wrong label")
    checks.that(rows["again/train"] == rows["senses/train"][:50], "--rows takes other rows than the first ones")
    said = harness.mpilora("tokenize", "--base", "base.h5", "senses/valid.jsonl", "out.h5", "--labels", "senses/labels.txt")
    checks.that("45 classes" in said, f"supersenses: {said}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_base("base")
        make_base("named", {"0": "ENTAILMENT", "1": "NEUTRAL", "2": "CONTRADICTION"})
        make_base("unnamed", {str(i): f"LABEL_{i}" for i in range(3)})
        make_base("double", {"0": "A", "1": "A"})
        make_base("counted", {"0": "ENTAILMENT", "1": "NEUTRAL"}, num_labels=3)
        check_glue()
        check_order()
        check_words()
        check_bad()
        make_base("wide", {str(i): f"LABEL_{i}" for i in range(3000)})
        check_sparse()
        check_supersenses()
        os.chdir("/")
    checks.end()


main()
