"""data.train as a list of files with weights: which sequences a step takes, on one rank and on two, stopped and resumed; a list of one file; what is refused.

The lengths of the sequences are chosen so that the tokens of a step of two say which two it took."""

import json
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

SIDON = [n + 3 for n in (1, 2, 4, 8, 13, 21, 31, 45, 66, 81, 97, 123)]
FIRST, SECOND = SIDON[::2], SIDON[1::2][:5]
MODEL = "{family: llama, layers: 1, width: 16, mlp_width: 24, heads: 2, kv_heads: 2, vocab: 257, context: 128}"
STEPS = 40
PAIRED = ("dpo", "reward")
checks = harness.Checks()


def sequences(lengths):
    return [[(i * i + 7 * j + i * j * j) % 257 for j in range(length)] for i, length in enumerate(lengths)]


def mix(folder, *weights):
    return [{"file": f"{folder}/{name}.h5", "weight": weight} for name, weight in zip(("a", "b"), weights)]


def config(folder, name, data, shuffle=True, steps=STEPS, sequences=2):
    return harness.write_config(
        f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}", "seed": 5}, base=f"{folder}/base.h5", method={"name": "lora", "rank": 2, "targets": ["q"]},
        data={"train": data, "shuffle": shuffle, "max_len": 128}, batch={"sequences": sequences, "micro": 2}, optim={"lr": 1e-3},
        train={"steps": steps, "save_every": 5}, kernels={"product": "native"}, precision="fp32")


def train(folder, name, data, ranks=1, sets=(), **settings):
    harness.mpilora("train", config(folder, name, data, **settings), *sets, ranks=ranks)
    return harness.read_metrics(f"{folder}/{name}")


def taken(lines):
    """The lengths of the two sequences of each step."""
    pairs = {SIDON[i] + SIDON[j]: (SIDON[i], SIDON[j]) for i in range(len(SIDON)) for j in range(i, len(SIDON))}
    return [pairs[line["tokens"]] for line in lines]


def check_order(folder):
    even = train(folder, "even", mix(folder, 3, 1), shuffle=False, steps=24, sequences=1)
    lengths = [line["tokens"] for line in even]
    first, second = [n for n in lengths if n in FIRST], [n for n in lengths if n in SECOND]
    checks.that(first == (FIRST * 9)[: len(first)] and second == (SECOND * 9)[: len(second)], f"not in the files' order: {lengths}")
    checks.that(all(sum(n in SECOND for n in lengths[i : i + 4]) == 1 for i in range(0, 24, 4)), f"not one of four: {lengths}")
    shuffled = train(folder, "whole", mix(folder, 3, 1))
    pairs = taken(shuffled)
    one = [n for pair in pairs for n in pair if n in FIRST]
    share = len(one) / (2 * STEPS)
    checks.that(0.6 < share < 0.9, f"share {share} of the first file, expected about 0.75")
    times = [one.count(n) for n in FIRST]
    checks.that(max(times) - min(times) <= 1, f"the first file's sequences were taken {times} times")
    return shuffled


def check_grids(folder, whole):
    for name, first, then in (("two", 2, 2), ("other", 1, 2), ("back", 2, 1)):
        train(folder, name, mix(folder, 3, 1), ranks=first, steps=17)
        lines = train(folder, name, mix(folder, 6, 2), ranks=then)  # the same shares
        checks.that([line["tokens"] for line in lines] == [line["tokens"] for line in whole], f"{name}: another order")
        checks.close(f"{name}: losses", [line["loss"] for line in lines], [line["loss"] for line in whole], 1e-5)
    done = harness.start("train", config(folder, "two", mix(folder, 1, 1), steps=STEPS + 1))
    checks.that(done.returncode == 2 and "data.train" in done.stderr, f"other weights on resume: {done.returncode} {done.stderr}")


def check_one(folder):
    plain, listed = train(folder, "plain", f"{folder}/a.h5", steps=8), train(folder, "listed", mix(folder, 5), steps=8)
    checks.that([line["loss"] for line in plain] == [line["loss"] for line in listed], "a list of one file is not that file")
    with open(f"{folder}/whole/config.yaml") as file:
        text = file.read()
    checks.that(f'train: [{{file: "{folder}/a.h5", weight: 3}}, {{file: "{folder}/b.h5", weight: 1}}]' in text, text)
    harness.mpilora("plan", f"{folder}/whole/config.yaml")
    done = harness.start("train", config(folder, "equal", mix(folder, 3, 1)), "--set", "train.steps=1", "--set", f"data.train=[{{file: {folder}/b.h5}}, {{file: {folder}/a.h5}}]")
    said = done.stdout + done.stderr
    checks.that(done.returncode == 0 and said.count("50.0 %") == 2 and f"{folder}/b.h5: {len(SECOND)} sequences" in said, f"{done.returncode} {said}")


