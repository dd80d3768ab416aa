"""export --format gguf: of every architecture the file has the tensors that llama.cpp's converter would write, byte for byte, and is imported again as the same
base; every --dtype with its fallbacks; tokenizers under the names that llama.cpp has for their patterns, with the same ids afterwards; LoRA adapters whose
product is the adapter's; what GGUF cannot say is refused by name, and nothing is written."""

import base64
import json
import os
import re
import struct
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import family_models as families
import gguf_models as gguf
import harness
import reference_models as reference
import said_models as said

USAGE, INPUT = 2, 3
TOKENIZERS = os.path.join(HERE, "..", "golden", "tokenizer")
TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_k": 12, "q6_k": 14}
MODEL = "family: {}\nlayers: 2\nwidth: {}\nmlp_width: {}\nheads: 4\nkv_heads: 2\nhead_dim: 64\nvocab: {}\ncontext: 64\n"


def inspect(path):
    return json.loads(harness.mpilora("inspect", path, "--json"))


def export(base, out, *words):
    done = harness.start("export", "--format", "gguf", "--base", base, *words, out)
    if done.returncode:
        sys.exit(f"export of {base} with {words}: {done.stderr}")
    return done.stderr


def refuse(checks, code, words, *command):
    done, out = harness.start(*command), command[-1]
    lines = done.stderr.strip().splitlines()
    good = done.returncode == code and len(lines) == 1 and all(word in lines[0] for word in words)
    checks.that(good, f"{command}: exit {done.returncode}, expected {code}, with {words}: {done.stderr}")
    checks.that(".tmp-" not in done.stderr, f"{command}: names a temporary file: {done.stderr}")
    folder = os.path.dirname(out)
    left = [name for name in os.listdir(folder) if name.startswith(os.path.basename(out))]
    checks.that(not left, f"{command}: left {left}")


MERGE = ("--merge", "--adapter", "nothing-there")  # what the model cannot be is said before the adapter is read


# ---- models ---------------------------------------------------------------------------------------------------------------


def expected_tensors(name):
    """What the converter's own layout is, in other words than the family's table."""
    if name in ("mistral", "qwen2", "qwen3"):
        keep, reference.MODELS[name] = reference.MODELS[name], said.config_of(name)
        _, _, tensors = gguf.contents(name)
        reference.MODELS[name] = keep
        return tensors
    if name not in families.MODELS or name in ("phi", "stablelm", "falcon-7b"):
        return None
    keep, families.MODELS[name] = families.MODELS[name], said.config_of(name)
    _, _, tensors = families.gguf_contents(name, said.shapes_of(name))
    families.MODELS[name] = keep
    return tensors


def check_model(checks, folder, name):
    source, base, out, again = (f"{folder}/{name}{end}" for end in ("", ".h5", ".gguf", ".again.h5"))
    said.write_model(source, name)
    harness.mpilora("import", source, base, "--dtype", "fp32")
    export(base, out)
    harness.mpilora("import", out, again, "--dtype", "fp32", "--hf-config", f"{source}/config.json", "--tokenizer", source)
    a, b = inspect(base), inspect(again)
    checks.that(a["tensors"] == b["tensors"] and a["architecture"] == b["architecture"], f"{name}: read back as {b['architecture']}, was {a['architecture']}")
    same = a["content_sha256"] == b["content_sha256"]
    checks.that(same, f"{name}: the weights that are read back differ")
    alone = f"{folder}/{name}.alone.h5"
    harness.mpilora("import", out, alone, "--dtype", "fp32")
    differs = {key for key, value in inspect(alone)["architecture"].items() if a["architecture"][key] != value}
    checks.that(differs <= {"mistral": {"family"}, "phi3": {"rope_scaling"}}.get(name, set()), f"{name}: without a config.json other values: {differs}")
    metadata, found = gguf.read_file(out)
    checks.that(metadata["general.type"] == "model" and len(metadata["tokenizer.ggml.tokens"]) == said.config_of(name)["vocab_size"], f"{name}: {list(metadata)}")
    wanted = expected_tensors(name)
    if wanted is None:
        return
    extra = {"output.weight"} if "output.weight" not in wanted and name in ("stablelm-parallel", "gpt_neox") else set()
    checks.that(set(found) == set(wanted) | extra, f"{name}: other tensors: {sorted(set(found) ^ set(wanted))}")
    for tensor in set(wanted) & set(found):
        shape, kind, data = found[tensor]
        checks.that(shape == list(wanted[tensor][0]) and kind == 0 and data == wanted[tensor][1], f"{name}: {tensor} differs: {shape}")


