"""Makes tests/golden/masked.json: losses and gradient norms of some steps of every case of masked_cases.py in PyTorch, transformers and PEFT, fp32, with the
tokens hidden that mpilora hides. For developers; see make_golden.py for what it needs."""

import os
import sys

import peft
import torch
import transformers

import make_golden
import masked_cases as masked

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "masked.json")


def load_model(folder, case):
    masked.write_model(f"{folder}/model", case)
    kind = getattr(transformers, masked.class_of(case))
    model, report = kind.from_pretrained(f"{folder}/model", dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"], report
    if case["method"] == "lora":
        masked.write_adapter(f"{folder}/adapter", case)
        model = peft.PeftModel.from_pretrained(model, f"{folder}/adapter", is_trainable=True)
    return model.eval()  # no dropout


def loss_of(model, case, batch, training):
    """The mean over all predicted tokens; batch: (place, ids)."""
    losses, padding = [], masked.config_of(case).get("pad_token_id", 0)
    for place, ids in batch:
        hidden, original = masked.hide(case, ids, training, place)
        assert padding not in hidden  # whose embedding has no gradient in PyTorch
        there = [i for i, token in enumerate(original) if token is not None]
        logits = model(input_ids=torch.tensor([hidden])).logits[0]
        losses += list(torch.nn.functional.cross_entropy(logits[there], torch.tensor([original[i] for i in there], dtype=torch.long), reduction="none"))
    return sum(losses) / len(losses)


def run_case(case, folder):
    model, data = load_model(folder, case), masked.data()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_golden.adamw(model, case)
    out = {"loss": [], "grad_norm": []}
    for step in range(case["steps"]):
        places = range(step * masked.ROWS, (step + 1) * masked.ROWS)
        optimizer.zero_grad()
        loss = loss_of(model, case, [(place, data["train"][place % len(data["train"])]) for place in places], True)
        loss.backward()
        out["grad_norm"].append(torch.nn.utils.clip_grad_norm_(parameters, case["clip_norm"]).item())
        out["loss"].append(loss.item())
        optimizer.step()
    with torch.no_grad():
        out["valid_loss"] = loss_of(model, case, list(enumerate(data["valid"])), False).item()
    return out


if __name__ == "__main__":
    torch.set_default_dtype(torch.float32)
    make_golden.make(GOLDEN if len(sys.argv) < 2 else sys.argv[1], masked.CASES, run_case)
