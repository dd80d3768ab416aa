"""Models with a head for labels, and objectives on its scores, that golden curves exist of: shared by make_classification_golden.py and
test_classification.py."""

import os
import random

import preference_cases
import reference_models as reference

STEPS = 10
ROWS = 4  # a step
LORA = {**reference.DEFAULTS, "method": "lora", "schedule": "constant", "warmup": 0, "lr": 1e-2}
# transformers' Trainer decays neither biases nor norms, which mpilora does: compared without decay
FULL = {**LORA, "method": "full", "lr": 1e-3, "weight_decay": 0.0, "steps": 5}
REWARD = {"name": "reward"}
CASES = {  # name: (what trains, objective)
    "reward-llama": ({**LORA, "model": "llama", "targets": ["q", "v"]}, REWARD),
    "reward-gpt2": ({**LORA, "model": "gpt2", "targets": ["qkv"]}, {**REWARD, "center_rewards": 0.1}),
    "reward-qwen2": ({**LORA, "model": "qwen2", "targets": ["all"], "lr": 3e-3}, REWARD),
    "reward-gpt2-full": ({**FULL, "model": "gpt2"}, REWARD),
    "reward-llama-full": ({**FULL, "model": "llama"}, {**REWARD, "center_rewards": 0.05}),
    "class-llama": ({**LORA, "model": "llama", "targets": ["q", "v"], "kind": "class"}, {"name": "classify"}),
    "class-qwen3": ({**LORA, "model": "qwen3", "targets": ["all"], "lr": 3e-3, "kind": "class"}, {"name": "classify"}),
    "class-gpt2-full": ({**FULL, "model": "gpt2", "kind": "class"}, {"name": "classify"}),
    "bits-gpt2": ({**LORA, "model": "gpt2", "targets": ["qkv", "proj"], "kind": "bits"}, {"name": "classify"}),
    "number-llama": ({**LORA, "model": "llama", "targets": ["q", "down"], "kind": "number"}, {"name": "regress"}),
    "number-mistral-full": ({**FULL, "model": "mistral", "kind": "number"}, {"name": "regress"}),
    "tokens-gpt2": ({**LORA, "model": "gpt2", "targets": ["qkv"], "kind": "tokens"}, {"name": "tokens"}),
    "tokens-llama-full": ({**FULL, "model": "llama", "kind": "tokens"}, {"name": "tokens"}),
}
CASES = {name: ({**settings, "steps": settings.get("steps", STEPS) if settings["method"] == "full" else STEPS}, o) for name, (settings, o) in CASES.items()}
PAIRS = {"train": preference_cases.TRAIN, "valid": preference_cases.VALID}
LABELS = 3


def rows(name, count, kind):
    """Sequences of 1 … 30 tokens, of which every third begins as the one before it, with what their ids say of the label."""
    source, out = random.Random(f"rows:{name}"), []
    for index in range(count):
        ids = [int(200 * source.random() * source.random()) for _ in range(source.randint(1, 30))]
        if index % 3 == 2:
            ids = out[-1]["input_ids"][:12] + ids[:10]
        row = {"input_ids": ids}
        if kind == "class":
            row["label"] = (ids[-1] + len(ids)) % LABELS
        elif kind == "bits":
            row["label"] = [int((ids[0] + i) % 3 == 0) for i in range(LABELS)]
        elif kind == "number":
            row["label"] = round(len(ids) / 20 - 0.6 + ids[-1] / 400, 3)
        else:
            row["token_labels"] = [-100 if (i + index) % 4 == 0 and i > 0 else x % LABELS for i, x in enumerate(ids)]
        out.append(row)
    return out


def data_of(settings, part):
    kind, count = settings.get("kind"), {"train": 11, "valid": 7}[part]
    return rows(part, count, kind) if kind else PAIRS[part]


def labels_of(case):
    return LABELS if case[0].get("kind") in ("class", "bits", "tokens") else 1


def width(model):
    config = reference.MODELS[model]
    return config.get("n_embd") or config["hidden_size"]


def score(model, labels, tokens=False):
    """Name → (shape, bytes) of the head: of tokens with a bias, and of GPT-2 under another name."""
    name = "classifier" if tokens and model == "gpt2" else "score"
    head = {f"{name}.weight": reference.tensor(f"{model}:score:{labels}", [labels, width(model)], 0.25)}
    return head | ({f"{name}.bias": reference.tensor(f"{model}:bias:{labels}", [labels], 0.3)} if tokens else {})


def write_scoring_model(directory, model, labels, tokens=False):
    """The model with a head for labels in the place of that for tokens, as transformers saves it."""
    config = dict(reference.MODELS[model])
    gpt2 = config["model_type"] == "gpt2"
    config["architectures"] = [config["architectures"][0].replace("LMHeadModel", "").replace("ForCausalLM", "") + ("ForTokenClassification" if tokens else "ForSequenceClassification")]
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
    config["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
    tensors = (reference.gpt2_tensors if gpt2 else reference.llama_tensors)(model, config)
    tensors.pop("lm_head.weight", None)
    named = {f"transformer.{name}" if gpt2 else name: value for name, value in tensors.items()}
    named |= score(model, labels, tokens)
    os.makedirs(directory)
    reference.write_json(f"{directory}/config.json", config)
    reference.write_safetensors(f"{directory}/model.safetensors", named)


def write_adapter(directory, settings, labels):
    """A PEFT directory of task type SEQ_CLS or TOKEN_CLS, whose head stands beside the factors."""
    tokens = settings.get("kind") == "tokens"
    reference.write_adapter(directory, settings)
    config = reference.json.load(open(f"{directory}/adapter_config.json"))
    config |= {"task_type": "TOKEN_CLS" if tokens else "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    reference.write_json(f"{directory}/adapter_config.json", config)
    tensors = reference.adapter_tensors(settings)
    tensors |= {f"base_model.model.{name}": value for name, value in score(settings["model"], labels, tokens).items()}
    reference.write_safetensors(f"{directory}/adapter_model.safetensors", tensors)
