"""Encoders with heads for labels, and objectives on their scores, that golden curves exist of: shared by make_encoder_heads_golden.py and
test_encoder_heads.py. The encoders are the bare ones of encoder_models.py."""

import json
import os
import random

import encoder_models as encoders
import reference_models as reference

ROWS = 4  # a step
LABELS = 3
LORA = {"method": "lora", "steps": 10, "lr": 5e-3, "weight_decay": 0.1, "clip_norm": 1.0}
FULL = {"method": "full", "steps": 5, "lr": 1e-3, "weight_decay": 0.0, "clip_norm": 1.0}  # transformers' Trainer decays neither biases nor norms
CASES = {
    "bert": {**LORA, "model": "bert-bare", "kind": "class"},
    "bert-full": {**FULL, "model": "bert-bare", "kind": "bits"},
    "bert-tokens": {**LORA, "model": "bert-bare", "kind": "tokens"},
    "roberta": {**LORA, "model": "roberta-padded", "kind": "class"},
    "roberta-full": {**FULL, "model": "roberta-padded", "kind": "number"},
    "roberta-tokens": {**FULL, "model": "roberta-padded", "kind": "tokens"},
    "deberta": {**LORA, "model": "deberta", "kind": "number", "lr": 3e-4, "config": {"pooler_hidden_act": "tanh"}},
    "deberta-v3": {**LORA, "model": "deberta-v3", "kind": "class"},
    "deberta-v3-full": {**FULL, "model": "deberta-v3", "kind": "class"},
    "deberta-distances": {**LORA, "model": "deberta", "kind": "class", "distances": True},  # pos_proj and pos_q_proj have adapters, too
    "deberta-v3-distances": {**LORA, "model": "deberta-v3", "kind": "class", "distances": True, "config": {"share_att_key": False}},  # pos_key_proj and pos_query_proj
    "modernbert": {**LORA, "model": "modernbert-bare", "kind": "class"},  # on the first token
    "modernbert-mean": {**LORA, "model": "modernbert", "kind": "bits"},  # on the mean; the layer before the scores is the base's, frozen
    "modernbert-full": {**FULL, "model": "modernbert", "kind": "number"},
    "modernbert-tokens": {**FULL, "model": "modernbert-bare", "kind": "tokens"},
}
OBJECTIVES = {"class": "classify", "bits": "classify", "number": "regress", "tokens": "tokens"}
STEMS = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "deberta": "Deberta", "deberta-v2": "DebertaV2", "modernbert": "ModernBert"}


def config_of(case):
    return encoders.MODELS[case["model"]] | case.get("config", {})


def shapes_of(case):
    """Of the bare model, with the projections of distances where the configuration no longer shares q's and k's."""
    shapes = dict(encoders.golden()[case["model"]]["tensors"])
    d = config_of(case)["hidden_size"]
    for layer in range(config_of(case)["num_hidden_layers"] if case.get("config", {}).get("share_att_key") is False else 0):
        for name in ("pos_key_proj", "pos_query_proj"):
            shapes |= {f"encoder.layer.{layer}.attention.self.{name}.weight": [d, d], f"encoder.layer.{layer}.attention.self.{name}.bias": [d]}
    return shapes


def labels_of(case):
    return 1 if case["kind"] == "number" else LABELS


def class_of(case):
    return STEMS[config_of(case)["model_type"]] + ("ForTokenClassification" if case["kind"] == "tokens" else "ForSequenceClassification")


def prefix_of(case):
    kind = config_of(case)["model_type"].removeprefix("xlm-").split("-")[0]
    return "model." if kind == "modernbert" else kind + "."


def base_has_transform(case):
    """Whether ModernBERT's layer before the scores comes with the base, which has it for masked tokens."""
    return case["model"] == "modernbert"


