"""Token ids of `mpilora tokenize` equal those of the `tokenizers` library on varied and random text, for the vocabulary of a GGUF file under
every split pattern. For developers; needs the Python packages
tokenizers, gguf and h5py:

    MPILORA=build/mpilora venv/bin/python tests/interop/check_tokenizer.py MODEL.gguf [TEXT FILE]… [--seed n]
"""

import argparse
import json
import os
import random
import subprocess
import tempfile
import unicodedata

import gguf
import h5py
from tokenizers import AddedToken, Tokenizer, decoders, models

import make_tokenizer_golden as golden

MODEL = "{family: llama, layers: 1, width: 16, mlp_width: 32, heads: 2, kv_heads: 1, vocab: %d, context: 4096}\n"
CONTROL = 3


def write_tokenizer(fields, split, whole_pieces, folder):
    """The GGUF file's vocabulary under a split pattern, saved as tokenizer.json."""
    tokens, types, merges = (fields["tokenizer.ggml." + key].contents() for key in ("tokens", "token_type", "merges"))
    model = models.BPE(vocab={text: i for i, text in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges], ignore_merges=whole_pieces)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    special = [text for text, kind in zip(tokens, types) if kind == CONTROL]
    end = tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    os.makedirs(folder)
    tokenizer.save(f"{folder}/tokenizer.json")  # without the special tokens: in data they stay text
    plain = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.save(f"{folder}/tokenizer.json")
    with open(f"{folder}/tokenizer_config.json", "w", encoding="utf-8") as file:
        json.dump({"eos_token": end}, file)
    return plain, tokens.index(end), len(tokens)


def random_character():
    while True:
        code = random.choice([random.randrange(0x80, 0x800), random.randrange(0x800, 0x10000), random.randrange(0x10000, 0x110000)])
        # not yet assigned ones depend on the age of each library's tables; U+180E was a blank in old ones
        if not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) != "Cn" and code != 0x180E:
            return chr(code)


def make_texts(files):
    texts = [text for text in golden.TEXTS if text]
    for path in files:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
        texts += [line for line in random.sample(lines, min(500, len(lines))) if line]
    pool = [chr(c) for c in range(0x20, 0x7F)] * 3 + list(" \n\t\r'") * 20
    for _ in range(3000):
        texts.append("".join(random.choice(pool) if random.random() < 0.7 else random_character() for _ in range(random.randrange(1, 60))))
        texts.append("".join(random.choice(golden.PARTS) for _ in range(random.randrange(1, 40))))
    for _ in range(500):
        texts.append("x" + random.randbytes(100).decode("utf-8", errors="ignore"))
    return texts


def tokenize(base, texts):
    with open("texts.jsonl", "w", encoding="ascii") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    subprocess.run([os.environ["MPILORA"], "tokenize", "--base", base, "texts.jsonl", "texts.h5"], check=True, stdout=subprocess.DEVNULL)
    with h5py.File("texts.h5") as data:
        tokens, offsets = data["tokens"][:].tolist(), data["offsets"][:].tolist()
    return [tokens[a:b] for a, b in zip(offsets, offsets[1:])]


def compare(name, base, plain, end, texts):
    texts = [text for text in texts if plain.encode(text).ids]  # a vocabulary may lack all bytes of one
    wanted = [plain.encode(text).ids + [end] for text in texts]
    found = tokenize(base, texts)
    wrong = [text for text, a, b in zip(texts, wanted, found) if a != b]
    print(f"{name}: {len(texts)} texts, {sum(map(len, wanted))} ids, {len(wrong)} texts differ")
    assert len(found) == len(texts) and not wrong, wrong[:3]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("gguf")
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    os.environ["MPILORA"] = os.path.abspath(os.environ["MPILORA"])
    source, texts = os.path.abspath(options.gguf), make_texts(options.texts)
    fields = gguf.GGUFReader(source).fields
    kept = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, split in golden.SPLITS.items():
            plain, end, vocab = write_tokenizer(fields, split, name == "llama3", name)
            with open("model.yaml", "w", encoding="ascii") as file:
                file.write(MODEL % vocab)
            command = ["import", "--init", "random", "--config", "model.yaml", "--tokenizer", name, f"{name}.h5"]
            subprocess.run([os.environ["MPILORA"], *command], check=True, stdout=subprocess.DEVNULL)
            compare(name, f"{name}.h5", plain, end, texts)
            kept[name] = plain, end
        if fields["tokenizer.ggml.pre"].contents() in golden.SPLITS:
            name = fields["tokenizer.ggml.pre"].contents()
            subprocess.run([os.environ["MPILORA"], "import", source, "gguf.h5"], check=True, stdout=subprocess.DEVNULL)
            compare(f"GGUF ({name})", "gguf.h5", *kept[name], texts)
        os.chdir("/")


main()
