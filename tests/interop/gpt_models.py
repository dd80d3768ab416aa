"""Tiny models of GPT's own kin for family_models.py: configurations with every optional feature on, and GGUF with the names that the gguf package gives
to Hugging Face's tensors (in tests/golden/families.json).
"""

import reference_models as reference

SHORT = 7  # a window shorter than most sequences
COMMON = {"vocab_size": 203, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 202, "torch_dtype": "float32"}
NAMES = {"num_hidden_layers": 3, "hidden_size": 48, "num_attention_heads": 4}
LONG = {"max_position_embeddings": reference.CONTEXT}
OPT = NAMES | LONG | {"architectures": ["OPTForCausalLM"], "model_type": "opt", "ffn_dim": 112, "activation_function": "relu", "dropout": 0.0, "word_embed_proj_dim": 48}
NEOX = NAMES | LONG | {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "intermediate_size": 112, "hidden_act": "gelu", "rotary_pct": 0.5, "rotary_emb_base": 3000, "layer_norm_eps": 1e-5}
FALCON = NAMES | {"architectures": ["FalconForCausalLM"], "model_type": "falcon", "ffn_hidden_size": 112, "layer_norm_epsilon": 1e-5, "max_position_embeddings": reference.CONTEXT}
MODELS = {
    "opt": OPT,
    "opt-unbiased": OPT | {"enable_bias": False, "tie_word_embeddings": False, "activation_function": "gelu"},
    "opt-350m": OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 28},
    "opt-bare": OPT | {"_remove_final_layer_norm": True, "activation_function": "silu", "word_embed_proj_dim": 56, "tie_word_embeddings": False},
    "gpt_neox": NEOX | {"use_parallel_residual": True, "tie_word_embeddings": False},
    "gpt_neox-in-turn": NEOX | {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_fast"},
    "bloom": {"architectures": ["BloomForCausalLM"], "model_type": "bloom", "n_layer": 3, "hidden_size": 48, "n_head": 6, "layer_norm_epsilon": 1e-5, "seq_length": reference.CONTEXT},
    "bloom-stream": {"apply_residual_connection_post_layernorm": True, "tie_word_embeddings": False},
    "falcon-7b": FALCON | {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": False, "alibi": False, "bias": True, "num_kv_heads": 4},
    "falcon-40b": FALCON | {"hidden_size": 64, "num_attention_heads": 8, "num_kv_heads": 2, "new_decoder_architecture": True, "parallel_attn": True, "alibi": False, "bias": False, "tie_word_embeddings": False},
    "falcon-11b": FALCON | {"hidden_size": 64, "num_attention_heads": 8, "num_kv_heads": 2, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "parallel_attn": True, "alibi": False, "bias": True},
    "falcon-rw": FALCON | {"hidden_size": 60, "num_attention_heads": 6, "multi_query": False, "parallel_attn": False, "new_decoder_architecture": False, "alibi": True, "bias": True},
    "gptj": {"architectures": ["GPTJForCausalLM"], "model_type": "gptj", "n_layer": 3, "n_embd": 48, "n_head": 4, "n_positions": reference.CONTEXT, "n_inner": 112, "rotary_dim": 6, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"},
    "phi": NAMES | LONG | {"architectures": ["PhiForCausalLM"], "model_type": "phi", "num_key_value_heads": 2, "intermediate_size": 112, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "qk_layernorm": True},
    "starcoder2": NAMES | LONG | {"architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2", "num_key_value_heads": 2, "intermediate_size": 112, "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "use_bias": True, "sliding_window": SHORT, "rope_theta": 5000.0},
}
MODELS["bloom-stream"] = MODELS["bloom"] | MODELS["bloom-stream"]
MODELS["stablelm"] = NAMES | LONG | {"architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "num_key_value_heads": 2, "intermediate_size": 112, "hidden_act": "silu", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "use_qkv_bias": True, "rope_theta": 5000.0, "qk_layernorm": True}
MODELS["stablelm-parallel"] = MODELS["stablelm"] | {"use_parallel_residual": True, "use_qkv_bias": False, "tie_word_embeddings": True, "qk_layernorm": False}
MODELS = {name: COMMON | config for name, config in MODELS.items()}
SDPA = ("falcon-rw",)  # with eager attention transformers 5.24 adds Falcon's ALiBi twice
VARIANTS = ("opt-unbiased", "opt-bare", "bloom-stream", "stablelm-parallel", "gpt_neox-in-turn", "falcon-40b", "falcon-11b", "falcon-rw")  # not on every grid
BOTH_ENDS = ("opt", "opt-unbiased", "opt-350m", "opt-bare", "gpt_neox-in-turn", "bloom", "bloom-stream", "falcon-7b", "falcon-40b", "falcon-11b", "falcon-rw", "stablelm", "stablelm-parallel")  # of which MODELS has tied and untied ones, or a sister
UNCUT = ("falcon-7b",)  # one key/value head


# ---- GGUF -----------------------------------------------------------------------------------------------------------------

ARCHITECTURE = {"gpt_neox": "gptneox", "phi": "phi2"}
UNSAID = {"bloom", "bloom-stream", "gpt_neox", "gpt_neox-in-turn", "starcoder2"}
UNKNOWN = ("opt", "opt-unbiased", "opt-350m", "opt-bare", "gptj", "falcon-rw", "phi")  # no GGUF file has them (of Phi: not its norms of q and k)


def heads_of(config):
    heads = config.get("num_attention_heads", config.get("n_head"))
    if config["model_type"] == "falcon":
        return heads, config["num_kv_heads"] if config["new_decoder_architecture"] else 1 if config["multi_query"] else heads
    return heads, config.get("num_key_value_heads", heads)


def by_parts(shape, data, heads, kv_heads):
    """Rows that go by key/value heads, as [Q; K; V]."""
    group, size = heads // kv_heads, len(data) // shape[0]
    h = shape[0] // (heads + 2 * kv_heads)
    head = [data[i * h * size : (i + 1) * h * size] for i in range(heads + 2 * kv_heads)]
    block = group + 2
    return b"".join([b"".join(head[g * block : g * block + group]) for g in range(kv_heads)] + [head[g * block + group + part] for part in (0, 1) for g in range(kv_heads)])


def gguf_contents(name, tensors, names):
    """(architecture, metadata, tensors) as llama.cpp's converter lays them out; names: of the gguf package, where Hugging Face's tensors go."""
    config, out = MODELS[name], {}
    heads, kv_heads = heads_of(config)
    for theirs, (shape, data) in tensors.items():
        if ".query_key_value." in theirs:
            data = by_parts(shape, data, heads, kv_heads)
        if ".norms." in theirs:  # those of the heads become one tensor
            rows, before = out.get(names[theirs], ([0], b""))
            shape, data = [rows[0] + 1, *shape], before + data
        out[names[theirs]] = (shape, data)
    width = config.get("hidden_size", config.get("n_embd"))
    metadata = {
        "block_count": 3,
        "embedding_length": width,
        "feed_forward_length": config.get("intermediate_size", config.get("ffn_hidden_size", 4 * width)),
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "context_length": reference.CONTEXT,
        "attention.layer_norm_epsilon": 1e-5,
    }
    if config["model_type"] in ("gpt_neox", "phi"):
        metadata["rope.dimension_count"] = width // heads // 2
    if config["model_type"] in ("starcoder2", "stablelm"):
        metadata |= {"rope.freq_base": config["rope_theta"], "rope.dimension_count": int(width // heads * config.get("partial_rotary_factor", 1.0))}
    if config["model_type"] == "gpt_neox":
        metadata["use_parallel_residual"] = config["use_parallel_residual"]
    return ARCHITECTURE.get(config["model_type"], config["model_type"]), metadata, out
