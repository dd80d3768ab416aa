"""mpilora score --task: figures that scikit-learn and scipy gave (tests/interop/make_tasks_golden.py), MNLI's two sets, and bad input."""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

checks = harness.Checks()


def write(path, rows):
    with open(path, "w") as file:
        file.writelines(json.dumps({"id": number, "prediction": predicted, "label": label}) + "\n" for number, (predicted, label) in enumerate(rows))


def check_golden(folder):
    with open(os.path.join(harness.SOURCE, "tests", "golden", "tasks.json")) as file:
        cases = json.load(file)
    for number, case in enumerate(cases):
        write(f"{folder}/p.jsonl", case["rows"])
        found = json.loads(harness.mpilora("score", f"{folder}/p.jsonl", "--task", case["task"], "--json"))
        where = f"case {number}, {case['task']}"
        checks.that(set(found) - {"rows"} == set(case["figures"]), f"{where}: figures {sorted(found)}, expected {sorted(case['figures'])}")
        for key, expected in case["figures"].items():
            if expected is None:
                checks.that(found[key] is None, f"{where}: {key} is {found[key]}, expected null")
            else:
                checks.that(abs(found[key] - expected) < 1e-9, f"{where}: {key} is {found[key]}, the library says {expected}")
    checks.that(len(cases) >= 17, f"{len(cases)} cases")


def check_mismatched(folder):
    write(f"{folder}/m.jsonl", [("neutral", "neutral"), ("entailment", "neutral")])
    write(f"{folder}/mm.jsonl", [("neutral", "neutral"), (2, "2"), ("a", "b"), ("b", "b")])
    found = json.loads(harness.mpilora("score", f"{folder}/m.jsonl", "--task", "mnli", "--mismatched", f"{folder}/mm.jsonl", "--json"))
    checks.that(found == {"rows": 2, "accuracy": 0.5, "rows_mismatched": 4, "accuracy_mismatched": 0.75}, f"matched and mismatched: {found}")


def check_refused(folder):
    path = f"{folder}/bad.jsonl"
    for task, text, message in (
        ("rte", '{"prediction": 1, "label": -1}', "line 1: \"label\" is -1, which is no class"),
        ("rte", '{"prediction": 1, "label": 1}\n{"prediction": 0.5, "label": 1}', "line 2: \"prediction\" is no class"),
        ("rte", '{"prediction": 1}', "there is no \"label\""),
        ("rte", "[1]", "there is no \"prediction\""),
        ("rte", "{", "not valid JSON"),
        ("rte", "\n\n", "nothing to score"),
        ("mrpc", '{"prediction": "a", "label": "b"}\n{"prediction": "c", "label": "b"}', "mrpc has two classes, but 3 occur"),
        ("stsb", '{"prediction": "1", "label": 1}', "is not a number"),
        ("stsb", '{"prediction": 1, "label": 1}', "two rows at least"),
        ("multilabel", '{"prediction": [1, 0], "label": [1, 0]}\n{"prediction": [1], "label": [1]}', "line 2: \"label\" has 1 bits, expected 2"),
        ("multilabel", '{"prediction": [2], "label": [1]}', "is not 0 or 1"),
        ("tokens", '{"prediction": [1, 2], "label": [1]}', "\"prediction\" has 2 elements, \"label\" 1"),
    ):
        with open(path, "w") as file:
            file.write(text + "\n")
        done = harness.start("score", path, "--task", task)
        checks.that(done.returncode == 3 and message in done.stderr and done.stderr.count("\n") == 1, f"{task} {text!r}: {done.returncode} {done.stderr}")
    write(path, [(1, 1)])
    for extra in (["--task", "glue"], ["--task", "rte", "--mismatched", path], ["--task", "rte", "--positive", "1"], ["--positive", "1"]):
        done = harness.start("score", path, *extra)
        checks.that(done.returncode == 2 and done.stderr.count("\n") == 1, f"{extra}: {done.returncode} {done.stderr}")


with tempfile.TemporaryDirectory() as folder:
    check_golden(folder)
    check_mismatched(folder)
    check_refused(folder)
checks.end()
