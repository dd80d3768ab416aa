"""A launcher that is killed while a rank waits in MPI_Init for one that never comes: the rank ends by itself, also below a script, and where no connection tells
MPI that the launcher is gone, of all of which this test holds a copy."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

PIDFD_GETFD = 438  # the number of the call, on all processors
SECONDS = 20
checks = harness.Checks()


def hold_connections(process):
    """Copies of all that a process has open; they stay open when it is gone."""
    libc, held = ctypes.CDLL(None, use_errno=True), []
    handle = os.pidfd_open(process)
    for number in map(int, os.listdir(f"/proc/{process}/fd")):
        copy = libc.syscall(PIDFD_GETFD, handle, number, 0)
        if copy >= 0:
            held.append(copy)
        elif ctypes.get_errno() == 1:
            print("skipped: a process may not take another's connections here")
            sys.exit(77)
    os.close(handle)
    return held


def ended(process):
    """Whether it is gone, or only waits to be asked how it has ended."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition, what):
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {SECONDS} s")
        time.sleep(0.02)


def in_mpi(process):
    """It has MPI's threads beside its own, and so is beyond what can be refused before MPI_Init."""
    return not ended(process) and len(os.listdir(f"/proc/{process}/task")) > 2


def below(process):
    """All processes below one, nearest first."""
    try:
        with open(f"/proc/{process}/task/{process}/children") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return []
    return children + [under for child in children for under in below(child)]


def is_rank(process):
    try:
        return os.path.samefile(f"/proc/{process}/exe", harness.PROGRAM)
    except OSError:
        return False


def check_killed(what, *words):
    """words: of the rank; the process that brings ranks together is the launcher, or MPICH's one between."""
    launcher = subprocess.Popen([harness.MPIEXEC, "-n", "1", *words, ":", "-n", "1", "sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = []

    def waits():
        found[:] = [process for process in below(launcher.pid) if is_rank(process)]
        return found and in_mpi(found[0])

    wait_for(waits, f"{what}: the rank in MPI_Init")
    rank, others = found[0], [process for process in below(launcher.pid) if not is_rank(process)]
    parent = launcher.pid if harness.is_open_mpi() else below(launcher.pid)[0]
    held = hold_connections(parent)
    os.kill(parent, signal.SIGKILL)
    end = time.monotonic() + SECONDS
    while not ended(rank) and time.monotonic() < end:
        time.sleep(0.02)
    checks.that(ended(rank), f"{what}: the rank is still there {SECONDS} s after its launcher")
    for process in (rank, launcher.pid, *others):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass
    launcher.wait()
    for number in held:
        os.close(number)


with tempfile.TemporaryDirectory() as folder:
    script = f"{folder}/rank.sh"
    with open(script, "w") as file:
        file.write('"$@"\nexit $?\n')
    train = (harness.PROGRAM, "train", f"{folder}/nothing.yaml")
    check_killed("a rank", *train)
    check_killed("a rank below a script", "sh", script, *train)
checks.end()
