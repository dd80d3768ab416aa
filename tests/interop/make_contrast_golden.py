"""Makes tests/golden/contrast.json: losses, gradient norms and accuracies of some steps of every case of contrast_cases.py in PyTorch, transformers and PEFT,
fp32, the loss by sentence-transformers' MultipleNegativesRankingLoss. For developers; beside what make_golden.py asks for it needs sentence-transformers==5.*."""

import os
import sys

import peft
import torch
import transformers
from sentence_transformers import util
from sentence_transformers.losses import MultipleNegativesRankingLoss

import contrast_cases as cases
import make_encoder_golden
import make_golden
import torch_side

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "contrast.json")


def load_model(folder, case):
    if cases.is_encoder(case):
        cases.write_model(f"{folder}/model", case)
        model = make_encoder_golden.load(f"{folder}/model")
    else:
        model = torch_side.load_model(folder, case["model"])
    if case["method"] == "lora":
        cases.write_adapter(f"{folder}/adapter", case)
        model = peft.PeftModel.from_pretrained(model, f"{folder}/adapter", is_trainable=True)
    for name, parameter in model.named_parameters() if case["method"] == "bitfit" else ():
        parameter.requires_grad = name.endswith("bias")
    return model.eval()  # no dropout


def vector(model, ids, pooling):
    """Text by text, so nothing is padded."""
    states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    return {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]


def step_loss(model, batch, case):
    columns = [torch.stack([vector(model, cases.texts(row)[i], case["pooling"]) for row in batch]) for i in range(2 + case["negatives"])]
    similarity = util.cos_sim if case["normalise"] else util.dot_score
    loss = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=1 / case["temperature"], similarity_fct=similarity)
    nearest = similarity(columns[0], torch.cat(columns[1:])).argmax(1)
    return loss.compute_loss_from_embeddings(columns, None), (nearest == torch.arange(len(batch))).double().mean().item()


def evaluate(model, rows, case):
    """As many rows as a step has at a time; the mean over rows."""
    total = 0.0
    for first in range(0, len(rows), cases.ROWS):
        batch = rows[first : first + cases.ROWS]
        total += step_loss(model, batch, case)[0].item() * len(batch)
    return total / len(rows)


def run_case(case, folder):
    model, data = load_model(folder, case), cases.data(case)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_golden.adamw(model, case)
    out = {}
    for step in range(case["steps"]):
        batch = [data["train"][(step * cases.ROWS + i) % len(data["train"])] for i in range(cases.ROWS)]
        optimizer.zero_grad()
        loss, accuracy = step_loss(model, batch, case)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, case["clip_norm"]).item()
        for key, value in {"loss": loss.item(), "grad_norm": norm, "accuracy": accuracy}.items():
            out.setdefault(key, []).append(value)
        optimizer.step()
    with torch.no_grad():
        out["valid_loss"] = evaluate(model, data["valid"], case)
    return out


if __name__ == "__main__":
    torch.set_default_dtype(torch.float32)
    make_golden.make(GOLDEN if len(sys.argv) < 2 else sys.argv[1], cases.CASES, run_case)
