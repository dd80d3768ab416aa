"""Tiny encoders, every optional feature of each on, made from nothing but the standard library and the names and shapes of tensors that
tests/golden/encoders.json has from transformers. make_encoder_golden.py (PyTorch + PEFT) and test_encoders.py (mpilora) both call this file.
Numbers are drawn as in reference_models.py. A text spells ids (<7><3>); the template puts a token before and one behind it, each with its type.
"""

import json
import os

import family_models as families
import reference_models as reference

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "encoders.json")
CONTEXT = 40  # positions: one text is longer
VOCAB = 150
BERT = {"num_hidden_layers": 3, "hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 112, "vocab_size": VOCAB, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "torch_dtype": "float32"}
MODELS = {  # `class`: whose tensors are in the file
    "bert": {"class": "BertForMaskedLM", "model_type": "bert", "type_vocab_size": 3, "max_position_embeddings": CONTEXT, "pad_token_id": 0},
    "bert-bare": {"class": "BertModel", "model_type": "bert", "type_vocab_size": 2, "max_position_embeddings": CONTEXT, "hidden_act": "gelu_new", "layer_norm_eps": 1e-12},
    "roberta": {"class": "RobertaForSequenceClassification", "model_type": "roberta", "type_vocab_size": 1, "max_position_embeddings": CONTEXT + 2, "pad_token_id": 1},
    "roberta-padded": {"class": "RobertaModel", "model_type": "roberta", "type_vocab_size": 2, "max_position_embeddings": CONTEXT + 6, "pad_token_id": 5},
    "deberta-v3": {"class": "DebertaV2Model", "model_type": "deberta-v2", "type_vocab_size": 0, "max_position_embeddings": CONTEXT, "position_biased_input": False, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 8, "max_relative_positions": -1, "layer_norm_eps": 1e-7},
    "deberta-v2": {"class": "DebertaV2ForSequenceClassification", "model_type": "deberta-v2", "type_vocab_size": 2, "max_position_embeddings": CONTEXT, "relative_attention": True, "pos_att_type": "c2p|p2c", "position_buckets": -1, "max_relative_positions": 12, "conv_kernel_size": 5, "hidden_act": "gelu_new"},
    "deberta-v2-c2p": {"class": "DebertaV2ForMaskedLM", "model_type": "deberta-v2", "type_vocab_size": 0, "max_position_embeddings": CONTEXT, "position_biased_input": False, "relative_attention": True, "pos_att_type": "c2p", "position_buckets": 6, "max_relative_positions": 30, "embedding_size": 24, "conv_kernel_size": 3, "conv_act": "relu"},
    "deberta-v2-p2c": {"class": "DebertaV2Model", "model_type": "deberta-v2", "type_vocab_size": 0, "max_position_embeddings": CONTEXT, "relative_attention": True, "pos_att_type": ["p2c"], "share_att_key": True, "norm_rel_ebd": "none"},
    "deberta": {"class": "DebertaModel", "model_type": "deberta", "type_vocab_size": 2, "max_position_embeddings": CONTEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 9},
    "xlm-roberta": {"class": "XLMRobertaForTokenClassification", "model_type": "xlm-roberta", "type_vocab_size": 1, "max_position_embeddings": CONTEXT + 2, "pad_token_id": 1},
}
MODERN = {"hidden_activation": "gelu", "norm_eps": 1e-5, "num_hidden_layers": 4, "local_attention": 6, "max_position_embeddings": CONTEXT, "pad_token_id": 0}
MODELS["modernbert"] = MODERN | {
    "class": "ModernBertForMaskedLM",
    "model_type": "modernbert",
    "attention_bias": True,
    "mlp_bias": True,
    "classifier_pooling": "mean",
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 900.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}},
}
MODELS["modernbert-bare"] = MODERN | {"class": "ModernBertModel", "model_type": "modernbert", "local_attention": 9, "global_attn_every_n_layers": 2, "global_rope_theta": 700.0, "local_rope_theta": 40.0}
MODELS = {name: BERT | {"architectures": [config["class"]]} | {key: value for key, value in config.items() if key != "class"} for name, config in MODELS.items()}
BEGIN, END = 140, 141  # of every text
TEXTS = [[7], [30, 2, 9], [(7 * i * i + 3) % 140 for i in range(17)], [(11 * i + 20) % 140 for i in range(60)], [64, 64, 64, 12, 64], [99, 12]]
POOLINGS = ["mean", "cls", "last"]
RANK, ALPHA = 4, 12


