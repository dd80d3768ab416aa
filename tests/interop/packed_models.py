"""Tiny models of which one matrix is packed: directories as Hugging Face has them, for test_packed.py and make_packed_golden.py. Needs numpy alone."""

import base64
import json
import os
import struct

import numpy as np

WIDTH, MLP, VOCAB = 32, 96, 40
COMMON = {"vocab_size": VOCAB, "tie_word_embeddings": True, "torch_dtype": "bfloat16"}


def config_of(family, width=WIDTH, mlp=MLP):
    if family == "gpt2":
        return COMMON | {"model_type": "gpt2", "n_layer": 1, "n_embd": width, "n_head": 2, "n_positions": 32, "n_inner": mlp, "activation_function": "gelu_new"}
    return COMMON | {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": width, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": mlp,
                     "max_position_embeddings": 32, "hidden_act": "silu", "rms_norm_eps": 1e-5}  # fmt: skip


def plain_tensors(family, width=WIDTH, mlp=MLP):
    """name -> ("F32", shape, bytes), small numbers that are the same every time."""
    if family == "gpt2":
        layer = {"attn.c_attn.weight": (width, 3 * width), "attn.c_attn.bias": (3 * width,), "attn.c_proj.weight": (width, width), "attn.c_proj.bias": (width,),
                 "mlp.c_fc.weight": (width, mlp), "mlp.c_fc.bias": (mlp,), "mlp.c_proj.weight": (mlp, width), "mlp.c_proj.bias": (width,),
                 "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,)}  # fmt: skip
        shapes = {"transformer.wte.weight": (VOCAB, width), "transformer.wpe.weight": (32, width), "transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}
        shapes |= {f"transformer.h.0.{name}": shape for name, shape in layer.items()}
    else:
        layer = {f"self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        layer |= {"mlp.gate_proj.weight": (mlp, width), "mlp.up_proj.weight": (mlp, width), "mlp.down_proj.weight": (width, mlp)}
        layer |= {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
        shapes = {"model.embed_tokens.weight": (VOCAB, width), "model.norm.weight": (width,)}
        shapes |= {f"model.layers.0.{name}": shape for name, shape in layer.items()}
    rng = np.random.default_rng(5)
    return {name: ("F32", shape, (0.05 * rng.standard_normal(shape)).astype("<f4").tobytes()) for name, shape in shapes.items()}


def write_safetensors(path, tensors):
    """tensors: name -> (type, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def parts_of(case):
    """The packed tensors of a case of the golden file: suffix -> (type, shape, bytes)."""
    return {name: (dtype, shape, base64.b64decode(raw)) for name, (dtype, shape, raw) in case["parts"].items()}


def write_model(directory, case, parts=None, config=None, width=WIDTH, mlp=MLP):
    """The directory of a case: {"family", "module", "config", "parts"}; parts and config take the place of its own."""
    family, module = case["family"], case["module"]
    os.makedirs(directory, exist_ok=True)
    tensors = plain_tensors(family, width, mlp)
    del tensors[f"{module}.weight"]
    for name, part in (parts_of(case) if parts is None else parts).items():
        tensors[f"{module}.{name}"] = part
    write_safetensors(f"{directory}/model.safetensors", tensors)
    with open(f"{directory}/config.json", "w") as file:
        json.dump(config_of(family, width, mlp) | {"quantization_config": case["config"] if config is None else config}, file)
