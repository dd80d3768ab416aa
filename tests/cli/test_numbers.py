"""No file of a run or of a table, and no --json answer, holds a bare nan or inf: what is not a number is null there, and nothing in a table.

A run whose learning rate throws its loss beyond exp's range has numbers of both kinds: the perplexity is infinite, and where nothing was evaluated there is no loss."""

import glob
import json
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: gpt2, layers: 2, width: 32, heads: 4, vocab: 61, context: 32}"
QUOTED = re.compile(r'"[^"]*"')  # a message may tell of them
BARE = re.compile(r"\b(nan|inf|infinity)\b", re.IGNORECASE)
checks = harness.Checks()


def look(what, text):
    text = QUOTED.sub('""', text)
    found = BARE.search(text)
    checks.that(not found, f"{what}: {text[max(0, found.start() - 80):found.end() + 20]!r}" if found else "")


def refuse_constant(name):
    raise ValueError(f"bare {name}")


with tempfile.TemporaryDirectory() as folder:
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(7 * i + 11 * j) % 61 for j in range(24)] for i in range(16)])
    config = harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/wild"}, base=f"{folder}/base.h5", method={"name": "bitfit"},
                                  data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"}, batch={"sequences": 4, "micro": 2},
                                  optim={"lr": 3e4, "clip_norm": None, "schedule": "constant"}, train={"steps": 2, "eval_every": 1, "save_every": 1, "keep_best": True},
                                  precision="fp32")
    wild = harness.start("train", config)
    checks.that(wild.returncode in (0, 5), f"exit code {wild.returncode}: {wild.stderr}")
    harness.mpilora("train", config, "--set", f"run.dir={folder}/unevaluated", "--set", "data.valid=null", "--set", "train.keep_best=false", "--set", "optim.lr=0.001")
    harness.mpilora("scale", config, "--ranks", "1", "--repetitions", "1", "--steps", "1", "--out", f"{folder}/scaling", "--set", "optim.lr=0.001")
    harness.start("compare", config, "--methods", "lora,bitfit:optim.lr=1e-3", "--seeds", "1", "--out", f"{folder}/compared")
    files = [path for kind in ("json", "jsonl", "csv", "yaml") for path in glob.glob(f"{folder}/**/*.{kind}", recursive=True)]
    checks.that(len(files) > 15 and any(path.endswith("evaluations.jsonl") for path in files), f"files: {files}")
    for path in files:
        with open(path) as file:
            look(path, file.read())
    if os.path.exists(f"{folder}/wild/adapter.h5"):
        said = harness.mpilora("eval", config, "--adapter", f"{folder}/wild/adapter.h5", "--json")
        answer = json.loads(said, parse_constant=refuse_constant)
        checks.that(answer["loss"] > 710 and answer["perplexity"] is None, f"beyond exp's range: {said}")
    else:
        checks.that(False, f"the run that was to go wild ended otherwise: {wild.stderr}")
    for words in (("inspect", f"{folder}/wild", "--json"), ("plan", config, "--json"), ("bench", "gemm", "--json", "--seconds", "0.01")):
        done = harness.start(*words)
        look(words, done.stdout)
checks.end()
