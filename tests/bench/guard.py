#!/usr/bin/env python3
"""Whether a step takes more instructions than it did: a tiny step of one rank and one thread is counted under valgrind's callgrind, phase by phase, and
compared with the committed table beside this script. Instructions, not time: the same twice, on a busy machine, too.

    python3 tests/bench/guard.py [--program build/mpilora] [--table TABLE.json] [--write]

Counted are the program's own instructions, without those of libraries (glibc's functions differ by processor), of the second step, with the kernels forced to
the native product and AVX2; of the main thread, since the one that keeps the run's lock alive works by the clock. A phase that has grown by more than 2 % is an error, one that has shrunk is said; --write puts this build's counts into the table.
Another compiler makes other instructions: a build that the table has no counts of is skipped (exit 77), and so is a machine without valgrind or AVX2.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED = 77
MAY_GROW = 0.02

# callgrind writes what it has counted at these functions' starts and ends; the pieces of a step, in their order, are its phases.
BORDERS = ("--dump-before=ml_model_loss", "--dump-before=head_loss", "--dump-after=head_loss", "--dump-after=ml_model_loss",
           "--dump-after=ml_parameters_update")
PHASES = ("forward", "head", "backward", "update")
PIECES_A_STEP = len(PHASES) + 1  # and what lies between two steps

MODELS = {
    "llama": {"family": "llama", "layers": 2, "width": 64, "mlp_width": 160, "heads": 4, "kv_heads": 2, "vocab": 256, "context": 64},
    "gpt": {"family": "gpt2", "layers": 2, "width": 64, "mlp_width": 256, "heads": 4, "vocab": 256, "context": 64},
}


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def own_instructions(path, program):
    """Σ of the costs of the program's own functions in a file of callgrind's: what functions called cost stands in lines of its own, which follow `calls=`."""
    names, total, own, is_call = {}, 0, False, False
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            found = re.match(r"(c?ob)=\((\d+)\)(?: (.*))?$", line)
            if found:
                if found.group(3):
                    names[found.group(2)] = found.group(3)
                if found.group(1) == "ob":
                    own = os.path.realpath(names[found.group(2)]) == program
            elif line.startswith("calls="):
                is_call = True
            elif re.match(r"[+\-*0-9]", line):
                if own and not is_call:
                    total += int(line.split()[1])
                is_call = False
    return total


def prepare(program, folder, name):
    """Base, data and configuration of two steps; returns the configuration's path."""
    model, base, lines, data, path = (os.path.join(folder, name + end) for end in (".model.yaml", ".base.h5", ".jsonl", ".data.h5", ".run.yaml"))
    with open(model, "w", encoding="ascii") as file:
        json.dump(MODELS[name], file)
    with open(lines, "w", encoding="ascii") as file:
        for i in range(4):
            file.write(json.dumps({"input_ids": [(7 * i + 5 * j * j) % 256 for j in range(48)]}) + "\n")
    run(program, "import", "--init", "random", "--config", model, base)
    run(program, "tokenize", "--base", base, lines, data, "--format", "ids")
    with open(path, "w", encoding="ascii") as file:
        json.dump({"run": {"dir": os.path.join(folder, name)}, "base": base, "method": {"name": "lora", "rank": 4, "targets": "all"},
                   "data": {"train": data, "max_len": 48, "shuffle": False}, "batch": {"sequences": 2, "micro": 2}, "train": {"steps": 2},
                   "precision": "bf16", "kernels": {"product": "native", "vector": "avx2"}}, file)
    return path


def count(program, folder, name):
    """Instructions of each phase of the second step."""
    config, out = prepare(program, folder, name), os.path.join(folder, name + ".callgrind")
    environment = {**{key: value for key, value in os.environ.items() if not key.startswith("MPILORA_")}, "OMP_NUM_THREADS": "1",
                   "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    run("valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={out}", *BORDERS, program, "train", config, env=environment)
    second = [f"{out}.{PIECES_A_STEP + 2 + phase}-01" for phase in range(len(PHASES))]
    if not os.path.exists(f"{out}.{2 * PIECES_A_STEP}-01") or os.path.exists(f"{out}.{2 * PIECES_A_STEP + 1}-01"):
        sys.exit(f"{name}: two steps should have {2 * PIECES_A_STEP} pieces at {', '.join(BORDERS)}; is one of these functions gone?")
    return {phase: own_instructions(path, os.path.realpath(program)) for phase, path in zip(PHASES, second)}


def compare(expected, found):
    """Prints both; returns what has grown."""
    grown = []
    for name in MODELS:
        for phase in PHASES:
            before, now = expected[name][phase], found[name][phase]
            change = now / before - 1
            print(f"{name:6} {phase:9} {now:>12,} instructions, {before:>12,} in the table: {100 * change:+.2f} %")
            if change > MAY_GROW:
                grown.append(f"{name}, {phase}: {before:,} → {now:,} instructions ({100 * change:+.1f} %)")
    return grown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.environ.get("MPILORA", os.path.join(SOURCE, "build", "mpilora")))
    parser.add_argument("--table", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "guard.json"))
    parser.add_argument("--write", action="store_true", help="put this build's counts into the table")
    arguments = parser.parse_args()
    if not shutil.which("valgrind"):
        skip("valgrind is not installed")
    version = json.loads(run(arguments.program, "--version", "--json"))
    if "avx2" not in version["vector_paths"]:
        skip("this processor has no AVX2")
    table = {}
    if os.path.exists(arguments.table):
        with open(arguments.table, encoding="utf-8") as file:
            table = json.load(file)
    build = version["build"]
    if build not in table and not arguments.write:
        skip(f"the table has no counts of the build \"{build}\"; guard.py --write adds them")
    with tempfile.TemporaryDirectory() as folder:
        found = {name: count(arguments.program, folder, name) for name in MODELS}
    if arguments.write:
        table[build] = found
        with open(arguments.table, "w", encoding="utf-8") as file:
            json.dump(table, file, indent=1, sort_keys=True)
            file.write("\n")
        return
    grown = compare(table[build], found)
    if grown:
        sys.exit("more instructions than the table has: " + "; ".join(grown) + ". Where that is meant: python3 tests/bench/guard.py --write")


main()