def check_refusals(checks, folder):
    for name, words in (
        ("opt", ["OPT"]),
        ("gptj", ["GPT-J"]),
        ("starcoder2", ["starcoder2", "window", "7"]),
        ("smollm3", ["unrotated_layers"]),
        ("granite", ["dynamic"]),
        ("bloom-stream", ["norm_places"]),
        ("falcon-rw", ["positions"]),
        ("gemma2", ["head"]),
        ("gemma3_text", ["rope_local_theta"]),
        ("mistral", ["llama", "window"]),
        ("llama-scaled", ["rope_freqs"]),
    ):
        source, base = f"{folder}/no-{name}", f"{folder}/no-{name}.h5"
        if name in reference.MODELS:
            reference.write_model(source, name)
        else:
            families.write_model(source, name, families.golden()[name]["tensors"])
        harness.mpilora("import", source, base, "--dtype", "fp32")
        refuse(checks, INPUT, words, "export", "--format", "gguf", "--base", base, f"{folder}/no-{name}.gguf")
        refuse(checks, INPUT, words, "export", "--format", "gguf", "--base", base, *MERGE, f"{folder}/no-{name}.gguf")
    base = f"{folder}/llama.h5"
    for merge in ((), MERGE):
        refuse(checks, USAGE, ["--dtype", "q9"], "export", "--format", "gguf", "--base", base, *merge, "--dtype", "q9", f"{folder}/x.gguf")
    refuse(checks, USAGE, ["--merge", "--adapter"], "export", "--format", "gguf", "--base", base, "--merge", f"{folder}/x.gguf")
    refuse(checks, USAGE, ["--dtype"], "export", "--format", "hf", "--base", base, "--dtype", "f16", f"{folder}/x.hf")
    done = harness.start("export", "--format", "gguf", "--base", base, base)
    checks.that(done.returncode == USAGE and "the base itself" in done.stderr, f"over the base: {done.stderr}")


# ---- types ----------------------------------------------------------------------------------------------------------------


def check_types(checks, folder):
    """Rows of 256 take every block; of 96, Q5_0 and Q8_0 in the place of Q4_K and Q6_K; of 40, none."""
    for width, fallen in ((256, {}), (96, {"q4_k": 6, "q6_k": 8})):
        with open(f"{folder}/model.yaml", "w") as file:
            file.write(MODEL.format("llama", width, width, 64))
        base = f"{folder}/wide.h5"
        harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--dtype", "bf16", base)
        for word, number in TYPES.items():
            out, back = f"{folder}/typed.gguf", f"{folder}/typed.h5"
            text = export(base, out, "--dtype", word)
            _, tensors = gguf.read_file(out)
            kinds = {name: kind for name, (_, kind, _) in tensors.items()}
            narrow = width % 256 and word in fallen
            checks.that(kinds["blk.0.ffn_gate.weight"] == (fallen[word] if narrow else number), f"{word}, {width}: ffn_gate is {kinds['blk.0.ffn_gate.weight']}")
            checks.that(kinds["blk.0.attn_norm.weight"] == 0, f"{word}: a norm is {kinds['blk.0.attn_norm.weight']}")
            said_so = width % 256 and word in ("q4_0", "q4_k", "q6_k")  # of the first only the head, which would be Q6_K
            checks.that(("in the place of" in text) == bool(said_so), f"{word}, {width}: says {text}")
            if number > 1 and number != 30:  # blocks stay the same blocks through a base that keeps them
                harness.mpilora("import", out, back, "--dtype", "keep")
                export(back, f"{folder}/again.gguf")
                checks.that(gguf.read_file(f"{folder}/again.gguf")[1] == tensors, f"{word}, {width}: blocks changed on their way through a base")
    with open(f"{folder}/model.yaml", "w") as file:
        file.write(MODEL.format("llama", 40, 40, 64).replace("head_dim: 64", "head_dim: 10"))
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--dtype", "bf16", f"{folder}/odd.h5")
    text = export(f"{folder}/odd.h5", f"{folder}/odd.gguf", "--dtype", "q4_k")
    kinds = {kind for shape, kind, _ in gguf.read_file(f"{folder}/odd.gguf")[1].values() if len(shape) == 2}
    checks.that(kinds == {30} and "bf16 in the place of q" in text, f"rows that no block fits: {kinds}, {text}")
    check_half(checks, folder)


