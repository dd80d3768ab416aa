"""Trainable parameters of the methods as the paper counts them (Hu et al. 2021, tables 2, 3 and 4, figure 2), asked of plan; where a row cannot be had, what it is instead."""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

M = 1e6
# (model, method, its keys) -> parameters by the formula, the paper's figure in millions and its last digit; None: the paper's row cannot be matched
ROWS = {
    "GPT-3 AdapterH 7.1 M": ("gpt3-175b", "adapter_h", {"bottleneck": 1}, 7.1, 0.05),
    "GPT-3 AdapterH 40.1 M": ("gpt3-175b", "adapter_h", {"bottleneck": 8}, 40.1, 0.05),
    "GPT-3 PreEmbed 3.2 M": ("gpt3-175b", "prefix_embed", {"prefix": 256, "infix": 8}, 3.2, 0.05),
    "GPT-3 LoRA 4.7 M": ("gpt3-175b", "lora", {"rank": 1, "targets": ["q", "v"]}, 4.7, 0.05),
    "GPT-3 LoRA 37.7 M": ("gpt3-175b", "lora", {"rank": 8, "targets": ["q", "v"]}, 37.7, 0.05),
    "GPT-2 medium AdapterL 0.37 M": ("gpt2-medium", "adapter_l", {"bottleneck": 6}, 0.37, 0.005),
    "GPT-2 medium AdapterL 11.09 M": ("gpt2-medium", "adapter_l", {"bottleneck": 224}, 11.09, 0.005),
    "GPT-2 medium FT-Top2 25.19 M": ("gpt2-medium", "top", {"top": 2}, 25.19, 0.005),
    "GPT-2 medium LoRA 0.35 M": ("gpt2-medium", "lora", {"rank": 4, "targets": ["q", "v"]}, 0.39, 0.005),
    "GPT-2 large AdapterL 0.88 M": ("gpt2-large", "adapter_l", {"bottleneck": 8}, 0.88, 0.005),
    "GPT-2 large AdapterL 23.00 M": ("gpt2-large", "adapter_l", {"bottleneck": 248}, 23.00, 0.005),
    "GPT-2 large LoRA 0.77 M": ("gpt2-large", "lora", {"rank": 4, "targets": ["q", "v"]}, 0.74, 0.005),
    "GPT-2 large full 774.03 M": ("gpt2-large", "full", {}, 774.03, 0.005),
    # Table 2: its methods without the new head, which trains beside each of them.
    "RoBERTa base BitFit 0.1 M": ("roberta-base", "bitfit", {}, 0.1, 0.05),
    "RoBERTa base AdptD 0.3 M": ("roberta-base", "adapter_drop", {"bottleneck": 48, "drop": 8}, 0.3, 0.05),
    "RoBERTa base AdptD 0.9 M": ("roberta-base", "adapter_drop", {"bottleneck": 48}, 0.9, 0.05),
    "RoBERTa base LoRA 0.3 M": ("roberta-base", "lora", {"rank": 8, "targets": ["q", "v"]}, 0.3, 0.05),
    "RoBERTa large AdptP 3.0 M": ("roberta-large", "adapter_p", {"bottleneck": 60}, 3.0, 0.05),
    "RoBERTa large AdptP 0.8 M": ("roberta-large", "adapter_p", {"bottleneck": 16}, 0.8, 0.05),
    "RoBERTa large AdptH 6.0 M": ("roberta-large", "adapter_h", {"bottleneck": 60}, 6.0, 0.05),
    "RoBERTa large AdptH 0.8 M": ("roberta-large", "adapter_h", {"bottleneck": 8}, 0.8, 0.05),
    "RoBERTa large LoRA 0.8 M": ("roberta-large", "lora", {"rank": 8, "targets": ["q", "v"]}, 0.8, 0.05),
    "DeBERTa XXL LoRA 4.7 M": ("deberta-v2-xxlarge", "lora", {"rank": 16, "targets": ["q", "v"]}, 4.7, 0.05),
    # By the paper's own formulas these come out otherwise than its tables say: README, "Methods".
    "GPT-3 PreLayer 20.2 M": ("gpt3-175b", "prefix_layer", {"prefix": 8, "infix": 8}, 18.87, 0.005),
    "GPT-3 BitFit 14.2 M": ("gpt3-175b", "bitfit", {}, 12.99, 0.005),
    "GPT-2 medium AdapterH 11.09 M": ("gpt2-medium", "adapter_h", {"bottleneck": 112}, 11.06, 0.005),
    "GPT-2 medium PreLayer 0.35 M": ("gpt2-medium", "prefix_layer", {"prefix": 14}, 0.344, 0.0005),
    "GPT-2 large PreLayer 0.77 M": ("gpt2-large", "prefix_layer", {"prefix": 17}, 0.783, 0.0005),
    "GPT-2 medium full 354.92 M": ("gpt2-medium", "full", {}, 354.82, 0.005),
    "GPT-3 full 175,255.8 M": ("gpt3-175b", "full", {}, 175221.8, 0.05),
}
# Table 2's full fine-tuning, with a head for two labels, as transformers counts it: the paper has the models' nominal sizes.
WITH_HEAD = {
    "RoBERTa base full 125.0 M": ("roberta-base", "full", {}, 124.647170, 1e-9),
    "RoBERTa large full 355.0 M": ("roberta-large", "full", {}, 355.361794, 1e-9),
    "DeBERTa XXL full 1,500.0 M": ("deberta-v2-xxlarge", "full", {}, 1566.913538, 1e-9),
}


def make_labelled(folder):
    """A data set of two classes, which says how large a head is."""
    harness.make_base(folder, json.dumps({"family": "roberta", "layers": 1, "width": 8, "heads": 1, "vocab": 64, "context": 16, "token_types": 1}))
    with open(f"{folder}/rows.jsonl", "w") as file:
        file.writelines(json.dumps({"input_ids": [5, 6, 7], "label": label}) + "\n" for label in (0, 1))
    harness.mpilora("tokenize", "--base", f"{folder}/base.h5", "--format", "ids", "--labels", "2", f"{folder}/rows.jsonl", f"{folder}/rows.h5")
    return f"{folder}/rows.h5"


def check(checks, folder, rows, **more):
    for row, (model, name, keys, millions, digit) in rows.items():
        sections = {"data": {"max_len": 128}, **more}
        path = harness.write_config(f"{folder}/run.yaml", base=f"{harness.SOURCE}/configs/models/{model}.yaml", method={"name": name, **keys},
                                    batch={"sequences": 1}, **sections)
        methods = json.loads(harness.mpilora("plan", path, "--json"))["methods"]
        method = next(m for m in methods if m["name"] == name)  # full stands beside LoRA
        found = method["params_trainable"] / M
        print(f"{row}: {found:.4f} M")
        checks.that(abs(found - millions) <= digit, f"{row}: {found} M, expected {millions} M")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        check(checks, folder, ROWS)
        check(checks, folder, WITH_HEAD, objective={"name": "classify"}, data={"max_len": 128, "train": make_labelled(folder)})
    checks.end()


main()
