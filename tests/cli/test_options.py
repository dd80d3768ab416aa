"""Each option of each command is in its help, in the man page and in bash completion, which all come out of one table; completion works in bash."""

import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.environ["MPILORA_SOURCE_DIR"], "tests"))
from harness import SOURCE, Checks, mpilora, start  # noqa: E402

SUBJECTS = {
    "bench": ["gemm", "attention", "step", "allreduce", "generate", "latency", "machine"],
    "analyze": ["subspace", "amplification", "spectrum"],
}
# By hand, so that a table that lost its rows is seen.
SOME = {
    "import": ["--init", "--config", "--tokenizer", "--seed", "--dtype"],
    "train": ["--set", "--fresh", "--allow-change"],
    "eval": ["--adapter", "--generate", "--json", "--beams", "--batch"],
    "plan": ["--ranks", "--nodes", "--machine", "--search", "--quantise", "--head-dtype"],
    "compare": ["--methods", "--seeds", "--launcher", "--out"],
    "sweep": ["--budget", "--lora-ranks", "--plan", "--out"],
    "bench step": ["--methods", "--tokens", "--rounds"],
    "analyze subspace": ["--base", "--of", "--memory"],
}
VALUES = {
    ("import", "--dtype"): ["bf16", "fp32", "keep"],
    ("plan", "--quantise"): ["iq4_nl", "mxfp4", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0"],
    ("tokenize", "--format"): ["conll", "e2e", "glue", "ids", "jsonl", "text"],
    ("bench step", "--precision"): ["bf16", "fp32"],
    ("analyze subspace", "--of"): ["A", "B", "left", "right"],
}


def commands():
    """Every command, a subject as "bench step"."""
    names = re.findall(r"^  (\w+) ", mpilora("--help"), re.M)
    return [f"{name} {subject}" if subject else name for name in names for subject in SUBJECTS.get(name, [""])]


def options_of_help(command):
    return re.findall(r"^  (--[\w-]+)", mpilora(*command.split(), "--help"), re.M)


def options_of_manual(manual):
    """command -> its options, with the sentence behind each."""
    sections = re.split(r'^\.SS "mpilora ([\w ]+)"$', manual, flags=re.M)[1:]
    plain = [part.replace("\\-", "-") for part in sections]
    return {name: re.findall(r"^\.TP\n\\fB(--[\w-]+)\\fR.*\n(.+)$", text, re.M) for name, text in zip(plain[::2], plain[1::2])}


class Bash:
    """Completion as a shell does it: the script is sourced, and its function asked."""

    def __init__(self, folder):
        self.script = f"{folder}/completion"
        with open(self.script, "w", encoding="utf-8") as file:
            file.write(mpilora("help", "completion"))

    def run(self, text):
        done = subprocess.run(["bash", "-c", f"set -u; source '{self.script}'\n{text}"], text=True, capture_output=True)
        if done.returncode or done.stderr:
            sys.exit(f"bash: {text}\nended with {done.returncode}: {done.stderr}")
        return done.stdout

    def complete(self, words):
        """What stands to choose for the last of the words."""
        line = " ".join(f"'{word}'" for word in words)
        return self.run(f"COMP_WORDS=({line}) COMP_CWORD={len(words) - 1}; _mpilora; printf '%s\\n' \"${{COMPREPLY[@]-}}\"").split()


def check_tables(checks, bash):
    manual = options_of_manual(mpilora("help", "man"))
    every = set()
    for command in commands():
        helped = options_of_help(command)
        every.update(helped)
        described = manual.get(command, [])
        checks.that(helped == [name for name, _ in described], f"{command}: help has {helped}, the man page {described}")
        for name, about in described:
            checks.that(len(about) > 4, f"{command}: the man page says nothing about {name}")
        completed = bash.complete(["mpilora", *command.split(), "--"])
        checks.that(completed == [*helped, "--help"], f"{command}: help has {helped}, completion {completed}")
        checks.that(mpilora("help", *command.split()) == mpilora(*command.split(), "--help"), f"help {command} is another text than {command} --help")
        for name in SOME.get(command, []):
            checks.that(name in helped, f"{command}: {name} is missing in {helped}")
        usage = mpilora(*command.split(), "--help").split("\n\n")[0]
        for name in re.findall(r"--[a-z][\w-]*", usage):
            checks.that(name in helped, f"{command}: its usage names {name}, which is no option of it")
    written = {name for name in read_tables() if name != "--help"}
    checks.that(every == written, f"in the sources, but in no help: {written - every}; in help only: {every - written}")


def read_tables():
    """The options in the tables of src/cli/."""
    for folder, _, names in os.walk(f"{SOURCE}/src/cli"):
        for name in names:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                yield from re.findall(r'\{\s*"(--[\w-]+)",\s*(?:\\\n\s*)?OPTION_', file.read())


def check_completion(checks, bash):
    checks.that("-F _mpilora" in bash.run("complete -p mpilora"), "complete -p does not know mpilora")
    checks.that(bash.complete(["mpilora", "tr"]) == ["train"], f"tr: {bash.complete(['mpilora', 'tr'])}")
    for command, subjects in SUBJECTS.items():
        found = bash.complete(["mpilora", command, ""])
        checks.that(found == [*subjects, "--help"], f"{command}: {found}")
    for (command, option), values in VALUES.items():
        found = sorted(bash.complete(["mpilora", *command.split(), option, ""]))
        checks.that(found == values, f"{command} {option}: {found}")
    found = bash.complete(["mpilora", "inspect", f"{SOURCE}/READM"])
    checks.that(found == [f"{SOURCE}/README.md"], f"a file: {found}")


def check_defaults(checks, folder):
    """A default is what the table says: the same data set with and without it."""
    done = start("import", "--init", "random", "--config", f"{SOURCE}/configs/models/tiny-llama.yaml", "--seed", "1", "--dtype", "bf16", f"{folder}/a.h5")
    checks.that(done.returncode == 0, done.stderr)
    mpilora("import", "--init", "random", "--config", f"{SOURCE}/configs/models/tiny-llama.yaml", f"{folder}/b.h5")
    with open(f"{folder}/a.h5", "rb") as a, open(f"{folder}/b.h5", "rb") as b:
        checks.that(a.read() == b.read(), "import: its defaults are not --seed 1 --dtype bf16")
    for words, name in ((("inspect",), "FILE.h5"), (("tokenize", "--base", "b.h5", "in.txt"), "OUT.h5"), (("merge", "--base", "b.h5"), "OUT.h5"), (("train",), "CONFIG.yaml")):
        done = start(*words)
        checks.that(done.returncode == 2 and f": {name} is missing" in done.stderr, f"{words}: {done.returncode} {done.stderr}")
    for word in ("nothing", "bench nothing"):
        done = start("help", *word.split())
        checks.that(done.returncode == 2 and "nothing" in done.stderr, f"help {word}: {done.returncode} {done.stderr}")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        bash = Bash(folder)
        check_tables(checks, bash)
        check_completion(checks, bash)
        check_defaults(checks, folder)
    checks.end()


main()