def check_half(checks, folder):
    """A number beyond F16 is refused."""
    source, base = f"{folder}/large", f"{folder}/large.h5"
    said.write_model(source, "llama")
    with open(f"{source}/model.safetensors", "r+b") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        file.seek(8 + size + header["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0])
        file.write(struct.pack("<f", 1e6))
    harness.mpilora("import", source, base, "--dtype", "fp32")
    words = ["layers.1.mlp.up.weight", "row 0", "F16"]
    refuse(checks, INPUT, words, "export", "--format", "gguf", "--base", base, "--dtype", "f16", f"{folder}/large.gguf")


# ---- tokenizers -----------------------------------------------------------------------------------------------------------

SAID = {"gpt2": ("gpt2", "gpt-2"), "llama3": ("gpt2", "dbrx"), "smollm": ("gpt2", "smollm"), "sentencepiece-bpe": ("llama", "default"),
        "sentencepiece-unigram": ("t5", "default"), **{name: ("t5", "default") for name in ("converted", "words-of-pieces", "mapped-words", "unmapped-words", "never-before", "blanks-at-ends")},
        **{name: ("bert", "default") for name in ("bert-plain", "bert-cased")}}
TEXTS = ["Hello, world!  It's 2024: 12345 tests.\n\n\tEnd", "naïve café — 東京 😀", " leading and trailing ", "x" * 30]


def check_tokenizer(checks, folder, name, source, texts=TEXTS):
    model, base, out, back = f"{folder}/words.yaml", f"{folder}/words.h5", f"{folder}/words.gguf", f"{folder}/words2.h5"
    with open(model, "w") as file:
        file.write(MODEL.format("llama", 32, 32, 2000).replace("head_dim: 64", "head_dim: 8"))
    harness.mpilora("import", "--init", "random", "--config", model, "--tokenizer", source, base)
    text = export(base, out)
    metadata, _ = gguf.read_file(out)
    if name not in SAID:
        good = metadata["tokenizer.ggml.model"] == "none" and "GGUF has no word for this tokenizer" in text
        checks.that(good, f"tokenizer {name}: {metadata['tokenizer.ggml.model']}, {metadata.get('tokenizer.ggml.pre')}: {text}")
        return text
    found = metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre")
    checks.that(found == SAID[name], f"tokenizer {name}: {found}, expected {SAID[name]}: {text}")
    harness.mpilora("import", out, back)
    with open(f"{folder}/texts.jsonl", "w") as file:
        for line in texts:
            file.write(json.dumps({"text": line}) + "\n")
    ids = [tokens_of(one, folder) for one in (base, back)]
    checks.that(ids[0] == ids[1], f"tokenizer {name}: other ids after the way through GGUF: {[len(one) for one in ids]}")
    return text


def check_pieces(checks, folder):
    """SentencePiece's model as the BPE with byte_fallback that transformers makes of it: the same pieces, and merges in the order of its scores."""
    name, found = "sentencepiece-bpe", []
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/words.yaml", "--tokenizer", f"{TOKENIZERS}/{name}", f"{folder}/pieces.h5")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/pieces.h5", f"{folder}/pieces")
    for file in os.listdir(f"{folder}/pieces"):  # of both the converted one is left
        if not file.startswith("tokenizer") or file.endswith(".model"):
            os.remove(f"{folder}/pieces/{file}")
    checks.that(os.path.exists(f"{folder}/pieces/tokenizer.json"), "SentencePiece's model was not converted")
    for source in (f"{TOKENIZERS}/{name}", f"{folder}/pieces"):
        check_tokenizer(checks, folder, name, source)
        found.append(gguf.read_file(f"{folder}/words.gguf")[0])
    for key in ("tokens", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id", "add_bos_token", "add_space_prefix"):
        one, two = (metadata.get(f"tokenizer.ggml.{key}") for metadata in found)
        checks.that(one == two, f"pieces, {key}: {str(one)[:200]} of SentencePiece's file, {str(two)[:200]} of tokenizer.json")


def write_variant(folder, name, tokenizer, **changes):
    os.makedirs(f"{folder}/{name}", exist_ok=True)
    if "</s>" in (token["content"] for token in tokenizer["added_tokens"]):  # else readers of a Unigram take token 1
        reference.write_json(f"{folder}/{name}/tokenizer_config.json", {"eos_token": "</s>"})
    with open(f"{folder}/{name}/tokenizer.json", "w") as file:
        json.dump({**tokenizer, **changes}, file)
    return f"{folder}/{name}"


def metadata_of(folder):
    metadata, _ = gguf.read_file(f"{folder}/words.gguf")
    return {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}


def refuse_variant(checks, folder, words, tokenizer, **changes):
    source, base = write_variant(folder, "refused", tokenizer, **changes), f"{folder}/refused.h5"
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/words.yaml", "--tokenizer", source, base)
    text = export(base, f"{folder}/refused.gguf")
    checks.that(words in text, f"expected \"{words}\" of a tokenizer: {text}")


def stages_of(normalizer):
    return normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]


def map_to_blanks(characters):
    """A precompiled map of single characters: units of Darts, a label, the sign of a leaf and an offset each, behind which a leaf says where its text begins."""
    root, leaves, units = 256, 600, [0] * 1024
    units[0] = root << 10
    for i, c in enumerate(characters):
        units[root ^ c] = c | 1 << 8 | (root ^ c ^ (leaves + i)) << 10
        units[leaves + i] = 1 << 31
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + b" \0"


def check_caveats(checks, folder, made, words):
    """What is warned of where a Unigram's words are cut at white space, by whether its map makes blanks of line feeds and tabs; and where ends of texts keep their blanks."""
    own, feeds, ends = "a \"\u2581\" of a text's own", "line feeds and tabs", "blanks at the ends of a text stay"
    plain = TEXTS[1:2] + TEXTS[3:]

    def warned(name, texts, expected, **changes):
        said = check_tokenizer(checks, folder, name, write_variant(folder, name, made, **changes), texts)
        checks.that([part in said for part in (own, feeds, ends)] == expected, f"{name}: {said}")

    precompiled = next(stage for stage in stages_of(made["normalizer"]) if stage["type"] == "Precompiled")
    warned("unmapped-words", plain, [True, True, False], normalizer=precompiled, pre_tokenizer=words)
    mapped = {**precompiled, "precompiled_charsmap": base64.b64encode(map_to_blanks(b"\n\t")).decode()}
    warned("mapped-words", TEXTS, [True, False, False], normalizer=mapped, pre_tokenizer=words)
    merged = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    warned("blanks-at-ends", plain, [False, False, True], normalizer={"type": "Sequence", "normalizers": [precompiled, merged]})


def check_unigram(checks, folder):
    """SentencePiece's Unigram in the stages of `tokenizers`, as transformers converts it and as XLM-R's file has them."""
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/words.yaml", "--tokenizer", f"{TOKENIZERS}/sentencepiece-unigram", f"{folder}/pieces.h5")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/pieces.h5", f"{folder}/unigram")
    with open(f"{folder}/unigram/tokenizer.json") as file:
        made = json.load(file)
    check_tokenizer(checks, folder, "converted", write_variant(folder, "converted", made))
    one = metadata_of(folder)
    check_tokenizer(checks, folder, "sentencepiece-unigram", f"{TOKENIZERS}/sentencepiece-unigram")
    two = metadata_of(folder)
    for key in ("tokens", "scores", "precompiled_charsmap", "unknown_token_id", "add_space_prefix", "remove_extra_whitespaces"):
        checks.that(one.get(key) == two.get(key) is not None, f"Unigram, {key}: {str(one.get(key))[:200]} of tokenizer.json, {str(two.get(key))[:200]} of SentencePiece's file")
    metaspace = made["pre_tokenizer"]
    words = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}
    said = check_tokenizer(checks, folder, "words-of-pieces", write_variant(folder, "words-of-pieces", made, normalizer=None, pre_tokenizer=words), TEXTS[1:])
    checks.that("line feeds and tabs" in said and "a \"\u2581\" of a text's own" in said, f"words of pieces: {said}")
    check_caveats(checks, folder, made, words)
    never = write_variant(folder, "never-before", made, normalizer=None, pre_tokenizer={**metaspace, "prepend_scheme": "never"})
    check_tokenizer(checks, folder, "never-before", never)
    vocab = [*made["model"]["vocab"], ["a\u2581b", -1.0]]
    refuse_variant(checks, folder, "pieces with a blank inside", made, model={**made["model"], "vocab": vocab})
    refuse_variant(checks, folder, "makes bytes of unknown characters", made, model={**made["model"], "byte_fallback": True})
    refuse_variant(checks, folder, "its normalizer has a NFKC", made, normalizer={"type": "NFKC"})


