#!/usr/bin/env python3
"""Validation loss over the weights that LoRA adapts, or over its rank (the paper's tables 5 and 6).

    python3 analysis/sweep.py COMPARE.csv [--out sweep.png] [--title TEXT]

COMPARE.csv is what `mpilora sweep` wrote. Where every choice of weights has one rank, each is a row; else each is a line over the ranks. Points are medians over the seeds,
bars span them. Needs matplotlib.
"""

import argparse
import re
import sys

from compare import number, read
from plots import finish, plt


def points(rows):
    """{"q, v": [(rank, row)]} in the table's order."""
    found = {}
    for row in rows:
        match = re.fullmatch(r"lora:targets=\[(.*)\]:rank=(\d+)", row["what"])
        if not match:
            sys.exit(f"sweep.py: {row['what']}: not a row of mpilora sweep; analysis/compare.py draws other comparisons")
        found.setdefault(match[1].replace(",", ", "), []).append((int(match[2]), row))
    return found


def spread(row):
    """The median, and how far least and most are from it."""
    median = number(row, "valid_loss")
    return median, median - number(row, "valid_loss_min"), number(row, "valid_loss_max") - median


def plot_weights(panel, found):
    names = [f"{name}, rank {of[0][0]}" for name, of in found.items()]
    losses, below, above = zip(*(spread(of[0][1]) for of in found.values()))
    panel.errorbar(losses, range(len(names)), xerr=[below, above], fmt="o", capsize=3)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlabel("validation loss, nats a token")
    counts = [number(of[0][1], "params_trainable") for of in found.values()]
    least, most = min(counts), max(counts)
    panel.set_title(f"{most:,.0f} trained parameters" if least == most else f"{least:,.0f} to {most:,.0f} trained parameters", fontsize=10)


def plot_ranks(panel, found):
    for place, (name, of) in enumerate(found.items()):
        losses, below, above = zip(*(spread(row) for _, row in of))
        beside = 1.03 ** (place - (len(found) - 1) / 2)  # so that bars do not hide each other
        panel.errorbar([rank * beside for rank, _ in of], losses, yerr=[below, above], marker="o", markersize=4, capsize=3, label=name)
    ranks = sorted({rank for of in found.values() for rank, _ in of})
    panel.set_xscale("log", base=2)
    panel.set_xticks(ranks, [str(rank) for rank in ranks])
    panel.set_xlabel("rank")
    panel.set_ylabel("validation loss, nats a token")
    panel.legend(title="adapted weights", fontsize=8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--out", default="sweep.png")
    parser.add_argument("--title")
    arguments = parser.parse_args()
    found = points(read(arguments.table))
    figure, panel = plt.subplots(figsize=(6.5, 4))
    (plot_ranks if any(len(of) > 1 for of in found.values()) else plot_weights)(panel, found)
    panel.grid(alpha=0.3)
    if arguments.title:
        figure.suptitle(arguments.title)
    finish(figure, arguments.out, dpi=120)


main()
