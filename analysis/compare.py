#!/usr/bin/env python3
"""Validation loss over trained parameters, method beside method (the paper's figure 2).

    python3 analysis/compare.py COMPARE.csv [--out compare.png] [--title TEXT]

COMPARE.csv is what `mpilora compare` wrote. Each method is a line over its sizes; bars span the seeds; the dotted line is the base without any training. A second panel has
memory a rank by category, measured. Needs matplotlib.
"""

import argparse
import csv
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("compare.py: matplotlib is missing (Debian: python3-matplotlib)")

CATEGORIES = ("frozen", "trainable", "gradient", "optimizer", "activation", "workspace")


def read(path):
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["seeds"]) > 0]
    except (OSError, KeyError, ValueError) as fault:
        sys.exit(f"compare.py: {path}: {fault}")
    if not rows:
        sys.exit(f"compare.py: {path}: no run ended well")
    return rows


def number(row, column):
    return float(row[column]) if row[column] else float("nan")


def plot_losses(panel, rows):
    for method in dict.fromkeys(row["method"] for row in rows):
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: number(row, "params_trainable"))
        x, y = [number(row, "params_trainable") for row in own], [number(row, "valid_loss") for row in own]
        below = [max(0.0, a - number(row, "valid_loss_min")) for a, row in zip(y, own)]
        above = [max(0.0, number(row, "valid_loss_max") - a) for a, row in zip(y, own)]
        panel.errorbar(x, y, yerr=[below, above], marker="o", markersize=4, capsize=2, linewidth=1.2, label=method)
    base = number(rows[0], "base_valid_loss")
    panel.axhline(base, color="black", linestyle=":", linewidth=1)
    panel.annotate("base", (0.01, base), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    panel.set_xscale("log")
    panel.set_xlabel("trained parameters")
    panel.set_ylabel("validation loss, nats a token")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)


def plot_memory(panel, rows):
    names, left = [row["what"] for row in rows], [0.0] * len(rows)
    for category in CATEGORIES:
        values = [number(row, f"memory_{category}") / 2**20 for row in rows]
        panel.barh(names, values, left=left, label=category)
        left = [a + b for a, b in zip(left, values)]
    panel.invert_yaxis()
    panel.set_xlabel("MiB a rank")
    panel.tick_params(axis="y", labelsize=6)
    panel.legend(fontsize=8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--out", default="compare.png")
    parser.add_argument("--title")
    arguments = parser.parse_args()
    rows = read(arguments.table)
    figure, panels = plt.subplots(1, 2, figsize=(13, max(4.5, 0.28 * len(rows))))
    plot_losses(panels[0], rows)
    plot_memory(panels[1], rows)
    if arguments.title:
        figure.suptitle(arguments.title)
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=120)
    print(arguments.out)


main()
