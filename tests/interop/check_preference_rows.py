"""Rows of preferences that are lists of messages, beside the tokens that TRL 1.16's DPOTrainer and KTOTrainer make of them: with a prompt and without, with the templates of
chat_cases.py and those that the package trl holds. For developers, with the environment of check_chats.py and trl==1.16.*:

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_preference_rows.py
"""

import glob
import json
import os
import random
import sys
import tempfile

import h5py
import trl
from transformers import AutoTokenizer
from trl.trainer import dpo_trainer

sys.path.insert(0, os.path.join(os.environ.get("MPILORA_SOURCE_DIR", "."), "tests"))
import chat_cases  # noqa: E402
from harness import SOURCE, Checks, mpilora  # noqa: E402

COUNT = int(os.environ.get("MPILORA_CHATS", "200"))
MODEL = "family: llama\nlayers: 1\nwidth: 16\nmlp_width: 32\nheads: 2\nkv_heads: 1\nhead_dim: 8\nvocab: {}\ncontext: 65536\n"


def read(path):
    with h5py.File(path) as file:
        tokens, offsets, mask = file["tokens"][:], file["offsets"][:], file["mask"][:]
        return [(tokens[a:b].tolist(), mask[a:b].tolist()) for a, b in zip(offsets, offsets[1:])]


def theirs(tokenizer, row):
    """As DPOTrainer._prepare_dataset: prompt, chosen and rejected."""
    if "prompt" not in row:
        row = row | dpo_trainer.extract_prompt(row)
    words = {"tools": row.get("tools")}
    prompt = dpo_trainer._tokenize(tokenizer, row["prompt"], add_generation_prompt=True, **words)["input_ids"]
    answers = [dpo_trainer._tokenize(tokenizer, row["prompt"] + row[key], **words)["input_ids"] for key in ("chosen", "rejected")]
    n = min(dpo_trainer.common_prefix_length(prompt, answer) for answer in answers)
    return [(answer, [0] * n + [1] * (len(answer) - n)) for answer in answers], answers[0][n:] != answers[1][n:]


def make_rows(tokenizer, name):
    draw, rows = random.Random(f"preferences:{name}"), []
    for talk in chat_cases.make_conversations(name, 4 * COUNT):
        messages = talk["messages"]
        if messages[-1]["role"] != "assistant" or messages[-1].get("tool_calls") or len(messages) < 2:
            continue
        other = {"role": "assistant", "content": chat_cases.make_text(draw)}
        row = {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": [other]}
        if draw.random() < 0.5:
            row = {"chosen": messages, "rejected": messages[:-1] + [other]}
        row |= {"tools": talk["tools"]} if talk.get("tools") else {}
        try:
            expected, differ = theirs(tokenizer, row)
        except Exception:  # the template refuses it
            continue
        if differ and all(any(mask) for _, mask in expected):
            rows.append((row, expected))
    return rows[:COUNT]


def check_template(check, name, tokenizer, kind, folder):
    rows = make_rows(tokenizer, kind)
    if not rows:
        print(f"{name}: takes no row")
        return
    chat_cases.write_config(f"{folder}/template.json", tokenizer.chat_template)
    with open(f"{folder}/rows.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row, _ in rows)
    words = ["--base", f"{folder}/base.h5", "--chat-template", f"{folder}/template.json"]
    mpilora("tokenize", *words, f"{folder}/rows.jsonl", f"{folder}/rows.h5", timeout=600)
    found, expected = read(f"{folder}/rows.h5"), [side for _, sides in rows for side in sides]
    equal = sum(a == b for a, b in zip(found, expected, strict=True))
    check.that(equal == len(expected), f"{name}: {equal} of {len(expected)} answers equal")
    print(f"{name}: {len(rows)} pairs, {equal} of {len(expected)} answers equal", flush=True)


def main():
    check = Checks()
    with tempfile.TemporaryDirectory() as folder:
        size = chat_cases.make_tokenizer(SOURCE, folder)
        with open(f"{folder}/model.yaml", "w") as file:
            file.write(MODEL.format(size))
        mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--tokenizer", folder, f"{folder}/base.h5")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for name, template in chat_cases.TEMPLATES.items():
            tokenizer.chat_template = template
            check_template(check, name, tokenizer, name, folder)
        for path in sorted(glob.glob(os.path.join(os.path.dirname(trl.__file__), "chat_templates", "*.jinja"))):
            with open(path) as file:
                tokenizer.chat_template = file.read()
            check_template(check, os.path.basename(path), tokenizer, "plain", folder)
    check.end()


main()
