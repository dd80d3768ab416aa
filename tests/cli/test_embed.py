"""`embed`: what a directory of sentence-transformers says (2.x and 6.x) is heeded and comes back with `export`; a decoder embeds, too; texts as lines and as JSON
lines; results do not depend on the grid; bad input ends in one line and leaves no file."""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

ENCODER = "family: bert\nlayers: 2\nwidth: 32\nheads: 4\nmlp_width: 64\nvocab: 300\ncontext: 48\n"
DECODER = "family: llama\nlayers: 2\nwidth: 32\nheads: 4\nmlp_width: 64\nvocab: 300\ncontext: 48\nrope_theta: 10000.0\n"
PROJECTED = "family: opt\nlayers: 2\nwidth: 32\nheads: 4\nmlp_width: 64\nvocab: 300\ncontext: 48\nembed_width: 16\n"  # what a head starts from is as wide
TEXTS = ["A red door.", "b", "grüße, 北京", "one line that is longer than the forty-eight tokens of the context, byte by byte", "seven"]
MODULES = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]


def read_npy(path):
    """The rows of a matrix."""
    with open(path, "rb") as file:
        content = file.read()
    assert content[:8] == b"\x93NUMPY\x01\x00" and len(content[: 10 + content[8]]) % 64 == 0
    header = content[10 : 10 + content[8]].decode()
    rows, cols = (int(word) for word in header.split("(")[1].split(")")[0].split(","))
    numbers = struct.unpack(f"<{rows * cols}f", content[10 + content[8] :])
    return [list(numbers[i * cols : (i + 1) * cols]) for i in range(rows)]


def embed(base, texts, *words, ranks=0):
    """(vectors, what --json says)"""
    out = f"{os.path.dirname(base)}/out.npy"
    said = json.loads(harness.mpilora("embed", "--base", base, texts, out, "--json", *words, ranks=ranks))
    return read_npy(out), said


def distance(a, b):
    return max(abs(x - y) for u, v in zip(a, b) for x, y in zip(u, v)) if len(a) == len(b) else math.inf


def write(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(value if isinstance(value, str) else json.dumps(value))


def write_modules(directory, prefix, names=None):
    write(f"{directory}/modules.json", [{"idx": i, "name": str(i), "path": path, "type": f"{prefix}.{name}"} for i, (name, path) in enumerate(names or MODULES)])


def make(folder, name, description):
    """A base with a tokenizer of bytes, out as a directory."""
    write(f"{folder}/{name}.yaml", description)
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/{name}.yaml", "--tokenizer", f"{folder}/tokenizer", "--dtype", "fp32", f"{folder}/{name}.h5")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/{name}.h5", f"{folder}/{name}")
    return f"{folder}/{name}.h5"


