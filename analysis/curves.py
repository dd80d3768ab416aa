#!/usr/bin/env python3
"""Loss curves of several runs over each other.

    python3 analysis/curves.py RUN_DIR [RUN_DIR …] [--out curves.png] [--smooth N] [--title TEXT]

A run's directory has metrics.jsonl (a line a step) and, where it was evaluated, evaluations.jsonl. The thin line is the loss of each step, the thick one its running
mean over N steps (a twentieth of the run unless told), points are the validation loss. Needs matplotlib.
"""

import argparse
import json
import os
import sys

from plots import finish, plt


def read_lines(path, key):
    """Steps and values of a file with one JSON object a line; nothing where there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
    except OSError:
        return [], []
    except ValueError as fault:
        sys.exit(f"curves.py: {path}: {fault}")
    return [line["step"] for line in lines], [line[key] for line in lines]


def running_mean(values, width):
    means, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - width] if i >= width else 0.0)
        means.append(total / min(i + 1, width))
    return means


def final_validation(run):
    """The evaluation at the end is in the summary alone where there is no file of evaluations."""
    try:
        with open(os.path.join(run, "summary.json"), encoding="utf-8") as file:
            summary = json.load(file)
    except (OSError, ValueError):
        return [], []
    return ([summary["steps"]], [summary["valid_loss"]]) if summary.get("valid_loss") is not None else ([], [])


def plot_run(panel, run, colour, smooth):
    steps, losses = read_lines(os.path.join(run, "metrics.jsonl"), "loss")
    if not steps:
        sys.exit(f"curves.py: {run}: has no metrics.jsonl with steps")
    name = os.path.basename(os.path.normpath(run))
    width = smooth or max(1, len(steps) // 20)
    panel.plot(steps, losses, color=colour, linewidth=0.7, alpha=0.35)
    panel.plot(steps, running_mean(losses, width), color=colour, linewidth=1.8, label=f"{name}: training")
    at, valid = read_lines(os.path.join(run, "evaluations.jsonl"), "valid_loss")
    if not at:
        at, valid = final_validation(run)
    if at:
        panel.plot(at, valid, "D", color=colour, markeredgecolor="black", markersize=6, label=f"{name}: validation, last {valid[-1]:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR")
    parser.add_argument("--out", default="curves.png")
    parser.add_argument("--smooth", type=int, default=0, help="steps of the running mean")
    parser.add_argument("--title", default="loss")
    arguments = parser.parse_args()
    figure, panel = plt.subplots(figsize=(7.2, 4.4))
    for i, run in enumerate(arguments.runs):
        plot_run(panel, run, f"C{i % 10}", arguments.smooth)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.set_xlabel("step")
    panel.set_ylabel("loss, nats a target token")
    panel.set_title(arguments.title)
    panel.grid(True, alpha=0.3)
    panel.legend(fontsize=8)
    finish(figure, arguments.out, dpi=150)


main()
