"""Makes tests/golden/curves.json: the training steps of every case with PyTorch and PEFT in fp32. For developers; the tests only read its result.

It needs PyTorch, transformers 5 and PEFT:
    python3 -m venv venv && venv/bin/pip install torch transformers==5.* peft==0.21.* safetensors
    venv/bin/python tests/interop/make_golden.py
"""

import json
import os
import tempfile

import peft
import torch
import transformers

import reference_models as reference
import torch_side

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "curves.json")


def scheduler(optimizer, case, steps):
    make = getattr(transformers, f"get_{case['schedule']}_schedule_with_warmup")
    if case["schedule"] == "constant":
        return make(optimizer, case["warmup"])
    return make(optimizer, case["warmup"], steps)


def adamw(model, case):
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=case["lr"], weight_decay=case["weight_decay"])


def train(model, case, steps, make_optimizer):
    """(losses, gradient norms before clipping) of the steps, the losses before each update and without label smoothing."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(model, case)
    schedule = scheduler(optimizer, case, steps)
    losses, norms = [], []
    for step in range(steps):
        first = step * reference.SEQUENCES
        batch = [reference.TRAIN[(first + i) % len(reference.TRAIN)] for i in range(reference.SEQUENCES)]
        optimizer.zero_grad()
        loss = torch_side.batch_loss(model, batch, case["max_len"], case["label_smoothing"], backward=True)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, case["clip_norm"]).item())
        losses.append(loss)
        optimizer.step()
        schedule.step()
    return losses, norms


def run_case(case, folder):
    model = torch_side.load_model(folder, case["model"])
    base_loss = torch_side.evaluate(model, case["max_len"])
    if case["method"] == "lora":
        adapter = os.path.join(folder, "adapter")
        reference.write_adapter(adapter, case)
        model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
    return {"base_loss": base_loss, **curve(model, case, case["steps"], adamw)}


def curve(model, case, steps, make_optimizer):
    start_loss = torch_side.evaluate(model, case["max_len"])
    losses, norms = train(model, case, steps, make_optimizer)
    return {
        "start_loss": start_loss,
        "loss": losses,
        "grad_norm": norms,
        "valid_loss": torch_side.evaluate(model, case["max_len"]),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def make(path, cases, run):
    curves = {}
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            curves[name] = run(case, folder)
        print(f"{name}: loss {curves[name]['loss'][0]:.4f} -> {curves[name]['loss'][-1]:.4f}, valid {curves[name]['valid_loss']:.4f}")
    with open(path, "w") as file:
        json.dump(curves, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    make(GOLDEN, reference.CASES, run_case)
