"""Model files with one fault each: name → what writes it over a good model directory (or GGUF), and a word that the message must have."""

import json
import os
import struct


def read_safetensors(directory, name="model.safetensors"):
    with open(f"{directory}/{name}", "rb") as file:
        data = file.read()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_safetensors(directory, header, data, length=None):
    """`header`: an object, or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with open(f"{directory}/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text) if length is None else length) + text + data)


def edit_header(change):
    """A fault in the header as an object."""

    def write(directory):
        header, data = read_safetensors(directory)
        change(header)
        write_safetensors(directory, header, data)

    return write


def edit_bytes(change):
    """A fault in the header's bytes or in the data: change(header bytes, data) gives (header bytes, data, length)."""

    def write(directory):
        header, data = read_safetensors(directory)
        write_safetensors(directory, *change(json.dumps(header).encode(), data))

    return write


def edit_config(**changes):
    """None: the key is left out."""

    def write(directory):
        with open(f"{directory}/config.json") as file:
            config = json.load(file)
        config.update(changes)
        with open(f"{directory}/config.json", "w") as file:
            json.dump({key: value for key, value in config.items() if value is not None}, file)

    return write


def replace(name, data):
    def write(directory):
        with open(f"{directory}/{name}", "wb") as file:
            file.write(data)

    return write


def remove(name):
    return lambda directory: os.remove(f"{directory}/{name}")


def sharded(shard):
    """An index that sends every tensor to `shard`."""

    def write(directory):
        header, _ = read_safetensors(directory)
        names = [name for name in header if name != "__metadata__"]
        with open(f"{directory}/model.safetensors.index.json", "w") as file:
            json.dump({"metadata": {}, "weight_map": {name: shard for name in names}}, file)
        os.remove(f"{directory}/model.safetensors")

    return write


EMBED = "model.embed_tokens.weight"
NORM = "model.norm.weight"


def set_entry(name, **changes):
    return edit_header(lambda header: header[name].update(changes))


DIRECTORIES = {
    "no config.json": (remove("config.json"), "config.json"),
    "no weights": (remove("model.safetensors"), "safetensors"),
    "config.json is no JSON": (replace("config.json", b"{"), "config.json"),
    "config.json with bytes behind it": (replace("config.json", b'{"model_type": "llama"} x'), "config.json"),
    "config.json, duplicate key": (replace("config.json", b'{"model_type": "llama", "model_type": "llama"}'), "config.json"),
    "config.json, nested too deep": (replace("config.json", b"[" * 100000), "config.json"),
    "unknown model_type": (edit_config(model_type="mamba"), "mamba"),
    "no hidden_size": (edit_config(hidden_size=None), "hidden_size"),
    "hidden_size a text": (edit_config(hidden_size="48"), "hidden_size"),
    "hidden_size another": (edit_config(hidden_size=64), "48"),
    "heads not a multiple of key/value heads": (edit_config(num_key_value_heads=3), "3"),
    "negative layers": (edit_config(num_hidden_layers=-1), "layers"),
    "more layers than tensors": (edit_config(num_hidden_layers=4), "layers.3"),
    "vocab_size beyond the embedding": (edit_config(vocab_size=5000), "5000"),
    "empty weights": (replace("model.safetensors", b""), "model.safetensors"),
    "seven bytes": (replace("model.safetensors", b"1234567"), "model.safetensors"),
    "header beyond the file": (edit_bytes(lambda header, data: (header, data, 10**7)), "model.safetensors"),
    "header beyond 100,000,000": (edit_bytes(lambda header, data: (header, data, 2**62)), "model.safetensors"),
    "header without {": (edit_bytes(lambda header, data: (b" " + header, data, None)), "model.safetensors"),
    "header not UTF-8": (edit_bytes(lambda header, data: (header.replace(b"norm", b"n\xffrm", 1), data, None)), "model.safetensors"),
    "header, duplicate key": (
        edit_bytes(lambda header, data: (header[:-1] + b', "__metadata__": {}, "__metadata__": {}}', data, None)),
        "model.safetensors",
    ),
    "metadata not texts": (edit_header(lambda header: header.update(__metadata__={"format": 1})), "__metadata__"),
    "unknown dtype": (set_entry(NORM, dtype="F33"), "F33"),
    "integer weights": (set_entry(NORM, dtype="I32"), "I32"),
    "negative dimension": (set_entry(NORM, shape=[-48]), NORM),
    "dimension not whole": (set_entry(NORM, shape=[48.5]), NORM),
    "shape that overflows": (set_entry(NORM, shape=[2**40, 2**40]), NORM),
    "offsets beyond the data": (set_entry(NORM, data_offsets=[0, 2**50]), "model.safetensors"),
    "offsets backwards": (set_entry(NORM, data_offsets=[192, 0]), "model.safetensors"),
    "offsets overlap": (set_entry(NORM, data_offsets=[0, 192]), "model.safetensors"),
    "data too short": (edit_bytes(lambda header, data: (header, data[:-4], None)), "model.safetensors"),
    "data too long": (edit_bytes(lambda header, data: (header, data + b"1234", None)), "model.safetensors"),
    "a tensor of another shape": (set_entry(EMBED, shape=[48, 203]), EMBED),
    "a tensor renamed": (edit_header(lambda header: header.update(other=header.pop(NORM))), "norm"),
    "index outside the directory": (sharded("../model.safetensors"), "../model.safetensors"),
    "index to a missing shard": (sharded("model-00001.safetensors"), "model-00001.safetensors"),
}


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(magic=b"GGUF", version=3, tensors=1, keys=None, pairs=b"", infos=b"", rest=b"\0" * 64):
    return magic + struct.pack("<IQQ", version, tensors, pairs.count(b"general.") if keys is None else keys) + pairs + infos + rest


