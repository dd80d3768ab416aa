"""mpilora tokenize beside the `tokenizers` library (encode_batch, its own threads) on the same cores, in an order that reverses from turn to turn.

Both get the same lines: mpilora as a file {"text": …} a line, its start, the reading of JSON and the writing of the data set included; the library as a list of texts in
memory, and only encode_batch counts (in slices of 10,000 lines, its special tokens left out). Their ids are compared first. Only ratios of one turn count. Not part of CTest.

usage: python3 tests/bench/tokenize_rate.py MPILORA TOKENIZER_DIRECTORY TEXT_FILE [--lines 400000] [--turns 3] [--threads N] [--folder DIR]
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import time

SLICE = 10_000


def peak_of(pid):
    """The most that the process has had so far: what wait4 says of it has the memory of the one that started it, too."""
    with open(f"/proc/{pid}/status") as file:
        return max((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), default=0)


def run(*words, **environment):
    """(clock seconds, processor seconds, peak bytes)"""
    since, ended, peak = time.monotonic(), 0, 0
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    while not ended:
        peak = max(peak, peak_of(process.pid))
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if not ended:
            time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{words}: {process.returncode}")
    return time.monotonic() - since, usage.ru_utime + usage.ru_stime, peak


def make_lines(path, count):
    """The file's lines over and over, each time in another order and with other lines behind each other: as many words, but no line twice."""
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    draw, out = random.Random(1), []
    while len(out) < count:
        draw.shuffle(lines)
        out += [f"{a} {b}" for a, b in zip(lines, lines[1:])][: count - len(out)] if len(lines) > 1 else [lines[0]]
    return out


def check(options, tokenizer, lines, folder):
    import h5py
    import numpy

    with h5py.File(f"{folder}/out.h5") as file:
        tokens, offsets = file["tokens"][:], file["offsets"][:]
    for i in range(0, len(lines), max(1, len(lines) // 500)):
        mine = tokens[offsets[i] : offsets[i + 1]]
        theirs = tokenizer.encode(lines[i], add_special_tokens=False).ids
        at = [k for k in range(len(mine) - len(theirs) + 1) if numpy.array_equal(mine[k : k + len(theirs)], theirs)]
        if not at:
            raise SystemExit(f"line {i + 1} has other ids: {mine.tolist()} beside {theirs}")
    return int(offsets[-1])


def compare(options, folder):
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(options.tokenizer, "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    lines = make_lines(options.text, options.lines)
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    with open(f"{folder}/lines.jsonl", "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps({"text": line}, ensure_ascii=False) + "\n")
    with open(f"{folder}/model.yaml", "w") as file:
        file.write(f"family: llama\nlayers: 1\nwidth: 16\nmlp_width: 32\nheads: 2\nkv_heads: 1\nhead_dim: 8\nvocab: {tokenizer.get_vocab_size()}\ncontext: 4096\n")
    run(options.mpilora, "import", "--init", "random", "--config", f"{folder}/model.yaml", "--tokenizer", options.tokenizer, f"{folder}/base.h5")

    def ours():
        return run(options.mpilora, "tokenize", "--base", f"{folder}/base.h5", f"{folder}/lines.jsonl", f"{folder}/out.h5", OMP_NUM_THREADS=str(options.threads))

    def theirs():
        before, since = time.process_time(), time.monotonic()
        for i in range(0, len(lines), SLICE):
            tokenizer.encode_batch(lines[i : i + SLICE], add_special_tokens=False)
        return time.monotonic() - since, time.process_time() - before, 0

    ours()
    tokens = check(options, tokenizer, lines, folder)
    print(f"{len(lines)} lines, {megabytes:.1f} MB, {tokens} tokens, {options.threads} threads")
    clock, processor, peak = [], [], 0
    for turn in range(options.turns):
        result = {}
        for one in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            result[one] = one()
        clock.append(result[theirs][0] / result[ours][0])
        processor.append(result[theirs][1] / result[ours][1])
        peak = max(peak, result[ours][2])
        print(f"turn {turn + 1}: mpilora {megabytes / result[ours][0]:.1f} MB/s ({megabytes / result[ours][1]:.1f} a second of processor time), "
              f"tokenizers {megabytes / result[theirs][0]:.1f} ({megabytes / result[theirs][1]:.1f})")  # fmt: skip
    print(f"rate of tokenizers: {statistics.median(clock):.2f} × by the clock, {statistics.median(processor):.2f} × by processor time; peak memory {peak / 2**20:.0f} MiB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mpilora")
    parser.add_argument("tokenizer")
    parser.add_argument("text")
    parser.add_argument("--lines", type=int, default=400_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        compare(options, folder)


main()
