"""A command that a signal ends while it makes a file leaves nothing behind: no temporary file, no half of a directory; what was there stays. Its end is the
signal's, as a shell knows it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: llama, layers: 6, width: 384, heads: 6, kv_heads: 6, mlp_width: 1536, vocab: 4001, context: 64}"
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TRIES = 20
checks = harness.Checks()


def prepare(folder):
    """A base that takes a while to write, an adapter of it, and rows of ids."""
    harness.make_base(folder, MODEL)
    harness.make_data(folder, [[(i * i + 7 * j) % 4001 for j in range(60)] for i in range(8)], "train")
    run = harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", data={"train": f"{folder}/train.h5"},
                               batch={"sequences": 2}, train={"steps": 1})
    harness.mpilora("train", run)
    with open(f"{folder}/rows.jsonl", "w") as file:
        for i in range(4000):
            file.write('{"input_ids": [%s]}\n' % ", ".join(str((i * j) % 4001) for j in range(1, 60)))
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/base.h5", f"{folder}/model")


def cut_short(words, inside, ending):
    """The command, sent `ending` as soon as something is being made: its exit code, and what stands there then."""
    process = subprocess.Popen(harness.command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not os.listdir(inside) and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(ending)
    code = process.wait(timeout=60)
    return code, sorted(os.listdir(inside))


def check(folder, title, words, out):
    inside, seen = f"{folder}/out", set()
    for number in range(TRIES):
        if seen == set(ENDINGS):
            break
        shutil.rmtree(inside, ignore_errors=True)
        os.mkdir(inside)
        ending = ENDINGS[number % len(ENDINGS)]
        code, left = cut_short((*words, f"{inside}/{out}"), inside, ending)
        if code == 0:  # it was faster
            continue
        checks.that(code == -ending, f"{title}: exit code {code} after {ending.name}")
        checks.that(not left, f"{title}: {ending.name} leaves {left}")
        seen.add(ending)
    checks.that(seen, f"{title}: never met while it wrote")
    shutil.rmtree(inside)


def check_kept(folder):
    """What is ignored stays so, and an older file stays what it was."""
    target = f"{folder}/kept/base.h5"
    os.mkdir(f"{folder}/kept")
    shutil.copy(f"{folder}/train.h5", target)
    with open(target, "rb") as file:
        before = file.read()
    words = harness.command("import", f"{folder}/model", target)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(os.listdir(f"{folder}/kept")) == 1 and process.poll() is None:
        time.sleep(0.0005)
    process.terminate()
    if process.wait(timeout=60) != 0:
        with open(target, "rb") as file:
            checks.that(file.read() == before and os.listdir(f"{folder}/kept") == ["base.h5"], f"an older file: {os.listdir(f'{folder}/kept')}")
    ignoring = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    time.sleep(0.05)
    ignoring.send_signal(signal.SIGHUP)
    checks.that(ignoring.wait(timeout=60) == 0, f"nohup: exit code {ignoring.returncode}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        base, adapter = f"{folder}/base.h5", f"{folder}/run/adapter.h5"
        both = ("--base", base, "--adapter", adapter)
        check(folder, "import", ("import", f"{folder}/model"), "base.h5")
        check(folder, "import --quantise", ("import", f"{folder}/model", "--quantise", "q8_0"), "base.h5")
        check(folder, "merge", ("merge", *both), "merged.h5")
        check(folder, "export --format gguf", ("export", "--format", "gguf", "--base", base), "model.gguf")
        check(folder, "export --format gguf --merge", ("export", "--format", "gguf", *both, "--merge"), "model.gguf")
        check(folder, "export --format hf", ("export", "--format", "hf", "--base", base), "model")
        check(folder, "tokenize", ("tokenize", "--base", base, f"{folder}/rows.jsonl"), "data.h5")
        check_kept(folder)
    checks.end()


main()
