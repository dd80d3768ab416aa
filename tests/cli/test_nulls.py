"""Null columns and members, as the datasets library and Parquet write them for what a row lacks: rows of every kind with all columns there are become the data sets that they become without; a
null that would make a row one of another kind is refused with its line; what null means inside of messages, and in the lines of generate."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import chat_cases
from harness import SOURCE, Checks, mpilora, start

MODEL = "family: llama\nlayers: 1\nwidth: 16\nmlp_width: 32\nheads: 2\nkv_heads: 1\nhead_dim: 8\nvocab: {}\ncontext: 4096\n"
ASK, GOOD, BAD = ({"role": role, "content": text} for role, text in (("user", "Where to?"), ("assistant", "To the sea."), ("assistant", "Nowhere.")))
SHARED = [{"from": "human", "value": "Where to?"}, {"from": "gpt", "value": "To the sea."}]
TEXTS = ["text", "prompt", "completion", "chosen", "rejected", "messages", "conversations", "text_a", "text_b", "anchor", "positive", "negative", "label", "tools", "chat_template_kwargs", "images",
         "system", "documents", "functions", "source"]  # fmt: skip
IDS = ["input_ids", "labels", "label", "token_labels", "attention_mask", "token_type_ids", "prompt_ids", "completion_ids", "chosen_ids", "rejected_ids", "anchor_ids", "positive_ids", "negative_ids",
       "completion_mask", "position_ids"]  # fmt: skip
# Two rows of a kind, and the columns that it needs, which are not there or have a value.
KINDS = {
    "texts": (TEXTS, [{"text": "the river runs"}, {"text": "to the sea"}], ["label"]),
    "prompts": (TEXTS, [{"prompt": "the river", "completion": " runs"}, {"prompt": "to", "completion": " the sea"}], ["label"]),
    "pairs": (TEXTS, [{"prompt": "the river", "chosen": " runs", "rejected": " sleeps"}] * 2, []),
    "pairs without a prompt": (TEXTS, [{"chosen": "the river runs", "rejected": "the river sleeps"}] * 2, ["prompt"]),
    "pairs of messages": (TEXTS, [{"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}] * 2, []),
    "pairs of messages without a prompt": (TEXTS, [{"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}] * 2, []),
    "answers that are wanted or not": (TEXTS, [{"prompt": "the river", "completion": " runs", "label": True}, {"prompt": "the river", "completion": " sleeps", "label": False}], []),
    "messages that are wanted or not": (TEXTS, [{"prompt": [ASK], "completion": [GOOD], "label": True}, {"prompt": [ASK], "completion": [BAD], "label": False}], []),
    "conversations": (TEXTS, [{"messages": [ASK, GOOD]}, {"messages": [ASK, BAD]}], []),
    "ShareGPT": (TEXTS, [{"conversations": SHARED}] * 2, []),
    "prompts of messages": (TEXTS, [{"prompt": [ASK], "completion": [GOOD]}] * 2, ["label"]),
    "labels": (TEXTS, [{"text": "the river runs", "label": "yes"}, {"text": "to the sea", "label": "no"}], []),
    "labels of two texts": (TEXTS, [{"text_a": "the river", "text_b": "runs", "label": 1}, {"text_a": "to", "text_b": "the sea", "label": 0}], []),
    "texts that belong together": (TEXTS, [{"anchor": "the river", "positive": "runs"}] * 2, []),
    "and others": (TEXTS, [{"anchor": "the river", "positive": "runs", "negative": "sleeps"}] * 2, []),
    "ids": (IDS, [{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5]}], ["labels", "label", "token_labels"]),
    "ids with labels": (IDS, [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}] * 2, []),
    "ids with a class": (IDS, [{"input_ids": [1, 2, 3], "label": 1, "token_type_ids": [0, 0, 1]}, {"input_ids": [4], "label": 0, "token_type_ids": [0]}], []),
    "ids with classes": (IDS, [{"input_ids": [1, 2, 3], "token_labels": [-100, 1, 0]}] * 2, []),
    "pairs of ids": (IDS, [{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}] * 2, []),
    "ids that are wanted or not": (IDS, [{"prompt_ids": [1, 2], "completion_ids": [3], "label": True}, {"prompt_ids": [1], "completion_ids": [4], "label": False}], []),
    "ids that belong together": (IDS, [{"anchor_ids": [1, 2], "positive_ids": [3], "negative_ids": [4]}] * 2, []),
}  # fmt: skip
check = Checks()


def write(rows):
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def tokenize(rows, threads=1, template="chatml.json"):
    """What inspect says of the data set, and what tokenize has said."""
    write(rows)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    done = start("tokenize", "--base", "base.h5", "--chat-template", template, "--date", "2026-01-02", "rows.jsonl", "rows.h5")
    check.that(done.returncode == 0, f"{rows}: exit {done.returncode}: {done.stderr}")
    return json.loads(mpilora("inspect", "--json", "rows.h5")), done.stderr


def same(what, rows, expected, **options):
    found, said = tokenize(rows, **options)
    check.that(found["content_sha256"] == expected["content_sha256"], f"{what}: {found}, expected {expected}")
    check.that(not said, f"{what}: says {said}")


def refused(what, row, *parts, before=()):
    """The last of the rows, with its line."""
    write([*before, row])
    os.environ["OMP_NUM_THREADS"] = "2"
    done = start("tokenize", "--base", "base.h5", "--chat-template", "chatml.json", "rows.jsonl", "bad.h5")
    good = done.returncode == 3 and done.stderr.count("\n") == 1 and all(part in done.stderr for part in (f"line {1 + len(before)}: ", *parts))
    check.that(good, f"{what}: exit {done.returncode}: {done.stderr}")
    check.that(not os.path.exists("bad.h5"), f"{what}: a data set was written")


def check_columns():
    for kind, (columns, rows, needed) in KINDS.items():
        expected, _ = tokenize(rows)
        full = [{column: row.get(column) for column in columns if column in row or column not in needed} for row in rows]
        same(kind, full, expected, threads=3)
        same(f"{kind}, the columns the other way round", [dict(reversed(row.items())) for row in full], expected)
    related = [{"anchor": "the river", "positive": "runs"}]
    found, _ = tokenize([{**related[0], "text": "the river runs", "label": None}])
    check.that(found["content_sha256"] == tokenize(related)[0]["content_sha256"], f"a label of texts that belong together: {found}")
    mixed = [{"text": "the river"}, {"prompt": "to", "completion": " the sea"}, {"messages": [ASK, GOOD]}, {"conversations": SHARED}]
    columns = ["text", "prompt", "completion", "messages", "conversations", "chosen", "rejected"]
    same("a mixed set", [{column: row.get(column) for column in columns} for row in mixed], tokenize(mixed)[0])


def check_needed():
    """Without the column each of these is a row that is read."""
    prompt = {"prompt": "the river", "completion": " runs", "chosen": None, "rejected": None}
    wanted = {**prompt, "label": True}
    refused("a label beside a completion", {**prompt, "label": None}, '"label" is null', "true or false", before=[wanted])
    refused("a label, first", {**prompt, "label": None, "text": None}, '"label" is null')
    refused("a label of messages", {"prompt": [ASK], "completion": [GOOD], "label": None}, '"label" is null')
    refused("a class", {"text": "the sea", "label": None}, '"label" is null', before=[{"text": "a", "label": "yes"}])
    refused("a class of two texts", {"text_a": "the", "text_b": "sea", "label": None}, '"label" is null')
    pair = {"prompt": "the river", "chosen": " runs", "rejected": " sleeps"}
    for key, other in (("chosen", "rejected"), ("rejected", "chosen")):
        refused(f"{key} null", {**pair, key: None}, f'"{key}" is null beside "{other}"')
        refused(f"{key} null beside a completion", {**pair, key: None, "completion": " runs"}, "completion")
        refused(f"{key} null, messages", {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD], key: None}, f'"{key}" is null beside "{other}"')
        refused(f"{key} null, beside a text", {"text": "the river", "chosen": " runs", "rejected": " sleeps", key: None}, '"text"')
    refused("a prompt of a pair of texts", {"prompt": None, "chosen": "To the sea.", "rejected": "To the land."}, '"prompt" is null beside two texts')
    refused("a completion", {"prompt": "the river", "completion": None}, '"completion" is null')
    refused("a completion of messages", {"prompt": [ASK], "completion": None}, "completion")
    refused("a prompt", {"prompt": None, "completion": " runs"}, '"prompt" is null')
    refused("a prompt of an answer", {"prompt": None, "completion": " runs", "label": True}, '"prompt" is null')
    refused("a text with a label", {"text": None, "label": "yes"}, '"text" is null')
    refused("a second text", {"text_a": "the river", "text_b": None, "label": 1}, '"text_b" is null')
    refused("a first text", {"text_a": None, "text_b": "runs", "label": 1}, '"text_a" is null')
    refused("an anchor", {"anchor": None, "positive": "runs", "text": "the sea"}, '"anchor" is null')
    refused("a positive", {"anchor": "the river", "positive": None}, '"positive" is null')
    refused("a negative that others have", {"anchor": "the river", "positive": "runs", "negative": None}, "0 negatives", before=[{"anchor": "a", "positive": "b", "negative": "c"}])
    refused("everything", {"text": None, "label": None, "messages": None}, "every column is null", before=[{"text": "the river"}])
    refused("everything that is read", {"text": None, "source": 3}, "expected {", before=[{"text": "the river"}])
    refused("a conversation", {"messages": None, "tools": [{"name": "look"}]}, '"tools"')
    refused("a message", {"messages": [None]}, "message 1: is not an object")
    refused("targets", {"input_ids": [1, 2], "labels": None}, '"labels"', before=[{"input_ids": [1, 2], "labels": [-100, 2]}])
    refused("a class of ids", {"input_ids": [1, 2], "label": None}, '"label" is null')
    refused("classes of ids", {"input_ids": [1, 2], "token_labels": None}, '"token_labels"')
    refused("rejected ids", {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": None}, '"rejected_ids" is null')
    refused("chosen ids", {"prompt_ids": [1], "chosen_ids": None, "rejected_ids": [2], "completion_ids": [3], "label": True}, '"chosen_ids" is null beside')
    refused("completion ids", {"prompt_ids": [1], "completion_ids": None, "label": True}, '"completion_ids" is null')
    refused("prompt ids", {"prompt_ids": None, "chosen_ids": [1], "rejected_ids": [2]}, '"prompt_ids" is null')
    refused("chosen ids beside rejected ones", {"prompt_ids": [1], "chosen_ids": None, "rejected_ids": [2]}, '"chosen_ids" is null')
    refused("an anchor of ids", {"anchor_ids": None, "positive_ids": [1]}, '"anchor_ids" is null')
    refused("an anchor of ids beside others", {"anchor_ids": None, "positive_ids": [1], "input_ids": [1, 2]}, '"anchor_ids" is null beside')
    refused("positive ids", {"anchor_ids": [1], "positive_ids": None}, '"positive_ids" is null')
    refused("a conversation of ids", {"input_ids": None, "prompt_ids": None, "anchor_ids": [1]}, '"positive_ids" is missing')


def check_members():
    """Null members of messages are absent, as in apply_chat_template; null inside of these stays, and is said where the template writes it."""
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "the sea"}}}
    talk = [ASK, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "It is."}, GOOD]
    keys = ("role", "content", "tool_calls", "name", "reasoning_content", "weight", "from", "value")
    full = [{key: message.get(key) for key in keys} for message in talk]
    expected, _ = tokenize([{"messages": talk}])
    for threads in (1, 3):
        same(f"messages, {threads} threads", [{"messages": full}], expected, threads=threads)
    same("ShareGPT's, with members of others", [{"conversations": [{**{key: None for key in keys}, **each} for each in SHARED]}], tokenize([{"conversations": SHARED}])[0])
    pair = {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}
    filled = [{**each, "tool_calls": None} for each in (ASK, GOOD)]
    same("members of one side of a pair", [{"chosen": filled, "rejected": [ASK, BAD]}], tokenize([pair])[0])
    parts = [{"type": "text", "text": "Where "}, {"type": "text", "text": "to?"}]
    turns = [{"messages": [{"role": "user", "content": parts}, GOOD]}]
    with_images = [{"messages": [{"role": "user", "content": [{**part, "image": None} for part in parts]}, GOOD]}]
    for template in ("chatml.json", "turns.json"):  # of which the second reads parts itself
        same(f"parts, {template}", with_images, tokenize(turns, template=template)[0], template=template)
    refused("an image", {"messages": [{"role": "user", "content": [{"type": "image", "text": None, "image": "x"}]}, GOOD]}, 'part of type "image"')
    refused("a part without a text", {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}, GOOD]}, "message 1: a part of its content")
    refused("a role", {"messages": [{"role": None, "content": "Where to?"}, GOOD]}, 'message 1: it has no "role"')
    refused("a value", {"conversations": [{"from": "human", "value": None}, SHARED[1]]}, 'message 1: "value" is missing, or null')
    refused("a value beside a content", {"conversations": [{**SHARED[0], "content": "And?"}, SHARED[1]]}, '"content" stands beside "value"')
    padded = [ASK, {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "the sea", "to": None}}}]}]
    for what, rows in (("a call", [{"messages": padded}]), ("tools", [{"messages": [ASK, GOOD], "tools": [{"type": "function", "function": {"name": "look", "strict": None}}]}]), ("a pair", [{**pair, "chosen": padded[1:]}])):
        for threads in (1, 3):
            _, said = tokenize([{"messages": [ASK, GOOD]} if what != "a pair" else pair, *rows], threads=threads)
            check.that(said.count("\n") == 1 and "1 rows have null inside" in said and "the first: line 2" in said, f"null inside of {what}, {threads} threads: {said}")
    unread = [{"messages": [ASK, {"role": "assistant", "tool_calls": [{"id": None, **call}]}]}]
    same("a null that the template does not write", unread, tokenize([{"messages": [ASK, {"role": "assistant", "tool_calls": [call]}]}])[0])


def check_generate():
    words = ["generate", "--base", "base.h5", "--precision", "fp32", "--json", "--max-new", "2"]
    members = ("messages", "conversations", "prompt", "completion", "prompt_ids", "tools", "chat_template_kwargs", "system", "adapter", "source")
    chat = [{"messages": [ASK]}, {"conversations": SHARED[:1]}, {"prompt": [ASK], "completion": [GOOD]}, {"prompt": "Where to?"}]
    plain = [{"prompt": "the river"}, {"prompt_ids": [1, 2, 3]}]
    for lines, more in ((chat, ["--chat", "--chat-template", "chatml.json"]), (plain, [])):
        for name, rows in (("own.jsonl", lines), ("full.jsonl", [{key: row.get(key) for key in members} for row in lines])):
            with open(name, "w") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        expected = mpilora(*words, *more, "--prompts", "own.jsonl")
        for ranks in (0, 2):
            done = start(*words, *more, "--prompts", "full.jsonl", ranks=ranks)
            check.that(done.returncode == 0 and done.stdout == expected, f"generate {more}, {ranks} ranks: {done.stdout}, expected {expected}: {done.stderr}")
            check.that("not read" not in done.stderr, f"generate {more}, {ranks} ranks: {done.stderr}")
    for line, says in (({"prompt": None, "source": 1}, 'no text "prompt"'), ({"prompt": None, "prompt_ids": None}, 'no text "prompt"')):
        with open("full.jsonl", "w") as file:
            file.write(json.dumps(line) + "\n")
        for ranks in (0, 2):
            done = start(*words, "--prompts", "full.jsonl", ranks=ranks)
            check.that(done.returncode == 3 and f"full.jsonl:1: {says}" in done.stderr, f"generate of {line}, {ranks} ranks: {done.stderr}")


chat_cases.need_jinja2()
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    with open("model.yaml", "w") as file:
        file.write(MODEL.format(chat_cases.make_tokenizer(SOURCE, folder)))
    mpilora("import", "--init", "random", "--config", "model.yaml", "--tokenizer", folder, "base.h5")
    for name in ("chatml", "turns"):
        chat_cases.write_config(f"{name}.json", chat_cases.TEMPLATES[name])
    check_columns()
    check_needed()
    check_members()
    check_generate()
    os.chdir("/")
check.end()
