#!/usr/bin/env python3
"""Plots of simulated runs beside plan: strong and weak scaling, and what a step consists of.

    python3 analysis/simulated.py TABLE.csv [--out FOLDER]

TABLE.csv is written by tests/simulate/check_scaling.py. Makes FOLDER/strong.svg, FOLDER/weak.svg and FOLDER/terms.svg. Needs matplotlib.
"""

import argparse
import csv
import os
import sys

from plots import double_axes, finish, matplotlib, plt, stack

TERMS = (("computing", "#4477aa"), ("sums and messages", "#ee6677"), ("waiting for stages", "#ccbb44"))


def read_table(path):
    """Rows with numbers as numbers."""
    try:
        with open(path, encoding="utf-8") as file:
            return [{key: value if key == "kind" else float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, TypeError, ValueError) as fault:
        sys.exit(f"simulated.py: {path}: is no table of tests/simulate/check_scaling.py: {fault}")


def save(figure, path):
    finish(figure, path, metadata={"Date": None})


def grid_name(row):
    return f"tp {row['tp']:.0f} pp {row['pp']:.0f} dp {row['dp']:.0f}"


def plot_speed(rows, title, path):
    """Tokens/s over ranks, simulated and by plan, with the line from the first point that perfect scaling would be."""
    figure, panel = plt.subplots(figsize=(5.6, 4.0))
    ranks, first = [row["ranks"] for row in rows], rows[0]
    panel.plot(ranks, [first["tokens_per_s"] * r / first["ranks"] for r in ranks], ":", color="#bbbbbb", label="perfect")
    panel.plot(ranks, [row["tokens_per_s"] * row["ratio"] for row in rows], "--", color="#ee6677", label="plan")
    panel.plot(ranks, [row["tokens_per_s"] for row in rows], "o-", color="#4477aa", label="simulated")
    for row in rows:
        share = row["tokens_per_s"] / first["tokens_per_s"] * first["ranks"] / row["ranks"]
        panel.annotate(f"{grid_name(row)}\n{share:.0%}", (row["ranks"], row["tokens_per_s"]), textcoords="offset points", xytext=(8, -16), fontsize=8)
    double_axes(panel, ranks, ",.0f")
    panel.set_xlabel("ranks, 8 a node")
    panel.set_title(title, fontsize=10)
    panel.margins(0.16)
    panel.grid(True, alpha=0.3)
    panel.legend(fontsize=8)
    save(figure, path)


def plot_terms(rows, path):
    """Plan's terms as shares of its step, and the simulated step as a mark."""
    figure, panel = plt.subplots(figsize=(1.0 * len(rows) + 2.4, 4.0))
    parts = [[(row["plan_forward_s"] + row["plan_backward_s"]) / row["plan_s"] for row in rows], [row["plan_comm_s"] / row["plan_s"] for row in rows],
             [row["plan_bubble_s"] / row["plan_s"] for row in rows]]
    stack(panel.bar, parts, [colour for _, colour in TERMS], [name for name, _ in TERMS])
    panel.plot(range(len(rows)), [row["ratio"] for row in rows], "k_", markersize=18, label="simulated")
    panel.set_xticks(range(len(rows)), [f"{row['kind']}\n" + grid_name(row).replace(" pp", "\npp").replace(" dp", "\ndp") for row in rows], fontsize=8)
    panel.set_ylabel("part of the step by plan")
    panel.grid(True, axis="y", alpha=0.3)
    panel.set_axisbelow(True)
    panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("table", metavar="TABLE.csv")
    parser.add_argument("--out", help="folder of the plots; the table's unless given")
    arguments = parser.parse_args()
    folder, rows = arguments.out or os.path.dirname(arguments.table) or ".", read_table(arguments.table)
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "mpilora"
    for kind, title in (("strong", "strong scaling: the same batch"), ("weak", "weak scaling: the batch grows with dp")):
        these = [row for row in rows if row["kind"] == kind]
        if these:
            plot_speed(these, title, os.path.join(folder, f"{kind}.svg"))
    plot_terms(rows, os.path.join(folder, "terms.svg"))


main()
