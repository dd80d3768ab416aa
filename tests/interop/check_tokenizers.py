"""Ids and texts equal those of `tokenizers` and `sentencepiece` for tokenizers of every kind, trained here on generated text, on many texts:
many scripts, code, broken pieces, long lines, added tokens. Needs the Python packages tokenizers, sentencepiece, gguf and numpy;
MPILORA_TOKENIZER_DRIVER names the program tests/tokenizer_driver. MPILORA_SHARED_DATA may name a folder with e2e/*.txt, whose lines join.

    check_tokenizers.py [--texts 100000] [--seed 1] [KIND]…
"""

import argparse
import glob
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

try:
    import sentencepiece
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

DRIVER = os.environ.get("MPILORA_TOKENIZER_DRIVER")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?"
         r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"
WORDS = ("the river runs through valley and sea we don't know what they'll say it's late I've said enough you're there he'd go def area width "
         "height return None if else for in range print self import from class value Grüße aus dem Tal sagt Müller Straße Änderung été "
         "naïve façade Ελλάδα κόσμος река течёт в море мир шалом שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดี 川は海へ流れる 東京 中文 文字 한국어 "
         "안녕하세요 ﬁnal ①② ½ x² Ⅷ １２３ ＡＢＣ e\u0301tude n\u0303 İstanbul ǅ").split()
PARTS = ["'s", "'S", "'ll", " ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", "the", "The", "river", "7", "42", "1999", "31337", "!", "...", "?!", ",", ".",
         "(", ")", "[", "]{", "_", "-", "–", "—", "…", "é", "e\u0301", "ж", "Ж", "海", "川", "の", "カ", "ー", "한", "ä", "ß", "ſ", "🙂", "👩‍🚀", "🇪🇺",
         "\u2009", "\u00a0", "\u3000", "\u200b", "\u200d", "\ufeff", "\ufffd", "▁", "▁▁", "\x00", "\x07", "\x7f", "\x85", "ﬀ", "㍿", "％", "。", "،",
         "ก", "ำ", "नि", "क्ष", "\u0300\u0323", "<user>", "<s>", "</s>", "<unk>", "[MASK]", "[CLS]", "<sep>", "<|special|>", "<0x41>", "##",
         "def f(x):\n    return x\n", "http://a.b/c?d=e&f=1", "</w>", "Ġ", "Ċ"]


# ---- texts -----------------------------------------------------------------------------------------------------------------------------

LAST = 0x1E000  # characters beyond are emoji and private ones; what came after Unicode 14 is left out by name below


def assigned(code):
    return not 0xD800 <= code < 0xE000 and unicodedata.category(chr(code)) != "Cn" and code != 0x180E


CHARACTERS = [chr(code) for code in range(0x20, LAST) if assigned(code)] + [chr(code) for code in range(0x1F300, 0x1F700)]


def random_text():
    kind = random.random()
    if kind < 0.35:
        return " ".join(random.choice(WORDS) for _ in range(random.randrange(1, 25)))
    if kind < 0.7:
        return "".join(random.choice(PARTS) for _ in range(random.randrange(1, 40)))
    if kind < 0.8:
        return "".join(random.choice(CHARACTERS) for _ in range(random.randrange(1, 20)))
    if kind < 0.9:
        return "".join(random.choice(WORDS)[:random.randrange(1, 8)] + random.choice(["", " ", "-", random.choice(PARTS)])
                       for _ in range(random.randrange(1, 25)))
    if kind < 0.95:
        return random.randbytes(random.randrange(1, 60)).decode("utf-8", errors="ignore")
    if kind < 0.999:
        start = random.choice([0x370, 0x400, 0x590, 0x600, 0x900, 0xE00, 0x1100, 0x3040, 0x4E00, 0xAC00, 0x1E00, 0xFB00, 0xFF00])
        block = [chr(c) for c in range(start, start + 0x100) if assigned(c)]
        return "".join(random.choice(block) if random.random() < 0.85 else " " for _ in range(random.randrange(1, 40)))
    return random.choice(["ab", "there ", " ", "\n", "海", "x y", "e\u0301\u0323"]) * random.randrange(500, 3000)