def check_bert(checks, folder):
    """BERT's words, small and as they are; what would be one text with another token."""
    with open(f"{TOKENIZERS}/bert/tokenizer.json") as file:
        bert = json.load(file)
    added = [token for token in bert["added_tokens"] if token["content"].startswith("[")]
    check_tokenizer(checks, folder, "bert-plain", write_variant(folder, "bert-plain", bert, added_tokens=added))
    found = metadata_of(folder)
    ids = {token["content"]: token["id"] for token in added}
    wanted = {"bos_token_id": ids["[CLS]"], "seperator_token_id": ids["[SEP]"], "unknown_token_id": ids["[UNK]"], "normalizer.lowercase": True, "normalizer.strip_accents": True}
    checks.that({key: found.get(key) for key in wanted} == wanted, f"BERT's special tokens: {found}")
    texts, vocab = found["tokens"], bert["model"]["vocab"]
    checks.that(texts[vocab["the"]] == "\u2581the" and texts[vocab["##s"]] == "s" and texts[ids["[CLS]"]] == "[CLS]", f"BERT's words: {texts[:20]}")
    cased = {**bert["normalizer"], "lowercase": False, "strip_accents": False}
    check_tokenizer(checks, folder, "bert-cased", write_variant(folder, "bert-cased", bert, added_tokens=added, normalizer=cased))
    refuse_variant(checks, folder, "would both be \"river\"", bert)
    refuse_variant(checks, folder, "its normalizer is not BERT's", bert, added_tokens=added, normalizer={"type": "Lowercase"})
    refuse_variant(checks, folder, "does not put one token before a text", bert, added_tokens=added, post_processor=None)


