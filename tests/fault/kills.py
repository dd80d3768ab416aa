"""A training run that processes are killed out of, again and again, beside one that nothing disturbed: what test_kills.py and soak_kills.py share."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

PATIENCE = 30  # seconds in which a job must be gone when one of its processes was killed
STEPS, SAVE_EVERY = 120, 4
MODEL = "{family: llama, layers: 2, width: 64, mlp_width: 160, heads: 4, kv_heads: 2, vocab: 257, context: 128}"
METHODS = {"lora": {"name": "lora", "rank": 4, "dropout": 0.1, "targets": ["all"]}, "full": {"name": "full"}}
RESULT = {"lora": "adapter.h5", "full": "model.h5"}
NUMBERS = ("step", "loss", "lr", "grad_norm", "tokens")


def prepare(folder):
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(i * i + 7 * j + i * j * j) % 257 for j in range(30 + i % 50)] for i in range(70)])


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Job:
    """One command under mpirun, all of whose processes can be found: they carry a mark in their environment."""

    def __init__(self, config, ranks, **settings):
        self.mark = f"MPILORA_KILL_TEST={uuid.uuid4()}"
        name, value = self.mark.split("=")
        environment = dict(os.environ, **{name: value}, **settings)
        words = harness.command("train", config, ranks=ranks)
        self.process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def members(self):
        """{pid: name} of all living processes; a zombie has no environment any more."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if self.mark.encode() in read(f"/proc/{pid}/environ").split(b"\0"):
                    found[int(pid)] = read(f"/proc/{pid}/comm").decode().strip()
            except OSError:
                pass
        return found

    def rank_pid(self, rank):
        """None where it does not run yet."""
        for pid, name in self.members().items():
            try:
                if name == "mpilora" and f"OMPI_COMM_WORLD_RANK={rank}".encode() in read(f"/proc/{pid}/environ").split(b"\0"):
                    return pid
            except OSError:
                pass
        return None

    def aim(self, victim):
        """Looks for the victim, a rank or "launcher", so that nothing is left to do when the moment has come."""
        self.pid = self.process.pid if victim == "launcher" else None
        while self.pid is None and self.process.poll() is None:
            self.pid = self.rank_pid(victim)

    def kill(self):
        """Whether there was somebody to kill. Neither launcher nor rank can have been reaped: the launcher is our child, and the rank the launcher's."""
        if self.pid is None or self.process.poll() is not None:
            return False
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def wait_for_end(self, patience=PATIENCE):
        """Seconds until the last process was gone; what is left after `patience` is killed and reported as None."""
        since = time.monotonic()
        while self.members():
            if time.monotonic() - since > patience:
                for pid in self.members():
                    os.kill(pid, signal.SIGKILL)
                self.process.wait()
                return None
            time.sleep(0.05)
        self.said = self.process.communicate()[1]
        return time.monotonic() - since


class Campaign:
    """A run in folder/NAME, and the same run undisturbed in folder/NAME-whole."""

    def __init__(self, folder, name, method="lora", ranks=2, tp=1):
        self.folder, self.name, self.method, self.ranks, self.tp = folder, name, method, ranks, tp
        self.run_dir, self.whole = f"{folder}/{name}", f"{folder}/{name}-whole"
        config = self.write(f"{name}-whole", {})
        harness.mpilora("train", config, ranks=ranks, timeout=600)
        summary = harness.read_summary(self.whole)
        self.kernels = {"product": summary["product_path"], "vector": summary["vector_path"]}  # measured anew, another path may win
        self.config = self.write(name, self.kernels)
        self.seconds = 0.5 + sum(line["step_s"] for line in harness.read_metrics(self.whole))

    def write(self, name, kernels):
        sections = {
            "run": {"dir": f"{self.folder}/{name}", "seed": 3},
            "base": f"{self.folder}/base.h5",
            "method": METHODS[self.method],
            "data": {"train": f"{self.folder}/data.h5", "shuffle": True},
            "batch": {"sequences": 8, "micro": 2},
            "optim": {"lr": 1e-3, "schedule": "cosine", "warmup": 5},
            "train": {"steps": STEPS, "save_every": SAVE_EVERY, "keep": 2},
            "parallel": {"tp": self.tp},
            "precision": "fp32",
        }
        if kernels:
            sections["kernels"] = kernels
        return harness.write_config(f"{self.folder}/{name}.yaml", **sections)

    def start(self, **settings):
        return Job(self.config, self.ranks, **settings)

    def lines(self):
        try:
            return read(f"{self.run_dir}/metrics.jsonl").count(b"\n")
        except OSError:
            return 0

    def wait_for_lines(self, job, lines):
        while self.lines() < lines and job.process.poll() is None:
            time.sleep(0.001)

    def finish(self):
        """Starts it until its end; what differs from the undisturbed run."""
        done = harness.start("train", self.config, ranks=self.ranks, timeout=600)
        if done.returncode:
            return f"the last start ended with {done.returncode}: {done.stderr}"
        numbers = [[[line[key] for key in NUMBERS] for line in harness.read_metrics(path)] for path in (self.run_dir, self.whole)]
        if numbers[0] != numbers[1]:
            return "metrics.jsonl differs from that of the undisturbed run"
        if read(f"{self.run_dir}/{RESULT[self.method]}") != read(f"{self.whole}/{RESULT[self.method]}"):
            return f"{RESULT[self.method]} differs from that of the undisturbed run"
        left = [name for place, _, names in os.walk(self.run_dir) for name in names if ".tmp-" in name]
        if left or os.path.exists(f"{self.run_dir}/checkpoints/set-aside"):
            return f"left behind: {left}, or something was set aside"
        verified = json.loads(harness.mpilora("verify", self.run_dir, "--json"))
        return None if verified["ok"] else f"verify: {verified}"


def random_kill(rng, campaign):
    """Starts the run and kills somebody at some moment, start-up and the last save among them: what was killed (None: it had ended before) and seconds until
    all were gone (None: some stayed)."""
    job = campaign.start()
    victim = rng.choice([*range(campaign.ranks), "launcher"])
    job.aim(victim)
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0.0, 1.0))
    else:
        campaign.wait_for_lines(job, min(STEPS, campaign.lines() + rng.randrange(1, 2 * SAVE_EVERY + 1)))
        time.sleep(rng.uniform(0.0, 0.05))
    killed = victim if job.kill() else None
    return killed, job.wait_for_end()
