"""One save, and every call of it that can fail: made to fail, or to be the last thing that the process does.

After each fault the next start must go on from a whole checkpoint and end with the bytes of the undisturbed run; a fault that is reported is
exit code 4 with one line, and the older checkpoints are as they were. Each fault is a process of its own (tests/fault/shim.c, preloaded into
tests/fault/driver.c).
"""
import concurrent.futures
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

DRIVER = os.environ.get("MPILORA_FAULT_DRIVER", "")
SHIM = os.environ.get("MPILORA_FAULT_SHIM", "")
ERRORS = {
    "open": ["ENOSPC"],
    "look": ["EIO"],
    "write": ["ENOSPC", "EIO", "EINTR", "SHORT"],
    "fsync": ["EIO"],
    "rename": ["EIO", "EINTR"],
    "unlink": ["EACCES"],
    "mkdir": ["EDQUOT"],
    "fallocate": ["ENOSPC"],
    "ftruncate": [],
}
KILLS = ["KILL_BEFORE", "KILL_AFTER"]
KILLED = ["open", "write", "fsync", "rename", "unlink", "mkdir"]
STEPS = 4
# One process alone: MPI starts in some milliseconds without a daemon and without looking for networks.
ALONE = {"OMPI_MCA_ess_singleton_isolated": "1", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self"}


def start(run, steps, **fault):
    session = run.parent / f"session-{run.name}"  # MPI's own files: isolated processes would share one place
    session.mkdir(exist_ok=True)
    environment = dict(os.environ, FAULT_ROOT=f"{run}/", OMPI_MCA_orte_tmpdir_base=str(session), **ALONE)
    if fault:
        environment.update({key: str(value) for key, value in fault.items()}, LD_PRELOAD=SHIM)
    done = subprocess.run([DRIVER, str(run), str(steps)], env=environment, capture_output=True, text=True, timeout=60)
    shutil.rmtree(session)
    return done


def digest(run):
    """Hashes of all state files and the temporary files that are left."""
    states = {p.parent.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in run.glob("checkpoints/step-*/state.h5")}
    return states, [str(p) for p in run.rglob("*.tmp-*")]


def count_calls(template, work):
    run = work / "count"
    shutil.copytree(template, run)
    counts = work / "counts"
    done = start(run, STEPS, FAULT_COUNT=counts)
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: int(line.split()[1]) for line in counts.read_text().splitlines()}, digest(run)[0]


def check_fault(template, work, reference, call, at, action):
    run = work / f"{call}-{at}-{action}"
    name = run.name
    shutil.copytree(template, run)
    before = digest(run)[0]
    struck = start(run, STEPS, FAULT_CALL=call, FAULT_AT=at, FAULT_DO=action)
    if action in KILLS:
        assert struck.returncode == -9, f"{name}: exit {struck.returncode}, expected to be killed: {struck.stderr}"
    elif action in ("EINTR", "SHORT"):
        assert struck.returncode == 0, f"{name}: exit {struck.returncode}: {struck.stderr}"
    else:
        allowed = (0, 3, 4) if call == "look" else (0, 4)
        assert struck.returncode in allowed, f"{name}: exit {struck.returncode}: {struck.stderr}"
    after = digest(run)[0]
    if struck.returncode == 4:
        errors = [line for line in struck.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, f"{name}: {struck.stderr}"
        known = {**before, **reference}
        assert all(known[step] == after[step] for step in after), f"{name}: a checkpoint changed"
    assert len(after) >= 2, f"{name}: {sorted(after)} are left"
    again = start(run, STEPS)
    assert again.returncode == 0, f"{name}: the next start: exit {again.returncode}: {again.stderr}"
    assert again.stdout.split()[1] in ("2", "3", "4"), f"{name}: {again.stdout}"
    states, temporary = digest(run)
    assert not temporary, f"{name}: {temporary} are left"
    assert {step: states.get(step) for step in reference} == reference, f"{name}: the end is not that of the undisturbed run"
    shutil.rmtree(run)
    return struck.returncode


def main():
    if not DRIVER or not SHIM:
        print("the driver or the shim was not built: skipped")
        return 77
    with tempfile.TemporaryDirectory(prefix="mpilora-fault-") as folder:
        work = pathlib.Path(folder)
        template = work / "template"
        assert start(template, 2).returncode == 0
        counts, reference = count_calls(template, work)
        print("calls of a run of two saves:", counts)
        faults = [
            (call, at, action)
            for call, calls in counts.items()
            for at in range(1, calls + 1)
            for action in ERRORS[call] + (KILLS if call in KILLED else [])
        ]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            codes = list(pool.map(lambda fault: check_fault(template, work, reference, *fault), faults))
        print(f"{len(faults)} faults injected, {codes.count(4)} reported with exit code 4, none lost anything")
    return 0


if __name__ == "__main__":
    sys.exit(main())
