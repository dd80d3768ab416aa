"""The variants of LoRA that PEFT has, as cases beside those of reference_models.py: what make_variants_golden.py (PyTorch + PEFT) and test_variants.py
(mpilora) both train. A case's `method` holds mpilora's own keys, `peft` what PEFT's configuration says instead; the initial adapter is written as a PEFT
directory, whose numbers come from the tensors' names."""

import os
import re

import reference_models as reference

STEPS = 10

LORA = {**reference.DEFAULTS, "rank": 4, "alpha": 8}
CASES = {
    "lora-plus-gpt2": {"model": "gpt2", "targets": ["qkv", "proj"], "method": {"lora_plus": 16.0}},
    "lora-plus-llama": {"model": "llama", "targets": ["q", "v"], "method": {"lora_plus": 4.0}, "weight_decay": 0.0},
    "patterns-gpt2": {
        "model": "gpt2",
        "targets": ["qkv", "o", "proj"],
        "method": {"rank_pattern": {"layers.1.attn.qkv": 7, "proj": 2}, "alpha_pattern": {"mlp.proj": 5, "attn.o": 3.5}},
        "peft": {
            "rank_pattern": {"h.1.attn.c_attn": 7, "mlp.c_proj": 2},
            "alpha_pattern": {"mlp.c_proj": 5, "attn.c_proj": 3.5},
        },
    },
    "patterns-llama": {
        "model": "llama",
        "targets": ["q", "v", "down"],
        "scaling": "rslora",
        "method": {"layers": [0, 2], "rank_pattern": {"layers.0.attn.q": 2, "q": 6}, "alpha_pattern": {"attn.v": 20}},
        "peft": {
            "layers_to_transform": [0, 2],
            "rank_pattern": {"model.layers.0.self_attn.q_proj": 2, "q_proj": 6},
            "alpha_pattern": {"self_attn.v_proj": 20},
        },
    },
    "dora-gpt2": {"model": "gpt2", "targets": ["qkv", "o", "proj"], "method": {"dora": True}},
    "dora-llama": {"model": "llama", "targets": ["all"], "rank": 3, "scaling": "rslora", "method": {"dora": True, "lora_plus": 2.0}},
    "dora-scaled": {
        "model": "llama-scaled",
        "targets": ["v", "o", "down"],
        "method": {"dora": True, "layers": [1], "rank_pattern": {"down": 6}},
        "peft": {"layers_to_transform": [1], "rank_pattern": {"down_proj": 6}},
    },
    "pissa-gpt2": {
        "model": "gpt2",
        "targets": ["qkv", "o", "proj"],
        "method": {"init": "pissa"},
        "peft": {"init_lora_weights": "pissa"},
    },
    "pissa-llama": {
        "model": "llama",
        "targets": ["all"],
        "scaling": "rslora",
        "method": {"init": "pissa", "rank_pattern": {"down": 2}, "lora_plus": 2.0},
        "peft": {"init_lora_weights": "pissa", "rank_pattern": {"down_proj": 2}},
    },
    "tokens-llama": {  # rows of the embedding; the head is its own
        "model": "llama",
        "targets": ["q", "v"],
        "method": {"trainable_tokens": [3, "100-102", 202]},
        "peft": {"trainable_token_indices": [101, 3, 202, 100, 102]},
    },
    "tokens-ends": {
        "model": "llama",
        "targets": ["down"],
        "method": {"trainable_tokens": [0, 5], "trainable_head_tokens": [150, 7, 8, 60], "modules_to_save": ["norm"]},
        "peft": {"trainable_token_indices": {"embed_tokens": [5, 0], "lm_head": [7, 8, 60, 150]}, "modules_to_save": ["model.norm"]},
    },
    "tokens-scaled": {  # tied: the head follows
        "model": "llama-scaled",
        "targets": ["v"],
        "method": {"trainable_tokens": ["2-9", 120]},
        "peft": {"trainable_token_indices": {"embed_tokens": [2, 3, 4, 5, 6, 7, 8, 9, 120]}},
    },
    "tokens-gpt2": {
        "model": "gpt2",
        "targets": ["qkv"],
        "method": {"trainable_tokens": [1, 110, 210]},
        "peft": {"trainable_token_indices": [1, 110, 210]},
    },
    "bias-gpt2": {"model": "gpt2", "targets": ["qkv", "proj"], "method": {"bias": "all"}, "peft": {"bias": "all"}},
    "bias-scaled": {"model": "llama-scaled", "targets": ["q", "k", "v", "o", "down"], "method": {"bias": "lora_only"}, "peft": {"bias": "lora_only"}},
    "bias-fused": {  # a module that is turned and fused, whole
        "model": "gpt2",
        "targets": ["proj"],
        "method": {"modules_to_save": ["h.1.attn.c_attn", "layers.0.mlp.fc", "norm"]},
        "peft": {"modules_to_save": ["h.1.attn.c_attn", "h.0.mlp.c_fc", "ln_f"]},
    },
}
CASES = {name: {**LORA, "peft": {}, **case} for name, case in CASES.items()}


