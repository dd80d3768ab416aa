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
}
CASES = {name: ({**settings, "steps": settings.get("steps", STEPS) if settings["method"] == "full" else STEPS}, o) for name, (settings, o) in CASES.items()}
PAIRS = {"train": preference_cases.TRAIN, "valid": preference_cases.VALID}


def labels_of(case):
    return 1


def width(model):
    config = reference.MODELS[model]
    return config.get("n_embd") or config["hidden_size"]


def score(model, labels):
    return reference.tensor(f"{model}:score:{labels}", [labels, width(model)], 0.25)


def write_scoring_model(directory, model, labels):
    """The model with a head for labels in the place of that for tokens, as transformers saves it."""
    config = dict(reference.MODELS[model])
    gpt2 = config["model_type"] == "gpt2"
    config["architectures"] = [config["architectures"][0].replace("LMHeadModel", "").replace("ForCausalLM", "") + "ForSequenceClassification"]
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
    config["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
    tensors = (reference.gpt2_tensors if gpt2 else reference.llama_tensors)(model, config)
    tensors.pop("lm_head.weight", None)
    named = {f"transformer.{name}" if gpt2 else name: value for name, value in tensors.items()}
    named["score.weight"] = score(model, labels)
    os.makedirs(directory)
    reference.write_json(f"{directory}/config.json", config)
    reference.write_safetensors(f"{directory}/model.safetensors", named)


def write_adapter(directory, settings, labels):
    """A PEFT directory of task type SEQ_CLS, whose head stands beside the factors."""
    reference.write_adapter(directory, settings)
    config = reference.json.load(open(f"{directory}/adapter_config.json"))
    config |= {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    reference.write_json(f"{directory}/adapter_config.json", config)
    tensors = reference.adapter_tensors(settings)
    tensors["base_model.model.score.weight"] = score(settings["model"], labels)
    reference.write_safetensors(f"{directory}/adapter_model.safetensors", tensors)
