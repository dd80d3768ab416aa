#!/usr/bin/env python3
"""Which classes are taken for which, as a picture.

    python3 analysis/confusion.py PREDICTIONS.jsonl [--out confusion.png] [--classes 10] [--title TEXT]

PREDICTIONS.jsonl is what `mpilora eval --predictions` writes. A row is one of the largest classes, most frequent first; its numbers are the percentages of its texts that were
taken for each of them, and for any other class in the last column. Needs matplotlib.
"""

import argparse
import collections
import json
import sys

from plots import plt


def read_pairs(path):
    """(label, prediction) of every line."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file if line.strip()]
        return [(str(line["label"]), str(line["prediction"])) for line in lines if not isinstance(line["label"], (list, float))]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        sys.exit(f"confusion.py: {path}: is no file of predictions of classes ({fault})")


def count(pairs, most):
    """The largest classes, and of each the fractions that were taken for each of them and for others."""
    sizes = collections.Counter(label for label, _ in pairs)
    names = [name for name, _ in sizes.most_common(most)]
    found = collections.Counter(pairs)
    rows = []
    for label in names:
        row = [found[label, name] / sizes[label] for name in names]
        rows.append(row + [max(0.0, 1.0 - sum(row))])
    return names, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions")
    parser.add_argument("--out", default="confusion.png")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--title", default="")
    given = parser.parse_args()
    pairs = read_pairs(given.predictions)
    if not pairs:
        sys.exit(f"confusion.py: {given.predictions}: has no predictions of classes")
    names, rows = count(pairs, given.classes)
    figure, panel = plt.subplots(figsize=(2.5 + 0.62 * len(names), 1.8 + 0.5 * len(names)))
    panel.imshow(rows, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for y, row in enumerate(rows):
        for x, share in enumerate(row):
            if share >= 0.005:
                panel.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color="white" if share > 0.5 else "black")
    panel.set_xticks(range(len(names) + 1), [*names, "others"], rotation=60, ha="right", fontsize=8)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_xlabel("taken for, % of a row")
    panel.set_ylabel("what it is")
    right = sum(label == prediction for label, prediction in pairs) / len(pairs)
    panel.set_title(f"{given.title + ': ' if given.title else ''}{100 * right:.1f} % of {len(pairs)} right", fontsize=10)
    figure.tight_layout()
    figure.savefig(given.out, dpi=110)
    print(f"{given.out}: {len(names)} classes, {len(pairs)} predictions, {100 * right:.1f} % right")


main()