def make_texts(count):
    texts = ["", " ", "  ", "\n", "a", " a", "a ", "  a  b  "]
    for path in sorted(glob.glob(os.path.join(os.environ.get("MPILORA_SHARED_DATA", "/nowhere"), "e2e", "*"))):
        with open(path, encoding="utf-8", errors="ignore") as file:
            lines = file.read().split("\n")
        texts += random.sample(lines, min(len(lines), count // 20))
    while len(texts) < count:
        texts.append(random_text())
    return texts


# ---- the kinds ---------------------------------------------------------------------------------------------------------------------------

def training_texts():
    parts = [part for part in PARTS if part != "\x00"]  # jansson reads no key with a zero
    return [" ".join(random.choice(WORDS) for _ in range(30)) for _ in range(600)] + ["".join(random.choice(parts) for _ in range(30)) for _ in range(200)]


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
BARE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern, behaviour="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behaviour, invert)


def add_tokens(tokenizer):
    """Added tokens of every kind."""
    tokenizer.add_special_tokens([AddedToken("<|special|>", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<user>", lstrip=True, normalized=False), AddedToken("<sep>", rstrip=True, normalized=True),
                          AddedToken("river", single_word=True, normalized=False), AddedToken("Straße", normalized=True),
                          AddedToken("[MASK]", lstrip=True, rstrip=True, normalized=False), AddedToken("  ", normalized=False)])


def byte_level(pre, normalizer=None, added=False, whole=False):
    def make(folder):
        tokenizer = Tokenizer(models.BPE(ignore_merges=whole))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
        if normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(vocab_size=1200, special_tokens=["<|endoftext|>"], show_progress=False,
                                                                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        if added:
            add_tokens(tokenizer)
        tokenizer.save(f"{folder}/tokenizer.json")
        return tokenizer
    return make


def llama2(legacy, added=False):
    """A SentencePiece BPE as transformers converts it."""
    def make(folder):
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        blank = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        spaces = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
        tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(vocab_size=1500, special_tokens=tokens, show_progress=False, limit_alphabet=150))
        data = json.loads(tokenizer.to_str())
        data["added_tokens"] = [t for t in data["added_tokens"] if t["id"] < 3]
        tokenizer = Tokenizer.from_str(json.dumps(data))
        if legacy:
            tokenizer.normalizer, tokenizer.pre_tokenizer = blank, None
        else:
            tokenizer.pre_tokenizer = spaces
        if tokenizer.pre_tokenizer is None:
            data = json.loads(tokenizer.to_str())
            data["pre_tokenizer"] = None
            tokenizer = Tokenizer.from_str(json.dumps(data))
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
        if added:
            add_tokens(tokenizer)
        tokenizer.save(f"{folder}/tokenizer.json")
        return tokenizer
    return make


def unigram(normalizer, scheme="always", fallback=False, added=False):
    def make(folder):
        tokenizer = Tokenizer(models.Unigram())
        if normalizer == "precompiled":
            tokenizer.normalizer = normalizers.Precompiled(charsmap())
        elif normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] * fallback
        tokenizer.train_from_iterator(training_texts(), trainers.UnigramTrainer(vocab_size=900, special_tokens=tokens, unk_token="<unk>", show_progress=False))
        if fallback:
            data = json.loads(tokenizer.to_str())
            data["model"]["byte_fallback"] = True
            data["added_tokens"] = [t for t in data["added_tokens"] if t["id"] < 3]
            tokenizer = Tokenizer.from_str(json.dumps(data))
            tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
        if added:
            add_tokens(tokenizer)
        tokenizer.save(f"{folder}/tokenizer.json")
        return tokenizer
    return make


def wordpiece(normalizer, pre, added=False):
    def make(folder):
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre, decoders.WordPiece()
        tokenizer.train_from_iterator(training_texts(), trainers.WordPieceTrainer(vocab_size=1000, show_progress=False,
                                                                                  special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        if added:
            add_tokens(tokenizer)
        tokenizer.save(f"{folder}/tokenizer.json")
        return tokenizer
    return make


def word_level(normalizer, pre, decoder=None):
    def make(folder):
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        if normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre
        if decoder:
            tokenizer.decoder = decoder
        tokenizer.train_from_iterator(training_texts(), trainers.WordLevelTrainer(vocab_size=3000, special_tokens=["<unk>"], show_progress=False))
        tokenizer.save(f"{folder}/tokenizer.json")
        return tokenizer
    return make


def affixes(folder):
    """BPE with a prefix for what continues a word and a suffix for what ends one, as CLIP and GPT-1 have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", "removed", True), pre_tokenizers.Digits()])
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>"], end_of_word_suffix="</w>",
                                                                        show_progress=False))
    tokenizer.save(f"{folder}/tokenizer.json")
    return tokenizer


def prefixed(folder):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", fuse_unk=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
    tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>"], continuing_subword_prefix="##",
                                                                        limit_alphabet=80, show_progress=False))
    tokenizer.save(f"{folder}/tokenizer.json")
    return tokenizer


def charsmap():
    """A precompiled character map: SentencePiece's for NFKC."""
    with tempfile.TemporaryDirectory() as folder:
        train_sentencepiece(folder, model_type="unigram", normalization_rule_name="nmt_nfkc", vocab_size=500)
        return normalizer_map(f"{folder}/tokenizer.model")


def model_proto(path):
    from sentencepiece import sentencepiece_model_pb2
    proto = sentencepiece_model_pb2.ModelProto()
    with open(path, "rb") as file:
        proto.ParseFromString(file.read())
    return proto


def normalizer_map(path):
    return model_proto(path).normalizer_spec.precompiled_charsmap


def train_sentencepiece(folder, **options):
    texts = [text.replace("\n", " ").replace("\x00", "") for text in training_texts()]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_prefix=f"{folder}/tokenizer", minloglevel=2, hard_vocab_limit=False,
                                             **{"vocab_size": 1000, **options})
    os.unlink(f"{folder}/tokenizer.vocab")
    forget_folders(f"{folder}/tokenizer.model")


def forget_folders(path):
    """SentencePiece writes into the model where it was trained and where its rules lay: a golden file says neither."""
    proto = model_proto(path)
    proto.trainer_spec.model_prefix = "tokenizer"
    if proto.normalizer_spec.normalization_rule_tsv:
        proto.normalizer_spec.normalization_rule_tsv = "rules.tsv"
    with open(path, "wb") as file:
        file.write(proto.SerializeToString())


def model_file(**options):
    def make(folder):
        train_sentencepiece(folder, **options)
        return sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")
    return make


def write_gguf(folder, model, tokens, types, **keys):
    """A tiny Llama with this vocabulary, imported."""
    import gguf
    import numpy
    writer = gguf.GGUFWriter(f"{folder}/model.gguf", "llama")
    for key, value in {"context_length": 64, "embedding_length": 8, "block_count": 1, "feed_forward_length": 12, "attention.head_count": 2,
                       "attention.head_count_kv": 1}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for key, value in keys.items():
        {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}.get(type(value), writer.add_array)(f"tokenizer.ggml.{key}", value)
    shapes = {"token_embd": (len(tokens), 8), "output_norm": (8,)}
    shapes |= {f"blk.0.{name}": shape for name, shape in {"attn_norm": (8,), "ffn_norm": (8,), "attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8),
                                                           "attn_output": (8, 8), "ffn_gate": (12, 8), "ffn_up": (12, 8), "ffn_down": (8, 12)}.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", numpy.full(shape, 0.5, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    subprocess.run([os.environ["MPILORA"], "import", f"{folder}/model.gguf", f"{folder}/base.h5"], check=True, stdout=subprocess.DEVNULL)


def gguf_pieces(model, **options):
    """A SentencePiece vocabulary as llama.cpp's converter writes it."""
    def make(folder):
        processor = model_file(**options)(folder)
        ids = range(processor.get_piece_size())
        kinds = [piece.type for piece in model_proto(f"{folder}/tokenizer.model").pieces]
        keys = {"add_space_prefix": options.get("add_dummy_prefix", True), "remove_extra_whitespaces": options.get("remove_extra_whitespaces", True)}
        charsmap_bytes = normalizer_map(f"{folder}/tokenizer.model")
        if charsmap_bytes:
            keys["precompiled_charsmap"] = charsmap_bytes
        write_gguf(folder, model, [processor.id_to_piece(i) for i in ids], kinds, scores=[processor.get_score(i) for i in ids], **keys)
        return processor
    return make


def gguf_bytes(pre, stages, whole=False):
    """A byte-level vocabulary with a name for its split pattern."""
    def make(folder):
        os.mkdir(f"{folder}/made")
        tokenizer = byte_level(pre_tokenizers.Sequence(stages + [BARE]), whole=whole)(f"{folder}/made")
        data = json.loads(tokenizer.to_str())
        tokens = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
        merges = [" ".join(pair) for pair in data["model"]["merges"]]
        write_gguf(folder, "gpt2", tokens, [3 if token == "<|endoftext|>" else 1 for token in tokens], merges=merges, pre=pre, eos_token_id=0, bos_token_id=0)
        return tokenizer
    return make


def gguf_named(pre):
    """A byte-level vocabulary whose pattern goes by the name alone: `tokenizers` gets the pattern that the import wrote into the base, and cuts by it
    with its own regular expressions."""
    def make(folder):
        import h5py
        gguf_bytes(pre, [split(GPT2)])(folder)
        with h5py.File(f"{folder}/base.h5") as base:
            return Tokenizer.from_str(bytes(base["tokenizer"][()]).split(b"\n", 1)[1].decode())
    return make


def gguf_bert(folder):
    os.mkdir(f"{folder}/made")
    tokenizer = wordpiece(normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer())(f"{folder}/made")
    data = json.loads(tokenizer.to_str())
    vocab = data["model"]["vocab"]
    words = [word for word in sorted(vocab, key=vocab.get) if "▁" not in word]  # which means a blank there
    data["model"]["vocab"] = {word: i for i, word in enumerate(words)}
    data["model"]["max_input_chars_per_word"] = 1 << 30  # llama.cpp has no such limit
    tokens = [word if i < 5 else word[2:] if word.startswith("##") else "▁" + word for i, word in enumerate(words)]
    write_gguf(folder, "bert", tokens, [3 if i < 5 else 1 for i in range(len(tokens))], cls_token_id=2, bos_token_id=2, seperator_token_id=3,
               unknown_token_id=1)
    return Tokenizer.from_str(json.dumps(data))


NFC, NFD, NFKC, NFKD, LOWER = normalizers.NFC(), normalizers.NFD(), normalizers.NFKC(), normalizers.NFKD(), normalizers.Lowercase()
BEHAVIOURS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
KINDS = {
    "gpt2": byte_level(BYTES),
    "gpt2, added tokens": byte_level(BYTES, added=True),
    "gpt2, blank before": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), added=True),
    "llama3": byte_level(pre_tokenizers.Sequence([split(LLAMA3), BARE]), whole=True, added=True),
    "qwen2": byte_level(pre_tokenizers.Sequence([split(LLAMA3.replace("{1,3}", "")), BARE]), NFC, added=True),
    "gpt-4o": byte_level(pre_tokenizers.Sequence([split(GPT4O), BARE])),
    "bloom": byte_level(pre_tokenizers.Sequence([split(BLOOM), BARE])),
    "deepseek": byte_level(pre_tokenizers.Sequence([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"),
                                                    pre_tokenizers.Digits(individual_digits=True), BARE])),
    "falcon": byte_level(pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), BYTES, pre_tokenizers.Digits(),
                                                  split("[0-9][0-9][0-9]")])),
    "byte-level normalizer": byte_level(split(LLAMA3), normalizers.ByteLevel()),
    "llama2": llama2(True),
    "llama2, added tokens": llama2(True, added=True),
    "llama2, first": llama2(False, added=True),
    "unigram": unigram(None),
    "unigram, nfkc": unigram(normalizers.Sequence([normalizers.Nmt(), NFKC, normalizers.Replace(Regex(" {2,}"), " "), LOWER]), added=True),
    "unigram, charsmap": unigram("precompiled", "first", added=True),
    "unigram, bytes": unigram(None, "never", fallback=True),
    "bert": wordpiece(normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), added=True),
    "bert, cased": wordpiece(normalizers.BertNormalizer(lowercase=False, strip_accents=False), pre_tokenizers.BertPreTokenizer()),
    "wordpiece, nfd": wordpiece(normalizers.Sequence([NFD, normalizers.StripAccents(), normalizers.Strip()]), pre_tokenizers.Whitespace(), added=True),
    "words, nfkd": word_level(NFKD, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_next")])),
    "words, scripts": word_level(NFC, pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.CharDelimiterSplit(" ")]),
                                 decoders.Fuse()),
    "words, ctc": word_level(None, pre_tokenizers.WhitespaceSplit(), decoders.CTC("the", "|", True)),
    "suffix": affixes,
    "prefix": prefixed,
    "sentencepiece bpe": model_file(model_type="bpe", byte_fallback=True, character_coverage=0.99, user_defined_symbols=["<user>", "<sep>"]),
    "sentencepiece bpe, identity": model_file(model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False,
                                              byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True),
    "sentencepiece unigram": model_file(model_type="unigram", user_defined_symbols=["<user>", "▁▁"], control_symbols=["<sep>"]),
    "sentencepiece unigram, bytes": model_file(model_type="unigram", byte_fallback=True, add_dummy_prefix=False, normalization_rule_name="nfkc_cf"),
    "sentencepiece char": model_file(model_type="char"),
    "sentencepiece suffix": model_file(model_type="unigram", treat_whitespace_as_suffix=True),
}
TEKKEN = GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DEEPSEEK3 = ["\\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
PRES = {"gpt-2": [GPT2], "starcoder": [r"\p{N}", GPT2], "falcon3": [LLAMA3], "qwen2": [LLAMA3.replace("{1,3}", "")], "tekken": [TEKKEN], "gpt-4o": [GPT4O],
        "bloom": [BLOOM], "viking": [BLOOM, r"\p{N}"], "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
        "deepseek-v3": DEEPSEEK3, "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"]}
