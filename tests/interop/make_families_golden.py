"""Makes tests/golden/families.json: names and shapes of the tensors, losses, training steps and greedy continuations of every tiny model of
family_models.py by transformers and PEFT in fp32. For developers; needs what make_golden.py needs. Names of families as words: only these are made anew.
"""

import json
import os
import re
import sys
import tempfile

import gguf
import peft
import torch
import transformers

import family_models as families
import gpt_models
import make_golden
import torch_side


def shapes_of(name):
    config = transformers.AutoConfig.for_model(**families.MODELS[name])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tied = config.tie_word_embeddings
    names = {"lm_head.weight": "embed_out.weight"} if config.model_type == "gpt_neox" else {}  # what transformers writes
    return {names.get(key, key): list(value.shape) for key, value in model.state_dict().items() if not (tied and key == "lm_head.weight")}


def gguf_names(name, shapes):
    """Where the gguf package puts the tensors of GPT's kin."""
    kind = families.MODELS[name]["model_type"]
    numbers = {word: number for number, word in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(numbers[gpt_models.ARCHITECTURE.get(kind, kind)], 3)
    theirs = {key: key.removeprefix("transformer.") if kind == "bloom" else re.sub(r"\.norms\.\d+", "", key) for key in shapes}
    return {key: known.get_name(name, try_suffixes=(".weight", ".bias")) for key, name in theirs.items()}


def load(folder, name, shapes):
    directory = os.path.join(folder, "model")
    if not os.path.exists(directory):
        families.write_model(directory, name, shapes)
    kind = getattr(transformers, families.MODELS[name]["architectures"][0])
    model, report = kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa" if name in gpt_models.SDPA else "eager", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"], report
    return model.eval()


def greedy(model):
    """Without a cache: the tokens of the highest logits of whole sequences."""
    out = []
    for prompt in families.PROMPTS:
        ids = list(prompt)
        for _ in range(families.NEW):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        out.append(ids[len(prompt) :])
    return out


def make(name):
    shapes = shapes_of(name)
    with tempfile.TemporaryDirectory() as folder:
        model = load(folder, name, shapes)
        made = {"tensors": shapes, "base_loss": torch_side.evaluate(model, families.LORA["max_len"]), "greedy": greedy(model)}
        families.write_adapter(f"{folder}/adapter", name, shapes)
        adapted = peft.PeftModel.from_pretrained(model, f"{folder}/adapter", is_trainable=True)
        made["lora"] = make_golden.curve(adapted, families.LORA, families.LORA["steps"], make_golden.adamw)
        made["full"] = make_golden.curve(load(folder, name, shapes), families.FULL, families.FULL["steps"], make_golden.adamw)
    if name in gpt_models.MODELS and name not in gpt_models.UNKNOWN:
        made["gguf"] = gguf_names(name, shapes)
    print(f"{name}: base {made['base_loss']:.4f}, LoRA {made['lora']['loss'][0]:.4f} -> {made['lora']['loss'][-1]:.4f}, greedy {made['greedy'][0][:6]}")
    return made


def main():
    names = sys.argv[1:] or list(families.MODELS)
    made = families.golden() if os.path.exists(families.GOLDEN) else {}
    made |= {name: make(name) for name in names}
    with open(families.GOLDEN, "w") as file:
        file.write("{\n" + ",\n".join(f'"{name}": {json.dumps(value)}' for name, value in made.items()) + "\n}\n")


if __name__ == "__main__":
    main()
