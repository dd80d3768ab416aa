"""jobs/lora.flux and jobs/lora.pbs with stand-ins for flux, qsub and qstat (no Flux and no PBS): stopped by a signal, submitted again as it was, and on to the
end with the losses of a run that nothing disturbed; stopped by the time of the job; cancelled and not submitted again; mistakes named."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

JOBS = f"{harness.SOURCE}/jobs"
MODEL = "{family: llama, layers: 2, width: 64, heads: 4, kv_heads: 2, mlp_width: 128, vocab: 257, context: 128}"
STEPS, ENDLESS = 60, 100000
STOPPED = 75
checks = harness.Checks()


class System:
    """Jobs of one of the stand-ins: submitted by its own command, started here."""

    def __init__(self, folder):
        self.folder, self.jobs = folder, f"{folder}/jobs"
        os.makedirs(f"{folder}/bin")
        os.makedirs(self.jobs)
        for name in ("flux", "qsub", "qstat"):
            os.symlink(os.path.join(os.path.dirname(os.path.abspath(__file__)), "stand_ins.py"), f"{folder}/bin/{name}")
        self.environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MPILORA")}
        self.environment.update(PATH=f"{folder}/bin:{os.environ['PATH']}", STAND_INS=self.jobs, MPILORA=harness.PROGRAM, MPILORA_JOBS=JOBS)

    def submit(self, *words, **environment):
        done = subprocess.run(words, cwd=self.folder, env={**self.environment, **environment}, capture_output=True, text=True, timeout=60)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: {done.stderr}")
        return done.stdout.strip()

    def job(self, number):
        with open(f"{self.jobs}/{number}.json") as file:
            return json.load(file)

    def count(self):
        return len(os.listdir(self.jobs))

    def start(self, number, environment, words=()):
        """The job's script, from a copy as the systems have it, as the head of a process group."""
        job = self.job(number)
        copy = f"{self.folder}/script-{number}"
        with open(copy, "w") as file:
            file.write(job["script"])
        output = open(f"{self.folder}/{number}.out", "w")
        return subprocess.Popen(["bash", copy, *words], env=environment, cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)

    def said(self, number):
        with open(f"{self.folder}/{number}.out") as file:
            return file.read()


class Flux(System):
    name = "flux"

    def lora(self, config, *words, limit="12h", **environment):
        return self.submit("flux", "batch", "-N", "1", "-n", "2", "-c", "1", "-t", limit, f"{JOBS}/lora.flux", config, *words, TASKS_PER_NODE="2", **environment)

    def run(self, number):
        job = self.job(number)
        return self.start(number, {**job["attributes"]["system"]["environment"], "STAND_IN_JOB": number}, job["words"])

    def warn(self, process, run_dir):
        """As --signal does: the script and the ranks themselves get it."""
        os.kill(process.pid, signal.SIGUSR1)
        launcher = [pid for pid in children(process.pid) if "mpirun" in command(pid)]
        for rank in [pid for pid in children(launcher[0]) if harness.PROGRAM in command(pid)]:
            os.kill(rank, signal.SIGUSR1)

    def check_again(self, first, second):
        a, b = self.job(first), self.job(second)
        environment = b["attributes"]["system"]["environment"]
        checks.that(environment.pop("MPILORA_RESTARTS", None) == "1", "flux: the restart is not counted")
        checks.that(a == b, f"flux: submitted again as another job: {different(a, b)}")
        checks.that(a["attributes"]["system"]["shell"]["options"]["signal"] == "USR1@180", "flux: no signal before the job's end")


class Pbs(System):
    name = "pbs"

    def lora(self, config, *words, limit="12:00:00", resources=("select=1:ncpus=2:mpiprocs=2",), **environment):
        wanted = [word for resource in (*resources, f"walltime={limit}") for word in ("-l", resource)]
        return self.submit("qsub", "-q", "day", "-A", "mine", *wanted, "-v", ",".join(["CONFIG", "SET", "MPILORA", "MPILORA_JOBS", *environment]), f"{JOBS}/lora.pbs",
                           CONFIG=config, SET=" ".join(words), **environment)

    def run(self, number, **more):
        job = self.job(number)
        with open(f"{self.folder}/nodes-{number}", "w") as file:
            file.write("localhost\n" * 2)
        environment = {name: value for name, value in self.environment.items() if not name.startswith("MPILORA")}
        return self.start(number, {**environment, **job["variables"], "PBS_JOBID": number, "PBS_O_WORKDIR": job["cwd"], "PBS_JOBNAME": job["name"],
                                   "PBS_O_QUEUE": job["queue"], "PBS_NODEFILE": f"{self.folder}/nodes-{number}", **more})

    def warn(self, process, run_dir):
        os.kill(process.pid, signal.SIGUSR1)

    def check_again(self, first, second):
        a, b = self.job(first), self.job(second)
        checks.that(b["variables"].pop("MPILORA_RESTARTS", None) == "1", "pbs: the restart is not counted")
        b["variables"].pop("OMP_NUM_THREADS", None)  # what the first job computed with
        checks.that(a == b, f"pbs: submitted again as another job: {different(a, b)}")


