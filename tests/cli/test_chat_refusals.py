"""Bad input from a chat to a served adapter, on 4 ranks where the command has several: templates that fail, loop, take all memory, ask for what the sandbox forbids, or refuse a role; answers
that are equal, prompts that differ, labels that are no truth values; runs whose bases or vocabularies differ; adapters that no GGUF file can say. Each time one line, before any work; nothing
is written, and no process is left."""

import json
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import chat_cases
import harness
from harness import SOURCE, Checks, mpilora

USAGE, INPUT, RANKS = 2, 3, 4
MODEL = "{{family: llama, layers: 2, width: 32, mlp_width: 48, heads: 4, kv_heads: 2, vocab: {}, context: 4096}}\n"
SAID = [{"role": "user", "content": "Where does the river go?"}, {"role": "assistant", "content": "To the sea."}]
OTHER = {"role": "assistant", "content": "Nowhere."}
LOOPS = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
# name -> template, what is said of it
TEMPLATES = {
    "fails": ("{{ messages[0].nothing + 1 }}", "at message 1 (user): line 1 of the template"),
    "loops": (LOOPS, "at message 1 (user): line 1 of the template: it needs more than 5 s of processor time"),
    "grows": ("{{ 'x' * 10 ** 10 }}", "more memory than it is allowed"),
    "asks": ("{{ ''.__class__.__mro__ }}", "the sandbox forbids it"),
    "refuses": ("{% for m in messages %}{% if m.role == 'user' %}\n{{ raise_exception('no users here') }}{% endif %}{% endfor %}", "at message 1 (user): line 2 of the template: no users here"),
    "is none": ("{% if %}", "line 1 of the template"),
}
MARK = f"MPILORA_TEST_MARK={os.getpid()}-{time.time_ns()}"
check = Checks()


