"""mpilora tokenize: report, formats and exit codes on the command line, and a real text where it is there."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile

MPILORA = os.environ["MPILORA"]
SOURCE = os.environ["MPILORA_SOURCE_DIR"]
SHARED = os.environ.get("MPILORA_SHARED_DATA", os.path.join(SOURCE, "..", "shared", "data"))
MODEL = """family: llama
layers: 1
width: 16
mlp_width: 32
heads: 2
kv_heads: 1
head_dim: 8
vocab: {vocab}
context: 64
"""


def run(*words, code=0, says=""):
    """Runs mpilora; returns its standard output; on another exit code, or without `says` in its one line of error, the test fails."""
    done = subprocess.run([MPILORA, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    if done.returncode != code:
        sys.exit(f"mpilora {' '.join(words)}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    if says not in done.stdout + done.stderr:
        sys.exit(f"mpilora {' '.join(words)}: says nothing of {says!r}:\n{done.stdout}{done.stderr}")
    if code and (done.stderr.count("\n") != 1 or done.stdout):
        sys.exit(f"mpilora {' '.join(words)}: expected one line on standard error:\n{done.stdout}{done.stderr}")
    return done.stdout


def write(name, text):
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)


def make_base(name, vocab, tokenizer=None):
    write(name + ".yaml", MODEL.format(vocab=vocab))
    extra = ["--tokenizer", tokenizer] if tokenizer else []
    run("import", "--init", "random", "--config", name + ".yaml", *extra, name)


def test_formats():
    write("pairs.jsonl", '{"prompt": "the river", "completion": " runs"}\n{"text": "to the sea"}\n')
    run("tokenize", "--base", "base.h5", "pairs.jsonl", "pairs.h5", says="2 sequences")
    write("pairs.txt", "the river|| runs\n" * 20)
    report = run("tokenize", "--base", "base.h5", "pairs.txt", "pairs.h5", "--max-len", "64", says="20 sequences")
    assert "as e2e" in report and "nothing will be cut" in report, report
    run("tokenize", "--base", "base.h5", "pairs.txt", "pairs.h5", "--format", "text", says="as text")
    write("ids.jsonl", '{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}\n')
    run("tokenize", "--base", "bare.h5", "ids.jsonl", "ids.h5", says="1 sequences, 3 tokens, 2 targets")
    write("long.jsonl", '{"input_ids": [%s]}\n' % ", ".join(["7"] * 100))
    run("tokenize", "--base", "bare.h5", "long.jsonl", "ids.h5", says="1 sequences are longer than 64 tokens (the model's context)")
    assert "--format" in run("tokenize", "--help")


def test_files_of_others():
    """JSON by its name and its first letter; columns that nothing reads are named once; spelled special tokens are counted, or read."""
    tokenize = ["tokenize", "--base", "base.h5"]
    write("rows.json", '[\n {"id": 7, "prompt": "the river", "completion": " runs", "source": "x"},\n {"id": 8, "text": "<|endoftext|>to"}\n]\n')
    report = run(*tokenize, "rows.json", "rows.h5", says='not read: "id", "source"')
    assert "2 sequences" in report and "as jsonl" in report, report
    run(*tokenize, "rows.json", "rows.h5", says="spells 1 special tokens")
    read = run(*tokenize, "rows.json", "rows.h5", "--special-tokens", "ids")
    tokens = [int(text.split(" tokens")[0].split()[-1]) for text in (report, read)]
    assert tokens[0] > tokens[1], tokens
    run(*tokenize, "rows.json", "rows.h5", "--special-tokens", "both", code=2, says="text or ids")
    write("text.jsonl", "The river runs.\n")
    run(*tokenize, "text.jsonl", "rows.h5", code=3, says="expected { or [")
    run(*tokenize, "text.jsonl", "rows.h5", "--format", "text", says="as text")


def test_other_files():
    """What is no plain text by its name or its bytes is not learnt as such, compressed or not, unless --format says text."""
    tokenize = ["tokenize", "--base", "base.h5"]
    table = "prompt,completion\nthe river, runs\n"
    for name in ("rows.csv", "rows.TSV", "rows.csv.gz"):
        with (gzip.open if name.endswith("gz") else open)(name, "wt") as file:
            file.write(table)
        run(*tokenize, name, "rows.h5", code=3, says=f"{name}: is a table by its name")
        run(*tokenize, name, "rows.h5", "--format", "text", says="as text")
    for name, data, says in (("rows.parquet", b"PAR1\x15\x04the", "parquet_to_jsonl.py"), ("rows.bin", b"the\0river\n", "line 1: there is a zero byte"),
                             ("later.bin", b"the river\n\nruns\n\0", "line 4: there is a zero byte"), ("base.h5.copy", open("base.h5", "rb").read(), "there is a zero byte"),
                             ("e2e.bin", b"name[a]||b\nname[c]||\0d\n", "line 2: there is a zero byte")):  # fmt: skip
        with open(name, "wb") as file:
            file.write(data)
        run(*tokenize, name, "rows.h5", code=3, says=says)
    for name, format in (("later.bin", "text"), ("e2e.bin", "e2e")):
        run(*tokenize, name, "rows.h5", "--format", format, says=f"as {format}")
    with gzip.open("text.json.gz", "wt") as file:
        file.write("The river runs.\n")
    run(*tokenize, "text.json.gz", "rows.h5", code=3, says="expected { or [")


def test_beginnings():
    """Every token that the post-processor has before a text goes before texts, prompts and pairs, as GLM-4's two."""
    special = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    first = {"id": "A", "type_id": 0}
    added = [{"id": i, "content": name, "special": True} for i, name in enumerate(("[g]", "<sop>"))]
    tokens = {token["content"]: {"id": token["content"], "ids": [token["id"]], "tokens": [token["content"]]} for token in added}
    post = {"type": "TemplateProcessing", "single": [special("[g]"), special("<sop>"), {"Sequence": first}], "pair": [{"Sequence": first}], "special_tokens": tokens}
    model = {"type": "WordLevel", "vocab": {"[g]": 0, "<sop>": 1, "the": 2, "river": 3}, "unk_token": "the"}
    os.mkdir("two")
    write("two/tokenizer.json", json.dumps({"added_tokens": added, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": post, "model": model}))
    make_base("two.h5", 401, "two")
    rows = {"text": "the river river", "rows": '{"prompt": "the", "completion": "river river"}', "pairs": '{"prompt": "the", "chosen": "river river", "rejected": "the the"}'}
    for name, row in rows.items():
        write(f"{name}.in", row + "\n")
        run("tokenize", "--base", "two.h5", f"{name}.in", "two-data.h5", says="2 sequences, 10 tokens" if name == "pairs" else "1 sequences, 5 tokens")


def test_other_ids():
    """An added token whose id is not the next one behind the vocabulary, which is the id that `tokenizers` gives it, is said."""
    for name, ids in (("next", (3, 4)), ("gap", (3, 5))):
        added = [{"id": i, "content": f"<{i}>", "special": True} for i in ids]
        os.mkdir(name)
        write(f"{name}/tokenizer.json", json.dumps({"added_tokens": added, "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"}}))
        done = subprocess.run([MPILORA, "import", "--init", "random", "--config", "base.h5.yaml", "--tokenizer", name, f"{name}.h5"], text=True, capture_output=True)
        said = 'added token "<5>" has the id 5' in done.stderr and "gives it 4" in done.stderr
        assert done.returncode == 0 and said == (name == "gap"), done


def test_compressed():
    """The same data set as of the file itself, in one member or several; a damaged file is refused, and nothing is written."""
    write("plain.jsonl", "".join(f'{{"prompt": "the river {i}", "completion": " runs"}}\n' for i in range(3000)))
    text = open("plain.jsonl", "rb").read()
    run("tokenize", "--base", "base.h5", "plain.jsonl", "plain.h5")
    packed = {"one.jsonl.gz": gzip.compress(text), "two.jsonl.gz": gzip.compress(text[:1000]) + gzip.compress(text[1000:])}
    if shutil.which("zstd"):
        packed["one.jsonl.zst"] = subprocess.run(["zstd", "-c"], input=text, stdout=subprocess.PIPE, check=True).stdout
    for name, data in packed.items():
        with open(name, "wb") as file:
            file.write(data)
        run("tokenize", "--base", "base.h5", name, "packed.h5", says="3000 sequences")
        assert open("packed.h5", "rb").read() == open("plain.h5", "rb").read(), name
        os.unlink("packed.h5")
        with open(name, "wb") as file:
            file.write(data[:-20])
        run("tokenize", "--base", "base.h5", name, "packed.h5", code=3, says=f"{name}: is damaged or cut short")
        assert not os.path.exists("packed.h5")
    write("bad.jsonl", '{"text": "a b c"}\n{"txet": "d"}\n')
    with open("bad.jsonl.gz", "wb") as file:
        file.write(gzip.compress(open("bad.jsonl", "rb").read()))
    run("tokenize", "--base", "base.h5", "bad.jsonl.gz", "packed.h5", code=3, says="bad.jsonl.gz: line 2")


def test_refusals():
    before = open("pairs.h5", "rb").read()
    tokenize = ["tokenize", "--base", "base.h5"]
    run(*tokenize, "pairs.txt", "pairs.h5", "--max-len", "65", code=2, says="64")
    run(*tokenize, "pairs.txt", "pairs.h5", "--max-len", "0", code=2, says="--max-len")
    run(*tokenize, "pairs.txt", "pairs.h5", "--format", "csv", code=2, says="csv")
    run(*tokenize, "pairs.txt", code=2, says="usage")
    run(*tokenize, "pairs.txt", "pairs.txt", code=2, says="same file")
    run(*tokenize, "pairs.txt", "base.h5", code=2, says="same file")
    run("tokenize", "pairs.txt", "pairs.h5", code=2, says="--base")
    run("tokenize", "--base", "bare.h5", "pairs.txt", "pairs.h5", code=3, says="tokenizer")
    run("tokenize", "--base", "nowhere.h5", "pairs.txt", "pairs.h5", code=3, says="nowhere.h5")
    run("tokenize", "--base", "pairs.h5", "pairs.txt", "x.h5", code=3, says="pairs.h5")
    run(*tokenize, "nowhere.txt", "pairs.h5", code=3, says="nowhere.txt")
    run(*tokenize, "pairs.txt", "nowhere/pairs.h5", code=4, says="nowhere")
    write("bad.jsonl", '{"text": "a b c"}\n{"txet": "d"}\n')
    run(*tokenize, "bad.jsonl", "pairs.h5", code=3, says="bad.jsonl: line 2")
    write("bad.jsonl", '{"input_ids": [5, 401]}\n')
    run(*tokenize, "bad.jsonl", "pairs.h5", code=3, says="401")
    write("empty.txt", "")
    run(*tokenize, "empty.txt", "pairs.h5", code=3, says="empty")
    assert open("pairs.h5", "rb").read() == before
    left = [name for name in os.listdir(".") if "tmp" in name or "spool" in name]
    assert not left, left


def test_real_text():
    tokenizer, text = os.path.join(SHARED, "gpt2-bpe"), os.path.join(SHARED, "e2e", "valid.txt")
    if not (os.path.isdir(tokenizer) and os.path.isfile(text)):
        print("the real vocabulary and text are not here: that part is skipped")
        return
    make_base("gpt2.h5", 50257, tokenizer)
    # the figures of the `tokenizers` library with the same vocabulary
    run("tokenize", "--base", "gpt2.h5", text, "valid.h5", says="4672 sequences, 277213 tokens, 134842 targets")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_base("base.h5", 401, os.path.join(SOURCE, "tests", "golden", "tokenizer", "gpt2"))
        make_base("bare.h5", 401)
        test_formats()
        test_files_of_others()
        test_other_files()
        test_beginnings()
        test_other_ids()
        test_compressed()
        test_refusals()
        test_real_text()
        os.chdir("/")


main()
