"""Small models, adapters and data that the golden curves belong to, made from nothing but the standard library.

make_golden.py (PyTorch + PEFT) and test_curves.py (mpilora) both call this file, so the repository holds no weights, only curves. Every number
is drawn from a generator seeded with its tensor's name and rounded to fp32: the same on every machine. Norms and biases are far from 1 and 0,
so that one left out is seen.
"""

import json
import os
import random
import struct

CONTEXT = 64
STEPS = 20
SEQUENCES = 6  # a step

GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_layer": 3,
    "n_embd": 48,
    "n_head": 4,
    "n_positions": CONTEXT,
    "vocab_size": 211,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "float32",
}
LLAMA = {  # as transformers 4 writes it
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 3,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT,
    "vocab_size": 203,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "float32",
}
SCALED_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
LLAMA_SCALED = {  # as transformers 5 writes it
    **{k: v for k, v in LLAMA.items() if k not in ("rope_theta", "rope_scaling", "torch_dtype")},
    "dtype": "float32",
    "rope_parameters": SCALED_ROPE,
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": True,
}
SHORT = 7  # a window shorter than most sequences
MISTRAL = {  # heads that do not follow from the width, every layer with a window
    **{k: v for k, v in LLAMA.items() if k not in ("attention_bias", "mlp_bias", "rope_scaling")},
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "head_dim": 10,
    "sliding_window": SHORT,
}
QWEN2 = {  # head_dim follows from the width; biases on q, k and v without a key
    **{k: v for k, v in MISTRAL.items() if k != "head_dim"},
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "use_sliding_window": True,  # from the second layer on
    "max_window_layers": 1,
    "tie_word_embeddings": True,
}
QWEN3 = {  # windows by layer_types
    **QWEN2,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 20,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "attention_bias": True,
    "tie_word_embeddings": False,
}
MODELS = {"gpt2": GPT2, "llama": LLAMA, "llama-scaled": LLAMA_SCALED, "mistral": MISTRAL, "qwen2": QWEN2, "qwen3": QWEN3}

# target → PEFT's module name
GPT2_MODULES = {"qkv": "attn.c_attn", "o": "attn.c_proj", "fc": "mlp.c_fc", "proj": "mlp.c_proj"}
LLAMA_MODULES = {t: f"self_attn.{t}_proj" for t in "qkvo"} | {t: f"mlp.{t}_proj" for t in ("gate", "up", "down")}

# What the golden file holds a curve for; a key that is not here has the value of DEFAULTS.
DEFAULTS = {
    "method": "lora",
    "targets": [],
    "rank": 4,
    "alpha": 16,
    "scaling": "standard",
    "lr": 2e-3,
    "weight_decay": 0.1,
    "schedule": "linear",
    "label_smoothing": 0.0,
    "max_len": CONTEXT,
    "clip_norm": 1.0,
    "warmup": 3,
    "steps": STEPS,
    "saved": [],  # modules_to_save
}
CASES = {
    "gpt2-qkv": {"model": "gpt2", "targets": ["qkv"]},
    "gpt2-all-rslora": {"model": "gpt2", "targets": ["all"], "rank": 5, "scaling": "rslora", "schedule": "cosine", "max_len": 33},
    "gpt2-smoothing": {"model": "gpt2", "targets": ["qkv", "proj"], "label_smoothing": 0.1, "schedule": "constant"},
    "gpt2-full": {"model": "gpt2", "method": "full", "lr": 1e-3},
    "llama-qv": {"model": "llama", "targets": ["q", "v"], "clip_norm": 0.25},
    "llama-scaled-all": {"model": "llama-scaled", "targets": ["all"], "rank": 3, "alpha": 9},
    "llama-full": {"model": "llama", "method": "full", "lr": 1e-3, "schedule": "cosine"},
    "llama-scaled-full": {"model": "llama-scaled", "method": "full", "lr": 1e-3, "weight_decay": 0.0},
    "mistral-all": {"model": "mistral", "targets": ["all"], "steps": 10},
    "mistral-full": {"model": "mistral", "method": "full", "lr": 1e-3, "steps": 5},
    "qwen2-all": {"model": "qwen2", "targets": ["all"], "steps": 10},
    "qwen2-full": {"model": "qwen2", "method": "full", "lr": 1e-3, "steps": 5},
    "qwen3-all": {"model": "qwen3", "targets": ["all"], "steps": 10},
    "qwen3-full": {"model": "qwen3", "method": "full", "lr": 1e-3, "steps": 5},
    "gpt2-ends": {"model": "gpt2", "targets": ["qkv", "head", "embed"], "steps": 10},  # tied: each end has its own adapter
    "llama-ends": {"model": "llama", "targets": ["q", "down", "head", "embed"], "rank": 3, "scaling": "rslora", "steps": 10},
    "llama-scaled-head": {"model": "llama-scaled", "targets": ["head"], "steps": 10},
    "llama-saved": {"model": "llama", "targets": ["q", "v"], "saved": ["lm_head", "embed_tokens", "model.norm", "layers.1.input_layernorm"], "steps": 10},
    "llama-scaled-saved": {"model": "llama-scaled", "targets": ["v"], "saved": ["lm_head"], "steps": 10},  # tied: the embedding stays
    "gpt2-saved": {"model": "gpt2", "targets": ["proj"], "saved": ["wte", "ln_f"], "steps": 10},  # tied: the head stays
    "llama-scaled-embed": {"model": "llama-scaled", "targets": ["embed"], "steps": 10},
}
CASES = {name: {**DEFAULTS, **case} for name, case in CASES.items()}