def processes():
    """Those that a command of this test has started and that still are."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file, open(f"/proc/{pid}/stat") as state:
                if MARK.encode() in file.read().split(b"\0") and state.read().rsplit(")", 1)[1].split()[0] != "Z":
                    found.append(pid)
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found


def left():
    """A launcher's own helpers end shortly after it."""
    end = time.monotonic() + 5
    while (found := processes()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def snapshot():
    return {os.path.join(folder, name) for folder, folders, files in os.walk(".") for name in folders + files}


def refused(what, code, says, *words, ranks=0, text="", threads=1):
    before = snapshot()
    name, value = MARK.split("=")
    environment = {**harness.WITHOUT_DELAY, name: value, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(harness.command(*words, ranks=ranks), text=True, capture_output=True, input=text, timeout=300, env=environment)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora") and not line.startswith("mpilora: warning")]
    about = f"{what}, {words[0]}, {ranks or 1} ranks"
    check.that(done.returncode == code, f"{about}: exit {done.returncode}, expected {code}: {done.stderr}")
    check.that(len(lines) == 1 and says in lines[0], f"{about}: expected one line with {says!r}: {done.stderr}")
    check.that(not done.stdout.strip(), f"{about}: printed {done.stdout}")
    check.that(snapshot() == before, f"{about}: wrote {sorted(snapshot() ^ before)}")
    check.that(not left(), f"{about}: processes {processes()} are left")


def write_rows(name, *rows):
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def check_templates():
    write_rows("chats.jsonl", *[{"messages": SAID}] * 40)
    write_rows("pairs.jsonl", *[{"prompt": SAID[:1], "chosen": SAID[1:], "rejected": [OTHER]}] * 40)
    for name, (text, says) in TEMPLATES.items():
        with open("bad.jinja", "w") as file:
            file.write(text)
        template = ("--base", "base.h5", "--chat-template", "bad.jinja")
        generate = ("generate", *template, "--chat", "--max-new", 4)
        refused(f"a template that {name}", INPUT, says, "tokenize", *template, "pairs.jsonl", "none.h5", threads=2)
        refused(f"a template that {name}", INPUT, says, *generate, "--prompts", "chats.jsonl", "--out", "none.jsonl", ranks=RANKS)
        if name == "loops":  # the others end at once
            continue
        refused(f"a template that {name}", INPUT, says, "tokenize", *template, "chats.jsonl", "none.h5", threads=4)
        refused(f"a template that {name}", INPUT, says, *generate, "--prompt", "Hi", "--json", ranks=RANKS)
        refused(f"a template that {name}, in a conversation", INPUT, says, *generate, text="Hi\n", ranks=RANKS)


def check_rows():
    for what, row, says in (
        ("equal answers", {"prompt": SAID[:1], "chosen": SAID[1:], "rejected": SAID[1:]}, "chosen and rejected are equal"),
        ("prompts that differ", {"chosen": SAID, "rejected": [{"role": "user", "content": "Why?"}, OTHER]}, "message 1"),
        ("a label that is a word", {"prompt": SAID[:1], "completion": SAID[1:], "label": "yes"}, "true or false"),
        ("a label that is a number", {"prompt": SAID[:1], "completion": SAID[1:], "label": 1}, "true or false"),
        ("a label that is null", {"prompt": SAID[:1], "completion": SAID[1:], "label": None}, "label"),
    ):
        write_rows("rows.jsonl", {"prompt": SAID[:1], "completion": SAID[1:], "label": True} if "label" in row else {"prompt": SAID[:1], "chosen": SAID[1:], "rejected": [OTHER]}, row)
        refused(what, INPUT, "rows.jsonl: line 2: ", "tokenize", "--base", "base.h5", "--chat-template", "good.json", "rows.jsonl", "none.h5", threads=4)
        refused(what, INPUT, says, "tokenize", "--base", "base.h5", "--chat-template", "good.json", "rows.jsonl", "none.h5")


def write_config(**more):
    given = {"run": {"dir": "runs/none"}, "base": "base.h5", "data": {"train": "data.h5", "valid": "data.h5"}, "method": {"name": "lora", "rank": 2}, "batch": {"sequences": 4},
             "train": {"steps": 2}, "precision": "fp32"}  # fmt: skip
    return harness.write_config("run.yaml", **{**given, **more})


def check_runs():
    first = {"dir": "runs/a"}
    for what, sets, code, says in (
        ("bases that differ", {"base": "same.h5"}, USAGE, "base: differs between runs/a and runs/b"),
        ("data of another vocabulary", {"data.train": "other-data.h5"}, INPUT, "other-data.h5: made for a vocabulary of"),
        ("validation of another vocabulary", {"data.valid": "other-data.h5"}, INPUT, "other-data.h5: made for a vocabulary of"),
    ):
        refused(what, code, says, "train", write_config(runs=[first, {"dir": "runs/b", "set": sets}]), ranks=RANKS)
        refused(f"{what}, two groups", code, says, "train", "run.yaml", "--set", "parallel.tp=2", ranks=RANKS)
    refused("a validation of another vocabulary", INPUT, "other-data.h5: made for a vocabulary of", "eval", write_config(), "--set", "data.valid=other-data.h5", ranks=RANKS)
    write_config()
    refused("a row of another vocabulary", INPUT, "data.h5: made for a vocabulary of", "compare", "run.yaml", "--methods", "lora,lora:base=other.h5", "--together", 2, "--out", "none")
    refused("data of another vocabulary", INPUT, "other-data.h5: made for a vocabulary of", "compare", "run.yaml", "--methods", "lora,lora:rank=3", "--together", 2, "--out", "none", "--set", "data.train=other-data.h5")
    refused("data of another vocabulary", INPUT, "other-data.h5: made for a vocabulary of", "sweep", "ranks", "run.yaml", "--lora-ranks", "1,2", "--targets", "q", "--json", "--together", 2, "--out", "none", "--set", "data.valid=other-data.h5")


def check_adapters():
    for name, keys in (
        ("dora", {"name": "lora", "dora": True}), ("adapter_h", {"bottleneck": 4}), ("adapter_l", {"bottleneck": 4}), ("compacter", {"bottleneck": 4, "factors": 2}),
        ("prefix_embed", {"prefix": 2, "infix": 0}), ("prefix_layer", {"prefix": 2, "infix": 0}), ("prefix_kv", {"prefix": 2}),
    ):  # fmt: skip
        method = {"name": name, **keys} | ({"rank": 2} if keys.get("name") == "lora" else {})
        mpilora("train", write_config(method=method, run={"dir": f"kept/{name}"}))
        refused(f"an adapter of {name}", USAGE, "GGUF", "export", "--format", "gguf", "--base", "base.h5", "--adapter", f"kept/{name}/adapter.h5", "none.gguf")


def main():
    chat_cases.need_jinja2()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        size = chat_cases.make_tokenizer(SOURCE, "tokenizer")
        for name, vocab in (("base", size), ("same", size), ("other", size + 8)):
            with open(f"{name}.yaml", "w") as file:
                file.write(MODEL.format(vocab))
            mpilora("import", "--init", "random", "--config", f"{name}.yaml", "--tokenizer", "tokenizer", f"{name}.h5")
        chat_cases.write_config("good.json", chat_cases.CHATML)
        write_rows("ids.jsonl", *[{"input_ids": [(7 * i + 3 * j) % 101 + 1 for j in range(8)]} for i in range(8)])
        for base, data in (("base", "data"), ("other", "other-data")):
            mpilora("tokenize", "--base", f"{base}.h5", "--format", "ids", "ids.jsonl", f"{data}.h5")
        for test in (check_templates, check_rows, check_runs, check_adapters):
            test()
        os.chdir("/")
    check.end()


main()
