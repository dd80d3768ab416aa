"""One job a run.dir: a second one is refused by name, of several that start at once one wins, and the lock of a dead one is taken over, all with the program itself.
What happens without flock, and between nodes, is in unit/test_run_lock.c."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "../fault")]
import harness
import kills

RIVALS = 4
checks = harness.Checks()


def write_config(folder, name, steps):
    return harness.write_config(
        f"{folder}/{name}.yaml",
        run={"dir": f"{folder}/{name}", "seed": 3},
        base=f"{folder}/base.h5",
        data={"train": f"{folder}/data.h5"},
        batch={"sequences": 8},
        train={"steps": steps, "save_every": 5},
        kernels={"product": "native"},
    )


def start(config, job="77"):
    environment = dict(os.environ, SLURM_JOB_ID=job)
    return subprocess.Popen([harness.PROGRAM, "train", config], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_steps(folder, name, process):
    while process.poll() is None and not (os.path.exists(f"{folder}/{name}/metrics.jsonl") and os.path.getsize(f"{folder}/{name}/metrics.jsonl")):
        time.sleep(0.01)


def check_second(folder):
    """Refused with exit code 2, naming host, pid and job; also on several ranks and for --fresh; the first one goes on."""
    config = write_config(folder, "held", 100000)
    first = start(config)
    wait_for_steps(folder, "held", first)
    for words, ranks in (([], 0), (["--fresh"], 0), ([], 2)):
        done = harness.start("train", config, *words, ranks=ranks)
        named = all(text in done.stderr for text in (os.uname().nodename, f"pid {first.pid}", "job 77"))
        checks.that(done.returncode == 2 and named, f"a second job {words}, {ranks} ranks: exit {done.returncode}: {done.stderr}")
    checks.that(first.poll() is None, "the first job has ended")
    first.send_signal(signal.SIGTERM)
    first.communicate()
    checks.that(first.returncode == 75, f"the first job: exit {first.returncode}")
    checks.that(os.path.getsize(f"{folder}/held/lock") == 0, "the lock was not given back")


def check_removed(folder):
    """A run.dir that is removed under a run: exit code 2 at the next save, with what happened, and nothing is made anew. Many times, since a moment within a save matters."""
    for turn in range(12):
        config = write_config(folder, "removed", 100000)
        job = start(config)
        wait_for_steps(folder, "removed", job)
        os.rename(f"{folder}/removed", f"{folder}/elsewhere-{turn}")
        said = job.communicate()[1]
        checks.that(job.returncode == 2 and "removed/lock: is not there" in said, f"a directory that was removed: exit {job.returncode}: {said}")
        checks.that(not os.path.exists(f"{folder}/removed"), "a directory that was removed was made again")
        shutil.rmtree(f"{folder}/removed", ignore_errors=True)


def check_dead(folder):
    """kill -9: the next start takes over at once and says so; also where the record names another host, or a process that has the pid by now."""
    config = write_config(folder, "dead", 100000)
    first = start(config, "78")
    wait_for_steps(folder, "dead", first)
    first.kill()
    first.communicate()
    lock = f"{folder}/dead/lock"
    record = open(lock).read()
    for what, text in {
        "as it was": record,
        "of another host": record.replace(os.uname().nodename, "elsewhere", 1),
        "of a pid given out again": re.sub(r"pid \d+", f"pid {os.getpid()}", record, count=1),
        "of another boot": re.sub(r"boot \S+", "boot other", record, count=1),
        "cut": record[:40],
        "garbage": "\0\1\2 %s %n\n" * 50,
    }.items():
        with open(lock, "w") as file:
            file.write(text)
        since = time.monotonic()
        done = harness.start("train", config, "--set", "train.steps=5", "--fresh")
        checks.that(done.returncode == 0, f"a dead job's lock, {what}: exit {done.returncode}: {done.stderr}")
        checks.that("taken over" in done.stderr or what in ("garbage", "cut"), f"a dead job's lock, {what}: nothing said: {done.stderr}")
        checks.that(time.monotonic() - since < 50, f"a dead job's lock, {what}: it was watched on a local file system")


def check_race(folder):
    """Exactly one of several that start at the same instant trains; the others say who does."""
    for turn in range(3):
        config = write_config(folder, f"race-{turn}", 100000)
        jobs = [start(config) for _ in range(RIVALS)]
        since = time.monotonic()
        while sum(job.poll() is None for job in jobs) > 1 and time.monotonic() - since < 60:
            time.sleep(0.05)
        winners = [job for job in jobs if job.poll() is None]
        checks.that(len(winners) == 1, f"race {turn}: {len(winners)} jobs run")
        wait_for_steps(folder, f"race-{turn}", winners[0])
        winners[0].send_signal(signal.SIGTERM)
        for job in jobs:
            said = job.communicate()[1]
            if job in winners:
                checks.that(job.returncode == 75, f"race {turn}, the winner: exit {job.returncode}: {said}")
            else:
                checks.that(job.returncode == 2 and f"pid {winners[0].pid}" in said, f"race {turn}: exit {job.returncode}: {said}")


with tempfile.TemporaryDirectory() as scratch:
    kills.prepare(scratch)
    check_second(scratch)
    check_removed(scratch)
    check_dead(scratch)
    check_race(scratch)
checks.end()
