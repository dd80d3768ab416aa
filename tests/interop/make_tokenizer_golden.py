#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/: a small tokenizer.json trained on the sentences below and what the `tokenizers` library makes of some
texts with it, under each split pattern; and small tokenizers of other kinds, as check_tokenizers.py trains them, with ids and decoded texts.
Needs the Python packages tokenizers and sentencepiece; run by hand, the files are kept in the repository."""
import json
import os
import random
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "tokenizer")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
OTHER = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"  # one that no model has: PCRE2's work
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
BARE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SPLITS = {
    "gpt2": BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    "llama3": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), BARE]),
    "other": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(OTHER), "isolated"), BARE]),
}
TRAINING = ["The river runs through the valley and the valley runs to the sea.",
            "We don't know what they'll say; it's late, and I've said enough. You're there, I'm here, he'd go.",
            "In 1999 there were 2048 boats, in 2024 there are 31337.", "def area(width, height):\n    return width * height\n",
            "    if there:\n        return None\n", "Grüße aus dem Tal, sagt der Müller.", "река течёт в море", "川は海へ流れる"] * 3
TEXTS = ["", " ", "  ", "\n", " \n", "\n\n  x", "the river", " the  river ", "The valley's boats don't", "WE'LL SEE, IT'S x'ſ ' 's",
         "1999 boats, 31337 ½ ² Ⅷ ١٢٣", "tab\tand\r\nline\r\n\r\n  end  ", "    return width\n\n\n\treturn", "Grüße, Müller — „Tal“…",
         "река в море, море", "川は海へ流れる。中文，한국어", "🙂👩‍🚀🇪🇺!!", "a\u00a0b\u2003c\u3000d\u1680e\u2028f\u2029g\u0085h",
         "e\u0301 a\u0300\u0301", "\x00\x01\x1c\x7f", "<|endoftext|>", "the<|endoftext|> river<|user|>\n", "<|endoftext|<|endoftext|>>",
         "((([[[{{{...,,,;;;\n\n)))", "𐐀𐐁 𝟘𝟙 ㉈ ǅ", "there" * 40, "x" * 50 + " " * 50 + "\n" * 50]
PARTS = ["'s", "'S", "'ll", " ", "  ", "\n", "\r\n", "\t", "the", "river", "7", "42", "!", "...", "é", "ж", "海", "🙂", "\u2009", "_", "<|user|>"]


KINDS = {"llama": "llama2, added tokens", "llama-first": "llama2, first", "unigram": "unigram, nfkc", "unigram-bytes": "unigram, bytes",
         "bert": "bert", "wordpiece": "wordpiece, nfd", "words": "words, nfkd", "suffix": "suffix", "prefix": "prefix", "normalizer": "byte-level normalizer",
         "blank-before": "gpt2, blank before", "scripts": "words, scripts", "ctc": "words, ctc", "previous": "split, merged_with_previous",
         "next": "split, merged_with_next, inverted", "contiguous": "split, contiguous", "sentencepiece-bpe": "sentencepiece bpe, identity",
         "sentencepiece-unigram": None}
RULES = "Ａ\ta\nｆ\tf\nﬁ\tf i\nß\ts s\n½\t1 2\né\te\n　\t \n\u200b\t\n"


def charsmap_rules(folder):
    """A character map of few rules: the usual ones take a quarter of a megabyte."""
    path = f"{folder}/rules.tsv"
    with open(path, "w", encoding="utf-8") as file:
        for rule in RULES.split("\n")[:-1]:
            source, target = rule.split("\t")
            file.write("\t".join(" ".join(f"{ord(c):X}" for c in part if part == " " or c != " ") for part in (source, target)) + "\n")
    return path


def make_kinds():
    """Small tokenizers of many kinds: tests/golden/tokenizer/NAME/ and kinds.json."""
    import check_tokenizers as check
    random.seed(5)
    texts = [text for text in check.make_texts(130) if len(text) < 200]
    training = check.training_texts
    check.training_texts = lambda: training()[::9]
    golden = {"texts": texts, "kinds": {}}
    for name, kind in KINDS.items():
        folder = os.path.join(ROOT, name)
        os.makedirs(folder, exist_ok=True)
        random.seed(6)
        with tempfile.TemporaryDirectory() as work:
            make = check.KINDS[kind] if kind else check.model_file(model_type="unigram", user_defined_symbols=["<user>"], control_symbols=["<sep>"],
                                                                   vocab_size=400, normalization_rule_tsv=charsmap_rules(work))
            tokenizer = make(folder)
        file = os.path.join(folder, "tokenizer.json")
        if os.path.exists(file):
            with open(file, encoding="utf-8") as source:
                data = json.load(source)
            with open(file, "w", encoding="utf-8") as target:
                json.dump(data, target, ensure_ascii=False)
        wanted = check.reference(tokenizer, texts)
        golden["kinds"][name] = {"ids": [ids for ids, _ in wanted], "decoded": [text for _, text in wanted]}
    with open(os.path.join(ROOT, "kinds.json"), "w", encoding="ascii") as file:
        json.dump(golden, file)


def main():
    random.seed(4)
    os.makedirs(ROOT, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = SPLITS["gpt2"]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=400, special_tokens=[AddedToken("<|endoftext|>", special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_tokens([AddedToken("<|user|>", special=True, normalized=False)])
    texts = TEXTS + ["".join(random.choice(PARTS) for _ in range(random.randrange(2, 25))) for _ in range(150)]
    golden = {"texts": texts, "ids": {}}
    for name, split in SPLITS.items():
        tokenizer.pre_tokenizer = split
        os.makedirs(os.path.join(ROOT, name), exist_ok=True)
        tokenizer.save(os.path.join(ROOT, name, "tokenizer.json"), pretty=False)
        golden["ids"][name] = [tokenizer.encode(text).ids for text in texts]
    with open(os.path.join(ROOT, "golden.json"), "w", encoding="ascii") as file:
        json.dump(golden, file)
    make_kinds()


if __name__ == "__main__":
    main()
