"""Pipeline stages of DeBERTa, whose layers share the rows of their distances: as one rank, also where these train (test_pipeline.py)."""

import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), HERE]
import grid_runs
import test_pipeline as pipeline

try:
    import base_numbers
except ImportError:
    base_numbers = None
import test_pipeline_methods as methods

SHAPE = "layers: 3\nwidth: 32\nmlp_width: 64\nheads: 4\nvocab: 257\ncontext: 128\nnorm_eps: 1e-7\npositions: none\nrelative_keys: true\nrelative_queries: true\nrelative_distances: 16\n"
MODELS = {
    "deberta": f"family: deberta\n{SHAPE}",
    "deberta_v2": f"family: deberta_v2\n{SHAPE}relative_shared: true\nrelative_norm: true\nrelative_buckets: 8\nconv_kernel: 3\nconv_activation: gelu_erf\n",
}
LORA = {"name": "lora", "rank": 4, "targets": ["all"], "dropout": 0.1}
FULL = {"name": "full"}
CLASSIFY = ({"name": "classify"}, methods.LABELS)
# Name: model, method, objective and its rows, grid.
CASES = {
    "its own projections of distances": ("deberta", {**LORA, "targets": ["q", "pos_q", "pos_k"]}, CLASSIFY, (1, 1, 3)),
    "shared projections": ("deberta_v2", LORA, CLASSIFY, (2, 1, 2)),
    "rows of distances train, on tp": ("deberta_v2", FULL, (methods.MASKED, methods.TEXTS), (1, 2, 2)),
    "rows of distances train, on three stages": ("deberta", FULL, CLASSIFY, (1, 1, 3)),
}


def check_case(name, folder):
    model, method, (objective, rows), grid = CASES[name]
    methods.prepare_objective(folder, MODELS[model], rows)
    sections = {"objective": objective, "batch": {"sequences": 6, "micro": 1}}
    grid_runs.train(pipeline.write_config(folder, method, "whole", **sections), (1, 1, 1))
    config = pipeline.write_config(folder, method, "stages", **sections)
    grid_runs.train(config, grid)
    pipeline.check_same(name, f"{folder}/stages", f"{folder}/whole")
    pipeline.check_memory(name, config, f"{folder}/stages", method, grid)
    half = {"steps": pipeline.STEPS // 2, "eval_every": 2}
    for on, more in ((grid, ["--set", f"train.steps={half['steps']}"]), ((2, 1, 1), [])):  # gone on with without stages
        grid_runs.train(pipeline.write_config(folder, method, "resumed", **sections), on, *more)
    pipeline.check_same(f"{name}, resumed", f"{folder}/resumed", f"{folder}/whole")
    pipeline.check_left(name, folder, "stages", method)
    if method == FULL:
        check_rows(name, folder)


def check_rows(name, folder):
    """What is too small for a loss: rows of distances, whose gradients are summed over the stages, end as on one rank."""
    if base_numbers is None:
        print("numpy is not installed: rows of distances are not looked at")
        return
    found, expected = (base_numbers.contents(f"{folder}/{run}/model.h5") for run in ("stages", "whole"))
    for tensor in (t for t in expected if t.startswith("relative")):
        off = abs(base_numbers.numbers(found[tensor]) - base_numbers.numbers(expected[tensor])).max()
        pipeline.checks.that(off < 1e-6, f"{name}: {tensor} is off by {off:.2g}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(CASES):
            check_case(name, f"{folder}/{i}")
    pipeline.checks.end()


if __name__ == "__main__":
    main()
