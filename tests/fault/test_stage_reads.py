"""What one stage of a pipeline cannot read ends all ranks with 3 and one line that names the file, and where it is cut the byte where it ends: its part of the base,
cut short or unreadable at any read; a data set in the middle of a step; and the next start goes on."""

import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import miniature

BAD_INPUT, STAGES = 3, 3
MODEL = "{family: llama, layers: 6, width: 64, heads: 4, kv_heads: 2, mlp_width: 160, vocab: 257, context: 64}"
checks = harness.Checks()


def prepare(folder):
    harness.make_base(folder, MODEL)
    harness.make_data(folder, [[(i * i + 7 * j + j * j * i) % 257 for j in range(40)] for i in range(24)])
    harness.write_config(
        f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base="base.h5", method={"rank": 4}, data={"train": "data.h5"},
        batch={"sequences": 8, "micro": 1}, train={"steps": 6, "save_every": 1}, parallel={"pp": STAGES}, kernels={"product": "native"})


def start(folder, stage, environment=None, place=None, run="run"):
    """All stages in FOLDER, but one with another environment, or in another place, where names lead to other files."""
    here = "" if place else f"{folder}/"
    train = ["train", f"{folder}/run.yaml", "--set", f"run.dir={folder}/{run}", "--set", f"base={here}base.h5", "--set", f"data.train={here}data.h5"]
    groups = [(1, train, *(({}, place) if s == stage and place else (environment or {},) if s == stage else ())) for s in range(STAGES)]
    return subprocess.run(harness.launch_apart(*groups), cwd=folder, text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL, env=harness.WITHOUT_DELAY)


def check_end(what, done, name, *texts):
    lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora train: ") and ", LoRA, " not in line]
    checks.that(done.returncode == BAD_INPUT, f"{what}: exit {done.returncode}, expected {BAD_INPUT}: {done.stderr}")
    checks.that(len(lines) == 1 and name in lines[0] and all(text in lines[0] for text in texts), f"{what}: {lines}, expected one line with {name}, {texts}: {done.stderr}")


def check_cut(folder):
    """A copy of the base that ends within the last layers: nobody but the last stage needs what is missing."""
    size = os.path.getsize(f"{folder}/base.h5")
    for stage in range(STAGES):
        place = f"{folder}/place{stage}"
        os.mkdir(place)
        shutil.copy(f"{folder}/base.h5", place)
        shutil.copy(f"{folder}/data.h5", place)
        os.truncate(f"{place}/base.h5", size - 4096)
        check_end(f"a base cut short on stage {stage}", start(folder, stage, place=place), "base.h5", f"rank {stage} on")


def count_reads(folder, name, stage):
    """Of the file, by a run of its own that nothing disturbs."""
    counts = f"{folder}/counts"
    done = start(folder, stage, {"LD_PRELOAD": miniature.SHIM, "FAULT_ROOT": f"{folder}/{name}", "FAULT_COUNT": counts}, run=f"whole{stage}")
    checks.that(done.returncode == 0, f"a run that counts: exit {done.returncode}: {done.stderr}")
    with open(counts) as file:
        return next(int(line.split()[1]) for line in file if line.split()[0] == "read")


def check_struck(folder, name, stage, places):
    """An error of these reads of the file, counted from 1."""
    for at in places:
        environment = {"LD_PRELOAD": miniature.SHIM, "FAULT_ROOT": f"{folder}/{name}", "FAULT_CALL": "read", "FAULT_AT": str(at), "FAULT_DO": "EIO"}
        check_end(f"read {at} of {name} on stage {stage}", start(folder, stage, environment), name, f"rank {stage} on")


def check_rest(folder):
    done = start(folder, 0)
    checks.that(done.returncode == 0, f"the next start: exit {done.returncode}: {done.stderr}")
    checks.that(len(harness.read_metrics(f"{folder}/run")) == 6, "the next start does not end the run")


def main():
    if not miniature.SHIM:
        print("the shim was not built: skipped")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_cut(folder)
        for stage in range(STAGES):
            reads = count_reads(folder, "base.h5", stage)  # at the start, and of its own layers
            check_struck(folder, "base.h5", stage, [1, reads // 2, reads])
            # The first stage reads what describes the data for all; from then on each reads its micro-batches, in the middle of a step.
            check_struck(folder, "data.h5", stage, [60] if stage == 0 else [1, 20])
        check_rest(folder)
    checks.end()


if __name__ == "__main__":
    sys.exit(main())
