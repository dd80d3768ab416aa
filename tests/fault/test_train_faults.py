"""Faults in the program itself: `mpilora train` with a call of its checkpoints struck (test_save.py strikes every one of them in miniature).

Errors, short writes, kills and allocations that fail, spread over all calls of a run that saves five times, beside training and at its end. What is reported is one line and
exit code 4; then the same command goes on from a committed checkpoint, and adapter.h5 and metrics.jsonl end as those of a run that nothing disturbed.
"""

import collections
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import kills
import miniature

STEPS, SAVE_EVERY = 8, 2
ACTIONS = {
    "open": ["EIO", "ENOSPC", "KILL_AFTER"],
    "write": ["ENOSPC", "EDQUOT", "EINTR", "SHORT", "KILL_BEFORE", "KILL_AFTER"],
    "fsync": ["EIO", "EDQUOT", "KILL_BEFORE"],
    "close": ["EIO", "KILL_AFTER"],
    "rename": ["EIO", "EINTR", "KILL_BEFORE", "KILL_AFTER"],
    "unlink": ["EIO", "KILL_AFTER"],
    "rmdir": ["EACCES", "KILL_BEFORE"],
    "mkdir": ["EDQUOT", "KILL_AFTER"],
    "fallocate": ["ENOSPC", "KILL_BEFORE"],
    "read": ["EIO", "FLIP"],
    "stat": ["EIO"],
    "malloc": ["ENOMEM"] * 8,
}
EACH = 2  # places of each action
rng = random.Random(11)


def write_config(folder, name, **sections):
    return harness.write_config(
        f"{folder}/{name}.yaml",
        run={"dir": f"{folder}/{name}", "seed": 3},
        base=f"{folder}/base.h5",
        method={"name": "lora", "rank": 4, "dropout": 0.1, "targets": ["all"]},
        data={"train": f"{folder}/data.h5", "shuffle": True},
        batch={"sequences": 4},
        train={"steps": STEPS, "save_every": SAVE_EVERY, "keep": 2},
        kernels={"product": "native"},
        **sections,
    )


def start(config, session, **fault):
    """Without mpirun: exit code and what was said."""
    environment = dict(os.environ, OMPI_MCA_orte_tmpdir_base=session, **miniature.ALONE)
    if fault:
        environment.update({key: str(value) for key, value in fault.items()}, LD_PRELOAD=miniature.SHIM)
    done = subprocess.run([harness.PROGRAM, "train", config], env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    return done.returncode, done.stderr


def result(run):
    """What must be the same at the end."""
    numbers = [[line[key] for key in kills.NUMBERS] for line in harness.read_metrics(run)]
    return numbers, pathlib.Path(run, "adapter.h5").read_bytes(), sorted(miniature.committed(pathlib.Path(run)))


def check_fault(folder, reference, call, at, action):
    name = f"{call}-{at}-{action}"
    config, run = write_config(folder, name), pathlib.Path(folder, name)
    code, said = start(config, folder, FAULT_ROOT=f"{run}/", FAULT_CALL=call, FAULT_AT=at, FAULT_DO=action)
    if action.startswith("KILL"):
        assert code == -9, f"exit {code}, expected to be killed: {said}"
    elif action in ("EINTR", "SHORT"):
        assert code == 0, f"exit {code}, expected no more than a second try: {said}"
    else:
        assert code in ((0, 3, 4) if call in ("read", "stat") else (0, 4)), f"exit {code}: {said}"
        errors = [line for line in said.splitlines() if line.startswith(("mpilora train: ", "error: ")) and "LoRA" not in line]
        assert code == 0 or len(errors) == 1, f"exit {code}: {said}"
    whole = miniature.committed(run)
    again, said_again = start(config, folder)
    assert again == 0, f"the next start: exit {again}: {said_again}; before: {said}"
    if whole and whole[-1] < STEPS:
        assert f"resumed from step {whole[-1]}" in said_again, f"not resumed from step {whole[-1]}: {said_again}; before: {said}"
    assert result(str(run)) == reference, f"another end: {said}{said_again}"
    assert not miniature.temporary_files(run), f"left behind: {miniature.temporary_files(run)}"
    assert not (run / "checkpoints/set-aside").exists(), f"something was set aside: {said}{said_again}"
    shutil.rmtree(run)
    return code


def main():
    if not miniature.SHIM:
        print("the shim was not built: skipped")
        return 77
    codes, wrong = collections.Counter(), []
    with tempfile.TemporaryDirectory(dir=miniature.scratch_folder()) as folder:
        kills.prepare(folder)
        counts = f"{folder}/counts"
        config = write_config(folder, "whole")
        code, said = start(config, folder, FAULT_ROOT=f"{folder}/whole/", FAULT_COUNT=counts)
        assert code == 0, said
        reference = result(f"{folder}/whole")
        calls = {line.split()[0]: int(line.split()[1]) for line in pathlib.Path(counts).read_text().splitlines()}
        print("calls of the run:", calls, flush=True)
        for call, actions in ACTIONS.items():
            for action in actions:
                for at in rng.sample(range(1, calls[call] + 1), min(EACH if call != "malloc" else 1, calls[call])):
                    try:
                        codes[check_fault(folder, reference, call, at, action)] += 1
                    except AssertionError as error:
                        codes["wrong"] += 1
                        print(f"WRONG: {call}-{at}-{action}: {error}", flush=True)
    print(f"{sum(codes.values())} faults in mpilora train: {codes[-9]} killed, {codes[4]} ended with exit code 4, {codes[3]} with 3, {codes[0]} went on; {codes['wrong']} wrong")
    return 1 if codes["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
