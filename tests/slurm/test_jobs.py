"""The batch scripts of jobs/ on a cluster of two nodes: to the end; through a time limit, a requeue at another size, scancel, preemption and the loss of a node,
each with the loss curve of a run that nothing disturbed; a chain of training and evaluation; a sweep.

Most of its time it waits for SLURM's seconds and minutes. So CTest runs other tests beside it, and its programs are nice to these."""

import csv
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
from cluster import MPI, Cluster, why_not

JOBS = f"{harness.SOURCE}/jobs"
MODEL = "{family: llama, layers: 3, width: 128, heads: 4, kv_heads: 2, mlp_width: 384, vocab: 257, context: 128}"
SIZE = ("-N", "2", "--ntasks-per-node=2")
ALONE = 26  # seconds of a long run that has the machine for itself: with others beside it, it outlasts a minute's time limit
PATIENCE = 500  # seconds in which a job ends, whatever else the machine does
LONG = ("whole", "limit")  # the other runs have a third of its steps
checks = harness.Checks()


def prepare(folder):
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(i * i + 7 * j + j * j * i) % 257 for j in range(50 + i % 60)] for i in range(60)])


def configure(folder, name, steps):
    return harness.write_config(f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}"}, base=f"{folder}/base.h5", method={"rank": 4, "dropout": 0.1},
                                data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"}, batch={"sequences": 12, "micro": 3},
                                optim={"lr": 1e-3}, train={"steps": steps, "save_every": max(1, steps // 12)}, precision="fp32",
                                kernels={"product": "native"})


def make_program(folder):
    """The program, which leaves the cores to the tests beside this one: 16 ranks are more than these can stand. Where the kernel divides the cores among sessions
    first, niceness is a session's."""
    path = f"{folder}/mpilora"
    with open(path, "w") as file:
        file.write(f'#!/bin/sh\n[ ! -w /proc/self/autogroup ] || echo 10 >/proc/self/autogroup\nexec nice -n 10 {shlex.quote(harness.PROGRAM)} "$@"\n')
    os.chmod(path, 0o755)
    return path


def count_steps(folder):
    """Steps for a run of about ALONE seconds, by the quicker half of a short run's: other tests may slow the rest down."""
    short = 40
    environment = dict(os.environ, **MPI)
    subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "4", harness.PROGRAM, "train", configure(folder, "short", short)],
                   check=True, env=environment, capture_output=True, timeout=300)
    seconds = sorted(line["step_s"] for line in harness.read_metrics(f"{folder}/short"))
    return math.ceil(ALONE / statistics.mean(seconds[: short // 2]))


def lines(run_dir):
    return harness.count_lines(f"{run_dir}/metrics.jsonl")


def curve(run_dir):
    return [line["loss"] for line in harness.read_metrics(run_dir)]


class Experiment:
    """The runs of one test: NAME is configuration, run.dir and job."""

    def __init__(self, cluster, folder, steps):
        self.cluster, self.folder, self.steps, self.reference, self.program = cluster, folder, steps, None, make_program(folder)

    def submit(self, name, *options, script="lora", words=(), **environment):
        output = f"{self.folder}/{name}.out"
        if not os.path.exists(f"{self.folder}/{name}.yaml"):
            configure(self.folder, name, self.steps if name in LONG else self.steps // 3)
        return self.cluster.submit(*options, "-o", output, f"{JOBS}/{script}.sbatch", f"{self.folder}/{name}.yaml", *words, MPILORA=self.program, **environment)

    def said(self, name):
        with open(f"{self.folder}/{name}.out", errors="replace") as file:
            return file.read()

    def wait_for_steps(self, name, job, count):
        self.cluster.wait(lambda: lines(f"{self.folder}/{name}") >= count or self.cluster.state(job)[0] in ("COMPLETED", "FAILED"), f"{name}: step {count}", PATIENCE)

    def check_end(self, name, job, restarts, bound=1e-7):
        """To the end, on the reference's curve, after at least so many restarts."""
        self.cluster.wait_for(job, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), name, PATIENCE)
        state, restarted, code = self.cluster.state(job)
        checks.that(state == "COMPLETED" and restarted >= restarts, f"{name}: {state}, exit {code}, {restarted} restarts, expected at least {restarts}:\n{self.said(name)}")
        if state != "COMPLETED":
            return
        found = curve(f"{self.folder}/{name}")
        if self.reference is None:
            self.reference = found
        steps = self.steps if name in LONG else self.steps // 3
        checks.close(f"{name}: losses", found, self.reference[:steps], bound)


def resize(cluster, job):
    """To two tasks on one node while the job waits; what is said while SLURM still ends the last start is lost, so it is said until it holds."""

    def holds():
        cluster.run("scontrol", "update", f"JobId={job}", "NumNodes=1-1", "NumTasks=2", check=False)
        time.sleep(0.5)
        shown = cluster.run("scontrol", "show", "job", job)
        return "JobState=PENDING" in shown and "Reason=BeginTime" in shown and "NumTasks=2" in shown

    cluster.wait(holds, "the job's new size", 15)


def check_together(e):
    """Four runs at once: the reference, one that runs into its time limit, one requeued at another size, one cancelled."""
    jobs = {"whole": e.submit("whole", *SIZE), "limit": e.submit("limit", *SIZE, "-t", "1", "--signal=B:USR1@5"),
            "smaller": e.submit("smaller", *SIZE), "cancelled": e.submit("cancelled", *SIZE)}
    chain = e.submit("evaluation", f"--dependency=afterok:{jobs['whole']}", script="eval", OUT=f"{e.folder}/evaluation.json", ADAPTER=f"{e.folder}/whole/adapter.h5")
    e.wait_for_steps("smaller", jobs["smaller"], 5)
    e.cluster.run("scancel", "--signal=USR1", "--batch", jobs["smaller"])
    e.cluster.wait_for(jobs["smaller"], ("PENDING",), "requeued")
    resize(e.cluster, jobs["smaller"])
    e.wait_for_steps("cancelled", jobs["cancelled"], 5)
    e.cluster.run("scancel", jobs["cancelled"])
    e.cluster.wait_for(jobs["cancelled"], ("CANCELLED",), "cancelled")
    done = lines(f"{e.folder}/cancelled")
    again = e.submit("cancelled", *SIZE)
    e.check_end("whole", jobs["whole"], 0)
    said = e.said("whole")
    checks.that("n1" in said and "n2" in said and harness.read_summary(f"{e.folder}/whole")["ranks"] == 4, f"whole: not on 2 × 2 ranks:\n{said}")
    e.check_end("limit", jobs["limit"], 1)
    checks.that("stopped by a signal after saving" in e.said("limit"), f"limit: {e.said('limit')}")
    e.check_end("smaller", jobs["smaller"], 1, 1e-5)
    checks.that(harness.read_summary(f"{e.folder}/smaller")["ranks"] == 2, f"smaller: was not resumed on 2 ranks:\n{e.said('smaller')}")
    e.check_end("cancelled", again, 0)
    checks.that("stopped by a signal after saving" in e.said("cancelled"), f"cancelled: nothing was saved at the end:\n{e.said('cancelled')}")
    checks.that(done < e.steps // 3, "cancelled: had ended already")
    e.cluster.wait_for(chain, ("COMPLETED", "FAILED", "CANCELLED"), "evaluation after training")
    with open(f"{e.folder}/evaluation.json") as file:
        loss = json.load(file)["loss"]
    checks.close("evaluation after training: loss", loss, harness.read_summary(f"{e.folder}/whole")["valid_loss"], 1e-5)


def check_preemption(e):
    job = e.submit("preempted", *SIZE)
    e.wait_for_steps("preempted", job, 5)
    urgent = e.cluster.submit("-p", "urgent", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    e.cluster.wait_for(urgent, ("COMPLETED",), "the urgent job")
    e.check_end("preempted", job, 1)
    checks.that("stopped by a signal after saving" in e.said("preempted"), f"preempted: nothing was saved in its grace time:\n{e.said('preempted')}")


def check_lost_node(e):
    job = e.submit("lost", *SIZE)
    e.wait_for_steps("lost", job, e.steps // 9)
    e.cluster.kill_node("n2")
    e.cluster.wait(lambda: e.cluster.state(job)[1] > 0, "the requeue after the loss of a node", 90)
    e.cluster.start_node("n2")
    e.check_end("lost", job, 1)


def check_sweep(e):
    sweep = f"{e.folder}/sweep.yaml"
    with open(sweep, "w") as file:
        file.write(f"config: {configure(e.folder, 'point', 4)}\ndir: {e.folder}/points\nmethod.targets: [[q, v], all]\noptim.lr: [1.0e-4, 1.0e-3]\n")
    count = int(subprocess.run([sys.executable, f"{JOBS}/sweep.py", "count", sweep], check=True, capture_output=True, text=True).stdout)
    job = e.submit("sweep", f"--array=0-{count - 1}", "-n", "1", script="sweep", words=["optim.warmup=1"])
    e.cluster.wait(lambda: not e.cluster.run("squeue", "-h", "-j", job, check=False).strip(), "the sweep", PATIENCE)
    with open(f"{e.folder}/points/table.csv") as file:
        table = [line.strip().split(",") for line in file]
    checks.that(count == 4 and len(table) == 5 and all(row[-4] for row in table[1:]), f"sweep: {count} runs, table {table}")
    check_sweep_together(e, sweep, table)


def check_sweep_together(e, sweep, alone):
    """The same runs in jobs of three: the same losses."""
    with open(sweep) as file:
        text = file.read().replace(f"{e.folder}/points", f"{e.folder}/points-together")
    with open(f"{e.folder}/points.yaml", "w") as file:
        file.write(text)
    count = int(subprocess.run([sys.executable, f"{JOBS}/sweep.py", "jobs", sweep, "3"], check=True, capture_output=True, text=True).stdout)
    job = e.submit("points", f"--array=0-{count - 1}", "-n", "1", script="sweep", words=["optim.warmup=1"], TOGETHER="3")
    e.cluster.wait(lambda: not e.cluster.run("squeue", "-h", "-j", job, check=False).strip(), "the sweep of jobs of three", PATIENCE)
    with open(f"{e.folder}/points-together/table.csv") as file:
        table = [line.strip().split(",") for line in file]
    same = len(table) == len(alone) and all(abs(float(a[-4]) - float(b[-4])) < 1e-5 for a, b in zip(alone[1:], table[1:]))
    checks.that(count == 2 and same, f"sweep of {count} jobs: {table}, alone {alone}")


def check_scaling(e):
    """On one rank and four, each a job step of its own, beside the same for full fine-tuning by full.sbatch."""
    job = e.submit("scaling", *SIZE, script="scaling", words=["--repetitions", "1", "--steps", "2"], OUT=f"{e.folder}/table", RANKS="1,4")
    full = e.submit("full", "-n", "2", script="full", words=[f"run.dir={e.folder}/full", "train.steps=3", "train.save_every=0"])
    for name, number in (("scaling", job), ("full", full)):
        e.cluster.wait_for(number, ("COMPLETED", "FAILED"), name, PATIENCE)
        checks.that(e.cluster.state(number)[0] == "COMPLETED", f"{name}: {e.said(name)}")
    with open(f"{e.folder}/table/scaling.csv") as file:
        rows = list(csv.DictReader(file))
    checks.that([(row["ranks"], row["status"]) for row in rows] == [("1", "ok"), ("4", "ok")], f"scaling: {rows}")
    checks.that(os.path.exists(f"{e.folder}/full/model.h5") and "params" in e.said("full").replace("parameters", "params"), f"full: {e.said('full')}")


def main():
    reason = why_not()
    if reason:
        print(f"{reason}: skipped")
        return 77
    with tempfile.TemporaryDirectory(prefix="mpilora-jobs-") as folder:
        prepare(folder)
        steps = count_steps(folder)
        with Cluster() as cluster:
            e = Experiment(cluster, folder, steps)
            for check in (check_together, check_preemption, check_lost_node, check_sweep, check_scaling):
                since = time.monotonic()
                check(e)
                print(f"{check.__name__}: {time.monotonic() - since:.0f} s", flush=True)
    checks.end()
    return 0


sys.exit(main())
