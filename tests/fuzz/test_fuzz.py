"""Damaged inputs for every reader: each answers with a status, in time, within memory that follows from the input's size, and gives everything back.

    python3 test_fuzz.py [COUNT [READER …]]     mutations a reader (500) and which readers (all); FUZZ_FIRST: the first one's number

The valid inputs are made here by mpilora itself. What a mutation found is run again by `fuzz READER FOLDER 1 NUMBER`; its input is printed.
"""

import concurrent.futures
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
import harness
import head_inputs

try:
    import packed_models
except ImportError:  # numpy
    packed_models = None

FUZZ = os.environ.get("MPILORA_FUZZ", "")
MODEL = "{family: llama, layers: 1, width: 8, heads: 2, kv_heads: 1, mlp_width: 12, vocab: 257, context: 64}"
LINES = {
    "lines.jsonl": ['{"prompt": "name[Blue Lantern] ->", "completion": " A pub."}', '{"text": "A line of text, with \\u20ac and \\"quotes\\"."}'] * 3,
    "lines.e2e": ["name[Blue Lantern], food[Turkish]||There is a pub called Blue Lantern."] * 4,
    "lines.txt": ["A document of", "two lines.", "", "Another one.", ""],
    "labels.jsonl": ['{"text_a": "A line", "text_b": "of text \\u20ac", "label": "yes"}', '{"text_a": "B", "text_b": "C", "label": "no"}'] * 3,
    "labels.ids": ['{"input_ids": [1, 2, 3], "token_type_ids": [0, 0, 1], "label": [1, 0, 1]}', '{"input_ids": [5], "label": [0, 0, 0]}'] * 3,
    "qqp.tsv": ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", '1\t2\t3\twhere "is\tNA\t1', "4\t5\t6\tshort", "4\t5\t6\ta\tb\t0"] * 1,
    "words.conll": ["-DOCSTART- -X- O", "", "the DT O", "river NN B-LOC", "", "sea NN B-LOC", "runs VB O"],
    "names.txt": ["no", "yes", "perhaps"],
    "lines.ids": ['{"input_ids": [1, 2, 3, 4], "labels": [-100, 2, 3, 4]}', '{"input_ids": [5, 6, 7]}'] * 3,
}
PACKED = {"fp8": "fp8 ragged", "nf4": "nf4 nested", "int4": "int4 groups", "int6": "int6 groups with zeros", "mxfp4": "mxfp4", "nvfp4": "nvfp4", "awq": "awq", "gptq": "gptq with an order"}


def write(path, data):
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def make_gguf(path):
    """A Llama of one layer with its tokenizer, in fp32."""

    def text(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def pair(key, kind, data):
        return text(key) + struct.pack("<I", kind) + data

    def number(key, value):
        return pair(key, 4, struct.pack("<I", value))

    def texts(key, values):
        return pair(key, 9, struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values)))

    letters = [chr(c) for c in range(33, 127)] + [chr(c) for c in range(161, 173)] + [chr(c) for c in range(174, 256)] + [chr(c) for c in range(256, 324)]
    tokens = letters[:256] + ["<|endoftext|>"]
    keys = [pair("general.architecture", 8, text("llama")), number("llama.block_count", 1), number("llama.context_length", 64), number("llama.embedding_length", 8),
            number("llama.feed_forward_length", 12), number("llama.attention.head_count", 2), number("llama.attention.head_count_kv", 1),
            number("llama.rope.dimension_count", 4), pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
            pair("llama.rope.freq_base", 6, struct.pack("<f", 10000.0)), pair("tokenizer.ggml.model", 8, text("gpt2")), pair("tokenizer.ggml.pre", 8, text("gpt-2")),
            texts("tokenizer.ggml.tokens", tokens), texts("tokenizer.ggml.merges", ["t h", "th e"]),
            pair("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, 257) + struct.pack("<257i", *[1] * 256, 3)), number("tokenizer.ggml.eos_token_id", 256)]
    tokens[-3:-1] = ["th", "the"]
    keys[12] = texts("tokenizer.ggml.tokens", tokens)
    shapes = [("token_embd.weight", (8, 257)), ("output_norm.weight", (8,)), ("blk.0.attn_norm.weight", (8,)), ("blk.0.ffn_norm.weight", (8,)),
              ("blk.0.attn_q.weight", (8, 8)), ("blk.0.attn_k.weight", (8, 4)), ("blk.0.attn_v.weight", (8, 4)), ("blk.0.attn_output.weight", (8, 8)),
              ("blk.0.ffn_gate.weight", (8, 12)), ("blk.0.ffn_up.weight", (8, 12)), ("blk.0.ffn_down.weight", (12, 8))]
    infos, data = b"", b""
    for name, shape in shapes:
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        infos += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += struct.pack(f"<{count}f", *[0.01 * (i % 17) for i in range(count)])
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys)) + b"".join(keys) + infos
    write(path, head + b"\0" * (-len(head) % 32) + data)


def make_sharded(folder):
    """Two shards out of the one file of hf/."""
    shutil.copytree(f"{folder}/hf", f"{folder}/sharded")
    with open(f"{folder}/hf/model.safetensors", "rb") as file:
        data = file.read()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    header.pop("__metadata__", None)
    names, index = sorted(header), {}
    for number, part in ((1, names[::2]), (2, names[1::2])):
        shard, rest = {}, b""
        for name in part:
            start, end = header[name]["data_offsets"]
            shard[name] = dict(header[name], data_offsets=[len(rest), len(rest) + end - start])
            rest += body[start:end]
            index[name] = f"model-0000{number}-of-00002.safetensors"
        text = json.dumps(shard).encode()
        write(f"{folder}/sharded/model-0000{number}-of-00002.safetensors", struct.pack("<Q", len(text)) + text + rest)
    write(f"{folder}/sharded/model.safetensors.index.json", json.dumps({"metadata": {"total_size": len(body)}, "weight_map": index}, indent=1))
    os.remove(f"{folder}/sharded/model.safetensors")