KINDS |= {f"gguf {name}": gguf_bytes(name, [split(one) for one in stages], name in ("falcon3", "tekken")) for name, stages in PRES.items()}
# One name of each pattern that PRES does not spell.
NAMED = ("default smaug-bpe qwen35 ufakzeka granite-embed-multi-97m tiny_aya jais-2 deepseek-llm spark2_5 youtu falcon chameleon kimi-k2 bailingmoe "
         "seed-coder afmoe laguna exaone-moe minicpm5").split()
KINDS |= {f"gguf {name}, by its name": gguf_named(name) for name in NAMED}
KINDS |= {
    "gguf gemma": gguf_pieces("llama", model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                              add_dummy_prefix=False, split_digits=True, user_defined_symbols=["<user>", "▁▁", "\t"]),
    "gguf llama": gguf_pieces("llama", model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
    "gguf t5": gguf_pieces("t5", model_type="unigram"),
    "gguf bert": gguf_bert,
}
for behaviour in BEHAVIOURS:
    for inverted in (False, True):
        KINDS[f"split, {behaviour}{', inverted' * inverted}"] = word_level(None, split(r"\s|[aeiou]+", behaviour, inverted), decoders.Strip("t", 1, 0))  # with stop 1, too, it panics at "t"
KINDS["split, word boundaries"] = word_level(None, pre_tokenizers.Sequence([split(r"\b"), split(r"\W"), split(r"\B\w\B|[\w]"), split(r"\p{Han}+|\P{Han}+")]))
AFTER_UNICODE_9 = {"words, scripts"}  # later characters have no script there
SCRIPTS = pre_tokenizers.UnicodeScripts()


# ---- comparing -----------------------------------------------------------------------------------------------------------------------------

def run_driver(folder, texts, *options):
    data = b"".join(struct.pack("<I", len(text)) + text for text in (text.encode() for text in texts))
    base = f"{folder}/base.h5"
    done = subprocess.run([DRIVER, base if os.path.exists(base) else folder, *options], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    out, at, found = done.stdout, 0, []
    for _ in texts:
        count, = struct.unpack_from("<I", out, at)
        ids = list(struct.unpack_from(f"<{count}i", out, at + 4))
        at += 4 + 4 * count
        length, = struct.unpack_from("<I", out, at)
        found.append((ids, out[at + 4:at + 4 + length].decode("utf-8", errors="replace")))
        at += 4 + length
    return found, done.stderr.decode().strip()


def reference(tokenizer, texts):
    if isinstance(tokenizer, sentencepiece.SentencePieceProcessor):
        ids = tokenizer.encode(texts)
        return [(one, tokenizer.decode(one)) for one in ids]
    ids = [one.ids for one in tokenizer.encode_batch(texts, add_special_tokens=False)]
    return list(zip(ids, tokenizer.decode_batch(ids, skip_special_tokens=False)))


def compare(name, make, texts):
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make(folder)
        if name in AFTER_UNICODE_9:
            later = {c for c in set("".join(texts)) if c != " " and all(len(SCRIPTS.pre_tokenize_str(a + c)) == 1 for a in "aб川")}
            texts = [text for text in texts if not later & set(text)]
        wanted = reference(tokenizer, texts)
        # sentencepiece finds no control symbols in text
        plain = ["text"] * isinstance(tokenizer, sentencepiece.SentencePieceProcessor)
        found, speed = run_driver(folder, texts, *plain)
    ids = [text for text, a, b in zip(texts, wanted, found) if a[0] != b[0]]
    back = [text for text, a, b in zip(texts, wanted, found) if a[0] == b[0] and a[1] != b[1]]
    print(f"{name}: {len(texts)} texts, {sum(len(one) for one, _ in wanted)} ids, {len(ids)} texts with other ids, {len(back)} decoded otherwise; {speed}",
          flush=True)
    for text in sorted(ids + back, key=len)[:2]:
        i = texts.index(text)
        print(f"    {text[:100]!r}\n      wanted {wanted[i][0][:20]} {wanted[i][1][:80]!r}\n      found  {found[i][0][:20]} {found[i][1][:80]!r}")
    return len(ids) + len(back)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--texts", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    texts = make_texts(options.texts)
    wrong = 0
    for name in options.kinds or KINDS:
        random.seed(options.seed)
        wrong += compare(name, KINDS[name], texts)
    assert wrong == 0, f"{wrong} texts differ"


if __name__ == "__main__":
    main()
