"""Tiny models of the decoder families, every optional feature of each on, made from nothing but the standard library and the names and shapes of
tensors that tests/golden/families.json has from transformers. make_families_golden.py (PyTorch + PEFT) and test_family_curves.py (mpilora) both
call this file. Numbers are drawn as in reference_models.py; norms whose weight is 1 + w are drawn around 0 in few bits, so that GGUF's 1 + w is exact.
"""

import json
import os
import struct

import gguf_models
import gpt_models
import reference_models as reference

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "families.json")
SHORT = 7  # a window shorter than most sequences
ORIGINAL = 24  # a context that some sequences pass
COMMON = {
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": reference.CONTEXT,
    "vocab_size": 203,
    "rope_theta": 5000.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 202,  # which no text has: its embedding would have no gradient
    "torch_dtype": "float32",
}
FACTORS = [1.0, 1.3, 1.1, 1.7, 2.0, 2.5]
MODELS = {
    "gemma": {"architectures": ["GemmaForCausalLM"], "head_dim": 20, "attention_bias": True, "hidden_act": "gelu", "rms_norm_eps": 1e-5},
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "head_dim": 10,
        "attention_bias": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": SHORT,
        "query_pre_attn_scalar": 21,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 2.0,
        "tie_word_embeddings": False,
    },
    "gemma3_text": {
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": 14,
        "attention_bias": True,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": SHORT,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 21,
        "final_logit_softcapping": 3.0,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    },
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "hidden_size": 64,
        "partial_rotary_factor": 0.75,
        "sliding_window": 11,
        "original_max_position_embeddings": ORIGINAL,
        "rope_scaling": {"type": "longrope", "short_factor": FACTORS, "long_factor": [4 * f for f in FACTORS]},
    },
    "olmo2": {
        "architectures": ["Olmo2ForCausalLM"],
        "attention_bias": True,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL, "beta_fast": 4.0},
    },
    "smollm3": {
        "architectures": ["SmolLM3ForCausalLM"],
        "attention_bias": True,
        "mlp_bias": True,
        "no_rope_layers": [1, 0, 1],
        "use_sliding_window": True,
        "sliding_window": SHORT,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "granite": {
        "architectures": ["GraniteForCausalLM"],
        "attention_bias": True,
        "mlp_bias": True,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.5,
        "logits_scaling": 1.7,
        "tie_word_embeddings": True,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    },
    "cohere": {"architectures": ["CohereForCausalLM"], "attention_bias": True, "use_qk_norm": True, "logit_scale": 0.4},
    "glm4": {"architectures": ["Glm4ForCausalLM"], "head_dim": 16, "attention_bias": True, "partial_rotary_factor": 0.5},
}
MODELS = {name: COMMON | {"model_type": name} | config for name, config in MODELS.items()} | gpt_models.MODELS
LORA = {**reference.DEFAULTS, "targets": ["all"], "steps": 10}
FULL = {**reference.DEFAULTS, "method": "full", "lr": 1e-3, "steps": 5}
PROMPTS = [[5, 17, 3], [60, 2, 9, 44, 1, 13, 80, 7, 7, 3], [(7 * i * i + 3) % 150 for i in range(30)]]  # the last one is longer than ORIGINAL
NEW = 12


def golden():
    with open(GOLDEN) as file:
        return json.load(file)


# ---- tensors and files ------------------------------------------------------------------------------------------------------


def is_plus_one(name):
    return name.startswith("gemma")


def coarse(values):
    """Rounded to 2⁻¹⁰."""
    numbers = struct.unpack(f"<{len(values) // 4}f", values)
    return struct.pack(f"<{len(numbers)}f", *(round(1024 * x) / 1024 for x in numbers))


