"""The reference models as GGUF files, as llama.cpp's converter lays them out: what a family's table says of GGUF, in other words. test_families.py writes
them with the standard library alone, check_families.py with the gguf package."""

import struct

import reference_models as reference

ARCHITECTURE = {"mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INSIDE = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def stored_name(name):
    module, kind = name.rsplit(".", 1)
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    layer, rest = module.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{INSIDE[rest]}.{kind}"


def paired(shape, data, heads):
    """Rows of each head (i and i + h/2) beside each other."""
    size = len(data) // shape[0]
    rows = [data[i * size : (i + 1) * size] for i in range(shape[0])]
    h = shape[0] // heads
    return b"".join(rows[head * h + half * (h // 2) + i] for head in range(heads) for i in range(h // 2) for half in range(2))


def contents(name):
    """(architecture, metadata, tensors) of a reference model."""
    config = reference.MODELS[name]
    architecture, heads, kv_heads = ARCHITECTURE[config["model_type"]], config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", config["hidden_size"] // heads)
    metadata = {
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "context_length": config["max_position_embeddings"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": config["rope_theta"],
    }
    if architecture == "llama":
        metadata["rope.dimension_count"] = head_dim
    tensors = {}
    for theirs, (shape, data) in reference.llama_tensors(name, config).items():
        if architecture == "llama" and (".q_proj" in theirs or ".k_proj" in theirs):
            data = paired(shape, data, heads if ".q_proj" in theirs else kv_heads)
        tensors[stored_name(theirs)] = (shape, data)
    return architecture, metadata, tensors


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def write(path, name):
    write_file(path, *contents(name))


def write_file(path, architecture, metadata, tensors):
    """GGUF version 3. tensors: name -> (shape, bytes), F32, or (shape, bytes, GGUF's number of the type)."""
    pairs, infos, data = text("general.architecture") + struct.pack("<I", 8) + text(architecture), b"", b""
    for key, value in metadata.items():
        pairs += text(key if key.startswith(("tokenizer.", "split.")) else f"{architecture}.{key}")
        if isinstance(value, str):
            pairs += struct.pack("<I", 8) + text(value)
        elif isinstance(value, list) and all(isinstance(item, int) for item in value):
            pairs += struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)
        elif isinstance(value, list):
            pairs += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        else:
            kind, code = (7, "?") if isinstance(value, bool) else (4, "I") if isinstance(value, int) else (6, "f")
            pairs += struct.pack(f"<I{code}", kind, value)
    for stored, (shape, values, *kind) in tensors.items():
        infos += text(stored) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), *(kind or [0]), len(data))
        data += values + bytes(-len(values) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1 + len(metadata)) + pairs + infos
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % 32) + data)


# ---- reading --------------------------------------------------------------------------------------------------------------

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 12: (256, 144), 13: (256, 176), 14: (256, 210), 30: (1, 2), 39: (32, 17)}


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, code):
        value = struct.unpack_from(f"<{code}", self.data, self.at)[0]
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self):
        length = self.take("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.take("I"), self.take("Q")
            return [self.value(inner) for _ in range(count)]
        return self.take(SCALARS[kind])


def read_file(path):
    """(metadata, tensors) of a GGUF file; tensors: name -> (shape as Python has it, GGUF's number of the type, bytes)."""
    with open(path, "rb") as file:
        cursor = Cursor(file.read())
    assert cursor.data[:4] == b"GGUF"
    cursor.at = 4
    version, ntensors, nkeys = cursor.take("I"), cursor.take("Q"), cursor.take("Q")
    assert version == 3
    metadata = {}
    for _ in range(nkeys):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.take("I"))
    infos = []
    for _ in range(ntensors):
        name = cursor.text()
        shape = [cursor.take("Q") for _ in range(cursor.take("I"))]
        infos.append((name, shape[::-1], cursor.take("I"), cursor.take("Q")))
    start, tensors = -(-cursor.at // 32) * 32, {}
    for name, shape, kind, offset in infos:
        weights, size = BLOCKS[kind]
        count = 1
        for n in shape:
            count *= n
        assert offset % 32 == 0 and start + offset + count // weights * size <= len(cursor.data), name
        tensors[name] = (shape, kind, cursor.data[start + offset : start + offset + count // weights * size])
    return metadata, tensors