def has_initial_adapter(case):
    return case["method"].get("init") is None


# ---- the initial adapter --------------------------------------------------------------------------------------------------


def of_pattern(pattern, path, otherwise):
    """PEFT's rule: the first key that is the path or its end."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", path)), otherwise)


def adapted(case):
    """(path, in, out, rank) of every module."""
    config = reference.MODELS[case["model"]]
    gpt2 = config["model_type"] == "gpt2"
    shapes = reference.gpt2_shapes(config) if gpt2 else reference.llama_shapes(config)
    layers = case["peft"].get("layers_to_transform", range(config["n_layer"] if gpt2 else config["num_hidden_layers"]))
    for layer in layers:
        for module in reference.adapted_modules(case):
            path = f"{'transformer.h' if gpt2 else 'model.layers'}.{layer}.{module}"
            yield path, *shapes[module], of_pattern(case["peft"].get("rank_pattern", {}), path, case["rank"])


def saved(case):
    """Tensors of the base beside the factors: those of modules_to_save, and trained biases."""
    config, names = reference.MODELS[case["model"]], case["peft"].get("modules_to_save", [])
    if "ln_f" in names:
        d = config["n_embd"]
        return {"transformer.h.1.attn.c_attn.weight": [d, 3 * d], "transformer.h.1.attn.c_attn.bias": [3 * d], "transformer.h.0.mlp.c_fc.weight": [d, 4 * d],
                "transformer.h.0.mlp.c_fc.bias": [4 * d], "transformer.ln_f.weight": [d], "transformer.ln_f.bias": [d]}
    if names:
        return {"model.norm.weight": [config["hidden_size"]]}
    bias, found = case["peft"].get("bias", "none"), {}
    if bias == "none":
        return found
    paths = {path: outputs for path, _, outputs, _ in adapted(case)}
    gpt2 = config["model_type"] == "gpt2"
    for name, (size, _) in (reference.gpt2_tensors if gpt2 else reference.llama_tensors)(case["model"], config).items():
        name = f"transformer.{name}" if gpt2 else name
        module = name.rsplit(".", 1)[0]
        if name.endswith(".bias") and (bias == "all" or module in paths):
            found[f"{module}.base_layer.bias" if module in paths else name] = size
    return found


def add_tokens(t, case):
    config, lists = reference.MODELS[case["model"]], case["peft"].get("trainable_token_indices", {})
    gpt2 = config["model_type"] == "gpt2"
    embed = "transformer.wte" if gpt2 else "model.embed_tokens"
    for name, tokens in (lists.items() if isinstance(lists, dict) else [("embed_tokens", lists)]):
        path = embed if name == "embed_tokens" else name
        t.add(f"base_model.model.{path}.token_adapter.trainable_tokens_delta", [len(tokens), config["n_embd" if gpt2 else "hidden_size"]], 0.3)
    for name, shape in saved(case).items():
        t.add(f"base_model.model.{name}", shape, 0.2 if name == "model.norm.weight" else 0.25, 1.0 if "norm" in name or "ln_" in name else 0.0)


def write_adapter(directory, case):
    os.makedirs(directory)
    t = reference.Tensors(f"{case['model']}:variant")
    for path, inputs, outputs, rank in adapted(case):
        name = f"base_model.model.{path}"
        t.add(f"{name}.lora_A.weight", [rank, inputs], 0.2)
        t.add(f"{name}.lora_B.weight", [outputs, rank], 0.05)
        if case["method"].get("dora"):
            t.add(f"{name}.lora_magnitude_vector", [outputs], 0.3, 1.0)
    add_tokens(t, case)
    reference.write_json(f"{directory}/adapter_config.json", peft_config(case))
    reference.write_safetensors(f"{directory}/adapter_model.safetensors", t)


def peft_config(case):
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": case["rank"],
        "lora_alpha": case["alpha"],
        "lora_dropout": 0.0,
        "target_modules": reference.adapted_modules(case),
        "fan_in_fan_out": reference.MODELS[case["model"]]["model_type"] == "gpt2",
        "bias": case["peft"].get("bias", "none"),
        "use_rslora": case["scaling"] == "rslora",
        "use_dora": bool(case["method"].get("dora")),
        "inference_mode": True,
        "base_model_name_or_path": None,
        "modules_to_save": None,
        **case["peft"],
    }