def check_refused(folder):
    for data, code, message in (
        ([], 2, "expected 1 to"), ([{"file": "a"}] * 65, 2, "expected 1 to"), ([{"weight": 1}], 2, "has no file"), (["a.h5"], 2, "found a scalar"),
        ([{"file": "a", "share": 1}], 2, "found the key share"), (mix(folder, 1, 0), 2, "a number > 0"), (mix(folder, 1, -1), 2, "a number > 0"),
        (mix(folder, 1, "x"), 2, "a number"), (mix(folder, 2000, 1), 2, "less than a thousandth"), ([{"file": "a", "weight": [1]}], 2, "found a list"),
        ([{"file": f"{folder}/a.h5"}, {"file": f"{folder}/none.h5"}], 3, "none.h5"), ({"file": "a"}, 2, "found a mapping"),
    ):
        done = harness.start("train", config(folder, "bad", data), ranks=2 if code == 3 else 0)
        checks.that(done.returncode == code and message in done.stderr, f"{data}: {done.returncode} {done.stderr}")
        checks.that(not os.path.exists(f"{folder}/bad/metrics.jsonl"), f"{data}: something was written")
    shutil.copy(f"{folder}/a.h5", f"{folder}/copy.h5")
    for ranks, other in ((0, "a.h5"), (2, "copy.h5")):
        same = [{"file": f"{folder}/a.h5", "weight": 2}, {"file": f"{folder}/b.h5"}, {"file": f"{folder}/{other}"}]
        done = harness.start("train", config(folder, "bad", same), ranks=ranks)
        named = f"data.train: {folder}/a.h5 and {folder}/{other} are the same sequences; name one of them, with the weight of both, 3" in done.stderr
        checks.that(done.returncode == 2 and named, f"the same sequences twice: {done.returncode} {done.stderr}")
    with open(f"{folder}/wide.yaml", "w") as file:
        file.write(MODEL.replace("257", "300"))
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/wide.yaml", f"{folder}/wide.h5")
    harness.mpilora("tokenize", "--base", f"{folder}/wide.h5", "--format", "ids", f"{folder}/a.jsonl", f"{folder}/wide-a.h5")
    done = harness.start("train", config(folder, "bad", [{"file": f"{folder}/a.h5"}, {"file": f"{folder}/wide-a.h5"}]), ranks=2)
    checks.that(done.returncode == 3 and "a vocabulary of 257" in done.stderr, f"other vocabulary: {done.returncode} {done.stderr}")


def rows_of(kind, file):
    texts = [[(11 * i + 5 * j + 97 * file + i * j) % 257 for j in range(4 + (i * 3 + file) % 9)] for i in range(24)]
    if kind == "labels":
        return [{"input_ids": text, "label": (i + file) % 3} for i, text in enumerate(texts[:8])]
    if kind in PAIRED:
        return [{"prompt_ids": texts[i], "chosen_ids": texts[i + 8], "rejected_ids": texts[i + 16]} for i in range(8)]
    return [{"anchor_ids": texts[i], "positive_ids": texts[i + 8], "negative_ids": [texts[i + 16]]} for i in range(8)]


def write_rows(folder, name, rows):
    with open(f"{folder}/{name}.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", f"{folder}/{name}.jsonl", f"{folder}/{name}.h5")


def check_kinds(folder):
    """Two files in equal shares are the file in which their rows alternate: sets with labels, rows of several texts, and pairs, whose reference is found once for all."""
    for kind in ("labels", "rows", *PAIRED):
        first, second = rows_of(kind, 0), rows_of(kind, 1)
        for name, rows in ((f"{kind}-a", first), (f"{kind}-b", second), (f"{kind}-both", [row for pair in zip(first, second) for row in pair])):
            write_rows(folder, name, rows)
        files = [{"file": f"{folder}/{kind}-{name}.h5"} for name in "ab"]
        settings = {"shuffle": False, "steps": 7, "sequences": 3}
        sets = {"rows": ("--set", "objective.name=contrastive", "--set", "objective.pooling=mean"), "labels": ()}.get(kind, ("--set", f"objective.name={kind}"))
        whole = train(folder, f"{kind}-one", f"{folder}/{kind}-both.h5", sets=sets, **settings)
        for ranks in (1, 2):
            mixed = train(folder, f"{kind}-mixed-{ranks}", files, ranks=ranks, sets=sets, **settings)
            checks.that([line["tokens"] for line in mixed] == [line["tokens"] for line in whole], f"{kind}, {ranks} ranks: other rows")
            checks.close(f"{kind}, {ranks} ranks: losses", [line["loss"] for line in mixed], [line["loss"] for line in whole], 1e-5)
        shuffled = train(folder, f"{kind}-shuffled", files, sets=sets, steps=7, sequences=3)
        checks.that([line["loss"] for line in shuffled] != [line["loss"] for line in whole], f"{kind}: not shuffled")
        checks.that(json.loads(harness.mpilora("plan", f"{folder}/{kind}-shuffled.yaml", *sets, "--json"))["methods"], f"{kind}: plan")
    write_rows(folder, "fewer", [{"anchor_ids": [1, 2], "positive_ids": [3, 4]}])
    for one, other, message in (("rows-a", "fewer", "has 3 texts a row and"), ("rows-a", "a", "has 3 texts a row and"), ("a", "dpo-a", "dpo-a.h5 has pairs of chosen and rejected answers and")):
        done = harness.start("train", config(folder, "bad", [{"file": f"{folder}/{one}.h5"}, {"file": f"{folder}/{other}.h5"}]))
        checks.that(done.returncode == 3 and message in done.stderr and done.stderr.strip().count("\n") == 0, f"{other}: {done.returncode} {done.stderr}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL, "fp32")
        harness.make_data(folder, sequences(FIRST), "a")
        harness.make_data(folder, sequences(SECOND), "b")
        whole = check_order(folder)
        check_grids(folder, whole)
        check_one(folder)
        check_refused(folder)
        check_kinds(folder)
    checks.end()


main()
