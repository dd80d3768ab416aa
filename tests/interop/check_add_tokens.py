"""`import --add-tokens` against transformers: the same ids for the same texts, the same rows for the same tokens.

For developers (torch, transformers, tokenizers, h5py); exit 77 where they are missing. For each kind of tokenizer and of model (tied and not, with a bias of the
head): transformers adds the tokens to its tokenizer and resizes its model; mpilora imports with --add-tokens and exports; transformers loads the export with the
same ids, the old rows bit for bit and new ones that are the mean. `tests/interop/test_add_tokens.py` is the part that CTest runs; `--golden` makes
tests/golden/added_tokens.json for it: tokenizers and the ids that transformers gives when they have the tokens, too.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import h5py
    import tokenizers
    import torch
    import transformers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

MPILORA = os.environ.get("MPILORA", "mpilora")
TEXTS = ["one <new> two", "x<new>y <Wide>  z", "<lone>a <lone> b", "kept cat<sp>dog <sp> end", "Zwei <WIDE> <new><new>"]
TOKENS = [
    {"content": "<new>"},
    {"content": "<Wide>", "lstrip": True, "rstrip": True, "normalized": False},
    {"content": "<lone>", "single_word": True, "normalized": True},
    {"content": "<sp>", "special": True},
    "<plain>",
]
LINES = "<new>\n<Wide>\n\n<lone>\r\n[PAD2]\n"


def byte_bpe():
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer, t.decoder = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(TEXTS, trainer)
    return t


def unigram():
    t = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("</s>", 0.0)] + [(c, -1.25 - i / 7) for i, c in enumerate("▁abcdefghijklmnopqrstuvwxyz<>Z")], unk_id=0))
    t.normalizer = tokenizers.normalizers.Lowercase()
    t.pre_tokenizer, t.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    t.add_special_tokens(["<unk>", "</s>"])
    return t


def gpt2(vocab):
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, n_positions=32, vocab_size=vocab, bos_token_id=0, eos_token_id=0))


def llama(vocab):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=1, hidden_size=8, intermediate_size=12, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=vocab, max_position_embeddings=32, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1))


def phi(vocab):
    return transformers.PhiForCausalLM(transformers.PhiConfig(num_hidden_layers=1, hidden_size=16, intermediate_size=12, num_attention_heads=2, vocab_size=vocab,
        max_position_embeddings=32, partial_rotary_factor=0.5, bos_token_id=0, eos_token_id=1))


def added(tokens):
    return [one if isinstance(one, str) else tokenizers.AddedToken(**one) for one in tokens]


def golden():
    cases = {}
    for make in (byte_bpe, unigram):
        case = cases[make.__name__] = {"tokenizer": make().to_str(), "tokens": TOKENS, "lines": LINES, "texts": TEXTS}
        for key, tokens in (("ids", TOKENS), ("line_ids", LINES.split())):
            fast = fast_of(make)
            case["before"] = len(fast)
            fast.add_tokens(added(tokens))
            case[key] = [fast(text)["input_ids"] for text in TEXTS]
    path = pathlib.Path(__file__).parent.parent / "golden" / "added_tokens.json"
    path.write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
    sys.exit(0)


def fast_of(make):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=make(), eos_token="</s>" if make is unigram else "<|endoftext|>")


def run(*words):
    done = subprocess.run([MPILORA, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: exit {done.returncode}: {done.stderr}"


def check(name, make_tokenizer, make_model, tokens, padding, folder):
    fast = fast_of(make_tokenizer)
    before = len(fast)
    torch.manual_seed(3)
    model = make_model(before + padding)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "model")
    fast.save_pretrained(folder / "model")
    old = {key: value.clone() for key, value in model.state_dict().items()}
    if isinstance(tokens, str):
        (folder / "list.txt").write_bytes(tokens.encode())
        tokens, path = tokens.split(), folder / "list.txt"
    else:
        path = folder / "list.json"
        path.write_text(json.dumps(tokens))
    fast.add_tokens(added(tokens))
    run("import", folder / "model", folder / "base.h5", "--dtype", "fp32", "--add-tokens", path)
    run("export", "--format", "hf", "--base", folder / "base.h5", folder / "out")
    loaded = transformers.AutoTokenizer.from_pretrained(folder / "out")
    assert len(loaded) == len(fast), f"{name}: {len(loaded)} tokens, transformers {len(fast)}"
    for text in TEXTS:
        assert loaded(text)["input_ids"] == fast(text)["input_ids"], f"{name}: {text}: {loaded(text)['input_ids']}, transformers {fast(text)['input_ids']}"
        assert loaded.decode(loaded(text)["input_ids"]) == fast.decode(fast(text)["input_ids"]), f"{name}: {text}: decoded"
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    run("tokenize", "--special-tokens", "ids", "--base", folder / "base.h5", folder / "texts.jsonl", folder / "texts.h5")
    with h5py.File(folder / "texts.h5") as file:
        own, offsets = file["tokens"][:].tolist(), file["offsets"][:].tolist()
    end = fast.eos_token_id
    for i, text in enumerate(TEXTS):
        ids = own[offsets[i] : offsets[i + 1]]
        ids = ids[:-1] if ids[-1] == end else ids
        assert ids == fast(text)["input_ids"], f"{name}: {text}: tokenize {ids}, transformers {fast(text)['input_ids']}"
    again = type(model).from_pretrained(folder / "out").state_dict()
    vocab = max(before + padding, len(fast))
    worst = 0.0
    for key, value in again.items():
        if old[key].shape == value.shape and not padding:
            assert torch.equal(old[key], value), f"{name}: {key}"
            continue
        if old[key].shape[0] != before + padding:
            continue
        assert value.shape[0] == vocab, f"{name}: {key}: {value.shape}"
        assert torch.equal(old[key][:before], value[:before]), f"{name}: {key}: old rows"
        mean = old[key][:before].mean(0, keepdim=True).expand(len(fast) - before, *value.shape[1:])
        worst = max(worst, (value[before : len(fast)] - mean).abs().max().item())
        assert torch.equal(old[key][len(fast) :], value[len(fast) : before + padding]), f"{name}: {key}: padding"
    assert worst < 1e-7, f"{name}: new rows differ from the mean by {worst}"
    print(f"{name}: {before} → {len(fast)} tokens, vocabulary {vocab}, rows {worst:.1e}")


if "--golden" in sys.argv:
    golden()
for make_tokenizer in (byte_bpe, unigram):
    for make_model in (gpt2, llama, phi):
        for kind, tokens in (("json", TOKENS), ("lines", LINES)):
            for padding in (0, 2, 20):
                with tempfile.TemporaryDirectory() as folder:
                    check(f"{make_tokenizer.__name__} {make_model.__name__} {kind} +{padding}", make_tokenizer, make_model, tokens, padding, pathlib.Path(folder))
