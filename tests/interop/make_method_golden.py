"""Makes tests/golden/methods.json: 10 training steps of every case of method_cases.py with PyTorch in fp32; with names of cases, those alone anew. For developers, like
make_golden.py; it needs the same."""

import json
import os
import sys
import tempfile

import torch

import method_cases as cases
import method_models as methods
import reference_models as reference
import torch_side

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "methods.json")


def batch_loss(forward, batch, max_len, backward=False):
    count = sum(int((torch_side.targets(line, max_len) != -100).sum()) for line in batch)
    total = 0.0
    for line in batch:
        ids, labels = line["input_ids"][:max_len], line.get("labels", line["input_ids"])[:max_len]
        loss = torch.nn.functional.cross_entropy(forward(torch.tensor([ids]), labels), torch_side.targets(line, max_len), reduction="sum")
        total += loss.item()
        if backward:
            (loss / count).backward()
    return total / count


def run_case(case, folder):
    forward, trained = methods.prepare(torch_side.load_model(folder, case["model"]), case)
    optimizer = torch.optim.AdamW(trained, lr=case["lr"], weight_decay=case["weight_decay"])
    losses, norms = [], []
    for step in range(cases.STEPS):
        for group in optimizer.param_groups:
            group["lr"] = case["lr"] * min(1.0, step / case["warmup"])
        first = step * reference.SEQUENCES
        batch = [reference.TRAIN[(first + i) % len(reference.TRAIN)] for i in range(reference.SEQUENCES)]
        optimizer.zero_grad()
        losses.append(batch_loss(forward, batch, case["max_len"], backward=True))
        norms.append(torch.nn.utils.clip_grad_norm_(trained, case["clip_norm"]).item())
        optimizer.step()
    with torch.no_grad():
        valid = batch_loss(forward, reference.VALID, case["max_len"])
    return {"loss": losses, "grad_norm": norms, "valid_loss": valid, "trainable": sum(p.numel() for p in trained)}


def main():
    curves = {}
    if sys.argv[1:]:
        with open(GOLDEN) as file:
            curves = json.load(file)
    for name in sys.argv[1:] or cases.CASES:
        case = cases.CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            curves[name] = run_case(case, folder)
        print(f"{name}: loss {curves[name]['loss'][0]:.4f} -> {curves[name]['loss'][-1]:.4f}, {curves[name]['trainable']} trained", flush=True)
    with open(GOLDEN, "w") as file:
        json.dump({name: curves[name] for name in cases.CASES}, file, indent=1)
        file.write("\n")


main()
