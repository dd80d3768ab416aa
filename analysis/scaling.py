#!/usr/bin/env python3
"""Plots of a scaling experiment: speed with the ideal line, where the time goes, memory of LoRA beside full fine-tuning.

    python3 analysis/scaling.py TABLE.csv [MORE.csv …] [--out PREFIX] [--format png|pdf]

TABLE.csv is written by `mpilora scale` (strong or weak; several tables are put together). Makes PREFIX-speed, PREFIX-phases and PREFIX-memory beside the first
table. Needs matplotlib.
"""

import argparse
import csv
import os
import sys

from plots import PART_COLOURS, PARTS, double_axes, finish, legend_beside, plt, stack

PHASES = ("forward", "backward", "comm", "optimizer", "data", "other")
COLOURS = ("#4477aa", "#66ccee", "#ee6677", "#228833", "#ccbb44", "#bbbbbb")
MARKS = {"lora": ("o", "#4477aa"), "full": ("s", "#ee6677")}
NAMES = {"lora": "LoRA", "full": "full"}


def read_tables(paths):
    """All rows that ended well, with numbers as numbers."""
    rows = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if row["repetitions"] != "0":
                        rows.append({key: value if key in ("method", "scaling", "status") else float(value or "nan") for key, value in row.items()})
        except (OSError, KeyError, ValueError) as fault:
            sys.exit(f"scaling.py: {path}: is no table of mpilora scale: {fault}")
    if not rows:
        sys.exit("scaling.py: no experiment of the table ended well")
    return rows


def grid_name(row):
    stages, sharers = row.get("pp", 1), row.get("cp", 1)  # older tables have no such columns
    parts = [row["dp"], row["tp"]] + ([stages] if stages > 1 or sharers > 1 else []) + ([sharers] if sharers > 1 else [])
    return "×".join(f"{part:.0f}" for part in parts)


def are_apart(one, other):
    """Further from each other than the repetitions of either are."""
    spread = max(row["tokens_per_s_max"] - row["tokens_per_s_min"] for row in (one, other))
    return min(one["repetitions"], other["repetitions"]) > 1 and abs(one["tokens_per_s"] - other["tokens_per_s"]) > spread


def leaders_by_ranks(rows):
    """Of each number of ranks, ascending: the fastest grids, more than one where their difference is within the spread."""
    leaders = []
    for ranks in sorted({row["ranks"] for row in rows}):
        these = [row for row in rows if row["ranks"] == ranks]
        best = max(these, key=lambda row: row["tokens_per_s"])
        leaders.append([row for row in these if not are_apart(row, best)])
    return leaders


def plot_speed(rows, path):
    """A panel for strong and one for weak scaling: tokens/s over ranks, bars from least to most, and what perfect scaling would be."""
    kinds = [kind for kind in ("strong", "weak") if any(row["scaling"] == kind for row in rows)]
    figure, panels = plt.subplots(1, len(kinds), figsize=(5.6 * len(kinds), 4.2), squeeze=False)
    for panel, kind in zip(panels[0], kinds):
        every_rank = sorted({row["ranks"] for row in rows if row["scaling"] == kind})
        for method in MARKS:
            leaders = leaders_by_ranks([row for row in rows if row["scaling"] == kind and row["method"] == method])
            if not leaders:
                continue
            mark, colour = MARKS[method]
            points = [row for group in leaders for row in group]
            ranks, rates = [row["ranks"] for row in points], [row["tokens_per_s"] for row in points]
            ends = [[rate - row["tokens_per_s_min"] for rate, row in zip(rates, points)], [row["tokens_per_s_max"] - rate for rate, row in zip(rates, points)]]
            if any(row["efficiency"] == row["efficiency"] for row in points[1:]):  # not NaN: the first is known well enough to be measured by
                panel.plot(ranks, [rates[0] * r / ranks[0] for r in ranks], ":", color=colour, linewidth=1.2, label=f"{NAMES[method]}, ideal")
            panel.errorbar(ranks, rates, yerr=ends, fmt=mark, color=colour, capsize=3, label=NAMES[method])
            for here, there in zip(leaders, leaders[1:]):  # no line where the spread is larger than the difference
                if len(here) == len(there) == 1 and are_apart(here[0], there[0]):
                    panel.plot([here[0]["ranks"], there[0]["ranks"]], [here[0]["tokens_per_s"], there[0]["tokens_per_s"]], "-", color=colour)
            for row in points:
                panel.annotate(grid_name(row), (row["ranks"], row["tokens_per_s"]), textcoords="offset points", xytext=(7, -11), fontsize=8, color=colour)
        double_axes(panel, every_rank, ",.10g")
        panel.set_xlabel("ranks (dp×tp, or dp×tp×pp, beside the points)")
        panel.set_title(f"{kind} scaling" + (": the same batch" if kind == "strong" else ": the batch grows with dp"))
        panel.margins(0.12)
        panel.grid(True, which="major", alpha=0.3)
        legend_beside(panel)
    finish(figure, path, dpi=150)


def bars(rows, parts, colours, value, names, unit, title):
    """Stacked columns, one an experiment; `names` in the legend."""
    figure, panel = plt.subplots(figsize=(max(5.5, 0.85 * len(rows) + 2.6), 4.2))
    stack(panel.bar, [[value(row, part) for row in rows] for part in parts], colours, names)
    panel.set_xticks(range(len(rows)), [f"{NAMES[row['method']]}\n{grid_name(row)}" for row in rows], fontsize=8)
    panel.set_xlabel("method, dp×tp or dp×tp×pp")
    panel.set_ylabel(unit)
    panel.set_title(title)
    panel.grid(True, axis="y", alpha=0.3)
    panel.set_axisbelow(True)
    legend_beside(panel)
    return figure, panel


def plot_phases(rows, path):
    figure, _ = bars(rows, PHASES, COLOURS, lambda row, phase: row[f"{phase}_s"], PHASES, "seconds a step", "where a step's time goes")
    finish(figure, path, dpi=150)


def memory_part(row, part):
    """MiB; `other` is what the peak has beyond the parts: buffers of packing, and what saving holds for a moment."""
    bytes_of_parts = {name: row[f"memory_{name}"] for name in PARTS[:-1]}
    return (row["memory_total"] - sum(bytes_of_parts.values()) if part == "other" else bytes_of_parts[part]) / 2**20


def plot_memory(rows, path):
    """Measured parts stacked; plan's total as a mark."""
    figure, panel = bars(rows, PARTS, PART_COLOURS, memory_part, PARTS, "MiB a rank", "memory of a rank: measured, and as planned")
    panel.plot(range(len(rows)), [row["planned_total"] / 2**20 for row in rows], "k_", markersize=16, label="plan's total")
    legend_beside(panel)
    finish(figure, path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("tables", nargs="+", metavar="TABLE.csv")
    parser.add_argument("--out", help="beginning of the plots' names; the first table's name without .csv")
    parser.add_argument("--format", choices=("png", "pdf"), default="png")
    arguments = parser.parse_args()
    rows = read_tables(arguments.tables)
    prefix = arguments.out or os.path.splitext(arguments.tables[0])[0]
    plot_speed(rows, f"{prefix}-speed.{arguments.format}")
    strong = [row for row in rows if row["scaling"] == "strong"] or rows
    plot_phases(strong, f"{prefix}-phases.{arguments.format}")
    plot_memory(strong, f"{prefix}-memory.{arguments.format}")


main()