def tokens_of(base, folder):
    """The bytes of the data set without its hashes, which name the tokenizer."""
    harness.mpilora("tokenize", "--base", base, f"{folder}/texts.jsonl", f"{folder}/texts.h5")
    with open(f"{folder}/texts.h5", "rb") as file:
        return re.sub(rb"[0-9a-f]{64}", b"", file.read())


def text_of_chat(base, folder):
    """What the base's template makes of a conversation, as the report shows it; the text before a text is no part of it."""
    with open(f"{folder}/chat.jsonl", "w") as file:
        file.write(json.dumps({"messages": [{"role": "user", "content": "river"}, {"role": "assistant", "content": "sea"}]}) + "\n")
    report = harness.mpilora("tokenize", "--base", base, f"{folder}/chat.jsonl", f"{folder}/chats.h5")
    return report.split("its targets between ⟦ and ⟧:\n", 1)[-1]


def check_template(checks, folder):
    """The chat templates, the special tokens of tokenizer_config.json, and the further ends of generation_config.json; a directory that is made of the GGUF file has the templates and a
    tokenizer."""
    source, base, out = f"{folder}/chat", f"{folder}/chat.h5", f"{folder}/chat.gguf"
    said.write_model(source, "llama")
    template = "{{ bos_token }}{% for m in messages %}<1>{{ m.content }}<2>{% endfor %}{{ pad_token }}"
    with_tools = "{{ tools }}" + template
    named = [{"name": "default", "template": template}, {"name": "tool_use", "template": with_tools}]
    reference.write_json(f"{source}/tokenizer_config.json", {"bos_token": "<1>", "eos_token": "<2>", "pad_token": {"content": "<3>"}, "chat_template": named})
    reference.write_json(f"{source}/generation_config.json", {"eos_token_id": [2, 5, 6]})
    harness.mpilora("import", source, base)
    export(base, out)
    metadata, _ = gguf.read_file(out)
    wanted = {"chat_template": template, "chat_templates": ["tool_use"], "chat_template.tool_use": with_tools, "ggml.bos_token_id": 1, "ggml.eos_token_id": 2, "ggml.padding_token_id": 3, "ggml.eot_token_id": 5, "ggml.eom_token_id": 6, "ggml.add_bos_token": False}
    found = {key: metadata.get(f"tokenizer.{key}") for key in wanted}
    checks.that(found == wanted, f"special tokens and template: {found}, expected {wanted}")
    harness.mpilora("import", out, f"{folder}/again.h5")
    export(f"{folder}/again.h5", f"{folder}/again.gguf")
    metadata, _ = gguf.read_file(f"{folder}/again.gguf")
    found = {key: metadata.get(f"tokenizer.{key}") for key in wanted}
    checks.that(found == wanted, f"special tokens and template, by way of a base: {found}, expected {wanted}")
    texts = [text_of_chat(path, folder) for path in (base, f"{folder}/again.h5")]
    checks.that(texts[0] == texts[1] and "<1><1>" in texts[0] and "<3>" in texts[0], f"a chat by the directory's template and by that of the GGUF file: {texts}")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/again.h5", f"{folder}/again")
    for name, text in (("chat_template.jinja", template), ("additional_chat_templates/tool_use.jinja", with_tools)):
        path = f"{folder}/again/{name}"
        checks.that(os.path.exists(path) and open(path).read() == text, f"GGUF to a directory: {name} is not the template")
    harness.mpilora("import", f"{folder}/again", f"{folder}/third.h5")
    tokenizers = [json.loads(harness.mpilora("inspect", f"{folder}/{name}.h5", "--json"))["tokenizer_sha256"] for name in ("again", "third")]
    checks.that(os.path.exists(f"{folder}/again/tokenizer.json") and tokenizers[0] == tokenizers[1], f"GGUF to a directory: the tokenizer is lost: {tokenizers}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        for name in said.CHANGES:
            check_model(checks, folder, name)
        check_refusals(checks, folder)
    with tempfile.TemporaryDirectory() as folder:
        check_types(checks, folder)
        for name in sorted(os.listdir(TOKENIZERS)):
            if os.path.isdir(f"{TOKENIZERS}/{name}"):
                check_tokenizer(checks, folder, name, f"{TOKENIZERS}/{name}")
        check_pieces(checks, folder)
        check_unigram(checks, folder)
        check_bert(checks, folder)
        check_template(checks, folder)
    checks.end()


if __name__ == "__main__":
    main()