# ---- tensors ------------------------------------------------------------------------------------------------------------


def tensor(name, shape, scale, centre=0.0):
    """(shape, bytes): fp32 little-endian, uniform in centre ± scale."""
    source = random.Random(name)
    count = 1
    for n in shape:
        count *= n
    return shape, struct.pack(f"<{count}f", *(centre + scale * (2.0 * source.random() - 1.0) for _ in range(count)))


class Tensors(dict):
    """Named tensors of one model; the model's name is part of every seed."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def add(self, name, shape, scale, centre=0.0):
        self[name] = tensor(f"{self.model}:{name}", shape, scale, centre)

    def norm(self, name, width, bias):
        self.add(f"{name}.weight", [width], 0.5, 1.0)
        if bias:
            self.add(f"{name}.bias", [width], 0.3)

    def linear(self, name, shape, outputs, bias):
        self.add(f"{name}.weight", shape, 0.25)
        if bias:
            self.add(f"{name}.bias", [outputs], 0.3)


def gpt2_tensors(name, config):
    d, t = config["n_embd"], Tensors(name)
    t.add("wte.weight", [config["vocab_size"], d], 0.3)
    t.add("wpe.weight", [config["n_positions"], d], 0.2)
    for layer in range(config["n_layer"]):
        h = f"h.{layer}"
        t.norm(f"{h}.ln_1", d, True)
        t.norm(f"{h}.ln_2", d, True)
        for module, (inputs, outputs) in gpt2_shapes(config).items():
            t.linear(f"{h}.{module}", [inputs, outputs], outputs, True)  # Conv1D: in × out
    t.norm("ln_f", d, True)
    return t


def llama_tensors(name, config):
    d, t = config["hidden_size"], Tensors(name)
    t.add("model.embed_tokens.weight", [config["vocab_size"], d], 0.3)
    for layer in range(config["num_hidden_layers"]):
        h = f"model.layers.{layer}"
        t.norm(f"{h}.input_layernorm", d, False)
        t.norm(f"{h}.post_attention_layernorm", d, False)
        if config["model_type"] == "qwen3":
            t.norm(f"{h}.self_attn.q_norm", config["head_dim"], False)
            t.norm(f"{h}.self_attn.k_norm", config["head_dim"], False)
        for module, (inputs, outputs) in llama_shapes(config).items():
            bias = has_bias(config, module)
            t.linear(f"{h}.{module}", [outputs, inputs], outputs, bias)
    t.norm("model.norm", d, False)
    if not config["tie_word_embeddings"]:
        t.add("lm_head.weight", [config["vocab_size"], d], 0.3)
    return t


def has_bias(config, module):
    if config["model_type"] == "qwen2" and module != LLAMA_MODULES["o"]:
        return module.startswith("self_attn")
    return config.get("attention_bias" if module.startswith("self_attn") else "mlp_bias", False)


def gpt2_shapes(config):
    """module → (in, out)"""
    d = config["n_embd"]
    return {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, 4 * d), "mlp.c_proj": (4 * d, d)}


def llama_shapes(config):
    d, f, h = config["hidden_size"], config["intermediate_size"], config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    q, kv = h * config["num_attention_heads"], h * config["num_key_value_heads"]
    attention = {"q": (d, q), "k": (d, kv), "v": (d, kv), "o": (q, d)}
    mlp = {"gate": (d, f), "up": (d, f), "down": (f, d)}
    return {LLAMA_MODULES[t]: shape for t, shape in (attention | mlp).items()}


def adapter_tensors(case):
    """A and B of every adapted module, none of them zero, under PEFT's names."""
    config = MODELS[case["model"]]
    gpt2 = config["model_type"] == "gpt2"
    shapes = gpt2_shapes(config) if gpt2 else llama_shapes(config)
    t = Tensors(f"{case['model']}:adapter")
    for layer in range(config["n_layer"] if gpt2 else config["num_hidden_layers"]):
        for module in adapted_modules(case):
            if module not in shapes:
                continue
            name = f"base_model.model.{'transformer.h' if gpt2 else 'model.layers'}.{layer}.{module}"
            inputs, outputs = shapes[module]
            t.add(f"{name}.lora_A.weight", [case["rank"], inputs], 0.2)
            t.add(f"{name}.lora_B.weight", [outputs, case["rank"]], 0.05)
    add_outside(t, case, config["vocab_size"], config["n_embd"] if gpt2 else config["hidden_size"])
    return t


