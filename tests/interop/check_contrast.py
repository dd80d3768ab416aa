"""A model that was trained on vectors of texts goes out as a directory of sentence-transformers, which makes the same vectors of it. For developers; beside
what make_golden.py asks for it needs sentence-transformers, of 5.x or of 6.x.

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_contrast.py [DIRECTORY OF A REAL MODEL]
"""

import json
import os
import subprocess
import sys
import tempfile

import numpy
import sentence_transformers

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODELS = {
    "bert": "family: bert\nlayers: 2\nwidth: 32\nheads: 4\nmlp_width: 64\nvocab: 300\ncontext: 48\n",
    "llama": "family: llama\nlayers: 2\nwidth: 32\nheads: 4\nmlp_width: 64\nvocab: 300\ncontext: 48\nrope_theta: 10000.0\n",
}
TEXTS = ["A red door.", "b", "one line that is longer than the forty-eight tokens of the context, byte by byte", "seven bridges", "the river runs below"]


def make(name, description):
    with open(f"{name}.yaml", "w") as file:
        file.write(description)
    harness.mpilora("import", "--init", "random", "--config", f"{name}.yaml", "--tokenizer", "tokenizer", "--dtype", "fp32", f"{name}.h5")


def train(name, method, objective):
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps({"anchor": text, "positive": text[::-1] + "!"}) + "\n" for text in TEXTS)
    harness.mpilora("tokenize", "--base", f"{name}.h5", "rows.jsonl", "rows.h5")
    harness.write_config(
        "run.yaml", run={"dir": "run"}, base=f"{name}.h5", method=method, objective={"name": "contrastive", **objective}, data={"train": "rows.h5"}, batch={"sequences": 5}, optim={"lr": 1e-2}, train={"steps": 5}, precision="fp32"
    )
    harness.mpilora("train", "run.yaml", "--fresh")


def compare(checks, label, base, directory, *words):
    """What embed makes of the texts, and what sentence-transformers makes of them with the directory."""
    with open("texts.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in TEXTS)
    said = json.loads(harness.mpilora("embed", "--base", base, *words, "texts.jsonl", "out.npy", "--json"))
    found = numpy.load("out.npy")
    model = sentence_transformers.SentenceTransformer(directory, device="cpu")
    if model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = model.tokenizer.convert_ids_to_tokens(0)
    expected = model.encode(TEXTS)
    off = float(numpy.abs(found - expected).max() / numpy.abs(expected).max())
    checks.that(off < 1e-5, f"{label}: off by {off:.3g}")
    print(f"{label}: {said['pooling']}, normalised {said['normalised']}, length {said['max_len']} and {model.max_seq_length}: off by {off:.2g}", flush=True)


def main():
    checks = harness.Checks()
    real = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else None
    print("sentence-transformers", sentence_transformers.__version__)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run([sys.executable, f"{harness.SOURCE}/jobs/make_byte_tokenizer.py", "tokenizer"], check=True)
        for name, description in MODELS.items():
            make(name, description)
        if real:
            harness.mpilora("import", real, "real.h5", "--dtype", "fp32")
        lora = {"name": "lora", "rank": 4, "targets": ["q", "v"]}
        cases = [("bert", lora, {}), ("bert", {"name": "full"}, {"pooling": "cls"}), ("bert", lora, {"pooling": "mean", "normalise": False, "temperature": 5.0}), ("llama", lora, {"pooling": "last"})]
        for number, (name, method, objective) in enumerate(cases + ([("real", lora, {})] if real else [])):
            train(name, method, objective)
            base, label = f"base-{number}.h5", f"{name}, {method['name']}, {objective}"
            if method["name"] == "full":
                base = "run/model.h5"
            else:
                harness.mpilora("merge", "--base", f"{name}.h5", "--adapter", "run/adapter.h5", "--dtype", "fp32", base)
            harness.mpilora("export", "--format", "hf", "--base", base, f"out-{number}")
            compare(checks, label, base, f"out-{number}")
            if method["name"] == "lora":
                compare(checks, f"{label}, the adapter", f"{name}.h5", f"out-{number}", "--adapter", "run/adapter.h5")
    checks.end()


main()
