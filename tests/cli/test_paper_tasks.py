"""The paper's generated-text tasks, from the files as they are distributed (stand-ins, jobs/make_task_standin.py) to a score: converted, tokenised, trained with the
committed configurations, generated, scored. And what logical form takes for the same query."""

import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

checks = harness.Checks()
MODEL = "family: llama\nlayers: 1\nwidth: 32\nheads: 2\nmlp_width: 64\nvocab: 300\ncontext: 256\nrope_theta: 10000.0\n"
FILES = {"mnli": ("train.tsv", "dev_matched.tsv"), "wikisql": ("train.jsonl", "dev.jsonl"), "samsum": ("train.json", "val.json")}
METRICS = {"mnli": "exact", "wikisql": "exact,logical_form", "samsum": "rouge"}
FIGURES = {"mnli": {"exact", "exact_any_case"}, "wikisql": {"exact", "exact_any_case", "logical_form"}, "samsum": {"rouge1_f1", "rouge2_f1", "rougeL_f1"}}


def script(name, *words, code=0):
    done = subprocess.run([sys.executable, f"{harness.SOURCE}/jobs/{name}", *words], text=True, capture_output=True)
    checks.that(done.returncode == code, f"{name} {words}: {done.returncode} {done.stderr}")
    return done


def read_rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def score(outputs, metrics):
    with open("outputs.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in outputs)
    return json.loads(harness.mpilora("score", "outputs.jsonl", "--metrics", metrics, "--json"))


def check_task(task):
    script("make_task_standin.py", task, task, "--rows", "60")
    for part, name in zip(("train", "valid"), FILES[task]):
        script("convert_task.py", task, f"{task}/{name}", f"{task}.{part}.jsonl")
        harness.mpilora("tokenize", "--base", "base.h5", f"{task}.{part}.jsonl", f"{task}.{part}.h5")
    settings = [f"--set={setting}" for setting in ("base=base.h5", "data.max_len=256", "batch.sequences=8", "train.epochs=null", "train.steps=2", "optim.warmup=0")]
    config = [f"{harness.SOURCE}/configs/runs/gpt2-{task}.yaml", *[word for setting in settings for word in setting.split("=", 1)]]
    harness.mpilora("train", *config)
    harness.mpilora("eval", *config, "--adapter", f"runs/gpt2-{task}/adapter.h5", "--generate", "generated.jsonl", "--max-new", 6)
    rows = read_rows("generated.jsonl")
    found = json.loads(harness.mpilora("score", "generated.jsonl", "--metrics", METRICS[task], "--json"))
    prompts = {row["prompt"] for row in read_rows(f"{task}.valid.jsonl")}
    checks.that({row["prompt"] for row in rows} == prompts and found["items"] == len(prompts), f"{task}: {found['items']} outputs for {len(prompts)} prompts")
    checks.that(set(found) == FIGURES[task] | {"items", "references"} and all(0.0 <= found[key] <= 1.0 for key in FIGURES[task]), f"{task}: {found}")
    right = [{**row, "output": row["references"][-1] if i % 2 else "x"} for i, row in enumerate(rows)]
    expected = (len(rows) // 2) / len(rows)
    found = score(right, METRICS[task])
    checks.that(all(abs(found[key] - expected) < 1e-9 for key in FIGURES[task]), f"{task}: {found}, expected {expected} of everything")


def check_logical_form():
    """References as convert_task.py writes them, and outputs that mean the same or not."""
    one = """SELECT MAX("Points") FROM table WHERE "Team" = 'Red Stars' AND "Year" > '1990'"""
    plain = """SELECT "Player" FROM table"""
    quoted = """SELECT "a ""b"" c" FROM table WHERE "Team" = 'O''Hara''s AND so'"""
    for same, output, reference in (
        (True, one, one),
        (True, """ select max( "Points" ) from t_1 where "Year" > 1990 and "Team" = 'RED stars' """, one),
        (True, """SELECT MAX("Points") FROM table WHERE "Year" > '1990' AND "Team" = 'Red Stars' AND "Year" > 1990""", one),
        (True, plain, plain),
        (True, quoted, quoted),
        (True, """SELECT "x" FROM table WHERE "Ä" = 'GRÜN'""", """SELECT "x" FROM table WHERE "Ä" = 'grün'"""),
        (False, one.replace("MAX", "MIN"), one),
        (False, one.replace('MAX("Points")', '"Points"'), one),
        (False, one.replace("Points", "points"), one),
        (False, one.replace(">", "<"), one),
        (False, one.replace("1990", "1991"), one),
        (False, one.replace(""" AND "Year" > '1990'""", ""), one),
        (False, plain, one),
        (False, plain + " WHERE", plain),
        (False, plain + " WHERE \"Team\" = 'open", plain),
        (False, plain + " GROUP BY 1", plain),
        (False, "SELECT Player FROM table", plain),
        (False, one + ' AND "Year" > 1' * 40, one),
        (False, "", plain),
    ):
        found = score([{"output": output, "references": [reference]}], "logical_form")["logical_form"]
        checks.that(found == float(same), f"{output!r} and {reference!r}: {found}")
    both = score([{"output": plain, "references": [one, plain]}, {"output": "x", "references": [one]}], "logical_form")["logical_form"]
    checks.that(both == 0.5, f"two references, and one that is missed: {both}")
    with open("outputs.jsonl", "w") as file:
        file.write(json.dumps({"output": plain, "references": ["how many"]}) + "\n")
    done = harness.start("score", "outputs.jsonl", "--metrics", "logical_form")
    checks.that(done.returncode == 3 and 'item 1: the reference "how many" is no query' in done.stderr, f"a reference that is none: {done.returncode} {done.stderr}")


def check_bad_input():
    files = {
        "head.tsv": ("mnli", "a\tb\n1\t2\n", "line 1: no column sentence1"),
        "short.tsv": ("mnli", "sentence1\tsentence2\tgold_label\nx\ty\n", "line 2: 2 columns, the first line has 3"),
        "label.tsv": ("mnli", "sentence1\tsentence2\tgold_label\nx\ty\tperhaps\n", 'line 2: gold_label is "perhaps"'),
        "bad.jsonl": ("wikisql", '{"table_id": "9", "question": "x", "sql": {}}\n', "line 1: no row of WikiSQL: KeyError '9'"),
        "bad.json": ("samsum", '[{"summary": "x"}]', "element 1 has no dialogue and summary"),
        "none.json": ("samsum", "[]", "no row in it"),
    }
    open("bad.tables.jsonl", "w").close()
    for name, (task, text, says) in files.items():
        with open(name, "w") as file:
            file.write(text)
        done = script("convert_task.py", task, name, "out.jsonl", code=1)
        checks.that(says in done.stderr and done.stderr.count("\n") == 1 and not os.path.exists("out.jsonl"), f"{name}: {done.stderr!r}, expected {says!r}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("model.yaml", "w") as file:
            file.write(MODEL)
        script("make_byte_tokenizer.py", "tokenizer")
        harness.mpilora("import", "--init", "random", "--config", "model.yaml", "--tokenizer", "tokenizer", "base.h5")
        for task in FILES:
            check_task(task)
        check_logical_form()
        check_bad_input()
    checks.end()


main()
