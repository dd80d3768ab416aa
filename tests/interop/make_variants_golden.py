"""Makes tests/golden/variants.json: 10 training steps of every case of reference_variants.py with PyTorch and PEFT in fp32. For developers; it needs what
make_golden.py needs.

    venv/bin/python tests/interop/make_variants_golden.py
"""

import os

import peft
import peft.optimizers
import torch

import make_golden
import reference_variants as variants
import torch_side

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "variants.json")


def optimizer(model, case):
    ratio = case["method"].get("lora_plus")
    if not ratio:
        return make_golden.adamw(model, case)
    return peft.optimizers.create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=case["lr"], loraplus_lr_ratio=ratio, loraplus_weight_decay=case["weight_decay"]
    )


def adapt(model, case, folder):
    if not variants.has_initial_adapter(case):
        config = peft.LoraConfig(**{**variants.peft_config(case), "inference_mode": False})
        return peft.get_peft_model(model, config)
    adapter = os.path.join(folder, "adapter")
    variants.write_adapter(adapter, case)
    return peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)


def run_case(case, folder):
    model = adapt(torch_side.load_model(folder, case["model"]), case, folder)
    return make_golden.curve(model, case, variants.STEPS, optimizer)


make_golden.make(GOLDEN, variants.CASES, run_case)
