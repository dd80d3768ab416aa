"""README.md and docs/ tell the truth: every shell block runs against a small model, links lead somewhere, files that are named exist, every command is shown.

A block between ```sh and ``` runs as it stands, line after line in one bash, in a folder where what the pages speak of is at hand: base.h5, its Hugging Face
directory model/, texts and data sets, run.yaml (the block of docs/getting-started.md), a finished run in runs/mine, and the folders of the sources. A block that needs
a cluster, a download, or a long time has the comment `<!-- not run: why -->` on the line before it; the test prints them.
"""

import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.environ["MPILORA_SOURCE_DIR"], "tests"))
from harness import PROGRAM, SOURCE, Checks, mpilora  # noqa: E402

MOST_EXEMPT = 8
README_LINES = 100
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
EXEMPT = re.compile(r"<!-- not run: (.+) -->\n$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"(?<![\w/.-])((?:src|tests|jobs|configs|analysis|docs|include/mpilora)/[\w./-]*[\w/])")


def pages():
    """README.md, CONTRIBUTING.md, CHANGELOG.md, jobs/README.md and docs/, by their names below the sources."""
    docs = sorted(f"docs/{name}" for name in os.listdir(f"{SOURCE}/docs") if name.endswith(".md"))
    return ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "jobs/README.md", *docs]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def shell_blocks(text):
    """(number of the first line, text, why it is not run or None) of each ```sh block."""
    blocks = []
    for match in FENCE.finditer(text):
        if match.group(1) == "sh":
            before = EXEMPT.search(text[: match.start()])
            blocks.append((text.count("\n", 0, match.start()) + 2, match.group(2), before and before.group(1)))
    return blocks


# ---- what the commands find -------------------------------------------------------------------------------------------------


def run_yaml():
    """The configuration that docs/getting-started.md shows."""
    for language, text in FENCE.findall(read(f"{SOURCE}/docs/getting-started.md")):
        if language == "yaml" and text.startswith("run:"):
            return text
    sys.exit("docs/getting-started.md: no block of yaml that begins with run:")


def write_texts(folder):
    """Attributes and sentences in every format that tokenize reads, and outputs with references for score."""
    names = ["Blue Lantern", "Wild Crown", "Old Mill", "Red Door"]
    pairs = [(f"name[{name}], food[{food}] ->", f" {name} serves {food} food.") for name in names for food in ("Greek", "Thai", "Irish")]
    files = {
        "train.jsonl": [json.dumps({"prompt": prompt, "completion": text}) for prompt, text in pairs],
        "valid.jsonl": [json.dumps({"prompt": prompt, "completion": text}) for prompt, text in pairs[:4]],
        "lines.txt": [f"{prompt}||{text}" for prompt, text in pairs],
        "book.txt": [text for _, text in pairs],
        "chats.jsonl": [json.dumps({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]}) for prompt, text in pairs],
        "template.jinja": ["{% for m in messages %}<{{ m.role }}>{{ m.content }}</turn>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"],
        "ids.jsonl": [json.dumps({"input_ids": [1, 2, 3], "labels": [-100, 2, 3]})],
        "outputs.txt": [text for _, text in pairs[:2]],
        "references.txt": [pairs[0][1], pairs[1][1], "", pairs[1][1]],
    }
    for name, lines in files.items():
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def prepare(folder):
    os.chdir(folder)
    write_texts(folder)
    subprocess.run([sys.executable, f"{SOURCE}/jobs/make_byte_tokenizer.py", "tokenizer"], check=True)
    mpilora("import", "--init", "random", "--config", f"{SOURCE}/configs/models/tiny-llama.yaml", "--tokenizer", "tokenizer", "random.h5")
    mpilora("export", "--format", "hf", "--base", "random.h5", "model")
    mpilora("import", "model", "base.h5")
    for name in ("train", "valid"):
        mpilora("tokenize", "--base", "base.h5", f"{name}.jsonl", f"{name}.h5")
    with open("run.yaml", "w", encoding="utf-8") as file:
        file.write(run_yaml())
    for run in ("mine", "other"):
        mpilora("train", "run.yaml", "--set", f"run.dir=runs/{run}")
    mpilora("export", "--format", "peft", "--base", "base.h5", "--adapter", "runs/mine/adapter.h5", "peft")
    for name in ("analysis", "configs", "jobs"):
        os.symlink(f"{SOURCE}/{name}", name)
    os.makedirs("bin")
    os.symlink(PROGRAM, "bin/mpilora")


# ---- running a page ---------------------------------------------------------------------------------------------------------


def can_plot():
    return subprocess.run(["python3", "-c", "import matplotlib"], capture_output=True).returncode == 0


