"""run.wait_limit: a rank that stands still ends the others soon, with one line and exit code 4, and the next start goes on; a wait within the limit ends nothing."""

import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

RESOURCE, LIMIT = 4, 2.0
MODEL = "{family: llama, layers: 2, width: 32, heads: 4, kv_heads: 2, mlp_width: 64, vocab: 61, context: 32}"
checks = harness.Checks()


def start(config, *words):
    process = subprocess.Popen(harness.command("train", config, *words, ranks=2), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    run = config.removesuffix(".yaml")
    until = time.monotonic() + 60
    while harness.count_lines(f"{run}/metrics.jsonl") < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    return process, harness.ranks_of(process.pid)[-1]


def main():
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL, "fp32")
        harness.make_data(folder, [[(5 * i + 3 * j) % 61 for j in range(12)] for i in range(8)])
        config = harness.write_config(
            f"{folder}/run.yaml", run={"dir": f"{folder}/run", "wait_limit": LIMIT}, base=f"{folder}/base.h5", method={"rank": 2}, data={"train": f"{folder}/data.h5"},
            batch={"sequences": 4, "micro": 1}, train={"steps": 100000, "save_every": 1}, kernels={"product": "native"})
        process, last = start(config)
        os.kill(last, signal.SIGSTOP)
        time.sleep(0.5 * LIMIT)
        os.kill(last, signal.SIGCONT)
        time.sleep(0.5)
        checks.that(process.poll() is None, "a wait within the limit ended the run")
        os.kill(last, signal.SIGSTOP)
        since = time.monotonic()
        said = process.communicate(timeout=60)[1]
        took = time.monotonic() - since
        lines = [line for line in said.splitlines() if line.startswith("mpilora: ")]
        checks.that(process.returncode == RESOURCE and LIMIT <= took < LIMIT + 10, f"exit {process.returncode} after {took:.1f} s: {said}")
        checks.that(len(lines) == 1 and "run.wait_limit: rank 0 on" in lines[0], f"{lines}: {said}")
        done = harness.count_lines(f"{folder}/run/metrics.jsonl")
        harness.mpilora("train", config, "--set", f"train.steps={done + 2}", ranks=2)
        checks.that(len(harness.read_metrics(f"{folder}/run")) == done + 2, "the next start does not end the run")
    checks.end()


main()
