"""Makes tests/golden/tasks.json: predictions and labels of every task, and the figures that scikit-learn and scipy give for them. For developers: `python3 make_tasks_golden.py`
with scikit-learn 1.9 and scipy 1.17 installed."""

import json
import os
import random
import warnings

import scipy.stats
import sklearn.metrics as metrics

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "tasks.json")


def class_figures(truth, predicted, positive=None, none=None):
    out = {"accuracy": metrics.accuracy_score(truth, predicted), "matthews": metrics.matthews_corrcoef(truth, predicted),
           "f1_macro": metrics.f1_score(truth, predicted, average="macro", zero_division=0)}
    kept = [one for one in sorted(set(truth) | set(predicted)) if one != none]
    out["f1_micro"] = metrics.f1_score(truth, predicted, labels=kept, average="micro", zero_division=0)
    if positive is not None:
        out["f1"] = metrics.f1_score(truth, predicted, labels=[positive], average="macro", zero_division=0)
    return out


def classes(task, keys, truth, predicted, positive=None):
    figures = class_figures(truth, predicted, positive)
    return {"task": task, "rows": list(zip(predicted, truth)), "figures": {key: float(figures[key]) for key in keys}}


def near(source, truth, names, share):
    return [one if source.random() < share else source.choice(names) for one in truth]


def numbers(task, truth, predicted):
    figures = {"pearson": scipy.stats.pearsonr(predicted, truth)[0], "spearman": scipy.stats.spearmanr(predicted, truth)[0]}
    return {"task": task, "rows": list(zip(predicted, truth)), "figures": {key: None if value != value else float(value) for key, value in figures.items()}}


def bits(source, width):
    truth = [[int(source.random() < 0.3) for _ in range(width)] for _ in range(40)]
    predicted = [[bit if source.random() < 0.8 else 1 - bit for bit in row] for row in truth]
    for row in truth + predicted:
        row[-1] = 0  # a label that never occurs: its F1 is 0
    figures = {"accuracy": metrics.accuracy_score(truth, predicted), "f1_micro": metrics.f1_score(truth, predicted, average="micro", zero_division=0),
               "f1_macro": metrics.f1_score(truth, predicted, average="macro", zero_division=0)}
    return {"task": "multilabel", "rows": list(zip(predicted, truth)), "figures": {key: float(value) for key, value in figures.items()}}


def tokens(source):
    names, rows, truth, predicted = ["O", "B-PER", "I-PER", "B-LOC"], [], [], []
    for _ in range(20):
        label = [source.choice(names + ["O", "O"]) for _ in range(source.randint(1, 9))]
        guess = near(source, label, names, 0.6)
        label = [-100 if source.random() < 0.3 else one for one in label]
        rows.append((guess, label))
        truth += [one for one in label if one != -100]
        predicted += [g for g, one in zip(guess, label) if one != -100]
    figures = class_figures(truth, predicted, none="O")
    return {"task": "tokens", "rows": rows, "figures": {key: float(figures[key]) for key in ("accuracy", "f1_micro", "f1_macro")}}


def main():
    warnings.simplefilter("ignore")
    source, cases = random.Random(7), []
    two = [int(source.random() < 0.4) for _ in range(60)]
    cases.append(classes("cola", ["matthews"], two, near(source, two, [0, 1], 0.6)))
    cases.append(classes("cola", ["matthews"], two, [1] * len(two)))
    cases.append(classes("sst2", ["accuracy"], two, near(source, two, [0, 1], 0.6)))
    cases.append(classes("mrpc", ["accuracy", "f1"], two, near(source, two, [0, 1], 0.6), 1))
    cases.append(classes("mrpc", ["accuracy", "f1"], [0] * 9, [0] * 9, 1))
    words = [["not_duplicate", "duplicate"][one] for one in two]
    cases.append(classes("qqp", ["accuracy", "f1"], words, near(source, words, ["duplicate", "not_duplicate"], 0.6), "duplicate"))
    three = [source.choice(["entailment", "neutral", "contradiction"]) for _ in range(60)]
    cases.append(classes("mnli", ["accuracy"], three, near(source, three, sorted(set(three)), 0.5)))
    for task in ("qnli", "rte", "wnli"):
        cases.append(classes(task, ["accuracy"], two, near(source, two, [0, 1], 0.6)))
    cases.append(classes("classify", ["accuracy", "f1", "f1_micro", "f1_macro", "matthews"], two, near(source, two, [0, 1], 0.6), 1))
    many = [source.randrange(7) for _ in range(60)]
    cases.append(classes("classify", ["accuracy", "f1_micro", "f1_macro", "matthews"], many, near(source, many, range(9), 0.5)))
    score = [source.randrange(26) / 5 for _ in range(60)]  # ties
    cases.append(numbers("stsb", score, [round(one + source.gauss(0, 1), 1) for one in score]))
    cases.append(numbers("stsb", score, [2.5] * len(score)))
    cases.append(numbers("regress", score, [1e6 + 1e-3 * one + source.gauss(0, 1e-3) for one in score]))
    cases.append(bits(source, 5))
    cases.append(tokens(source))
    with open(GOLDEN, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
