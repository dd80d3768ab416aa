"""Starts torch_side.py, or another script that answers in the same way, one process a rank, and asks it for steps."""

import json
import os
import subprocess
import tempfile

from . import memory

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "torch_side.py")


class TorchFault(Exception):
    """PyTorch cannot do this here; the text is the last line that it wrote."""


class TorchSide:
    """The processes of one variant; `with` ends them."""

    def __init__(self, python, spec, threads, script=SCRIPT):
        self.ranks = 2 if spec["variant"] == "ddp" else 1
        self.folder = tempfile.TemporaryDirectory()
        self.errors = open(os.path.join(self.folder.name, "errors"), "w+", encoding="utf-8", errors="replace")
        each = max(1, threads // self.ranks)
        spec = dict(spec, threads=each, ranks=self.ranks, meeting=os.path.join(self.folder.name, "meeting"))
        if "sequences" in spec:
            spec["sequences"] //= self.ranks
        environment = dict(os.environ, OMP_NUM_THREADS=str(each), GLOO_SOCKET_IFNAME="lo", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
        self.processes = [subprocess.Popen([python, script, json.dumps(spec), str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                           stderr=self.errors, text=True, env=environment) for rank in range(self.ranks)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.errors.close()
        self.folder.cleanup()

    def _fault(self):
        self.errors.seek(0)
        said = [line.strip() for line in self.errors if line.strip()]
        return TorchFault(said[-1] if said else "it ended without a word")

    def ask(self, do, **words):
        """The answer of rank 0. Every rank gets the command; they take the same time."""
        try:
            for process in self.processes:
                process.stdin.write(json.dumps(dict(words, do=do)) + "\n")
                process.stdin.flush()
        except BrokenPipeError:
            raise self._fault() from None
        answers = [process.stdout.readline() for process in self.processes]
        if not all(answers):
            raise self._fault()
        return json.loads(answers[0])

    def pids(self):
        return [process.pid for process in self.processes]

    def high_water(self):
        """Bytes; only for one rank, since several share pages: those are watched."""
        return memory.high_water(self.processes[0].pid)