def check_directories(checks, folder, texts):
    """Pooling, normalisation and length of both generations of sentence-transformers."""
    plain = f"{folder}/encoder.h5"
    cases = {
        "2": ("sentence_transformers.models", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": False}), "cls", 9),
        "6": ("sentence_transformers.sentence_transformer.modules", {"embedding_dimension": 32, "pooling_mode": "lasttoken", "include_prompt": True}, ("tokenizer_config.json", {"model_max_length": 11}), "last", 11),
        "no limit": ("sentence_transformers.models", {"pooling_mode_mean_tokens": True}, ("tokenizer_config.json", {"model_max_length": 10**30}), "mean", 48),
    }
    for name, (prefix, pooling, (file, length), word, most) in cases.items():
        directory, base = f"{folder}/st-{name}", f"{folder}/st-{name}.h5"
        shutil.copytree(f"{folder}/encoder", directory)
        write_modules(directory, prefix)
        write(f"{directory}/1_Pooling/config.json", pooling)
        write(f"{directory}/{file}", length)
        harness.mpilora("import", directory, base, "--dtype", "fp32")
        found, said = embed(base, texts)
        expected, _ = embed(plain, texts, "--pooling", word, "--normalise", "--max-len", most)
        checks.that(distance(found, expected) == 0, f"{name}: {distance(found, expected)} from --pooling {word} --normalise --max-len {most}")
        checks.that((said["pooling"], said["normalised"], said["max_len"]) == (word, True, most), f"{name}: {said}")
        checks.that(all(abs(math.hypot(*vector) - 1) < 1e-6 for vector in found), f"{name}: vectors are not of length 1")
        raw, said = embed(base, texts, "--pooling", word)
        checks.that(not said["normalised"] and abs(math.hypot(*raw[0]) - 1) > 1e-3, f"{name}: --pooling alone: {said}")
        harness.mpilora("export", "--format", "hf", "--base", base, f"{directory}.out")
        for kept in ("modules.json", "1_Pooling/config.json", file):
            with open(f"{directory}/{kept}") as one, open(f"{directory}.out/{kept}") as other:
                checks.that(one.read() == other.read(), f"{name}: {kept} does not come back")


def check_prompt(checks, folder, texts):
    """The default prompt stands before every text."""
    directory, base = f"{folder}/prompted", f"{folder}/prompted.h5"
    shutil.copytree(f"{folder}/encoder", directory)
    write_modules(directory, "sentence_transformers.models")
    write(f"{directory}/1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": True})
    write(f"{directory}/config_sentence_transformers.json", {"prompts": {"query": "ask: ", "document": ""}, "default_prompt_name": "query", "similarity_fn_name": "cosine"})
    harness.mpilora("import", directory, base, "--dtype", "fp32")
    write(f"{folder}/asked.txt", "".join(f"ask: {text}\n" for text in TEXTS))
    found, (expected, _) = embed(base, texts)[0], embed(f"{folder}/encoder.h5", f"{folder}/asked.txt", "--normalise")
    checks.that(distance(found, expected) == 0, f"a prompt: {distance(found, expected)}")
    checks.that(distance(embed(base, texts, "--pooling", "mean")[0], embed(f"{folder}/encoder.h5", texts)[0]) == 0, "--pooling heeds the prompt")
    write(f"{directory}/1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False})
    harness.mpilora("import", directory, base, "--dtype", "fp32")
    refuse(checks, "a prompt that is left out", 3, ["include_prompt"], "--base", base, texts, f"{folder}/bad.npy")
    write(f"{directory}/config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": "query"})
    harness.mpilora("import", directory, base, "--dtype", "fp32")
    refuse(checks, "no such prompt", 3, ["default_prompt_name", "query"], "--base", base, texts, f"{folder}/bad.npy")


def check_grids(checks, folder, texts):
    for name, width in (("encoder", 32), ("decoder", 32), ("projected", 16)):
        base = f"{folder}/{name}.h5"
        alone, said = embed(base, texts)
        checks.that(said == {"texts": 5, "width": width, "tokens": said["tokens"], "cut": 1, "max_len": 48, "pooling": "mean", "normalised": False}, f"{name}: {said}")
        for ranks, tp in ((2, 2), (4, 1)):
            found, again = embed(base, texts, "--tp", tp, ranks=ranks)
            checks.that(distance(alone, found) < 1e-5 and again == said, f"{name}, {ranks} ranks, tp {tp}: {distance(alone, found)}, {again}")
        lines, _ = embed(base, f"{folder}/texts.jsonl")
        checks.that(distance(lines, alone) == 0, f"{name}: JSON lines: {distance(lines, alone)}")
    both, _ = embed(f"{folder}/encoder.h5", texts, "--pooling", "cls")
    causal, _ = embed(f"{folder}/decoder.h5", texts, "--pooling", "cls")
    write(f"{folder}/begin.txt", TEXTS[0][0] + "\n")
    checks.that(distance([both[0]], embed(f"{folder}/encoder.h5", f"{folder}/begin.txt", "--pooling", "cls")[0]) > 1e-3, "encoder: the first token does not see the others")
    checks.that(distance([causal[0]], embed(f"{folder}/decoder.h5", f"{folder}/begin.txt", "--pooling", "cls")[0]) < 1e-5, "decoder: the first token sees the others")


def refuse(checks, label, code, words, *call, ranks=0):
    done = harness.start("embed", *call, ranks=ranks)
    said = done.stderr.count("mpilora embed: ") == 1 and (ranks > 0 or done.stderr.count("\n") == 1)
    checks.that(done.returncode == code and all(word in done.stderr for word in words) and said, f"{label}: exit {done.returncode}, {done.stderr}")