def tensors(name, shapes):
    t = reference.Tensors(name)
    for key, shape in shapes.items():
        if ("norm" in key or ".ln_" in key) and key.endswith(".weight"):
            t.add(key, shape, 0.5, 0.0 if is_plus_one(name) else 1.0)
            if is_plus_one(name):
                t[key] = (shape, coarse(t[key][1]))
        else:
            t.add(key, shape, 0.3 if "embed" in key or "lm_head" in key or key.endswith(".bias") else 0.25)
    return t


def write_model(directory, name, shapes):
    os.makedirs(directory)
    reference.write_json(f"{directory}/config.json", MODELS[name])
    reference.write_safetensors(f"{directory}/model.safetensors", tensors(name, shapes))


def adapted(shapes):
    """(prefix of the layers, modules of the first layer by their names in it), those with a linear weight."""
    first = next(key for key in shapes if ".0." in key).split(".0.")[0]
    inside = [key.removeprefix(f"{first}.0.") for key, shape in shapes.items() if key.startswith(f"{first}.0.") and len(shape) == 2 and "norm" not in key]
    return first, [key.removesuffix(".weight") for key in inside]


def write_adapter(directory, name, shapes):
    """A and B of every linear layer, none of them zero."""
    os.makedirs(directory)
    (layers, modules), t = adapted(shapes), reference.Tensors(f"{name}:adapter")
    for layer in range(COMMON["num_hidden_layers"]):
        for module in modules:
            path = f"{layers}.{layer}.{module}"
            outputs, inputs = shapes[f"{path}.weight"]
            t.add(f"base_model.model.{path}.lora_A.weight", [LORA["rank"], inputs], 0.2)
            t.add(f"base_model.model.{path}.lora_B.weight", [outputs, LORA["rank"]], 0.05)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": LORA["rank"], "lora_alpha": LORA["alpha"], "lora_dropout": 0.0, "bias": "none", "target_modules": modules, "fan_in_fan_out": False, "inference_mode": True}
    reference.write_json(f"{directory}/adapter_config.json", config)
    reference.write_safetensors(f"{directory}/adapter_model.safetensors", t)


# ---- the other ends -------------------------------------------------------------------------------------------------------

ENDS_GOLDEN = os.path.join(os.path.dirname(GOLDEN), "family_ends.json")
ENDS = [name for name in MODELS if name not in gpt_models.BOTH_ENDS] + ["gpt2", "mistral", "qwen2", "qwen3"]
ENDS_CASE = FULL | {"steps": 3}


