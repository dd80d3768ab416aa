"""Rows of preferences as texts and as lists of messages, with a prompt and without: which tokens become prompt and answer. What the chat templates of models make of
messages, token for token, is compared with TRL by interop/check_preference_rows.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import chat_cases
from harness import SOURCE, Checks, mpilora, start

MODEL = "family: llama\nlayers: 1\nwidth: 16\nmlp_width: 32\nheads: 2\nkv_heads: 1\nhead_dim: 8\nvocab: {}\ncontext: 4096\n"
TALK = [{"role": "user", "content": "Where does the river go?"}, {"role": "assistant", "content": "On."}, {"role": "user", "content": "And then?"}]
GOOD, BAD = {"role": "assistant", "content": "To the sea."}, {"role": "assistant", "content": "Nowhere."}
check = Checks()


def write(rows):
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def tokenize(*rows, template=True):
    """What inspect says of the data set: its hash, sequences, tokens and targets."""
    write(rows)
    mpilora("tokenize", "--base", "base.h5", *(["--chat-template", "chatml.json"] if template else []), "rows.jsonl", "rows.h5")
    return json.loads(mpilora("inspect", "--json", "rows.h5"))


def same(what, found, expected):
    check.that(found["content_sha256"] == expected["content_sha256"], f"{what}: another data set, {found}, expected {expected}")


def same_counts(what, found, *expected):
    """As many tokens and targets as those of the parts."""
    for key in ("sequences", "tokens", "targets"):
        check.that(found[key] == sum(each[key] for each in expected), f"{what}: {key} {found[key]}, expected {[each[key] for each in expected]}")


def refused(what, row, *parts, template=True):
    write([row])
    done = start("tokenize", "--base", "base.h5", *(["--chat-template", "chatml.json"] if template else []), "rows.jsonl", "bad.h5")
    good = done.returncode == 3 and done.stderr.count("\n") == 1 and all(part in done.stderr for part in ("line 1", *parts))
    check.that(good, f"{what}: code {done.returncode}, {done.stderr}")
    check.that(not os.path.exists("bad.h5"), f"{what}: a data set was written")


def check_messages():
    """As conversations whose last answer carries the loss: what chatml writes behind the prompt of an answer."""
    apart = [tokenize({"prompt": TALK, "completion": [answer]}) for answer in (GOOD, BAD)]
    expected = tokenize({"prompt": TALK, "chosen": [GOOD], "rejected": [BAD]})
    same_counts("with a prompt", expected, *apart)
    same("without a prompt", tokenize({"chosen": [*TALK, GOOD], "rejected": [*TALK, BAD]}), expected)
    share_gpt = [{"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in TALK]
    same("ShareGPT's names in the prompt", tokenize({"prompt": share_gpt, "chosen": [GOOD], "rejected": [BAD]}), expected)
    judged = tokenize({"prompt": TALK, "completion": [GOOD], "label": True}, {"prompt": TALK, "completion": [BAD], "label": False})
    same_counts("kto's rows", judged, *apart)
    check.that(judged["label_kind"] == "wanted" and judged["label_count"] == 2, f"labels of kto's rows: {judged}")
    other = tokenize({"prompt": TALK, "completion": [GOOD], "label": True}, {"prompt": TALK, "completion": [BAD], "label": True})
    check.that(other["content_sha256"] != judged["content_sha256"], "another label, but the same hash")
    tools = [{"type": "function", "function": {"name": "look"}}]
    with_tools = tokenize({"prompt": TALK, "chosen": [GOOD], "rejected": [BAD], "tools": tools})
    check.that(with_tools["tokens"] > expected["tokens"] and with_tools["targets"] == expected["targets"], f"tools do not stand in the prompt: {with_tools}")


def check_texts():
    explicit = tokenize({"prompt": "the river", "chosen": " runs to the sea", "rejected": " runs"}, template=False)
    same_counts("texts", explicit, *(tokenize({"prompt": "the river", "completion": answer}, template=False) for answer in (" runs to the sea", " runs")))
    for what, chosen, rejected, prompt in (
        ("a blank belongs to the answers", "the river runs to the sea", "the river sleeps", "the river"),
        ("a character of two bytes is not cut", "the sé", "the sè", "the s"),
        ("an answer that begins the other", "the river", "the rive", "the riv"),
        ("and is longer", "the sea", "the sea runs", "the se"),
    ):
        n = len(prompt)
        expected = tokenize({"prompt": prompt, "chosen": chosen[n:], "rejected": rejected[n:]}, template=False)
        same(what, tokenize({"chosen": chosen, "rejected": rejected}, template=False), expected)
    judged = tokenize({"prompt": "the river", "completion": " runs", "label": False}, template=False)
    same_counts("a text with a label", judged, tokenize({"prompt": "the river", "completion": " runs"}, template=False))


def check_refused():
    refused("no template", {"prompt": TALK, "chosen": [GOOD], "rejected": [BAD]}, "--chat-template", template=False)
    refused("texts and messages", {"prompt": "the river", "chosen": [GOOD], "rejected": [BAD]}, '"prompt" is no list of messages')
    refused("a text and messages", {"chosen": [GOOD], "rejected": "no"}, "neither two texts nor two lists")
    refused("an empty list", {"prompt": TALK, "chosen": [], "rejected": [BAD]}, '"chosen" has no message')
    refused("nothing in common", {"chosen": [GOOD], "rejected": [BAD]}, "do not begin alike")
    refused("no letter in common", {"chosen": "river", "rejected": "sea"}, "do not begin alike")
    ask = [{"role": "user", "content": "Why?"}, {"role": "user", "content": "When?"}]
    refused("prompts that differ", {"chosen": [ask[0], GOOD], "rejected": [ask[1], BAD]}, "message 1", "(user)", "have two")
    refused("prompts that differ later", {"chosen": [*TALK, GOOD, ask[0], GOOD], "rejected": [*TALK, GOOD, ask[1], BAD]}, "message 5", "(user)", "have two")
    refused("prompts that differ behind one", {"prompt": TALK[:2], "chosen": [ask[0], GOOD], "rejected": [TALK[2], BAD]}, "message 1", "(user)", "have two")
    share_gpt = [[{"from": "human", "value": m["content"]}, {"from": "gpt", "value": "Yes."}] for m in ask]
    refused("prompts that differ, ShareGPT's", {"chosen": share_gpt[0], "rejected": share_gpt[1]}, "message 1", "(user)", "have two")
    refused("results of a tool that differ", {"prompt": TALK, "chosen": [GOOD, {"role": "tool", "content": "1"}, GOOD], "rejected": [GOOD, {"role": "tool", "content": "2"}, GOOD]}, "message 2", "(tool)")
    refused("equal", {"prompt": TALK, "chosen": [GOOD], "rejected": [GOOD]}, "chosen and rejected are equal")
    refused("equal without a prompt", {"chosen": [*TALK, GOOD], "rejected": [*TALK, GOOD]}, "chosen and rejected are equal")
    refused("equal texts", {"chosen": "the sea", "rejected": "the sea"}, "chosen and rejected are equal")
    refused("no role", {"prompt": TALK, "chosen": [{"content": "x"}], "rejected": [BAD]}, 'no "role"')
    refused("tools of texts", {"prompt": "a", "chosen": "b", "rejected": "c", "tools": [{}]}, "the row has texts")
    for column in ("system", "functions", "documents"):
        for row in ({"prompt": TALK, "chosen": [GOOD], "rejected": [BAD]}, {"chosen": [*TALK, GOOD], "rejected": [*TALK, BAD]}, {"prompt": TALK, "completion": [GOOD], "label": True}):
            refused(f"{column} of messages", row | {column: "Be brief."}, f'"{column}" changes what is trained')
    refused("a label of messages", {"prompt": TALK, "completion": [GOOD], "label": "yes"}, "true or false")
    refused("no completion", {"prompt": TALK, "rejected": [BAD]}, '"chosen" is missing')


chat_cases.need_jinja2()
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    with open("model.yaml", "w") as file:
        file.write(MODEL.format(chat_cases.make_tokenizer(SOURCE, folder)))
    mpilora("import", "--init", "random", "--config", "model.yaml", "--tokenizer", folder, "base.h5")
    chat_cases.write_config("chatml.json", chat_cases.CHATML)
    check_messages()
    check_texts()
    check_refused()
    os.chdir("/")
check.end()
