"""Texts with labels as transformers tokenises them: what make_labelled_golden.py and test_labelled.py share."""

import json
import os
import random

WORDS = "the river runs to a valley, where boats don't go: 1999 ships (and 31337 more) were seen at sea; Grüße from Müller! straße über null NA None \"quoted".split()
TOKENIZERS = ["bert", "roberta", "wordpiece", "llama", "llama-first", "gpt2", "blank-before", "unigram"]
LENGTHS = [17, 9, 6]
TAGS = ["O", "B-LOC", "I-LOC", "B-PER"]


def tokenizer_json(source, name):
    """The text of a tokenizer.json; roberta is gpt2 with RoBERTa's post-processor, llama's pairs have the second text in type 1."""
    with open(os.path.join(source, "tests", "golden", "tokenizer", "gpt2" if name == "roberta" else name, "tokenizer.json"), encoding="utf-8") as file:
        tokenizer = json.load(file)
    if name == "roberta":
        end, user = 0, tokenizer["model"]["vocab"].get("<|user|>", 0)
        tokenizer["post_processor"] = {"type": "RobertaProcessing", "sep": ["<|endoftext|>", end], "cls": ["<|user|>", user], "trim_offsets": True, "add_prefix_space": False}
    return json.dumps(tokenizer, ensure_ascii=False)


def texts(count=12, seed=5):
    """[(a, b)] of one to twenty words."""
    draw = random.Random(seed)
    return [tuple(" ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 20))) for _ in range(2)) for _ in range(count)]


def sentences(count=6, seed=7):
    """[[(word, tag)]]"""
    draw = random.Random(seed)
    return [[(draw.choice(WORDS), draw.choice(TAGS)) for _ in range(draw.randint(1, 12))] for _ in range(count)]
