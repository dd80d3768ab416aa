"""What the plots of this folder have in common: matplotlib without a screen, parts of memory, axes by powers of two, stacked columns, the end of a figure."""

import os
import sys

PROGRAM = os.path.basename(sys.argv[0])

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import matplotlib.ticker
except ImportError:
    sys.exit(f"{PROGRAM}: matplotlib is missing (Debian: python3-matplotlib)")

PARTS = ("frozen", "trainable", "gradient", "optimizer", "activation", "workspace", "other")
PART_COLOURS = ("#88ccee", "#332288", "#cc6677", "#aa4499", "#117733", "#ddcc77", "#bbbbbb")


def double_axes(panel, ranks, rate):
    """Speed over ranks, both by powers of two; `rate`: how a number of the former is written."""
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.set_xticks(ranks, [f"{r:.0f}" for r in ranks])
    panel.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: format(value, rate)))
    panel.set_ylabel("tokens/s")


def stack(draw, heights, colours, names, width=0.7):
    """Parts of columns (panel.bar) or of rows (panel.barh), each beginning where the last one ends; heights[part][column]."""
    start = [0.0] * len(heights[0])
    for own, colour, name in zip(heights, colours, names):
        draw(range(len(own)), own, width, start, color=colour, label=name)
        start = [a + b for a, b in zip(start, own)]


def legend_beside(panel):
    panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))


def finish(figure, path, **more):
    figure.tight_layout()
    figure.savefig(path, **more)
    plt.close(figure)
    print(path)
