#!/usr/bin/env python3
"""Validation loss over trained parameters, method beside method (the paper's figure 2).

    python3 analysis/compare.py COMPARE.csv [--out compare.png] [--title TEXT]

COMPARE.csv is what `mpilora compare` wrote. Each method is a line over its sizes; bars span the seeds; the dotted line is the base without any training, said in words
where it is far above. A second panel has memory a rank by category, measured, with the plan's total as a mark. Needs matplotlib.
"""

import argparse
import csv
import sys

from plots import PART_COLOURS, PARTS, finish, matplotlib, plt, stack

MARKS = "osD^v<>ph*Xd"


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
    for place, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: number(row, "params_trainable"))
        x, y = [number(row, "params_trainable") for row in own], [number(row, "valid_loss") for row in own]
        below = [max(0.0, a - number(row, "valid_loss_min")) for a, row in zip(y, own)]
        above = [max(0.0, number(row, "valid_loss_max") - a) for a, row in zip(y, own)]
        panel.errorbar(x, y, yerr=[below, above], marker=MARKS[place % len(MARKS)], markersize=5, capsize=2, linewidth=1.2, label=method)
    base = number(rows[0], "base_valid_loss")
    least, most = panel.get_ylim()
    if base > 2 * most - least:  # so far above that it would press the lines together
        panel.annotate(f"base: {base:.3f}, above", (0.01, 0.99), xycoords="axes fraction", va="top", fontsize=8)
    else:
        panel.axhline(base, color="black", linestyle=":", linewidth=1)
        panel.annotate("base", (0.01, base), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    panel.set_xscale("log")
    least, most = panel.get_xlim()
    wider = max(1.0, (20 * least / most) ** 0.5)  # a decade at least, or ticks would crowd
    panel.set_xlim(least / wider, most * wider)
    panel.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=" "))
    panel.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    panel.set_xlabel("trained parameters")
    panel.set_ylabel("validation loss, nats a token")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)


def memory_part(row, part):
    """MiB; `other` is what the peak has beyond the parts."""
    if part != "other":
        return number(row, f"memory_{part}") / 2**20
    return max(0.0, number(row, "memory_total") / 2**20 - sum(memory_part(row, name) for name in PARTS[:-1]))


def plot_memory(panel, rows):
    places = range(len(rows))
    stack(panel.barh, [[memory_part(row, part) for row in rows] for part in PARTS], PART_COLOURS, PARTS, 0.8)
    panel.plot([number(row, "planned_total") / 2**20 for row in rows], places, "k|", markersize=10, label="plan's total")
    panel.set_yticks(places, [row["what"] for row in rows], fontsize=7)
    panel.invert_yaxis()
    panel.set_xlabel("MiB a rank")
    panel.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--out", default="compare.png")
    parser.add_argument("--title")
    arguments = parser.parse_args()
    rows = read(arguments.table)
    figure, panels = plt.subplots(1, 2, figsize=(13, max(5, 0.28 * len(rows))))
    plot_losses(panels[0], rows)
    plot_memory(panels[1], rows)
    if arguments.title:
        figure.suptitle(arguments.title)
    finish(figure, arguments.out, dpi=120)


if __name__ == "__main__":
    main()
