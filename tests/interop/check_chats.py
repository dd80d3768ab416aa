"""Chats beside transformers: ids of apply_chat_template, and masks. Where the template has generation blocks its own assistant mask; elsewhere the answers found by rendering
and comparing in Python. Templates with the features of those that models ship (chat_cases.py) and, where the package trl is unpacked (pip install trl, or
MPILORA_CHAT_TEMPLATES naming a folder of *.jinja), the real ones that it holds. For developers; MPILORA_CHATS says how many conversations (1000), MPILORA_TOKENIZERS of which
TOKENIZERS (the golden one), words behind the script name the templates (all):

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_chats.py [TEMPLATE …]
"""

import datetime
import glob
import importlib.util
import json
import os
import random
import re
import sys
import tempfile

import h5py
import tokenizers
from transformers import AutoTokenizer, tokenization_utils_base
from transformers.utils import chat_template_utils

sys.path.insert(0, os.path.join(os.environ.get("MPILORA_SOURCE_DIR", "."), "tests"))
import chat_cases  # noqa: E402
from harness import SOURCE, Checks, mpilora, start  # noqa: E402

COUNT = int(os.environ.get("MPILORA_CHATS", "1000"))
DATE = "2026-01-02"
NULL_TEXT = "\0"
MODEL = "family: llama\nlayers: 1\nwidth: 16\nmlp_width: 32\nheads: 2\nkv_heads: 1\nhead_dim: 8\nvocab: {}\ncontext: 65536\n"