def pair(key, kind, data):
    return text(key) + struct.pack("<I", kind) + data


ARCHITECTURE = pair("general.architecture", 8, text("llama"))
GGUF = {
    "empty": b"",
    "other magic": gguf(magic=b"GGML"),
    "version 1": gguf(version=1),
    "version 99": gguf(version=99),
    "only the magic": b"GGUF",
    "key count beyond the file": gguf(keys=2**60),
    "tensor count beyond the file": gguf(tensors=2**60, pairs=ARCHITECTURE),
    "key length beyond the file": gguf(keys=1, pairs=struct.pack("<Q", 2**61)),
    "empty key": gguf(keys=1, pairs=pair("", 4, b"\0\0\0\0")),
    "key twice": gguf(pairs=ARCHITECTURE * 2),
    "text beyond the file": gguf(pairs=pair("general.name", 8, struct.pack("<Q", 2**40))),
    "unknown type": gguf(pairs=pair("general.name", 77, b"")),
    "array in an array": gguf(pairs=pair("general.name", 9, struct.pack("<IQIQ", 9, 1, 4, 0))),
    "array beyond the file": gguf(pairs=pair("general.name", 9, struct.pack("<IQ", 4, 2**60))),
    "alignment 3": gguf(pairs=ARCHITECTURE + pair("general.alignment", 4, struct.pack("<I", 3))),
    "alignment 0": gguf(pairs=ARCHITECTURE + pair("general.alignment", 4, struct.pack("<I", 0))),
    "alignment 2 GiB": gguf(pairs=ARCHITECTURE + pair("general.alignment", 4, struct.pack("<I", 2**31))),
    "five dimensions": gguf(pairs=ARCHITECTURE, infos=text("token_embd.weight") + struct.pack("<I5QIQ", 5, 1, 1, 1, 1, 1, 0, 0)),
    "dimensions that overflow": gguf(pairs=ARCHITECTURE, infos=text("token_embd.weight") + struct.pack("<I2QIQ", 2, 2**40, 2**40, 0, 0)),
    "data beyond the file": gguf(pairs=ARCHITECTURE, infos=text("token_embd.weight") + struct.pack("<I1QIQ", 1, 8, 0, 2**40)),
    "row not whole blocks": gguf(pairs=ARCHITECTURE, infos=text("token_embd.weight") + struct.pack("<I2QIQ", 2, 31, 2, 8, 0)),
    "architecture not a text": gguf(pairs=pair("general.architecture", 4, struct.pack("<I", 1))),
    "unknown architecture": gguf(pairs=pair("general.architecture", 8, text("mamba")), tensors=0),
    "nothing but the architecture": gguf(pairs=ARCHITECTURE, tensors=0),
}