def rows(name, count, case):
    """Sentences of 1 … 25 tokens, two types of them where the model has types, with what their ids say of the label. No text has the token of padding, to
    whose embedding PyTorch gives no gradient."""
    source, out = random.Random(f"encoder rows:{name}"), []
    for index in range(count):
        ids = [encoders.BEGIN] + [10 + int(130 * source.random() * source.random()) for _ in range(source.randint(1, 24))] + [encoders.END]
        row = {"input_ids": ids}
        if config_of(case).get("type_vocab_size", 1) > 1:
            row["token_type_ids"] = [int(i > len(ids) // 2) for i in range(len(ids))]
        if case["kind"] == "class":
            row["label"] = (ids[1] + len(ids)) % LABELS
        elif case["kind"] == "bits":
            row["label"] = [int((ids[1] + i) % 3 == 0) for i in range(LABELS)]
        elif case["kind"] == "number":
            row["label"] = round(len(ids) / 20 - 0.6 + ids[1] / 400, 3)
        else:
            row["token_labels"] = [-100 if i in (0, len(ids) - 1) or (i + index) % 4 == 0 and i > 1 else x % LABELS for i, x in enumerate(ids)]
        out.append(row)
    return out


def data(case):
    return {"train": rows("train", 11, case), "valid": rows("valid", 7, case)}


def head(case):
    """Name → (shape, bytes) of what the bare model lacks."""
    d, labels, family = config_of(case)["hidden_size"], labels_of(case), prefix_of(case)
    t = reference.Tensors(f"{case['model']}:{case['kind']}")
    pooled = case["kind"] != "tokens" and family != "model."
    if family == "model." and not base_has_transform(case):
        t.linear("head.dense", [d, d], d, False)
        t.add("head.norm.weight", [d], 0.5, 1.0)
    if pooled and family != "bert.":
        t.linear("classifier.dense" if family == "roberta." else "pooler.dense", [d, d], d, True)
    t.linear("classifier.out_proj" if pooled and family == "roberta." else "classifier", [labels, d], labels, True)
    return t


def write_scoring_model(directory, case, shapes):
    """As transformers saves it. BERT's pooler comes with the bare model, of which RoBERTa's has no use here."""
    config = {**config_of(case), "architectures": [class_of(case)]}
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels_of(case))}
    config["label2id"] = {f"LABEL_{i}": i for i in range(labels_of(case))}
    keeps = prefix_of(case) == "bert." and case["kind"] != "tokens"
    prefix = "" if base_has_transform(case) else prefix_of(case)
    named = {prefix + name: value for name, value in encoders.tensors(case["model"], shapes).items() if keeps or not name.startswith(("pooler.", "decoder."))}
    os.makedirs(directory)
    reference.write_json(f"{directory}/config.json", config)
    reference.write_safetensors(f"{directory}/model.safetensors", named | head(case))


def read_safetensors(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header, data = json.loads(file.read(length)), file.read()
    return {name: (entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in header.items() if name != "__metadata__"}


def write_adapter(directory, case, shapes):
    """A PEFT directory, whose head stands beside the factors: the pooler, too, where the bare model lacks it."""
    encoders.write_adapter(directory, case["model"], shapes, prefix_of(case), distances=case.get("distances", False))
    with open(f"{directory}/adapter_config.json") as file:
        config = json.load(file)
    tokens = case["kind"] == "tokens"
    saved = ["pooler"] if prefix_of(case) == "deberta." and not tokens else ["head"] if prefix_of(case) == "model." and not base_has_transform(case) else []
    config |= {"task_type": "TOKEN_CLS" if tokens else "SEQ_CLS", "modules_to_save": [*saved, "classifier", "score"]}
    tensors = read_safetensors(f"{directory}/adapter_model.safetensors")
    tensors |= {f"base_model.model.{name}": value for name, value in head(case).items()}
    reference.write_json(f"{directory}/adapter_config.json", config)
    reference.write_safetensors(f"{directory}/adapter_model.safetensors", tensors)