def make_vocabulary(folder):
    """vocab.json and merges.txt instead of tokenizer.json."""
    shutil.copytree(f"{folder}/hf", f"{folder}/vocab")
    with open(f"{folder}/hf/tokenizer.json", encoding="utf-8") as file:
        model = json.load(file)["model"]
    os.remove(f"{folder}/vocab/tokenizer.json")
    write(f"{folder}/vocab/vocab.json", json.dumps(model["vocab"]))
    write(f"{folder}/vocab/merges.txt", "#version: 0.2\n" + "".join((m if isinstance(m, str) else " ".join(m)) + "\n" for m in model["merges"]))


def make_tokenizers(folder):
    """The golden tokenizers of other kinds, and BERT's word list."""
    golden = f"{harness.SOURCE}/tests/golden/tokenizer"
    for name in ("llama", "unigram", "bert", "suffix", "sentencepiece-bpe", "sentencepiece-unigram"):
        shutil.copytree(f"{golden}/{name}", f"{folder}/{name}")
    with open(f"{golden}/bert/tokenizer.json", encoding="utf-8") as file:
        vocab = json.load(file)["model"]["vocab"]
    os.mkdir(f"{folder}/words.d")
    write(f"{folder}/words.d/vocab.txt", "".join(word + "\n" for word in sorted(vocab, key=vocab.get)))


def make_packed(folder):
    """Golden cases of packed directories."""
    with open(f"{harness.SOURCE}/tests/golden/packed.json") as file:
        golden = json.load(file)
    for name, case in PACKED.items():
        packed_models.write_model(f"{folder}/packed-{name}", golden[case])


def make_inputs(folder):
    write(f"{folder}/model.yaml", MODEL)
    subprocess.run([sys.executable, f"{harness.SOURCE}/jobs/make_byte_tokenizer.py", f"{folder}/tokenizer"], check=True)
    base = f"{folder}/base.h5"
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--tokenizer", f"{folder}/tokenizer", base)
    shutil.copy(base, f"{folder}/other.h5")
    for name, lines in LINES.items():
        write(f"{folder}/{name}", "\n".join(lines) + "\n")
    harness.mpilora("tokenize", "--base", base, "--format", "jsonl", f"{folder}/lines.jsonl", f"{folder}/data.h5")
    harness.mpilora("tokenize", "--base", base, "--format", "conll", f"{folder}/words.conll", f"{folder}/labels.h5")
    config = harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=base, method={"rank": 2, "targets": ["q", "v"], "dropout": 0.0},
                                  data={"train": f"{folder}/data.h5", "shuffle": True}, batch={"sequences": 2, "micro": 1}, optim={"lr": 1e-3, "betas": [0.9, 0.99]},
                                  train={"steps": 2}, memory={"limit": 2500000000}, precision="fp32")
    harness.mpilora("train", config)
    with open(f"{folder}/run.yaml") as file:  # what is read alone, from here on, has a mixture
        text = file.read()
    mixed = text.replace(f'"train": "{folder}/data.h5"', f'"train": [{{"file": "{folder}/data.h5", "weight": 3}}, {{"file": "{folder}/other.h5"}}]')
    assert mixed != text
    write(f"{folder}/run.yaml", mixed)
    shutil.copy(f"{folder}/run/adapter.h5", f"{folder}/adapter.h5")
    harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", f"{folder}/adapter.h5", f"{folder}/peft")
    harness.mpilora("export", "--format", "hf", "--base", base, f"{folder}/hf")
    make_sharded(folder)
    make_vocabulary(folder)
    make_tokenizers(folder)
    make_gguf(f"{folder}/model.gguf")
    head_inputs.make(folder)
    if packed_models:
        make_packed(folder)


def fuzz(work, made, reader, count):
    """Standard output of the driver, and what went wrong."""
    folder = f"{work}/{reader}"
    shutil.copytree(made, folder)
    done = subprocess.run([FUZZ, reader, folder, str(count), os.environ.get("FUZZ_FIRST", "1")], capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        shutil.rmtree(folder)
        return done.stdout.strip(), ""
    with open(f"{folder}/current") as file:
        number = file.read().strip()
    kept = os.path.join(tempfile.gettempdir(), f"mpilora-fuzz-{reader}-{number}")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.move(folder, kept)
    return "", f"{reader}: mutation {number}: exit code {done.returncode}; kept in {kept}\n{done.stderr[-3000:]}"


def main():
    if not FUZZ:
        print("the driver was not built: skipped")
        return 77
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    readers = sys.argv[2:] or subprocess.run([FUZZ, "list", "", ""], capture_output=True, text=True).stdout.split()
    if not packed_models:
        print("numpy is not installed: packed directories are left out")
        readers = [reader for reader in readers if not reader.startswith("packed")]
    memory = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None
    checks = harness.Checks()
    with tempfile.TemporaryDirectory(prefix="mpilora-fuzz-", dir=memory) as work:
        os.mkdir(f"{work}/made")
        make_inputs(f"{work}/made")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for said, fault in pool.map(lambda reader: fuzz(work, f"{work}/made", reader, count), readers):
                checks.that(not fault, fault)
                if said:
                    print(said, flush=True)
    checks.end()
    return 0


sys.exit(main())
