"""The tokenizers that `export --format gguf` writes, run by llama.cpp beside the libraries that they come from: ids of texts with blanks, accents, scripts and symbols, of
SentencePiece's Unigram, of the same in the stages of `tokenizers`, and of BERT's words. A developer's check: needs xllamacpp, which has llama.cpp inside, tokenizers and
sentencepiece; no CTest test.

usage: MPILORA=build/mpilora MPILORA_SOURCE_DIR=. python tests/interop/check_llama_tokens.py
"""

import json
import os
import random
import sys
import tempfile
import urllib.request

import sentencepiece
import tokenizers
import xllamacpp

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import harness

GOLDEN = os.path.join(HERE, "..", "golden", "tokenizer")
MODEL = "family: llama\nlayers: 1\nwidth: 32\nmlp_width: 32\nheads: 2\nkv_heads: 1\nhead_dim: 8\nvocab: 2000\ncontext: 64\n"
TEXTS = ["Hello, world!  It's 2024: 12345 tests.", "naïve café — 東京 😀", " leading and trailing ", "x" * 30, "the river runs to the sea", "ÀÉÎ õü ﬁ ① Ⅷ", "don't; (a) [b] {c} #d $5 %e ^f",
         "Zürich straße İstanbul", "e\u0301 a\u0308 decomposed", "日本語 中文字", "  two  blanks  inside  "]  # fmt: skip
WORDS = ["the", "river", "runs", "to", "sea", "naïve", "日本", "x", "1234", "don't", "…", "ß", "\u0301", "é", "Ünder", "A.B", "co-op"]


def by_llama(path, texts):
    p = xllamacpp.CommonParams()
    p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.fit_params, p.n_gpu_layers, p.verbosity = path, 64, 1, False, False, 0, 0
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    server, found = xllamacpp.Server(p), []
    for text in texts:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})) as answer:
            found.append(json.load(answer)["tokens"])
    return found


def check(checks, folder, name, source, wanted, texts):
    with open(f"{folder}/model.yaml", "w") as file:
        file.write(MODEL)
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--tokenizer", source, f"{folder}/{name}.h5")
    harness.mpilora("export", "--format", "gguf", "--base", f"{folder}/{name}.h5", f"{folder}/{name}.gguf")
    for text, ids, ours in zip(texts, by_llama(f"{folder}/{name}.gguf", texts), map(wanted, texts)):
        checks.that(ids == ours, f"{name}: {text!r}: {ids} by llama.cpp, {ours} by the library")


def check_json(checks, folder, name, texts, made):
    os.makedirs(f"{folder}/{name}")
    with open(f"{folder}/{name}/tokenizer.json", "w") as file:
        json.dump(made, file)
    library = tokenizers.Tokenizer.from_file(f"{folder}/{name}/tokenizer.json")
    check(checks, folder, name, f"{folder}/{name}", lambda text: library.encode(text).ids, texts)


def main():
    checks, draw = harness.Checks(), random.Random(1)
    texts = TEXTS + [" ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 12))) for _ in range(300)]
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(GOLDEN, "sentencepiece-unigram")
        library = sentencepiece.SentencePieceProcessor(model_file=f"{source}/tokenizer.model")
        check(checks, folder, "sentencepiece", source, library.encode, texts)
        harness.mpilora("export", "--format", "hf", "--base", f"{folder}/sentencepiece.h5", f"{folder}/hf")
        with open(f"{folder}/hf/tokenizer.json") as file:
            made = json.load(file)
        check_json(checks, folder, "converted", texts, made)
        precompiled = made["normalizer"]["normalizers"][0]
        words = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, made["pre_tokenizer"]]}
        check_json(checks, folder, "words", texts, {**made, "normalizer": precompiled, "pre_tokenizer": words})
        check_json(checks, folder, "never", texts, {**made, "normalizer": None, "pre_tokenizer": {**made["pre_tokenizer"], "prepend_scheme": "never"}})
        with open(os.path.join(GOLDEN, "bert", "tokenizer.json")) as file:
            bert = json.load(file)
        bert["added_tokens"] = [token for token in bert["added_tokens"] if token["content"].startswith("[")]
        check_json(checks, folder, "bert", texts, bert)
        check_json(checks, folder, "cased", texts, {**bert, "normalizer": {**bert["normalizer"], "lowercase": False, "strip_accents": False}})
    checks.end()


main()
