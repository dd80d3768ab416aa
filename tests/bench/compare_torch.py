#!/usr/bin/env python3
"""LoRA training by mpilora beside PyTorch + PEFT, in alternating runs: ratios of speed with their spread, shares of the multiply-add peak,
peak memory of both sides.

    python3 tests/bench/compare_torch.py --program build/mpilora [--work rows lines] [--rows 1 … 7] [--files train valid] [--pairs 5] [--json]

rows: dense steps at the shapes of seven models against every variant of PyTorch (fp32, compiled, two ranks by gloo, checkpointing, bf16). lines: 512 lines
of E2E against padded batches, with the losses of both sides compared. Without --python a virtual environment with torch, transformers and peft
is made beside the program and kept. A row takes about ten minutes on two cores, a file about fifteen. Not part of CTest.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile

from torch_comparison import lines, rows, torch_environment
from torch_comparison.our_side import SOURCE, Program

SHARED = os.environ.get("MPILORA_SHARED_DATA", os.path.join(os.path.dirname(SOURCE), "shared", "data"))


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(SOURCE, "build", "mpilora"))
    parser.add_argument("--python", help="an interpreter that has torch, transformers and peft")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--work", nargs="+", choices=("rows", "lines"), default=["rows", "lines"])
    parser.add_argument("--rows", nargs="+", type=int, choices=rows.ROWS, default=[1, 2, 3])
    parser.add_argument("--length", type=int, default=512, help="tokens of a row's sequences")
    parser.add_argument("--sequences", type=int, default=0, help="of a step; 0: the row's own")
    parser.add_argument("--variants", nargs="+", choices=rows.VARIANTS, default=rows.VARIANTS)
    parser.add_argument("--files", nargs="+", choices=("train", "valid", "test"), default=["train", "valid"])
    parser.add_argument("--lines", type=int, default=512)
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"], help="of mpilora")
    parser.add_argument("--data-directory", default=os.path.join(SHARED, "e2e"), help="where train.txt and valid.txt of E2E are")
    parser.add_argument("--tokenizer", default=os.path.join(SHARED, "gpt2-bpe"), help="a directory with GPT-2's tokenizer")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output; the tables go to standard error")
    options = parser.parse_args()
    for name, least in (("threads", 1), ("pairs", 1), ("length", 2), ("sequences", 0), ("lines", lines.BATCH)):
        if getattr(options, name) < least:
            parser.error(f"--{name}: expected at least {least}")
    return options


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())


def compare_all(options, program, python):
    """Everything that was asked for, as one dictionary."""
    answer = {"processor": processor(), "threads": program.threads, "versions": json.loads(torch_environment.versions(python)), "rows": [], "lines": []}
    print(f"{answer['processor']}, {answer['threads']} threads; {answer['versions']}", flush=True)
    parts = [(rows.compare, number) for number in options.rows] if "rows" in options.work else []
    parts += [(lines.compare, name) for name in options.files] if "lines" in options.work else []
    for compare, what in parts:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(program.path)) as folder:
            answer["rows" if compare is rows.compare else "lines"].append(compare(program, python, folder, options, what))
    return answer


def main():
    options = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary folders go and PyTorch's processes end
    for name in [os.path.join(options.data_directory, name + ".txt") for name in options.files] + [options.tokenizer]:
        if "lines" in options.work and not os.path.exists(name):
            sys.exit(f"{name}: there is no such file; name the folders with --data-directory and --tokenizer, or leave the lines out with --work rows")
    program = Program(options.program, options.threads)
    out = sys.stdout
    if options.json:
        sys.stdout = sys.stderr
    python = torch_environment.interpreter(options.python, os.path.join(os.path.dirname(program.path), "torch-environment"))
    answer = compare_all(options, program, python)
    if options.json:
        json.dump(answer, out)
        out.write("\n")
    wrong = [f"{found['file']}.txt, {precision}" for found in answer["lines"] for precision, ours in found["mpilora"].items() if not ours["same_losses"]]
    if wrong:
        sys.exit("the losses of the two sides differ: " + "; ".join(wrong))


main()
