"""A run that goes on from a checkpoint holds what was predicted, as one that is new does: by `plan` and by the run itself within 1 % of the accounted bytes, the process within 10 %,
for LoRA, full and BitFit, on one rank and on the grids of two, and where a grid reads what another one has written. What loading and saving hold beside the state of method full is
a part of it, and no copy. The start of PiSSA is predicted likewise."""

import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import grid_runs
import harness

MODEL = "{family: gpt2, layers: 2, width: 128, heads: 4, vocab: 8192, context: 256}"
GRIDS = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))
METHODS = ({"name": "lora", "rank": 4, "targets": "all"}, {"name": "full"}, {"name": "bitfit"}, {"name": "lora", "rank": 4, "targets": "all", "init": "pissa"})
MIB = 1 << 20
LEAST_FILE = 8 * MIB  # of a large state; its image and a block are what a rank holds beside it
SANITIZED = not os.environ.get("MPILORA_ALLOCATION_SHIM")  # sanitizers take memory themselves
checks = harness.Checks()


def write_run(folder, method):
    harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", method=method, data={"train": f"{folder}/data.h5", "shuffle": False},
                         batch={"sequences": 4, "micro": 2}, train={"steps": 2}, kernels={"product": "native"})
    return f"{folder}/run.yaml"


def check_memory(what, folder, planned, method):
    memory = harness.read_summary(f"{folder}/run")["memory"]
    for which, most in (("the run", memory["predicted"]["total_bytes"]), ("plan", planned["total_bytes_per_rank"])):
        ratio = memory["total_peak_bytes"] / most
        checks.that(0.99 <= ratio <= 1.01, f"{what}: accounted / predicted by {which} = {ratio}")
    ratio = memory["process_peak_bytes"] / planned["process_bytes_by_activations"]["full"]
    checks.that(SANITIZED or 0.9 <= ratio <= 1.1, f"{what}: process / planned = {ratio}")
    if method["name"] == "full":
        checks.that(memory["other"] < LEAST_FILE + 2 * MIB, f"{what}: {memory['other']} bytes of other, beside a state of {planned['checkpoint_bytes']}")


def check_method(folder, method):
    """New on each grid; then on from step to step, the second time where the first was, and from grid to grid."""
    config = write_run(folder, method)
    planned = {grid: next(one for one in grid_runs.plan(config, grid)["methods"] if one["name"] == method["name"]) for grid in GRIDS}
    what = method.get("init", method["name"])
    for grid in GRIDS:
        shutil.rmtree(f"{folder}/run", ignore_errors=True)
        grid_runs.train(config, grid)
        check_memory(f"{what}, dp, tp, pp = {grid}, new", folder, planned[grid], method)
    if "init" in method:  # a run that goes on decomposes nothing, and holds less than is predicted for the start
        return
    for steps, grid in enumerate((GRIDS[-1], *GRIDS), 3):
        grid_runs.train(config, grid, "--set", f"train.steps={steps}")
        check_memory(f"{what}, dp, tp, pp = {grid}, resumed", folder, planned[grid], method)


def main():
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL)
        harness.make_data(folder, [[(7 * i + 5 * k * k) % 8192 for k in range(64)] for i in range(16)])
        for method in METHODS:
            check_method(folder, method)
    checks.end()


main()
