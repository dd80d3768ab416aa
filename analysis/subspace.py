#!/usr/bin/env python3
"""Figures of what `mpilora analyze … --out RESULT.h5` found.

    python3 analysis/subspace.py RESULT.h5 [RESULT.h5 …] [--layers 0,14,29] [--targets q,v] [--out subspace.png]

One file of kind subspace: heat maps of phi(i, j), a row for each layer and target (figures 3 and 4 of the LoRA paper): all directions, the first few, and two random
matrices of the same shapes, all in one colour scale. Several such files: phi(1, 1) and phi of all directions over the layers, each beside chance. Kind
spectrum: singular values of W and of dW. Kind amplification: the amplification factor over the layers (table 7), several adapters over each other. Layers: the first, the
middle and the last unless told (for factors and several files all). Needs h5py, numpy and matplotlib.
"""

import argparse
import os
import sys

try:
    import h5py
    import matplotlib
    import numpy

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError as missing:
    sys.exit(f"subspace.py: {missing.name} is missing (Debian: python3-h5py python3-matplotlib)")

NEAR = 8  # the corner that the second heat map shows
DIRECTIONS = {"A": "right-singular directions of A", "B": "left-singular directions of B", "right": "right-singular directions of dW", "left": "left-singular directions of dW"}


def open_results(paths):
    """Files of one kind."""
    files = []
    for path in paths:
        try:
            files.append(h5py.File(path, "r"))
        except OSError as fault:
            sys.exit(f"subspace.py: {path}: {fault}")
        if text(files[-1].attrs.get("format", "")) != "mpilora analysis":
            sys.exit(f"subspace.py: {path}: is no result of mpilora analyze")
    kinds = {text(file.attrs["kind"]) for file in files}
    if len(kinds) > 1:
        sys.exit(f"subspace.py: the files are of different kinds: {', '.join(sorted(kinds))}")
    return files, kinds.pop()


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def choose_sites(file, layers, targets):
    """(layer, target, group) in order; layers None: all."""
    sites = [(int(g.attrs["layer"]), text(g.attrs["target"]), g) for g in file["sites"].values()]
    chosen = [s for s in sites if (layers is None or s[0] in layers) and (targets is None or s[1] in targets)]
    if not chosen:
        sys.exit(f"subspace.py: {file.filename}: nothing there of these layers and targets")
    order = list(dict.fromkeys(s[1] for s in sites))
    return sorted(chosen, key=lambda s: (s[0], order.index(s[1])))


