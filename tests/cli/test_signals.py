"""Signals that ask a run to save: whenever they come, to whichever rank, and however often, the run saves, ends with 75, and the next start ends with the
results of a run that nothing stopped. Also the run's own time limit, and the end of time that a batch system names."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

STOPPED, STEPS, EVERY = 75, 24, 4
MODEL = "{family: llama, layers: 3, width: 128, heads: 4, kv_heads: 2, mlp_width: 384, vocab: 257, context: 128}"
ASKING = 1 << signal.SIGTERM - 1 | 1 << signal.SIGINT - 1  # as /proc shows a set of signals
checks = harness.Checks()


def prepare(folder):
    harness.make_base(folder, MODEL)
    for name, count in (("train", 50), ("valid", 120)):
        harness.make_data(folder, [[(i * i + 7 * j + j * j * i) % 257 for j in range(60 + i % 60)] for i in range(count)], name)


def configure(folder, name, **run):
    return harness.write_config(
        f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}", **run}, base=f"{folder}/base.h5", method={"rank": 4, "dropout": 0.1},
        data={"train": f"{folder}/train.h5", "valid": f"{folder}/valid.h5"}, batch={"sequences": 8, "micro": 2},
        optim={"lr": 1e-3, "schedule": "cosine"}, train={"steps": STEPS, "eval_every": EVERY, "save_every": 3}, kernels={"product": "native"})


def start(config, ranks, *words, **environment):
    return subprocess.Popen(harness.command("train", config, *words, ranks=ranks), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                            env=dict(os.environ, **environment))


def wait_for(process, condition, what):
    end = time.monotonic() + 60
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            sys.exit(f"{what}: never came; exit code {process.returncode}: {process.stderr.read()}")
        time.sleep(0.002)


def end_of(process, what):
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        sys.exit(f"{what}: still running after 60 s")
    return process.returncode, said


def results(run_dir):
    """What must not depend on interruptions."""
    keep = ("step", "loss", "lr", "grad_norm", "tokens")
    with open(f"{run_dir}/evaluations.jsonl") as file:
        evaluations = [(line["step"], line["valid_loss"]) for line in map(json.loads, file)]
    with open(f"{run_dir}/adapter.h5", "rb") as file:
        return [[line[key] for key in keep] for line in harness.read_metrics(run_dir)], evaluations, file.read()


def check_rest(what, folder, name, ranks, whole):
    harness.mpilora("train", f"{folder}/{name}.yaml", ranks=ranks)
    metrics, evaluations, adapter = results(f"{folder}/{name}")
    checks.that(metrics == whole[0], f"{what}: metrics.jsonl differs from the run that nothing stopped")
    checks.that(evaluations == whole[1], f"{what}: evaluations.jsonl: {evaluations}, expected {whole[1]}")
    checks.that(adapter == whole[2], f"{what}: adapter.h5 differs from the run that nothing stopped")


def check_signals(folder, ranks):
    """(name, when, signals one after the other, to which ranks)"""
    usr1, term, interrupt = signal.SIGUSR1, signal.SIGTERM, signal.SIGINT

    def lines(name, count):
        return lambda: harness.count_lines(f"{folder}/{name}/metrics.jsonl") >= count

    def started(name):
        return lambda: os.path.exists(f"{folder}/{name}/lock")

    def evaluating(name):  # the last step before an evaluation is done, its result is not there
        return lambda: harness.count_lines(f"{folder}/{name}/metrics.jsonl") == EVERY and harness.count_lines(f"{folder}/{name}/evaluations.jsonl") == 0

    def saving(name):  # a checkpoint's directory is there, its manifest is not
        return lambda: os.path.isdir(f"{folder}/{name}/checkpoints/step-00000003")

    harness.mpilora("train", configure(folder, f"whole{ranks}"), ranks=ranks)
    whole = results(f"{folder}/whole{ranks}")
    cases = [("startup", started, [term], "all"), ("twice", lambda n: lines(n, 5), [usr1, usr1, term, interrupt], "all"),
             ("one", lambda n: lines(n, 2), [usr1], "last"), ("evaluation", evaluating, [term], "all"), ("save", saving, [term, usr1], "all")]
    for case, when, numbers, whom in cases:
        name, what = f"{case}{ranks}", f"{case}, {ranks} ranks"
        process = start(configure(folder, name), ranks)
        wait_for(process, when(name), what)
        pids = harness.ranks_of(process.pid) if ranks else [process.pid]
        for number in numbers:
            for pid in pids if whom == "all" else pids[-1:]:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
            time.sleep(0.01)
        code, said = end_of(process, what)
        checks.that(code == STOPPED, f"{what}: exit code {code}, expected {STOPPED}: {said}")
        checks.that("stopped by a signal after saving" in said, f"{what}: {said}")
        check_rest(what, folder, name, ranks, whole)
    return whole


def interrupt_launcher(launcher, number, ranks):
    """A signal for the launcher, which takes longer to hand it on than a step lasts: Open MPI's mpirun wakes the ranks first, and sends SIGTERM when its time
    before SIGKILL has passed once. They are kept standing until a signal waits at each of them."""

    def asked(pid):
        try:
            with open(f"/proc/{pid}/status") as file:
                status = dict(line.split(":", 1) for line in file)
            if int(status["ShdPnd"], 16) & ASKING == 0:  # which SIGCONT alone, on its way, does not
                os.kill(pid, signal.SIGSTOP)
                return False
        except OSError:
            pass  # it has ended
        return True

    for pid in ranks:
        asked(pid)
    os.kill(launcher, number)
    end = time.monotonic() + 30
    while not all([asked(pid) for pid in ranks]) and time.monotonic() < end:
        time.sleep(0.002)
    for pid in ranks:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def check_long_step(folder):
    """A signal in the middle of a step of many micro-batches: the step is left, the one before it saved, and the next start does it again. Ctrl-C at Open
    MPI's mpirun ends with 1 whatever the ranks return, and kills them a second after SIGTERM: five here, since a busy machine takes longer to save. MPICH's hands
    it on and ends with their 75, or with 0."""
    long = ("--set", "batch.sequences=150", "--set", "batch.micro=1", "--set", "train.steps=2", "--set", "train.eval_every=0")
    harness.mpilora("train", configure(folder, "long"), *long, ranks=2)
    whole = results(f"{folder}/long")
    interrupted = (1,) if harness.is_open_mpi() else (0, STOPPED)
    for case, number, whom, expected in (("long-ranks", signal.SIGTERM, "ranks", (STOPPED,)), ("long-mpirun", signal.SIGINT, "mpirun", interrupted)):
        config, run_dir = configure(folder, case), f"{folder}/{case}"
        process = start(config, 2, *long, OMPI_MCA_odls_base_sigkill_timeout="5")
        wait_for(process, lambda run_dir=run_dir: harness.count_lines(f"{run_dir}/metrics.jsonl") == 1, case)
        ranks = harness.ranks_of(process.pid)
        if whom == "mpirun":
            interrupt_launcher(process.pid, number, ranks)
        else:
            for pid in ranks:
                os.kill(pid, number)
        code, said = end_of(process, case)
        checks.that(code in expected and "after saving step 1 of 2" in said, f"{case}: exit code {code}, expected {expected} after step 1: {said}")
        harness.mpilora("train", config, *long, ranks=2)
        checks.that(results(run_dir) == whole, f"{case}: the results differ from those of the run that nothing stopped")


def check_leftovers(folder):
    """mpirun and its ranks killed together leave Open MPI's segments in /dev/shm, and the file of a window that was just being made: the next start of the run
    removes these, and no other run's."""
    config, name = configure(folder, "killed"), f"{folder}/killed"
    process = start(config, 2)
    wait_for(process, lambda: harness.count_lines(f"{name}/metrics.jsonl") >= 1, "killed")
    pids = harness.ranks_of(process.pid)
    with open(f"/proc/{pids[0]}/maps") as maps:
        segments = sorted({line.split()[-1] for line in maps if "/dev/shm/vader_segment." in line})
    for pid in (process.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    checks.that(segments and all(map(os.path.exists, segments)), f"killed: {segments} should be left")
    job = segments[0].split(".")[-2]
    window, foreign = f"/dev/shm/osc_sm.host.{job}.0.9", ("/dev/shm/vader_segment.mpilora-test", "/dev/shm/osc_sm.host.mpilora-test.0.9")
    for path in (window, *foreign):
        open(path, "w").close()
    harness.mpilora("train", config, ranks=2)
    checks.that(not any(map(os.path.exists, (*segments, window))), f"killed: {segments}, {window}: some are still there after the next start")
    checks.that(all(map(os.path.exists, foreign)), "killed: another run's segment or window was removed")
    checks.that(not os.path.exists(f"{name}/shared-memory"), "killed: the note of a run that ended is still there")
    for path in foreign:
        os.remove(path)


def check_time_limits(folder, ranks, whole):
    """Limits shorter than the run: start after start brings it on."""
    took = harness.read_summary(f"{folder}/whole{ranks}")["phases"]["step_s"] * STEPS
    limit = max(0.5 * took, 0.2)
    cases = [("limit", {"time_limit": round(limit, 2)}, {}), ("slurm", {}, {"SLURM_JOB_END_TIME": ""})]
    for case, run, environment in cases:
        name, what, starts, code = f"{case}{ranks}", f"{case}, {ranks} ranks", 0, STOPPED
        config = configure(folder, name, **run)
        while code == STOPPED and starts < 40:
            if environment:
                environment["SLURM_JOB_END_TIME"] = str(int(time.time()) + 2)
            code, said = end_of(start(config, ranks, **environment), what)
            starts += 1
            if code == STOPPED:
                checks.that("stopped by its time limit after saving" in said, f"{what}: {said}")
        checks.that(code == 0, f"{what}: exit code {code} after {starts} starts: {said}")
        if case == "limit":
            checks.that(starts > 1, f"{what}: a run of {took:.2f} s ended within its limit of {limit:.2f} s")
        check_rest(what, folder, name, ranks, whole)


def check_bad_limits(folder):
    for value in ("-1", "0", "10x", "1:60", "1:2:3", "soon", "1-2", "[1]", "1e9999", "1.2.3h"):
        done = harness.start("train", configure(folder, "bad"), "--set", f"run.time_limit={value}")
        checks.that(done.returncode == 2 and "run.time_limit" in done.stderr, f"run.time_limit={value}: exit code {done.returncode}: {done.stderr}")


with tempfile.TemporaryDirectory() as folder:
    prepare(folder)
    check_bad_limits(folder)
    check_long_step(folder)
    if harness.is_open_mpi():
        check_leftovers(folder)
    else:
        print("Open MPI's segments in /dev/shm: skipped, MPICH leaves none")
    for ranks in (0, 2):
        whole = check_signals(folder, ranks)
        check_time_limits(folder, ranks, whole)
checks.end()