# Besides the golden byte-level one: what the tokenizers of other chat models are made of, taught on the words of the conversations.
BYTES = [f"<0x{i:02X}>" for i in range(256)]
BPE = {"unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}
BEGIN = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
TOKENIZERS = {  # model, normalizer, pre-tokenizer, decoder, post-processor
    "golden": None,
    "llama2": (tokenizers.models.BPE(**BPE), [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")], None,
               [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(), tokenizers.decoders.Strip(" ", 1, 0)], BEGIN),
    "gemma": (tokenizers.models.BPE(**BPE), [tokenizers.normalizers.Replace(" ", "▁")], tokenizers.pre_tokenizers.Split(" ", "merged_with_previous"),
              [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()], BEGIN),
    "llama3": (tokenizers.models.BPE(), [], tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True), [tokenizers.decoders.ByteLevel()], BEGIN),
    "unigram": (tokenizers.models.Unigram(), [tokenizers.normalizers.NFKC()], tokenizers.pre_tokenizers.Metaspace(), [tokenizers.decoders.Metaspace()], BEGIN),
}  # fmt: skip


def make_tokenizer(kind, folder):
    """FOLDER/tokenizer.json with the special tokens of the templates; returns how many tokens it has."""
    if not TOKENIZERS[kind]:
        return chat_cases.make_tokenizer(SOURCE, folder)
    model, normal, words, decoders, post = TOKENIZERS[kind]
    made = tokenizers.Tokenizer(model)
    made.normalizer, made.decoder, made.post_processor = tokenizers.normalizers.Sequence(normal), tokenizers.decoders.Sequence(decoders), post
    if words:
        made.pre_tokenizer = words
    specials = ["<unk>", "<s>", "</s>"]
    unigram = kind == "unigram"
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet() if kind == "llama3" else []
    teacher = (tokenizers.trainers.UnigramTrainer(vocab_size=600, special_tokens=specials, unk_token="<unk>", show_progress=False) if unigram else
               tokenizers.trainers.BpeTrainer(vocab_size=900, special_tokens=specials + (BYTES if model.byte_fallback else []), initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    made.train_from_iterator([json.dumps(chat_cases.make_conversation(random.Random(i), "plain"), ensure_ascii=False) for i in range(500)], teacher)
    if not words and not unigram:
        made.pre_tokenizer = None
    made.add_special_tokens(["<|endoftext|>", *chat_cases.TOKENS])
    described = json.loads(made.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] not in BYTES]  # the model's own
    with open(f"{folder}/tokenizer.json", "w") as file:
        json.dump(described, file)
    chat_cases.write_config(f"{folder}/tokenizer_config.json", None)
    return made.get_vocab_size()


class Now(datetime.datetime):
    """transformers asks for the time; mpilora has it pinned."""

    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(DATE)


def read(path):
    with h5py.File(path) as file:
        tokens, offsets, mask = file["tokens"][:], file["offsets"][:], file["mask"][:]
    return [(tokens[a:b].tolist(), mask[a:b].tolist()) for a, b in zip(offsets, offsets[1:])]


def fill(values):
    """Values of one column as a table of Arrow has them: objects with the members of all of them, null where one has none. Columns of several types stay as they are."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, dict) for value in there):
        columns = {key: iter(fill([value.get(key) for value in there])) for key in dict.fromkeys(key for value in there for key in value)}
        return [None if value is None else {key: next(column) for key, column in columns.items()} for value in values]
    if there and all(isinstance(value, list) for value in there):
        flat = iter(fill([one for value in there for one in value]))
        return [None if value is None else [next(flat) for _ in value] for value in values]
    return values


def fill_half(conversations):
    """Every other one of them as the datasets library writes it: with all columns and members that any has, and with those of other rows and parts."""
    others = {"text": "", "prompt": "", "completion": "", "label": 1, "chat_template_kwargs": {}, "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "image": "x"}], "name": "b"}]}
    full = fill([*conversations, others])[:-1]
    for conversation in full:
        for message in conversation["messages"]:
            if isinstance(message["content"], list):
                message["content"] = [{**part, "image": None} for part in message["content"]]
    return [full[i] if i % 2 else own for i, own in enumerate(conversations)]


rendered = {}  # of the template in hand: every text is asked for several times


def render(tokenizer, conversation, messages, prompt=False):
    """NULL_TEXT, which begins nothing, where the template refuses."""
    key = id(conversation), len(messages), prompt
    if key not in rendered:
        try:
            rendered[key] = tokenizer.apply_chat_template(messages, tools=conversation.get("tools"), tokenize=False, add_generation_prompt=prompt)
        except Exception:
            rendered[key] = NULL_TEXT
    return rendered[key]


def find_spans(tokenizer, conversation, last=False):
    """Spans of characters, and whether each answer's was found: every answer's (with `last` the last one's) or, where one cannot be told, the last one's."""
    messages = conversation["messages"]
    whole = render(tokenizer, conversation, messages)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    spans = []
    for i in answers[-1:] if last else answers:
        before, behind = render(tokenizer, conversation, messages[:i], True), render(tokenizer, conversation, messages[: i + 1])
        if not whole.startswith(before) or not whole.startswith(behind) or len(before) >= len(behind):
            break
        spans.append((len(before), len(behind)))
    else:
        return spans, True
    before = render(tokenizer, conversation, messages[: answers[-1]], True)
    plain = render(tokenizer, conversation, messages[: answers[-1]])
    if whole.startswith(before):
        first = len(before)
    elif whole.startswith(plain):
        first = len(os.path.commonprefix([whole, before]))
    else:
        first = whole.rfind(messages[answers[-1]]["content"].strip(" \t\r\n"))
    return [(first, len(whole))], False


def mask_of(offsets, spans):
    return [int(any(end > first and start < last for first, last in spans)) for start, end in offsets]


def offsets_of(tokenizer, conversation):
    whole = render(tokenizer, conversation, conversation["messages"])
    return tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]


def mask_by_rendering(tokenizer, conversation, last=False):
    return mask_of(offsets_of(tokenizer, conversation), find_spans(tokenizer, conversation, last)[0])


blocks_found = []  # of the newest rendering: transformers keeps them to itself
render_theirs = tokenization_utils_base.render_jinja_template


def render_and_keep(*words, **options):
    text, blocks = render_theirs(*words, **options)
    blocks_found[:] = blocks[0] if blocks else []
    return text, blocks


def mask_by_blocks(tokenizer, conversation, last):
    """transformers' own; with `last` what lies in the last block."""
    theirs = tokenizer.apply_chat_template(conversation["messages"], tools=conversation.get("tools"), return_dict=True, return_assistant_tokens_mask=True)["assistant_masks"]
    if not last:
        return theirs
    start = blocks_found[-1][0]
    return [int(mask and end > start) for mask, (_, end) in zip(theirs, offsets_of(tokenizer, conversation))]


def has_blocks(tokenizer):
    return re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.chat_template) is not None


def real_templates():
    package = importlib.util.find_spec("trl")
    folder = os.environ.get("MPILORA_CHAT_TEMPLATES") or (package and os.path.join(os.path.dirname(package.origin), "chat_templates"))
    for path in sorted(glob.glob(os.path.join(folder, "*.jinja"))) if folder else []:
        with open(path) as file:
            yield os.path.basename(path)[: -len(".jinja")], file.read()


def real_conversations(tokenizer):
    """Plain ones, and those of them with tools, calls and thoughts that the template takes."""
    rest = COUNT // 4
    made = [each for name, count in (("plain", COUNT - 2 * rest), ("chatml", rest), ("thinks", rest)) for each in chat_cases.make_conversations(name, count)]
    return [each for each in fill_half(made) if is_usable(tokenizer, each)]


def is_usable(tokenizer, conversation):
    """The template takes the conversation, and leaves a place for its loss."""
    if render(tokenizer, conversation, conversation["messages"]) == NULL_TEXT:
        return False
    return has_blocks(tokenizer) or all(first >= 0 for first, _ in find_spans(tokenizer, conversation)[0])


def check_template(check, name, tokenizer, conversations, folder):
    chat_cases.write_config(f"{folder}/{name}.json", tokenizer.chat_template)
    tokenize(name, conversations, folder, "assistant")
    blocks = has_blocks(tokenizer)
    found, ids, masks = read(f"{folder}/{name}.h5"), 0, 0
    check.that(len(found) == len(conversations), f"{name}: {len(found)} sequences of {len(conversations)} conversations")
    for (tokens, mask), conversation in zip(found, conversations):
        theirs = tokenizer.apply_chat_template(conversation["messages"], tools=conversation.get("tools"), return_dict=True, return_assistant_tokens_mask=blocks)
        ids += tokens == theirs["input_ids"]
        masks += mask == (theirs["assistant_masks"] if blocks else mask_by_rendering(tokenizer, conversation))
    check.that(ids == len(conversations), f"{name}: ids of {ids} of {len(conversations)} conversations equal")
    check.that(masks == len(conversations), f"{name}: masks of {masks} of {len(conversations)} conversations equal")
    print(f"{name}: {len(conversations)} conversations, ids equal {ids}, masks equal {masks}")
    check_losses(check, name, tokenizer, conversations, folder)


def tokenize(name, conversations, folder, loss, starter=mpilora):
    with open(f"{folder}/{name}.jsonl", "w") as file:
        file.writelines(json.dumps(conversation) + "\n" for conversation in conversations)
    return starter("tokenize", "--base", f"{folder}/base.h5", "--chat-template", f"{folder}/{name}.json", "--date", DATE, "--loss", loss, f"{folder}/{name}.jsonl", f"{folder}/{name}.h5", timeout=600)


def check_losses(check, name, tokenizer, conversations, folder):
    """--loss last takes the last answer of each; --loss all is the default where every answer can be told, and refuses a conversation where one cannot."""
    blocks = has_blocks(tokenizer)
    told = [blocks or find_spans(tokenizer, each)[1] for each in conversations]
    whole, broken = ([each for each, is_told in zip(conversations, told) if is_told == wanted] for wanted in (True, False))
    for loss, rows in (("last", conversations), ("all", whole)):
        if not rows:
            continue
        tokenize(name, rows, folder, loss)
        expected = [mask_by_blocks(tokenizer, row, loss == "last") if blocks else mask_by_rendering(tokenizer, row, loss == "last") for row in rows]
        equal = sum(mask == other for (_, mask), other in zip(read(f"{folder}/{name}.h5"), expected))
        check.that(equal == len(rows), f"{name}, --loss {loss}: masks of {equal} of {len(rows)} conversations equal")
    for row in broken[:3]:
        done = tokenize(name, [row], folder, "all", start)
        check.that(done.returncode == 3 and "line 1: message" in done.stderr, f"{name}, --loss all: exit {done.returncode}: {done.stderr}")
    print(f"{name}: --loss last of {len(conversations)}, --loss all of {len(whole)} conversations, {len(broken)} such are refused")


def check_tokenizer(check, kind, folder):
    size = make_tokenizer(kind, folder)
    with open(f"{folder}/model.yaml", "w") as file:
        file.write(MODEL.format(size))
    mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--tokenizer", folder, f"{folder}/base.h5")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chosen, own = sys.argv[1:], chat_cases.TEMPLATES
    for name, template in [*own.items(), *real_templates()]:
        if chosen and name not in chosen:
            continue
        tokenizer.chat_template = template
        rendered.clear()
        conversations = fill_half(chat_cases.make_conversations(name, COUNT)) if name in own else real_conversations(tokenizer)
        if conversations:
            check_template(check, name, tokenizer, conversations, folder)
        else:
            print(f"{name}: takes no content that is a text")


def main():
    chat_template_utils.datetime = Now
    tokenization_utils_base.render_jinja_template = render_and_keep
    check = Checks()
    for kind in os.environ.get("MPILORA_TOKENIZERS", "golden").split(","):
        print(f"---- {kind}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            check_tokenizer(check, kind, folder)
    check.end()


main()
