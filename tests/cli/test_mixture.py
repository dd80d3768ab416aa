"""data.train as a list of files with weights: which sequences a step takes, on one rank and on two, stopped and resumed; a list of one file; what is refused.

The lengths of the sequences are chosen so that the tokens of a step of two say which two it took."""

import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

SIDON = [n + 3 for n in (1, 2, 4, 8, 13, 21, 31, 45, 66, 81, 97, 123)]
FIRST, SECOND = SIDON[::2], SIDON[1::2][:5]
MODEL = "{family: llama, layers: 1, width: 16, mlp_width: 24, heads: 2, kv_heads: 2, vocab: 257, context: 128}"
STEPS = 40
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
    with open(f"{folder}/wide.yaml", "w") as file:
        file.write(MODEL.replace("257", "300"))
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/wide.yaml", f"{folder}/wide.h5")
    harness.mpilora("tokenize", "--base", f"{folder}/wide.h5", "--format", "ids", f"{folder}/a.jsonl", f"{folder}/wide-a.h5")
    done = harness.start("train", config(folder, "bad", [{"file": f"{folder}/a.h5"}, {"file": f"{folder}/wide-a.h5"}]), ranks=2)
    checks.that(done.returncode == 3 and "a vocabulary of 257" in done.stderr, f"other vocabulary: {done.returncode} {done.stderr}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL, "fp32")
        harness.make_data(folder, sequences(FIRST), "a")
        harness.make_data(folder, sequences(SECOND), "b")
        whole = check_order(folder)
        check_grids(folder, whole)
        check_one(folder)
        check_refused(folder)
    checks.end()


main()