def other_ends(name, known):
    """(configuration, shapes of its tensors) of the model `name`, untied where it is tied and tied where it is not; known: families.json."""
    if name in MODELS:
        config, shapes = MODELS[name], known[name]["tensors"]
    else:
        config = reference.MODELS[name]
        made = reference.gpt2_tensors(name, config) if name == "gpt2" else reference.llama_tensors(name, config)
        shapes = {("transformer." if name == "gpt2" else "") + key: shape for key, (shape, _) in made.items()}
    head = "embed_out.weight" if name == "gpt_neox" else "lm_head.weight"
    tied = head not in shapes
    embedding = next(shape for key, shape in shapes.items() if key.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")))
    rest = {key: shape for key, shape in shapes.items() if key != head}
    return config | {"tie_word_embeddings": not tied}, rest | ({head: embedding} if tied else {})


def write_other_ends(directory, name, known):
    config, shapes = other_ends(name, known)
    os.makedirs(directory)
    reference.write_json(f"{directory}/config.json", config)
    reference.write_safetensors(f"{directory}/model.safetensors", tensors(name, shapes))


# ---- GGUF -----------------------------------------------------------------------------------------------------------------

ARCHITECTURE = {"gemma3_text": "gemma3", "cohere": "command-r"}
PAIRED = ("smollm3", "granite")
INSIDE = gguf_models.INSIDE | {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
FOUR = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
BEHIND = {
    "gemma2": FOUR,
    "gemma3_text": FOUR,
    "olmo2": FOUR,
    "glm4": {"post_self_attn_layernorm": "post_attention_norm", "post_attention_layernorm": "ffn_norm", "post_mlp_layernorm": "post_ffw_norm"},
}


def stored_name(name, theirs):
    module, kind = theirs.rsplit(".", 1)
    if module in gguf_models.OUTSIDE:
        return f"{gguf_models.OUTSIDE[module]}.{kind}"
    layer, rest = module.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{(INSIDE | BEHIND.get(name, {}))[rest]}.{kind}"


def plus_one(data):
    numbers = struct.unpack(f"<{len(data) // 4}f", data)
    return struct.pack(f"<{len(numbers)}f", *(1.0 + x for x in numbers))


def metadata(name):
    config = MODELS[name]
    heads, scaling = config["num_attention_heads"], config.get("rope_scaling", {})
    head_dim = config.get("head_dim", config["hidden_size"] // heads)
    eps = config.get("layer_norm_eps" if name == "cohere" else "rms_norm_eps", {"phi3": 1e-5, "olmo2": 1e-5, "cohere": 1e-5, "glm4": 1.5625e-7}.get(name, 1e-6))
    values = {
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "context_length": config["max_position_embeddings"],
        "attention.layer_norm_epsilon" if name == "cohere" else "attention.layer_norm_rms_epsilon": eps,
        "rope.freq_base": config["rope_theta"],
        "rope.dimension_count": int(head_dim * config.get("partial_rotary_factor", 1.0)),
    }
    said = {
        "attn_logit_softcapping": config.get("attn_logit_softcapping"),
        "final_logit_softcapping": config.get("final_logit_softcapping"),
        "attention.sliding_window": config.get("sliding_window") if name != "smollm3" else None,
        "embedding_scale": config.get("embedding_multiplier"),
        "attention.scale": config.get("attention_multiplier"),
        "residual_scale": config.get("residual_multiplier"),
        "logit_scale": config.get("logits_scaling", config.get("logit_scale")),
    }
    if scaling.get("rope_type") in ("linear", "yarn"):
        said |= {"rope.scaling.type": scaling["rope_type"], "rope.scaling.factor": scaling["factor"]}
    if name == "gemma3_text":
        said |= {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    if name in ("phi3", "olmo2"):
        said["rope.scaling.original_context_length"] = ORIGINAL
    return values | {key: value for key, value in said.items() if value is not None}


def gguf_contents(name, shapes):
    """(architecture, metadata, tensors) as llama.cpp's converter lays them out."""
    if name in gpt_models.MODELS:
        return gpt_models.gguf_contents(name, tensors(name, shapes), golden()[name]["gguf"])
    config, out = MODELS[name], {}
    for theirs, (shape, data) in tensors(name, shapes).items():
        if name in PAIRED and (".q_proj" in theirs or ".k_proj" in theirs):
            data = gguf_models.paired(shape, data, config["num_attention_heads" if ".q_proj" in theirs else "num_key_value_heads"])
        if is_plus_one(name) and "norm" in theirs:
            data = plus_one(data)
        out[stored_name(name, theirs)] = (shape, data)
    if name == "phi3":
        for kind in ("short", "long"):
            factors = config["rope_scaling"][f"{kind}_factor"]
            out[f"rope_factors_{kind}.weight"] = ([len(factors)], struct.pack(f"<{len(factors)}f", *factors))
    return ARCHITECTURE.get(name, name), metadata(name), out


# ---- words ----------------------------------------------------------------------------------------------------------------


def write_tokenizer(directory, vocab):
    """A tokenizer whose token i is written <i>, so that a text says ids."""
    words = {f"<{i}>": i for i in range(vocab)}
    added = [{"id": i, "content": word, "special": False, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False} for word, i in words.items()]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    reference.write_json(
        f"{directory}/tokenizer.json",
        {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": {"type": "BPE", "vocab": words, "merges": []}},
    )


def text(ids):
    return "".join(f"<{i}>" for i in ids)
