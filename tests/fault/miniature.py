"""Runs in miniature (tests/fault/driver.c), with faults injected by tests/fault/shim.c: what the tests of this folder share.

A Driver is one process that starts MPI once and forks a process for each run, so that thousands of them take a minute.
"""

import hashlib
import os
import pathlib
import subprocess
import sys

DRIVER = os.environ.get("MPILORA_FAULT_DRIVER", "")
SHIM = os.environ.get("MPILORA_FAULT_SHIM", "")
# One process alone: MPI starts in some milliseconds without a daemon and without looking for networks.
ALONE = {"OMPI_MCA_ess_singleton_isolated": "1", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self"}


class Driver:
    def __init__(self, scratch, shim=True):
        """`scratch`: a directory of its own, for MPI's files and for what the runs print."""
        self.output = pathlib.Path(scratch) / "output"
        self.output.parent.mkdir()
        environment = dict(os.environ, OMPI_MCA_orte_tmpdir_base=str(scratch), **ALONE)
        if shim:
            environment["LD_PRELOAD"] = SHIM
        self.process = subprocess.Popen([DRIVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, run, steps, **settings):
        """Exit code (or minus the signal) and everything printed."""
        words = [str(run), str(steps), str(self.output), *(f"{key}={value}" for key, value in settings.items())]
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("the driver has died")
        return int(answer), self.output.read_text(errors="replace")

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def states(run):
    """Hash of every file of a run's checkpoints, by its place."""
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in run.glob("checkpoints/step-*/*") if ".tmp-" not in p.name}


def committed(run):
    return sorted(int(p.parent.name[5:]) for p in run.glob("checkpoints/step-*/MANIFEST.json"))


def temporary_files(run):
    return [str(p) for p in run.rglob("*.tmp-*")]


def scratch_folder():
    """Where fsync costs nothing, if there is such a place: what is tested is what happens between the calls."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
