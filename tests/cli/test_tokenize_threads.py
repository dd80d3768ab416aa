"""mpilora tokenize on 1 and 4 threads: the same bytes of every format and model, and the first bad line is the one that is named, though others are read ahead of it."""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile

MPILORA = os.environ["MPILORA"]
SOURCE = os.environ["MPILORA_SOURCE_DIR"]
TOKENIZERS = os.path.join(SOURCE, "tests", "golden", "tokenizer")
MODEL = "family: llama\nlayers: 1\nwidth: 16\nmlp_width: 32\nheads: 2\nkv_heads: 1\nhead_dim: 8\nvocab: 4096\ncontext: 64\n"
ROWS = 9000  # more than a batch
TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('never so') }}{% endif %}{{ '<|' + m.role + '|>' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tokenize(threads, *words, code=0):
    done = subprocess.run([MPILORA, "tokenize", *words], text=True, capture_output=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode != code:
        sys.exit(f"{threads} threads: mpilora tokenize {' '.join(words)}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout.replace(words[-1], "OUT") + done.stderr


def write(name, lines):
    with open(name, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def same(base, name, *options):
    """Both data sets, and all that is said."""
    said, content = [], []
    for threads in (1, 4):
        said.append(tokenize(threads, "--base", base, *options, name, f"{threads}.h5"))
        with open(f"{threads}.h5", "rb") as file:
            content.append(hashlib.sha256(file.read()).hexdigest())
    if said[0] != said[1] or content[0] != content[1]:
        sys.exit(f"{name} with {base} {options}: 4 threads make another data set than 1:\n{said[0]}{said[1]}")


def make_files():
    draw = random.Random(5)
    words = ["the", "river", "runs", "to", "sea", "naïve", "<|endoftext|>", "日本", "x", "1234", "don't", "…", "ß", "\u0301", "\U0001f600"]

    def text(most=9):
        return " ".join(draw.choice(words) for _ in range(draw.randint(1, most)))

    def rows(one, count=ROWS):
        return [json.dumps(one(i), ensure_ascii=i % 2 == 0) for i in range(count)]

    write("text.jsonl", rows(lambda i: {"text": text() + " end", "id": i}))
    write("prompts.jsonl", rows(lambda i: {"prompt": text(), "completion": " " + text()}))
    write("pairs.jsonl", rows(lambda i: {"prompt": text(), "chosen": f" a {i}" + text(), "rejected": f" b {i}" + text()}, 300))
    write("implicit.jsonl", rows(lambda i: {"chosen": "the river a" + text(), "rejected": "the river b" + text()}, 300))
    write("judged.jsonl", rows(lambda i: {"prompt": text(), "completion": " " + text(), "label": i % 3 > 0}, 300))
    write("labels.jsonl", rows(lambda i: {"text_a": text(30), "text_b": text(40), "label": draw.choice(["no", "yes", "maybe"])}, 300))
    write("ids.jsonl", rows(lambda i: {"input_ids": [(i + 7 * k) % 401 for k in range(2 + i % 9)]}))
    write("e2e.txt", [text() + "|| the sea" + text() for i in range(300)])
    write("words.conll", [f"{draw.choice(words)} x {draw.choice(['O', 'B-LOC'])}" if i % 7 else "" for i in range(300)])
    write("table.tsv", ["sentence\tlabel"] + [f"{text()}\t{i % 2}" for i in range(300)])

    def talk(turns, last=None):
        roles = ["user", "assistant"] * turns
        return [{"role": role, "content": text()} for role in roles[:-1]] + [{"role": "assistant", "content": last or text() + " end"}]

    write("talks.jsonl", rows(lambda i: {"messages": talk(1 + i % 3)}, 2500))
    write("long.jsonl", rows(lambda i: {"messages": talk(400 if i % 5 == 0 else 2)}, 20))  # more than is rendered ahead
    write("given.jsonl", rows(lambda i: {"prompt": talk(1 + i % 2)[:-1], "completion": talk(1)[1:]}, 200))
    write("chosen.jsonl", rows(lambda i: {"prompt": talk(1)[:-1], "chosen": [talk(1, f"a {i}")[-1]], "rejected": [talk(1, f"b {i}")[-1]]}, 300))
    write("alike.jsonl", rows(lambda i: {"chosen": (start := talk(1 + i % 2)[:-1]) + [talk(1, "a b")[-1]], "rejected": start + [talk(1, "c d")[-1]]}, 300))
    write("wanted.jsonl", rows(lambda i: {"prompt": talk(1)[:-1], "completion": talk(1)[1:], "label": i % 3 > 0}, 300))
    write("template.jinja", [TEMPLATE])
    write("text.txt", [text(30) if i % 50 else "" for i in range(30000)])  # documents
    write("book.txt", [text(30) for i in range(30000)])  # one, in several parts


def test_formats():
    for name in ("text.jsonl", "prompts.jsonl", "pairs.jsonl", "implicit.jsonl", "judged.jsonl", "labels.jsonl", "ids.jsonl", "e2e.txt", "text.txt", "book.txt"):
        same("smollm.h5", name)
    same("smollm.h5", "text.jsonl", "--special-tokens", "ids")
    same("smollm.h5", "words.conll", "--format", "conll")
    same("smollm.h5", "table.tsv", "--format", "glue", "--task", "sst2")


def test_models():
    """One of each model, with and without a normalizer and a pattern."""
    for name in ("gpt2", "llama", "llama3", "bert", "unigram", "words", "sentencepiece-bpe", "sentencepiece-unigram"):
        make_base(name)
        same(f"{name}.h5", "e2e.txt")


def test_chats():
    """Each thread has its own process for the template. What a template refuses is the first of its kind, too."""
    for name in ("talks", "long", "given", "chosen", "alike", "wanted"):
        same("smollm.h5", f"{name}.jsonl", "--chat-template", "template.jinja")
    with open("talks.jsonl", encoding="utf-8") as file:
        lines = file.read().split("\n")
    no, none = json.dumps({"messages": [{"role": "user", "content": "no"}, {"role": "assistant", "content": "a"}]}), '{"messages": [{"role": "user", "content": "a"}]}'
    for number, first, second, words in ((3, no, none, "never so"), (1500, none, no, "no message of the assistant")):
        write("bad.jsonl", lines[:number] + [first] + lines[number : number + 200] + [second] * 3)
        said = {tokenize(threads, "--base", "smollm.h5", "--chat-template", "template.jinja", "bad.jsonl", "bad.h5", code=3) for threads in (1, 4)}
        assert len(said) == 1 and f"bad.jsonl: line {number + 1}: " in min(said) and words in min(said), (number, said)


def test_errors():
    """Of three bad lines, far behind each other and of different kinds, the first is named."""
    with open("text.jsonl", encoding="utf-8") as file:
        lines = file.read().split("\n")
    bad = ['{"text": "a b"', '{"txet": "c d"}', '{"text": 5}', "5"]
    for first in range(4):
        for number in (2, 8195):
            write("bad.jsonl", lines[:number] + [bad[first]] + lines[number:8300] + [bad[first - 1]] + lines[8300:8500] + bad)
            said = {tokenize(threads, "--base", "smollm.h5", "bad.jsonl", "bad.h5", code=3) for threads in (1, 4)}
            assert len(said) == 1 and f"bad.jsonl: line {number + 1}: " in min(said), (number, bad[first], said)


def make_base(name):
    subprocess.run([MPILORA, "import", "--init", "random", "--config", "model.yaml", "--tokenizer", os.path.join(TOKENIZERS, name), f"{name}.h5"], check=True,
                   stdout=subprocess.DEVNULL, timeout=60)  # fmt: skip


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write("model.yaml", [MODEL])
        make_base("smollm")
        make_files()
        test_formats()
        test_models()
        test_chats()
        test_errors()
        os.chdir("/")


main()
