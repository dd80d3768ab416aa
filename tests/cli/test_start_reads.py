"""A start on four ranks of a node reads the base and the data set once in all: what the ranks read together is at most 1.1 times the files' size, so that ranks
times file size never leave a file server.

A rank's reads are those of the shell that waits for it (/proc/PID/io counts children that were waited for). The same command on a small base and a small data set
reads as many bytes of libraries and settings, so the difference is that of the files."""

import glob
import json
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{{family: gpt2, layers: 1, width: 64, heads: 4, vocab: {vocab}, context: 64}}"
SIZES = {"small": (300, 20), "large": (60000, 12000)}  # vocabulary, sequences
RANKS, MOST = 4, 1.1
COUNTING = '"$@"; code=$?; cat /proc/$$/io > "$0.$OMPI_COMM_WORLD_RANK"; exit $code'
checks = harness.Checks()


def prepare(folder, name):
    vocab, sequences = SIZES[name]
    place = f"{folder}/{name}"
    os.mkdir(place)
    harness.make_base(place, MODEL.format(vocab=vocab), "fp32")
    with open(f"{place}/data.jsonl", "w") as file:
        for i in range(sequences):
            file.write(json.dumps({"input_ids": [(7 * i + 11 * j) % vocab for j in range(64)]}) + "\n")
    harness.mpilora("tokenize", "--base", f"{place}/base.h5", "--format", "ids", f"{place}/data.jsonl", f"{place}/data.h5")
    return place


def read_bytes(place, command, tp):
    """What all ranks read, from their first instruction to their last."""
    config = harness.write_config(f"{place}/run.yaml", run={"dir": f"{place}/{command}-{tp}"}, base=f"{place}/base.h5", method={"rank": 1, "targets": ["q"]},
                                  data={("train" if command == "train" else "valid"): f"{place}/data.h5"}, batch={"sequences": 4, "micro": 1}, train={"steps": 1},
                                  parallel={"tp": tp}, kernels={"product": "native"})
    counts = f"{place}/io"
    call = ["mpirun", "--oversubscribe", "-n", str(RANKS), "sh", "-c", COUNTING, counts, harness.PROGRAM, command, config]
    done = subprocess.run(call, text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    files = glob.glob(f"{counts}.*")
    if done.returncode or len(files) != RANKS:
        sys.exit(f"{command}, tp {tp}: exit code {done.returncode}, {len(files)} counts\n{done.stderr}")
    total = 0
    for path in files:
        with open(path) as file:
            total += int(re.search(r"rchar: (\d+)", file.read()).group(1))
        os.remove(path)
    return total


def size(place):
    return os.path.getsize(f"{place}/base.h5") + os.path.getsize(f"{place}/data.h5")


with tempfile.TemporaryDirectory() as scratch:
    small, large = prepare(scratch, "small"), prepare(scratch, "large")
    for tp in (1, 2):
        read, expected = read_bytes(large, "train", tp) - read_bytes(small, "train", tp), size(large) - size(small)
        print(f"train, dp {RANKS // tp}, tp {tp}: {read} bytes read for {expected} of the files: {read / expected:.3f} times")
        checks.that(0.9 * expected < read <= MOST * expected, f"dp {RANKS // tp}, tp {tp}: {read} bytes read, the files have {expected}")
checks.end()
