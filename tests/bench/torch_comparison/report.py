"""Figures of several pairs, and tables of them."""

import statistics


def spread(values):
    """Median, smallest and largest, as the answer has them."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "pairs": len(values)}


def spread_text(figures, digits=2):
    return f"{figures['median']:.{digits}f} ({figures['least']:.{digits}f} to {figures['most']:.{digits}f}, {figures['pairs']} pairs)"


def table(head, lines):
    """Columns as wide as they must be; the first to the left, the others to the right."""
    cells = [head, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    for line in cells:
        print("  " + "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths))).rstrip())
    print(flush=True)


def gigabytes(count):
    return f"{count / 1e9:.2f} GB" if count else "-"