def run_page(page, home, plots):
    """The commands of one page in a copy of the folder; what went wrong, or None."""
    script = ["set -euo pipefail"]
    for line, text, exempt in shell_blocks(read(f"{SOURCE}/{page}")):
        if exempt:
            continue
        if not plots:
            text = re.sub(r"^python3 analysis/.*$", "", text, flags=re.M)
        script += [f"at={line}", text]
    script.insert(1, f"at=0; trap 'echo \"{page}: a command of the block at line $at failed\" >&2' ERR")
    with tempfile.TemporaryDirectory() as folder:
        here = shutil.copytree(home, f"{folder}/here", symlinks=True)
        done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=here, encoding="utf-8", errors="replace", capture_output=True, timeout=300, stdin=subprocess.DEVNULL,
                              env=dict(os.environ, PATH=f"{here}/bin:{os.environ['PATH']}", TMPDIR=folder))
    return None if done.returncode == 0 else f"{page} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"


def run_commands(checks, texts):
    with tempfile.TemporaryDirectory() as home:
        prepare(home)
        os.chdir("/")
        plots = can_plot()
        if not plots:
            print("without matplotlib the lines `python3 analysis/…` are left out")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for fault in pool.map(lambda page: run_page(page, home, plots), texts):
                checks.that(fault is None, fault)


# ---- what is written --------------------------------------------------------------------------------------------------------


WALK = re.compile(r"^### ([^\n]+), (\d+) files\n(.*?)(?=^###? |\Z)", re.M | re.S)


def check_walks(checks):
    """Each walk of docs/architecture.md has as many files as its title says."""
    walks = WALK.findall(read(f"{SOURCE}/docs/architecture.md"))
    checks.that(len(walks) == 4, f"docs/architecture.md: {len(walks)} walks")
    for title, said, text in walks:
        named = set(re.findall(r"`(src/[\w./]+\.c)`", text))
        checks.that(len(named) == int(said), f"docs/architecture.md: {title}: {said} files, but it names {len(named)}")


def anchors(text):
    titles = re.findall(r"^#+ (.+)$", re.sub(FENCE, "", text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def check_links(checks, page, text):
    for target in LINK.findall(text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = os.path.normpath(os.path.join(SOURCE, os.path.dirname(page), path)) if path else f"{SOURCE}/{page}"
        checks.that(os.path.exists(file), f"{page}: the link {target} leads nowhere")
        if anchor and file.endswith(".md") and os.path.exists(file):
            checks.that(anchor in anchors(read(file)), f"{page}: {path} has no title for the link #{anchor}")


def check_files(checks, page, text):
    for name in re.findall(r"`([^`\n]+)`", text):
        for path in FILE.findall(name):
            if "NAME" not in path:
                checks.that(os.path.exists(f"{SOURCE}/{path}"), f"{page}: there is no {path}")


def check_exemptions(checks, texts):
    exempt = [(page, line, why) for page, text in texts.items() for line, _, why in shell_blocks(text) if why]
    for page, line, why in exempt:
        print(f"not run: {page}:{line}: {why}")
    checks.that(len(exempt) <= MOST_EXEMPT, f"{len(exempt)} blocks are not run, at most {MOST_EXEMPT} may be")


def check_configuration(checks, text):
    """docs/configuration.md is what the table of keys prints, and the table has no gap."""
    checks.that(mpilora("help", "configuration") == text, "docs/configuration.md is old: mpilora help configuration > docs/configuration.md")
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| `")]
    checks.that(len(rows) >= 50, f"docs/configuration.md has {len(rows)} keys")
    for key, kind, _, default, meaning in rows:
        checks.that(kind and default.strip("`") and len(meaning) > 10, f"docs/configuration.md: {key} lacks its type, default or meaning")


def check_commands(checks, texts):
    """Each command of `mpilora --help` stands in a block that is run."""
    shown = "\n".join(block for text in texts.values() for _, block, why in shell_blocks(text) if not why)
    commands = re.findall(r"^  (\w+) ", mpilora("--help"), re.M)
    checks.that(len(commands) >= 16, f"mpilora --help lists {commands}")
    for command in commands:
        checks.that(re.search(rf"\bmpilora +{command}\b", shown), f"no page shows mpilora {command} in a block that is run")


def main():
    checks = Checks()
    texts = {page: read(f"{SOURCE}/{page}") for page in pages()}
    lines = texts["README.md"].count("\n")
    checks.that(lines <= README_LINES, f"README.md has {lines} lines, at most {README_LINES} are allowed")
    index = texts["docs/README.md"]
    for page, text in texts.items():
        if page.startswith("docs/") and page != "docs/README.md":
            checks.that(f"({os.path.basename(page)})" in index, f"docs/README.md does not list {page}")
        check_links(checks, page, text)
        check_files(checks, page, text)
    check_walks(checks)
    check_exemptions(checks, texts)
    check_configuration(checks, texts["docs/configuration.md"])
    check_commands(checks, texts)
    run_commands(checks, texts)
    checks.end()


main()