def different(a, b, path=""):
    """The names of what differs between two tables."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [path]
    return [name for key in sorted({*a, *b}) for name in different(a.get(key), b.get(key), f"{path}.{key}")]


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def command(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read()


def end(system, number, process):
    try:
        return process.wait(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        sys.exit(f"{system.name}: job {number} has not ended:\n{system.said(number)}")


def wait_for_steps(system, number, process, run_dir, count):
    since = time.monotonic()
    while harness.count_lines(f"{run_dir}/metrics.jsonl") < count:
        if process.poll() is not None or time.monotonic() - since > 120:
            sys.exit(f"{system.name}: job {number} does not come to step {count}:\n{system.said(number)}")
        time.sleep(0.02)


def configure(folder, name, steps):
    return harness.write_config(f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}"}, base=f"{folder}/base.h5", method={"rank": 4, "dropout": 0.1},
                                data={"train": f"{folder}/data.h5"}, batch={"sequences": 8, "micro": 2}, train={"steps": steps}, precision="fp32",
                                kernels={"product": "native"})


def check_signal(system, folder, reference):
    """USR1 after a few steps: saved, submitted again with everything that it had, and to the end."""
    name = f"{system.name}-signal"
    first = system.lora(configure(folder, name, ENDLESS), "optim.betas=[0.9,0.95]")
    process = system.run(first)
    wait_for_steps(system, first, process, f"{folder}/{name}", 5)
    system.warn(process, f"{folder}/{name}")
    code = end(system, first, process)
    checks.that(code == STOPPED and "requeued (restart 1)" in system.said(first), f"{name}: ended with {code}:\n{system.said(first)}")
    checks.that("job could not be requeued" not in system.said(first) and system.count() == 2, f"{name}: was not submitted again:\n{system.said(first)}")
    if system.count() != 2:
        return
    second = str(int(first) + 1)
    system.check_again(first, second)
    configure(folder, name, max(STEPS, harness.count_lines(f"{folder}/{name}/metrics.jsonl") + 5))
    code = end(system, second, system.run(second))
    losses = [line["loss"] for line in harness.read_metrics(f"{folder}/{name}")]
    checks.that(code == 0 and len(losses) >= STEPS and system.count() == 2, f"{name}: the second job ended with {code}:\n{system.said(second)}")
    checks.that(losses[:STEPS] == reference, f"{name}: other losses than without the stop")
    checks.that(harness.read_summary(f"{folder}/{name}")["ranks"] == 2, f"{name}: not two ranks")


def check_time(system, folder, limit, **more):
    """The program knows the job's time, and ends before; NO_REQUEUE leaves it at that."""
    name = f"{system.name}-time{len(more)}"
    number = system.lora(configure(folder, name, ENDLESS), "optim.betas=[0.9,0.95]", limit=limit, NO_REQUEUE="1")
    before = system.count()
    code = end(system, number, system.run(number, **more))
    left = re.search("this start has ([0-9]+) s", system.said(number))
    # The script leaves half of so short a job for the end, and the start before the program takes time of its own.
    checks.that(code == STOPPED and left and 0 < int(left[1]) <= 5, f"{name}: ended with {code}:\n{system.said(number)}")
    checks.that(system.count() == before, f"{name}: submitted again")


def check_cancelled(pbs, folder):
    """Torque's words; TERM is a cancelled or preempted job: it saves, and is not submitted again."""
    number = pbs.lora(configure(folder, "cancelled", ENDLESS), resources=("nodes=1:ppn=2",))
    process, before = pbs.run(number, PBS_WALLTIME="43200"), pbs.count()
    wait_for_steps(pbs, number, process, f"{folder}/cancelled", 3)
    os.kill(process.pid, signal.SIGTERM)
    code = end(pbs, number, process)
    checks.that(code == STOPPED and pbs.count() == before, f"cancelled: ended with {code}, {pbs.count() - before} jobs more:\n{pbs.said(number)}")
    checks.that("this start has 431" in pbs.said(number), f"cancelled: Torque's PBS_WALLTIME is not used:\n{pbs.said(number)}")


def check_mistakes(flux, pbs, folder):
    for script, environment, text in (("lora.flux", {}, "is a batch script: flux batch"), ("lora.pbs", {}, "is a batch script: qsub"),
                                      ("lora.pbs", {"PBS_JOBID": "1"}, "CONFIG is not set"), ("lora.flux", {"STAND_IN_JOB": "1"}, "usage: flux batch"),
                                      ("lora.flux", {"MPILORA_JOBS": folder}, "name the folder"), ("lora.pbs", {"MPILORA_JOBS": folder}, "name the folder"),
                                      ("lora.pbs", {"PBS_JOBID": "1", "MPILORA": "/nothing"}, "is not a program"),
                                      ("lora.pbs", {"PBS_JOBID": "1", "CONFIG": "x", "SET": "word"}, "expected key=value")):
        system = flux if "flux" in script else pbs
        done = subprocess.run(["bash", f"{JOBS}/{script}"], env={**system.environment, **environment}, capture_output=True, text=True, timeout=30)
        checks.that(done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1, f"{script} with {environment}: {done.returncode}, {done.stderr}")


with tempfile.TemporaryDirectory(prefix="mpilora-systems-") as folder:
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(i * i + 7 * j + j * j * i) % 257 for j in range(20 + i % 30)] for i in range(40)])
    harness.mpilora("train", configure(folder, "reference", STEPS), "--set", "optim.betas=[0.9,0.95]", ranks=2)
    reference = [line["loss"] for line in harness.read_metrics(f"{folder}/reference")]
    flux, pbs = Flux(f"{folder}/flux"), Pbs(f"{folder}/pbs")
    for system, limit in ((flux, "10s"), (pbs, "00:10")):
        check_signal(system, folder, reference)
        check_time(system, folder, limit)
    check_cancelled(pbs, folder)
    check_mistakes(flux, pbs, folder)
checks.end()
