"""mpilora's side: bases, data sets and runs by the program's own commands."""

import json
import os
import subprocess
import sys

from . import memory

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


class Program:
    """The program with the threads that it is to have."""

    def __init__(self, path, threads):
        if not os.access(path, os.X_OK):
            sys.exit(f"{path}: there is no such program; build it, or name it with --program")
        self.path, self.threads = os.path.abspath(path), threads
        self.environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

    def start(self, *words, ranks=1):
        """A started process; its standard error goes with its output."""
        launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks > 1 else []
        environment = dict(self.environment, OMP_NUM_THREADS=str(max(1, self.threads // ranks)))
        return subprocess.Popen([*launcher, self.path, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=environment)

    def finish(self, process):
        """Its standard output; a failure ends the comparison with what it said."""
        out, said = process.communicate()
        if process.returncode:
            sys.exit(f"{' '.join(process.args)} ended with {process.returncode}: {said.strip()}")
        return out

    def run(self, *words):
        return self.finish(self.start(*words))

    def multiply_add_peak(self):
        """GF/s of all threads, fp32, now."""
        return json.loads(self.run("bench", "gemm", "--json", "--tokens", "64", "--rows", "256", "--cols", "256"))["fma_peak_gflops"]

    def random_base(self, path, model, tokenizer=None):
        """A bf16 base of random weights of the shape configs/models/MODEL.yaml."""
        words = ["--tokenizer", tokenizer] if tokenizer else []
        self.run("import", "--init", "random", "--config", f"{SOURCE}/configs/models/{model}.yaml", *words, path)

    def train(self, config, *words):
        """Metrics (a dictionary a step) and the summary of a run; config: the sections as dictionaries."""
        self.finish(self.start("train", write_config(config), *words))
        return read_run(config)

    def train_watched(self, config, ranks):
        """Metrics and the largest sum of the ranks' Pss in bytes: pages that they share count once."""
        process = self.start("train", write_config(config), "--fresh", ranks=ranks)
        with memory.PssWatch(lambda: memory.descendants(process.pid, os.path.basename(self.path))) as watch:
            self.finish(process)
        return read_run(config)[0], watch.most


def write_config(config):
    """The path of the configuration beside its run's folder. JSON is YAML, too."""
    path = config["run"]["dir"] + ".yaml"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    return path


def read_run(config):
    folder = config["run"]["dir"]
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        metrics = [json.loads(line) for line in file]
    with open(os.path.join(folder, "summary.json"), encoding="utf-8") as file:
        return metrics, json.load(file)