def few_layers(file):
    layers = sorted({int(g.attrs["layer"]) for g in file["sites"].values()})
    return {layers[0], layers[len(layers) // 2], layers[-1]}


def name_adapter(file, i):
    """The run's directory rather than the file in it."""
    path = text(file.attrs[f"adapter{i}"])
    return os.path.basename(os.path.dirname(path)) if os.path.basename(path) == "adapter.h5" and os.path.dirname(path) else os.path.basename(path)


# ---- subspaces ----


def draw_map(panel, phi, most, title, file):
    image = panel.imshow(phi, origin="lower", aspect="auto", vmin=0, vmax=most, cmap="viridis", interpolation="nearest",
                         extent=(0.5, phi.shape[1] + 0.5, 0.5, phi.shape[0] + 0.5))
    panel.set_title(title, fontsize=9)
    panel.set_xlabel(f"j ({name_adapter(file, 1)})", fontsize=8)
    panel.set_ylabel(f"i ({name_adapter(file, 0)})", fontsize=8)
    panel.tick_params(labelsize=7)
    for axis in (panel.xaxis, panel.yaxis):
        axis.get_major_locator().set_params(integer=True)
    return image


def draw_maps(file, sites):
    most = max(float(g["phi"][...].max()) for _, _, g in sites)
    corner = any(max(g["phi"].shape) > NEAR for _, _, g in sites)  # else the corner is the whole
    columns = 2 + corner
    figure, panels = plt.subplots(len(sites), columns, figsize=(3.2 * columns, 2.3 * len(sites) + 0.6), squeeze=False, layout="constrained")
    for row, (layer, target, group) in zip(panels, sites):
        phi, chance = group["phi"][...], group["phi_random"][...]
        image = draw_map(row[0], phi, most, f"layer {layer}, {target}: all directions", file)
        if corner:
            draw_map(row[1], phi[:NEAR, :NEAR], most, f"layer {layer}, {target}: the first {NEAR}", file)
        draw_map(row[-1], chance, most, "random matrices", file)
    figure.colorbar(image, ax=panels, label="phi(i, j)", shrink=0.8)
    figure.suptitle(f"subspaces in common: {DIRECTIONS[text(file.attrs['of'])]}", fontsize=10)
    return figure


def draw_over_layers(files, layers, targets):
    """phi of the first directions and of all, a colour a file, a line a target; chance dotted."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for n, file in enumerate(files):
        sites = choose_sites(file, layers, targets)
        for style, target in zip(("-", "--", "-.", (0, (1, 1))), dict.fromkeys(s[1] for s in sites)):
            mine = [s for s in sites if s[1] == target]
            label = f"{text(file.attrs['of'])}, {name_adapter(file, 0)} and {name_adapter(file, 1)}, {target}"
            for panel, place in zip(panels, ((0, 0), (-1, -1))):
                panel.plot([s[0] for s in mine], [s[2]["phi"][place] for s in mine], color=f"C{n}", linestyle=style, label=label)
                panel.axhline(numpy.mean([s[2]["phi_random"][place] for s in mine]), color=f"C{n}", linestyle=":", linewidth=0.8)
    for panel, title in zip(panels, ("phi(1, 1)", "phi of all directions")):
        panel.set_title(f"{title} (dotted: random matrices)", fontsize=10)
        panel.set_xlabel("layer")
        panel.grid(True, alpha=0.3)
        panel.set_ylim(bottom=0)
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, fontsize=7, loc="outside lower center", ncols=2)
    return figure


# ---- spectra and factors ----


def draw_spectra(file, sites):
    deltas = any("delta" in g for _, _, g in sites)
    figure, panels = plt.subplots(1, 1 + deltas, figsize=(5.2 * (1 + deltas), 4.2), squeeze=False, layout="constrained")
    for n, (layer, target, group) in enumerate(sites):
        for panel, key in zip(panels[0], ("weight", "delta")):
            if key in group:
                sigma = group[key][...]
                panel.semilogy(numpy.arange(1, len(sigma) + 1), numpy.maximum(sigma, 1e-12), color=f"C{n % 10}", label=f"layer {layer}, {target}",
                               marker="." if len(sigma) <= 64 else "")
    for panel, title in zip(panels[0], ("W", f"dW ({name_adapter(file, 0)})" if deltas else "")):
        panel.set_title(f"singular values of {title}", fontsize=10)
        panel.set_xlabel("number")
        panel.grid(True, which="both", alpha=0.25)
    panels[0][0].legend(fontsize=8)
    return figure


def draw_factors(files, layers, targets):
    figure, panel = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for n, file in enumerate(files):
        sites = choose_sites(file, layers, targets)
        for style, target in zip(("-", "--", "-.", (0, (1, 1))), dict.fromkeys(s[1] for s in sites)):
            mine = [s for s in sites if s[1] == target]
            panel.plot([s[0] for s in mine], [s[2].attrs["amplification"] for s in mine], color=f"C{n}", linestyle=style, marker=".",
                       label=f"{name_adapter(file, 0)}, {target}, r = {mine[0][2].attrs['rank']}")
    panel.set_xlabel("layer")
    panel.set_ylabel("||dW|| / ||U' W V||")
    panel.set_title("amplification of the directions of dW", fontsize=10)
    panel.grid(True, alpha=0.25)
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=8)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("results", nargs="+", metavar="RESULT.h5")
    parser.add_argument("--layers", help="0,14,29")
    parser.add_argument("--targets", help="q,v")
    parser.add_argument("--out", default="subspace.png")
    arguments = parser.parse_args()
    try:
        layers = {int(word) for word in arguments.layers.split(",")} if arguments.layers else None
    except ValueError:
        sys.exit(f"subspace.py: --layers {arguments.layers}: a list of numbers is expected")
    targets = arguments.targets.split(",") if arguments.targets else None
    files, kind = open_results(arguments.results)
    if kind == "amplification":
        figure = draw_factors(files, layers, targets)
    elif kind == "subspace" and len(files) > 1:
        figure = draw_over_layers(files, layers, targets)
    elif len(files) > 1:
        sys.exit("subspace.py: spectra are drawn one file at a time")
    else:
        sites = choose_sites(files[0], layers or few_layers(files[0]), targets)
        figure = (draw_maps if kind == "subspace" else draw_spectra)(files[0], sites)
    figure.savefig(arguments.out, dpi=110)
    print(arguments.out)


main()
