"""Makes tests/golden/encoder_heads.json: losses, gradient norms and accuracies of some steps of every case of encoder_heads.py in PyTorch, transformers and
PEFT, fp32. For developers; see make_golden.py for what it needs."""

import os
import sys

import peft
import torch
import transformers

import encoder_heads as heads
import make_classification_golden as decoders
import make_golden

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "encoder_heads.json")


def logits_of(model, row):
    """Row by row, so nothing is padded."""
    words = {key: torch.tensor([row[key]]) for key in ("input_ids", "token_type_ids") if key in row}
    return model(**words).logits[0]


def load_model(folder, case):
    shapes = heads.shapes_of(case)
    heads.write_scoring_model(f"{folder}/model", case, shapes)
    kind = getattr(transformers, heads.class_of(case))
    model, report = kind.from_pretrained(f"{folder}/model", dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"], report
    if case["method"] == "lora":
        heads.write_adapter(f"{folder}/adapter", case, shapes)
        model = peft.PeftModel.from_pretrained(model, f"{folder}/adapter", is_trainable=True)
    return model.eval()  # no dropout


def run_case(case, folder):
    model, data = load_model(folder, case), heads.data(case)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_golden.adamw(model, case)
    out = {}
    for step in range(case["steps"]):
        batch = [data["train"][(step * heads.ROWS + i) % len(data["train"])] for i in range(heads.ROWS)]
        optimizer.zero_grad()
        loss, figures = decoders.label_loss(model, batch, case["kind"], logits_of)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, case["clip_norm"]).item()
        for key, value in {"loss": loss.item(), "grad_norm": norm, **figures}.items():
            out.setdefault(key, []).append(value)
        optimizer.step()
    with torch.no_grad():
        out["valid_loss"] = decoders.label_loss(model, data["valid"], case["kind"], logits_of)[0].item()
    return out


if __name__ == "__main__":
    torch.set_default_dtype(torch.float32)
    make_golden.make(GOLDEN if len(sys.argv) < 2 else sys.argv[1], heads.CASES, run_case)
