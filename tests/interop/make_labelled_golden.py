"""Writes tests/golden/labelled.json with transformers: texts, pairs and words of sentences, truncated at several lengths.

    python3 tests/interop/make_labelled_golden.py
"""

import json
import os
import sys
import tempfile

import transformers

import labelled_cases as cases

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def open_tokenizer(name, words):
    """words: as for is_split_into_words, which byte-level tokenizers refuse without a blank before each word."""
    data = json.loads(cases.tokenizer_json(SOURCE, name))
    if words and (data.get("pre_tokenizer") or {}).get("type") == "ByteLevel":
        data["pre_tokenizer"]["add_prefix_space"] = True
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(data, file)
        file.flush()
        return transformers.PreTrainedTokenizerFast(tokenizer_file=file.name)


def main():
    golden = {}
    for name in cases.TOKENIZERS:
        tokenizer, of_words = open_tokenizer(name, False), open_tokenizer(name, True)
        for length in cases.LENGTHS:
            ask = {"truncation": True, "max_length": length, "return_token_type_ids": True}
            single = [tokenizer(a, **ask) for a, _ in cases.texts()]
            pairs = [tokenizer(a, b, **ask) for a, b in cases.texts()]
            words = [of_words([word for word, _ in one], is_split_into_words=True, **ask) for one in cases.sentences()]
            labels = []
            for one, found in zip(cases.sentences(), words):
                ids = found.word_ids()
                labels.append([-100 if w is None or (i and ids[i - 1] == w) else one[w][1] for i, w in enumerate(ids)])
            golden[f"{name} {length}"] = {
                "single": [one["input_ids"] for one in single],
                "pairs": [one["input_ids"] for one in pairs],
                "types": [one["token_type_ids"] for one in pairs],
                "words": [one["input_ids"] for one in words],
                "labels": labels,
            }
    with open(os.path.join(SOURCE, "tests", "golden", "labelled.json"), "w") as file:
        file.write("{" + ",\n".join(json.dumps(key) + ": " + json.dumps(value, separators=(",", ":")) for key, value in golden.items()) + "}\n")
    print(f"transformers {transformers.__version__}: {len(golden)} cases", file=sys.stderr)


main()
