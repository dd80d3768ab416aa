"""The descriptions of Llama's kin in configs/models/ have the number of parameters that transformers counts on its meta device for a configuration of
the same sizes, to the last digit. For developers: needs what make_golden.py needs; tests/unit/test_families.c holds the numbers that it prints.

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_sizes.py [NAME]...
"""

import glob
import json
import os
import sys
import tempfile

import torch
import transformers

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

FOLDER = os.path.join(harness.SOURCE, "configs", "models")
KEYS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "mlp_width": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab": "vocab_size",
    "tied_head": "tie_word_embeddings",
    "qkv_bias": "attention_bias",
    "qk_norm": "use_qk_norm",
}
OTHERS = ("gpt2",)  # families with keys of their own
ENCODERS = {"bert": "bert", "roberta": "roberta", "xlm_roberta": "xlm-roberta", "modernbert": "modernbert"}  # family: model_type


def read(path):
    """The description's values at the top, by their keys."""
    with open(path) as file:
        lines = [line.split(": ", 1) for line in file.read().splitlines() if ": " in line and line[0] not in "# "]
    return {key: value for key, value in lines}


def count_there(description):
    said = {theirs: json.loads(description[ours]) for ours, theirs in KEYS.items() if ours in description}
    said.setdefault("num_key_value_heads", said["num_attention_heads"])
    config = transformers.AutoConfig.for_model(description["family"], **said)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config).num_parameters()


def count_encoder(description):
    """Of the bare model without a pooler."""
    said = {theirs: json.loads(description[ours]) for ours, theirs in KEYS.items() if ours in description and ours not in ("kv_heads", "head_dim")}
    if "roberta" in description["family"]:
        said |= {"max_position_embeddings": int(description["context"]) + 2, "type_vocab_size": int(description["token_types"])}
    config = transformers.AutoConfig.for_model(ENCODERS[description["family"]], **said)
    if description["family"] != "modernbert" and "intermediate_size" not in said:
        config.intermediate_size = 4 * config.hidden_size
    with torch.device("meta"):
        return sum(value.numel() for key, value in transformers.AutoModel.from_config(config).named_parameters() if "pooler" not in key)


def count_here(folder, path):
    config = harness.write_config(f"{folder}/run.yaml", base=path, method={"name": "full"}, data={"max_len": 32}, batch={"sequences": 1, "micro": 1}, run={"dir": f"{folder}/run"})
    return json.loads(harness.mpilora("plan", config, "--json"))["methods"][0]["params_total"]


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(glob.glob(f"{FOLDER}/*.yaml")):
            name, description = os.path.basename(path).removesuffix(".yaml"), read(path)
            if description["family"] in OTHERS or (sys.argv[1:] and name not in sys.argv[1:]):
                continue
            here, there = count_here(folder, path), (count_encoder if description["family"] in ENCODERS else count_there)(description)
            checks.that(here == there, f"{name}: {here} parameters, transformers counts {there}")
            print(f'{{"{name}", {there}}},', flush=True)
    checks.end()


main()
