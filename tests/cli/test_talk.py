"""generate --chat without a prompt: every line of standard input is answered with all that was said before it in the prompt, on any number of ranks, with an adapter; the
end of the input ends it; what is too long, a template that fails and options that do not belong there are one line of error."""

import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "interop")]
import harness
import reference_models as reference
import said_models as said

USAGE, INPUT = 2, 3
USER, ASSISTANT, END = 10, 11, 12
TEMPLATE = (
    "{% for m in messages %}{% if m.content == '<66>' %}{{ raise_exception('no such word') }}{% endif %}"
    "<{{ 10 if m.role == 'user' else 11 }}>{{ m.content }}<12>{% endfor %}{% if add_generation_prompt %}<11>{% endif %}"
)


def talk(base, lines, *words, ranks=0):
    call = harness.command("generate", "--base", base, "--chat", "--max-new", 5, "--precision", "fp32", *words, ranks=ranks)
    return subprocess.run(call, input=lines, text=True, capture_output=True, timeout=120)


def ids(text):
    return [int(word) for word in text.replace("<", "").split(">") if word]


def check_history(checks, folder, label, base, answers, said_lines, *words):
    """Each answer is the continuation of the whole conversation before it."""
    conversation = []
    for line, answer in zip(said_lines, answers):
        conversation += [USER, *ids(line), END, ASSISTANT]
        with open(f"{folder}/prompt.jsonl", "w") as file:
            file.write(json.dumps({"prompt_ids": conversation}) + "\n")
        text = harness.mpilora("generate", "--base", base, "--prompts", f"{folder}/prompt.jsonl", "--max-new", 5, "--precision", "fp32", "--logprobs", 0, *words)
        wanted = json.loads(text)["logprobs"]["tokens"]
        wanted = wanted[: wanted.index(END)] if END in wanted else wanted  # which ends an answer of a chat
        checks.that(ids(answer) == wanted, f"{label}: answer to {line} is {answer}, expected {wanted}")
        conversation += [*ids(answer), END]


def refuse(checks, code, words, done):
    lines = done.stderr.strip().splitlines()
    good = done.returncode == code and len(lines) == 1 and all(word in lines[0] for word in words)
    checks.that(good, f"exit {done.returncode}, expected {code}, with {words}: {done.stderr}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        source, base, adapter = f"{folder}/model", f"{folder}/base.h5", f"{folder}/adapter"
        said.write_model(source, "llama")
        with open(f"{source}/chat_template.jinja", "w") as file:
            file.write(TEMPLATE)
        harness.mpilora("import", source, base, "--dtype", "fp32")
        reference.write_adapter(adapter, {**reference.DEFAULTS, "model": "llama", "targets": ["all"]})
        lines = ["<5><6>", "<7>", "<8><9><5>"]
        text = "<5><6>\n\n<7>\n<8><9><5>"  # an empty line is no turn, and the last one has no end
        alone = {}
        for label, words in (("base", []), ("adapter", ["--adapter", adapter])):
            done = talk(base, text, *words)
            alone[label] = done.stdout
            checks.that(done.returncode == 0 and len(done.stdout.splitlines()) == 3, f"{label}: exit {done.returncode}, {done.stdout}{done.stderr}")
            check_history(checks, folder, label, base, done.stdout.splitlines(), lines, *words)
        checks.that(alone["base"] != alone["adapter"], "the adapter answers as the base does")
        two = talk(base, text, ranks=2)
        checks.that(two.returncode == 0 and two.stdout == alone["base"], f"two ranks: exit {two.returncode}, {two.stdout}{two.stderr}")
        nothing = talk(base, "")
        checks.that(nothing.returncode == 0 and nothing.stdout == "", f"no line at all: exit {nothing.returncode}, {nothing.stdout}{nothing.stderr}")
        refuse(checks, INPUT, ["conversation has", "64"], talk(base, "<5>" * 70 + "\n"))
        refuse(checks, INPUT, ["no such word"], talk(base, "<66>\n"))
        refuse(checks, INPUT, ["standard input", "zero byte"], talk(base, "<5>\0<6>\n<7>\n"))
        refuse(checks, USAGE, ["--json"], talk(base, "<5>\n", "--json"))
        refuse(checks, USAGE, ["--adapter"], talk(base, "<5>\n", "--adapter", f"a={adapter}", "--adapter", f"b={adapter}"))
        refuse(checks, INPUT, ["nothing-there"], talk(base, "<5>\n", "--adapter", f"{folder}/nothing-there"))
    checks.end()


main()