def golden():
    with open(GOLDEN) as file:
        return json.load(file)


def types_of(name):
    """Of the token before a text, of its own and of the one behind it."""
    most = MODELS[name].get("type_vocab_size", 1) - 1
    return 0, min(1, most), most


def encoded(name, text):
    """(ids, token types) as the tokenizer makes them, cut to the context."""
    own = text[: CONTEXT - 2]
    begin, middle, end = types_of(name)
    return [BEGIN, *own, END], [begin, *[middle] * len(own), end]


def tensors(name, shapes):
    t = reference.Tensors(name)
    for key, shape in shapes.items():
        norm = "norm" in key.lower() and key.endswith(".weight")
        t.add(key, shape, *((0.5, 1.0) if norm else (0.3 if "embed" in key or key.endswith("bias") else 0.25,)))
    return t


def write_model(directory, name, shapes, **config):
    os.makedirs(directory)
    reference.write_json(f"{directory}/config.json", MODELS[name] | config)
    reference.write_safetensors(f"{directory}/model.safetensors", tensors(name, shapes))


def write_tokenizer(directory, name):
    families.write_tokenizer(directory, VOCAB)
    path = f"{directory}/tokenizer.json"
    with open(path) as file:
        tokenizer = json.load(file)
    begin, middle, end = types_of(name)
    special = [{"SpecialToken": {"id": f"<{token}>", "type_id": kind}} for token, kind in ((BEGIN, begin), (END, end))]
    words = {f"<{token}>": {"id": f"<{token}>", "ids": [token], "tokens": [f"<{token}>"]} for token in (BEGIN, END)}
    single = [special[0], {"Sequence": {"id": "A", "type_id": middle}}, special[1]]
    tokenizer["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": words}
    tokenizer["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}  # which nothing heeds
    tokenizer["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<0>"}
    reference.write_json(path, tokenizer)


def lora_method(case, init):
    """The method of a run that starts with what write_adapter has written."""
    targets = ["qkv", "o", "fc", "proj"] if case["model"] == "deberta" else ["all"]
    if case.get("distances"):
        targets += ["pos_q", "pos_k"]
    return {"name": "lora", "rank": RANK, "alpha": ALPHA, "targets": targets, "init": init}


def write_adapter(directory, name, shapes, prefix, chosen=None, distances=False):
    """A and B of every linear layer of the encoder (those of distances where they are asked for), none of them zero, under the names of the bare model or of one with a head."""
    os.makedirs(directory)
    t, words = reference.Tensors(f"{name}:adapter"), set()
    for key, shape in shapes.items():
        layers = next((word for word in ("encoder.layer.", "layers.") if word in key), None)
        if len(shape) != 2 or not layers or (".pos_" in key and not distances):
            continue
        path = key.removesuffix(".weight")[key.index(layers) :]
        if chosen and not chosen(path):
            continue
        words.add(path if chosen else path.split(".", 3 if layers == "encoder.layer." else 2)[-1])
        t.add(f"{path}.lora_A.weight", [RANK, shape[1]], 0.2)
        t.add(f"{path}.lora_B.weight", [shape[0], RANK], 0.05)
    config = {"peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "bias": "none", "target_modules": sorted(words), "fan_in_fan_out": False, "inference_mode": True}
    reference.write_json(f"{directory}/adapter_config.json", config)
    reference.write_safetensors(f"{directory}/adapter_model.safetensors", {f"base_model.model.{prefix}{name}": value for name, value in t.items()})
