"""Encoders with heads for masked tokens that golden curves of objective mlm exist of, and which tokens mpilora chooses: shared by make_masked_golden.py and
test_masked.py. The encoders are those of encoder_models.py."""

import json
import os
import random

import encoder_heads as heads
import encoder_models as encoders
import reference_models as reference

ROWS, SEED, MASK = 4, 3, 149
PROBABILITY, REPLACE, RANDOM = 0.3, 0.6, 0.2
LORA, FULL = heads.LORA, heads.FULL
CASES = {
    "bert": {**LORA, "model": "bert"},
    "bert-untied": {**FULL, "model": "bert", "config": {"tie_word_embeddings": False}},
    "roberta": {**FULL, "model": "roberta-padded"},
    "xlm-roberta": {**LORA, "model": "xlm-roberta", "config": {"pad_token_id": 2}},  # 1 is drawn in the place of a hidden token
    "deberta": {**LORA, "model": "deberta"},
    "deberta-v2": {**LORA, "model": "deberta-v2-c2p"},  # with an embedding of its own width
    "deberta-v3": {**FULL, "model": "deberta-v3", "config": {"legacy": False}},
    "modernbert": {**FULL, "model": "modernbert"},
}


# ---- which tokens are hidden: src/session/masking.c on top of src/base/random.c ----


def key_of(seed, name):
    full = (1 << 64) - 1
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 & full
    mixed = value ^ (seed + 0x9E3779B97F4A7C15 + (value << 6) + (value >> 2)) & full
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & full
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & full
    mixed ^= mixed >> 31
    return mixed & 0xFFFFFFFF, mixed >> 32


def uniform(key, stream, index):
    """Philox4x32-10."""
    word = 0xFFFFFFFF
    c, (k0, k1) = [index & word, index >> 32, stream & word, stream >> 32], key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & word, p0 >> 32 ^ c[3] ^ k1, p0 & word]
        k0, k1 = k0 + 0x9E3779B9 & word, k1 + 0xBB67AE85 & word
    return ((c[1] << 32 | c[0]) >> 11) * 2.0**-53


def hide(case, ids, training, place):
    """(ids as the model gets them, what stood there, None where nothing is predicted)"""
    key, special = key_of(SEED, "mask" if training else "mask of an evaluation"), specials(case)
    hidden, original = list(ids), [None] * len(ids)
    for i, token in enumerate(ids):
        if token in special or uniform(key, place, 3 * i) >= PROBABILITY:
            continue
        original[i], share = token, uniform(key, place, 3 * i + 1)
        if share < REPLACE:
            hidden[i] = MASK
        elif share < REPLACE + RANDOM:
            hidden[i] = int(uniform(key, place, 3 * i + 2) * encoders.VOCAB)
    return hidden, original


def specials(case):
    config = config_of(case)
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id")
    return {MASK} | {config[name] for name in names if name in config}


# ---- models and data ----


def config_of(case):
    return {**encoders.MODELS[case["model"]], **case.get("config", {}), "architectures": [class_of(case)]}


def class_of(case):
    return heads.STEMS[encoders.MODELS[case["model"]]["model_type"]] + "ForMaskedLM"


def head(case):
    """What the file lacks that encoder_models.py has the tensors of."""
    config, t = config_of(case), reference.Tensors(f"{case['model']}:masked")
    d, vocab = config["hidden_size"], config["vocab_size"]
    names = {**dict.fromkeys(("roberta-padded", "xlm-roberta"), ("lm_head.dense", "lm_head.layer_norm", "lm_head")), "deberta": tuple(f"cls.predictions{part}" for part in (".transform.dense", ".transform.LayerNorm", "")), "deberta-v3": tuple(f"lm_predictions.lm_head{part}" for part in (".dense", ".LayerNorm", ""))}
    if case["model"] in names:
        dense, norm, bias = names[case["model"]]
        t.linear(dense, [d, d], d, True)
        t.add(f"{norm}.weight", [d], 0.5, 1.0)
        t.add(f"{norm}.bias", [d], 0.3)
        t.add(f"{bias}.bias", [vocab], 0.3)
    if case["model"] == "bert" and not config.get("tie_word_embeddings", True):  # its own bias counts, not the other that is there as well
        t.linear("cls.predictions.decoder", [vocab, d], vocab, True)
    return t


def write_model(directory, case):
    shapes = encoders.golden()[case["model"]]["tensors"]
    bare = encoders.MODELS[case["model"]]["architectures"][0].endswith("Model")
    prefix = heads.prefix_of(case) if bare else ""
    tensors = {prefix + name: value for name, value in encoders.tensors(case["model"], shapes).items() if not name.startswith(("pooler.", "classifier."))}
    os.makedirs(directory)
    reference.write_json(f"{directory}/config.json", config_of(case))
    reference.write_safetensors(f"{directory}/model.safetensors", tensors | head(case))


def write_adapter(directory, case):
    encoders.write_adapter(directory, case["model"], encoders.golden()[case["model"]]["tensors"], heads.prefix_of(case))


# PEFT's modules_to_save, and the matrix that its copy of the head has: DeBERTa's newer names have none
SAVED = {"roberta-padded": ("lm_head", "lm_head.decoder"), "deberta": ("cls", "cls.predictions.decoder"), "deberta-v3": ("lm_predictions", None)}


def write_headed_adapter(directory, case, own=False):
    """As PEFT saves the head of a bare encoder beside the factors: whole, the embedding among it, or a matrix that trained apart (`own`)."""
    write_adapter(directory, case)
    module, matrix = SAVED[case["model"]]
    tensors, name = head(case), next(name for name in encoders.golden()[case["model"]]["tensors"] if "word_embeddings" in name)
    if matrix:
        tensors[f"{matrix}.bias"] = tensors[matrix.removesuffix(".decoder") + ".bias"]
        tensors[f"{matrix}.weight"] = matrix_of(case) if own else encoders.tensors(case["model"], encoders.golden()[case["model"]]["tensors"])[name]
    with open(f"{directory}/adapter_config.json") as file:
        config = json.load(file) | {"task_type": None, "modules_to_save": [module]}
    factors = heads.read_safetensors(f"{directory}/adapter_model.safetensors")
    reference.write_json(f"{directory}/adapter_config.json", config)
    reference.write_safetensors(f"{directory}/adapter_model.safetensors", factors | {f"base_model.model.{name}": value for name, value in tensors.items()})


def matrix_of(case):
    return reference.tensor(f"{case['model']}:own", [encoders.VOCAB, config_of(case)["hidden_size"]], 0.25)


def write_own_model(directory, case):
    """The model whose head has a matrix of its own."""
    write_model(directory, {**case, "config": {**case.get("config", {}), "tie_word_embeddings": False}})
    matrix = SAVED[case["model"]][1]
    tensors = heads.read_safetensors(f"{directory}/model.safetensors")
    reference.write_safetensors(f"{directory}/model.safetensors", tensors | {f"{matrix}.weight": matrix_of(case), f"{matrix}.bias": tensors[matrix.removesuffix(".decoder") + ".bias"]})


def rows(name, count):
    """No text has the token of padding, to whose embedding PyTorch gives no gradient."""
    source = random.Random(f"masked rows:{name}")
    return [[encoders.BEGIN] + [10 + int(130 * source.random() * source.random()) for _ in range(source.randint(1, 24))] + [encoders.END] for _ in range(count)]


def data():
    return {"train": rows("train", 11), "valid": rows("valid", 7)}