def saved_shapes(case, vocab, d):
    """Tensors of modules_to_save, which carry no wrapper's name."""
    shapes = {"lm_head.weight": [vocab, d], "model.norm.weight": [d], "model.layers.1.input_layernorm.weight": [d], "model.embed_tokens.weight": [vocab, d]}
    shapes |= {"transformer.wte.weight": [vocab, d], "transformer.ln_f.weight": [d], "transformer.ln_f.bias": [d]}
    return {name: shape for name, shape in shapes.items() if any(name.rsplit(".", 1)[0].endswith(word) for word in case["saved"])}


def add_outside(t, case, vocab, d):
    """Factors of the head and of the embedding, which PEFT saves without ".weight"."""
    for name, shape in saved_shapes(case, vocab, d).items():
        t.add(f"base_model.model.{name}", shape, 0.3, 1.0 if "norm" in name or "ln_" in name else 0.0)
    if "head" in case["targets"]:
        t.add("base_model.model.lm_head.lora_A.weight", [case["rank"], d], 0.2)
        t.add("base_model.model.lm_head.lora_B.weight", [vocab, case["rank"]], 0.05)
    if "embed" in case["targets"]:
        name = f"base_model.model.{'transformer.wte' if case['model'] == 'gpt2' else 'model.embed_tokens'}"
        t.add(f"{name}.lora_embedding_A", [case["rank"], vocab], 0.05)
        t.add(f"{name}.lora_embedding_B", [d, case["rank"]], 0.2)
        if case["model"] == "llama":  # PEFT saves the base's own beside it
            t[f"{name}.base_layer.weight"] = tensor("llama:model.embed_tokens.weight", [vocab, d], 0.3)


def adapted_modules(case):
    modules = {**GPT2_MODULES, "embed": "wte"} if MODELS[case["model"]]["model_type"] == "gpt2" else {**LLAMA_MODULES, "embed": "embed_tokens"}
    modules["head"] = "lm_head"
    return [m for t, m in modules.items() if t not in ("head", "embed")] if case["targets"] == ["all"] else [modules[t] for t in case["targets"]]


# ---- files --------------------------------------------------------------------------------------------------------------


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            file.write(data)


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=2)


def write_model(directory, name):
    config = MODELS[name]
    os.makedirs(directory)
    make = gpt2_tensors if config["model_type"] == "gpt2" else llama_tensors
    write_json(f"{directory}/config.json", config)
    write_safetensors(f"{directory}/model.safetensors", make(name, config))


def write_adapter(directory, case):
    os.makedirs(directory)
    gpt2 = MODELS[case["model"]]["model_type"] == "gpt2"
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": case["rank"],
        "lora_alpha": case["alpha"],
        "lora_dropout": 0.0,
        "target_modules": adapted_modules(case),
        "fan_in_fan_out": gpt2,
        "bias": "none",
        "use_rslora": case["scaling"] == "rslora",
        "use_dora": False,
        "inference_mode": True,
        "base_model_name_or_path": None,
        "modules_to_save": case["saved"] or None,
        "layers_to_transform": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
    }
    write_json(f"{directory}/adapter_config.json", config)
    write_safetensors(f"{directory}/adapter_model.safetensors", adapter_tensors(case))


# ---- data ---------------------------------------------------------------------------------------------------------------


def sequences(name, count):
    """Token ids with labels as Hugging Face has them. Lengths 3 … 40; a masked prompt before most, a second masked span in some; every fifth
    has no labels: all its tokens are targets. Ids favour small numbers, so that there is something to learn."""
    source, out = random.Random(f"data:{name}"), []
    for index in range(count):
        length = 3 + int(38 * source.random())
        ids = [int(200 * source.random() * source.random()) for _ in range(length)]
        labels = list(ids)
        if index % 5:
            prompt = 1 + int(source.random() * min(12, length - 2))
            labels[:prompt] = [-100] * prompt
            if index % 4 == 0 and length > 20:
                labels[15:18] = [-100] * 3
            out.append({"input_ids": ids, "labels": labels})
        else:
            out.append({"input_ids": ids})
    return out


TRAIN = sequences("train", 31)
VALID = sequences("valid", 9)


def write_data(path, data):
    with open(path, "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in data)
