"""Requests for memory of one rank that fail, in the middle of any command: the job ends with exit code 4 (or does not need the memory) within 5 s more than it takes, with
one line of mpilora's, no partner waits in a sum, and nothing half-written is left.

Struck are the requests of the program and of the libraries that it hands its own work to (allocation_shim.c), on one rank: some of them, spread over all; every one
with STRIKE_EVERY=1 in the environment.
"""

import collections
import concurrent.futures
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

SHIM = os.environ.get("MPILORA_ALLOCATION_SHIM", "")
MODEL = "{family: gpt2, layers: 2, width: 32, heads: 4, vocab: 401, context: 96}\n"
LIMIT = 5  # seconds beyond an undisturbed run
EVERY = bool(os.environ.get("STRIKE_EVERY"))
BASE, ADAPTER, TWO = ("--base", "base.h5"), ("--adapter", "run/adapter.h5"), ("--set", "parallel.tp=2")
# name -> ranks (0: without mpirun), the rank that is struck, how many of its requests, the command's words
COMMANDS = {
    "generate": (2, 1, 24, ("generate", "--tp", "2", *BASE, *ADAPTER, "--precision", "fp32", "--max-new", "4", "--prompt", "Eagle", "--out", "out.jsonl")),
    "generate, first rank": (2, 0, 12, ("generate", "--tp", "2", *BASE, *ADAPTER, "--precision", "fp32", "--max-new", "4", "--prompt", "Eagle")),
    "eval": (2, 1, 16, ("eval", "run.yaml", *ADAPTER, *TWO)),
    "analyze": (2, 1, 16, ("analyze", "amplification", "run/adapter.h5", *BASE, "--out", "out.h5")),
    "merge": (0, 0, 80, ("merge", *BASE, *ADAPTER, "out.h5")),
    "score": (0, 0, 80, ("score", "outputs.jsonl")),
}
checks = harness.Checks()


def prepare(folder):
    harness.make_base(folder, MODEL, "fp32")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/base.h5", f"{folder}/hf")
    shutil.copy(f"{harness.SOURCE}/tests/golden/tokenizer/gpt2/tokenizer.json", f"{folder}/hf")
    harness.mpilora("import", f"{folder}/hf", "--dtype", "fp32", f"{folder}/base.h5")
    harness.make_data(folder, [[(7 * i + 11 * j) % 401 for j in range(12)] for i in range(8)])
    harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", method={"rank": 2},
                         data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"}, batch={"sequences": 4, "micro": 2}, train={"steps": 2},
                         precision="fp32", kernels={"product": "native"})
    harness.mpilora("train", f"{folder}/run.yaml")
    with open(f"{folder}/outputs.jsonl", "w") as file:
        for text in ("a french place .", "he was twelve , and tired"):
            file.write(json.dumps({"output": text, "references": [text + " .", "it is by the river"]}) + "\n")


def run(folder, command, at):
    """Exit code, seconds, standard error, the requests counted where none fails (a rank of a job that ends may be killed while it writes their number)."""
    ranks, rank, _, words = COMMANDS[command]
    counted = f"{folder}/requests"
    launcher = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks else []
    shim = ["env", f"LD_PRELOAD={SHIM}", f"STRIKE_RANK={rank}", f"STRIKE_AT={at}", *([f"STRIKE_FILE={counted}"] if at == 0 else [])]
    begun = time.monotonic()
    done = subprocess.run([*launcher, *shim, harness.PROGRAM, *words], cwd=folder, text=True, errors="replace", capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
                          env=harness.WITHOUT_DELAY)
    seconds, count = time.monotonic() - begun, 0
    if at == 0:
        with open(counted) as file:
            count = int(file.read())
        os.remove(counted)
    return done.returncode, seconds, done.stderr, count


def written(folder, known):
    """What the command wrote, by name."""
    files = {}
    for name in os.listdir(folder):
        if name not in known:
            with open(f"{folder}/{name}", "rb") as file:
                files[name] = file.read()
            os.remove(f"{folder}/{name}")
    return files


def is_whole(folder, name, content):
    """HDF5 may lay out a file otherwise where it went on with less memory."""
    with open(f"{folder}/{name}", "wb") as file:
        file.write(content)
    whole = harness.start("verify", f"{folder}/{name}").returncode == 0
    os.remove(f"{folder}/{name}")
    return whole


def strike(folder, known, command, at, usual, expected):
    code, seconds, said, _ = run(folder, command, at)
    lines = [line for line in said.splitlines() if line.startswith(("mpilora", "error:"))]
    what = f"{command}, request {at}"
    checks.that(code in (0, 4), f"{what}: exit code {code}: {said[-600:]}")
    checks.that(len(lines) == (code != 0), f"{what}: exit code {code} and {len(lines)} lines: {said[-600:]}")
    checks.that(seconds < usual + LIMIT, f"{what}: {seconds:.1f} s, undisturbed {usual:.1f} s")
    files = written(folder, known)
    other = [name for name in files if files[name] != expected.get(name) and not (code == 0 and name in expected and is_whole(folder, name, files[name]))]
    checks.that(not other, f"{what}: exit code {code} left {other}, other than undisturbed: {said[-300:]}")
    checks.that(code != 0 or files.keys() == expected.keys(), f"{what}: exit code 0, but wrote {sorted(files)}")
    return code


def main():
    if not SHIM:
        print("skipped: the striking library does not go together with the sanitizers")
        return 77
    with tempfile.TemporaryDirectory() as scratch:
        os.mkdir(f"{scratch}/0")
        prepare(f"{scratch}/0")
        shutil.copytree(f"{scratch}/0", f"{scratch}/1")
        known = set(os.listdir(f"{scratch}/0"))
        free = queue.Queue()
        for folder in (f"{scratch}/0", f"{scratch}/1"):
            free.put(folder)
        for command, (_, _, some, _) in COMMANDS.items():
            code, usual, said, count = run(f"{scratch}/0", command, 0)
            expected = written(f"{scratch}/0", known)
            checks.that(code == 0 and count > 100, f"{command}: undisturbed: exit code {code}, {count} requests: {said}")

            def one(at, command=command, usual=usual, expected=expected):
                folder = free.get()
                try:
                    return strike(folder, known, command, at, usual, expected)
                finally:
                    free.put(folder)

            places = range(1, count + 1, 1 if EVERY else max(1, count // some))
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                codes = collections.Counter(pool.map(one, places))
            print(f"{command}: {count} requests, {len(places)} struck: {codes[4]} ended with exit code 4, {codes[0]} went on, {len(places) - codes[0] - codes[4]} otherwise", flush=True)
    checks.end()


sys.exit(main())