def check_bad_input(checks, folder, texts):
    base, out = f"{folder}/encoder.h5", f"{folder}/bad.npy"
    shutil.copy(texts, f"{folder}/texts.npy")
    refuse(checks, "the texts as the vectors", 2, ["same file"], "--base", base, f"{folder}/texts.npy", f"{folder}/texts.npy")
    refuse(checks, "the base as the vectors", 2, ["same file"], "--base", base, texts, base)
    for stages in (("--pp", "2"), ("--pp=2",)):
        refuse(checks, "stages", 2, ["--pp: embed has no pipelines", "--tp"], "--base", base, texts, f"{folder}/out.npy", *stages, ranks=2)
    files = {"empty.txt": "", "hole.txt": "one\n\nthree\n", "hole.jsonl": '{"text": "one"}\n{"text": ""}\n', "number.jsonl": '{"text": 3}\n', "broken.jsonl": '{"text": "one"\n'}
    for name, text in files.items():
        write(f"{folder}/{name}", text)
    refuse(checks, "no texts", 3, ["empty.txt", "no text"], "--base", base, f"{folder}/empty.txt", out)
    refuse(checks, "an empty line", 3, ["hole.txt:2", "empty"], "--base", base, f"{folder}/hole.txt", out, ranks=2)
    refuse(checks, "an empty text", 3, ["hole.jsonl:2", "empty"], "--base", base, f"{folder}/hole.jsonl", out)
    refuse(checks, "a number", 3, ["number.jsonl:1", "text"], "--base", base, f"{folder}/number.jsonl", out)
    refuse(checks, "broken", 3, ["broken.jsonl:1", "JSON"], "--base", base, f"{folder}/broken.jsonl", out)
    done = harness.start("embed", "--base", base, f"{folder}/texts.jsonl", out, ranks=2)
    warned = [line for line in done.stderr.splitlines() if "not read" in line]
    checks.that(done.returncode == 0 and len(warned) == 1 and 'texts.jsonl: not read: "id";' in warned[0], f"a column beside the text: exit {done.returncode}: {done.stderr}")
    os.remove(out)
    refuse(checks, "no file", 3, ["nowhere.txt"], "--base", base, f"{folder}/nowhere.txt", out)
    refuse(checks, "an unknown format", 2, ["out.csv", ".npy"], "--base", base, texts, f"{folder}/out.csv")
    refuse(checks, "an unknown pooling", 2, ["max", "mean, cls, last"], "--base", base, texts, out, "--pooling", "max")
    refuse(checks, "too long", 2, ["--max-len", "48"], "--base", base, texts, out, "--max-len", 49)
    refuse(checks, "a tp that does not divide", 2, ["2 ranks"], "--base", base, texts, out, "--tp", 3, ranks=2)
    refuse(checks, "nowhere to write", 4, ["nowhere"], "--base", base, texts, f"{folder}/nowhere/out.npy", ranks=2)
    directory = f"{folder}/dense"
    shutil.copytree(f"{folder}/encoder", directory)
    write_modules(directory, "sentence_transformers.models", [*MODULES[:2], ("Dense", "2_Dense")])
    write(f"{directory}/1_Pooling/config.json", {"pooling_mode": "mean"})
    harness.mpilora("import", directory, f"{folder}/dense.h5", "--dtype", "fp32")
    refuse(checks, "another module", 3, ["modules.json", "Dense", "--pooling"], "--base", f"{folder}/dense.h5", texts, out)
    write_modules(directory, "sentence_transformers.models")
    write(f"{directory}/1_Pooling/config.json", {"pooling_mode": "max"})
    harness.mpilora("import", directory, f"{folder}/max.h5", "--dtype", "fp32")
    refuse(checks, "another pooling", 3, ["1_Pooling/config.json", "max", "--pooling"], "--base", f"{folder}/max.h5", texts, out)
    checks.that(not [name for name in os.listdir(folder) if name.startswith("bad.npy")], f"a file was left: {os.listdir(folder)}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, f"{harness.SOURCE}/jobs/make_byte_tokenizer.py", f"{folder}/tokenizer"], check=True)
        make(folder, "encoder", ENCODER)
        make(folder, "decoder", DECODER)
        make(folder, "projected", PROJECTED)
        texts = f"{folder}/texts.txt"
        write(texts, "\n".join(TEXTS) + "\n")
        write(f"{folder}/texts.jsonl", "\n".join(json.dumps({"text": text, "id": i}) for i, text in enumerate(TEXTS)) + "\n\n")
        check_directories(checks, folder, texts)
        check_prompt(checks, folder, texts)
        check_grids(checks, folder, texts)
        check_bad_input(checks, folder, texts)
    checks.end()


if __name__ == "__main__":
    main()
