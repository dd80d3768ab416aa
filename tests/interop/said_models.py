"""The tiny models of reference_models.py and family_models.py without what GGUF has no words for: one of every architecture that `export --format gguf` writes.
test_gguf_export.py writes and reads them back, check_llama_cpp.py has llama.cpp run them.
"""

import os

import family_models as families
import reference_models as reference

GGUF_LAYERS = {"gemma3_text": 6, "smollm3": 4}  # until the layers differ as GGUF's readers assume it
UNTIED = {"falcon-40b", "gpt_neox", "olmo2", "glm4", "phi3", "phi", "llama", "mistral", "qwen3", "stablelm"}
NO_BIAS = {"attention_bias": False, "mlp_bias": False}
# What differs from the model of the same name.
CHANGES = {
    "gpt2": {},
    "llama": {},
    "llama-scaled": NO_BIAS | {"rope_parameters": {**reference.SCALED_ROPE, "original_max_position_embeddings": 8192}, "max_position_embeddings": 16384},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False, "layer_types": None, "attention_bias": False},
    "gemma": NO_BIAS,
    "gemma2": NO_BIAS | {"query_pre_attn_scalar": 10, "tie_word_embeddings": True},
    "gemma3_text": NO_BIAS
    | {
        "query_pre_attn_scalar": 14,
        "tie_word_embeddings": True,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "phi3": {"sliding_window": None},
    "olmo2": NO_BIAS | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": families.ORIGINAL}},
    "smollm3": NO_BIAS | {"no_rope_layers": [1, 1, 1, 0], "use_sliding_window": False, "rope_scaling": None},
    "granite": NO_BIAS | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "cohere": NO_BIAS | {"use_qk_norm": False},
    "glm4": {},
    "gpt_neox": {},
    "bloom": {},
    "falcon-7b": {"bias": False},
    "falcon-40b": {},
    "phi": {"qk_layernorm": False},
    "starcoder2": {"sliding_window": None},
    "stablelm": {"qk_layernorm": False, "use_parallel_residual": False},
    "stablelm-parallel": {},
}


def config_of(name):
    known = reference.MODELS if name in reference.MODELS else families.MODELS
    config = known[name] | CHANGES[name]
    if config.get("rope_scaling", 0) is None:
        del config["rope_scaling"]
    if name in GGUF_LAYERS:
        config["num_hidden_layers"] = GGUF_LAYERS[name]
    return config


def is_there(key, config):
    """Whether the changed model still has a tensor of the original one."""
    biased = config.get("attention_bias", True) or not key.endswith("_proj.bias") or ".self_attn." not in key
    mlp_biased = config.get("mlp_bias", True) or not key.endswith("_proj.bias") or ".mlp." not in key
    normed = config.get("qk_layernorm", True) and config.get("use_qk_norm", True) or not any(word in key for word in ("q_layernorm", "k_layernorm", "q_norm", "k_norm"))
    falcon_biased = config.get("bias", True) or not key.endswith("bias") or ".ln" in key or "layernorm" in key
    head = not config.get("tie_word_embeddings") or key != "lm_head.weight"
    return biased and mlp_biased and normed and falcon_biased and head


def shapes_of(name):
    config, out = config_of(name), {}
    shapes = families.golden()[name]["tensors"]
    for key, shape in shapes.items():
        if is_there(key, config):
            out[key] = shape
    for layer in range(3, GGUF_LAYERS.get(name, 3)):
        out |= {key.replace(".layers.0.", f".layers.{layer}."): shape for key, shape in out.items() if ".layers.0." in key}
    return out


def write_model(directory, name):
    """A Hugging Face directory with a tokenizer whose token i is written <i>."""
    config = config_of(name)
    if name in reference.MODELS:
        keep, reference.MODELS[name] = reference.MODELS[name], config
        reference.write_model(directory, name)
        reference.MODELS[name] = keep
    else:
        os.makedirs(directory)
        reference.write_json(f"{directory}/config.json", config)
        reference.write_safetensors(f"{directory}/model.safetensors", families.tensors(name, shapes_of(name)))
    families.write_tokenizer(directory, config["vocab_size"])
