"""Makes tests/golden/classification.json: losses, gradient norms and figures of some steps of every case of classification_cases.py in PyTorch, transformers
and PEFT, fp32. For developers; see make_golden.py for what it needs."""

import os
import sys

import peft
import torch
import transformers
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

import classification_cases as cases
import make_golden
import reference_models as reference

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "classification.json")


def load_model(folder, settings, labels):
    """Row by row and without padding, so the score is read on the last token whatever it is."""
    directory = f"{folder}/scoring"
    cases.write_scoring_model(directory, settings["model"], labels, settings.get("kind") == "tokens")
    kind = getattr(transformers, reference.json.load(open(f"{directory}/config.json"))["architectures"][0])
    model, report = kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"], report
    model.config.pad_token_id = None
    if settings["method"] == "lora":
        cases.write_adapter(f"{folder}/adapter", settings, labels)
        model = peft.PeftModel.from_pretrained(model, f"{folder}/adapter", is_trainable=True)
    return model.eval()  # no dropout


def scores(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0]


def reward_loss(model, batch, objective):
    losses, chosen, rejected, right = [], 0.0, 0.0, 0.0
    for pair in batch:
        c, r = (scores(model, pair["prompt_ids"] + pair[key])[0] for key in ("chosen_ids", "rejected_ids"))
        losses.append(-logsigmoid(c - r) + objective.get("center_rewards", 0.0) * (c + r) ** 2)
        chosen, rejected, right = chosen + c.item() / len(batch), rejected + r.item() / len(batch), right + (c > r).item() / len(batch)
    return sum(losses) / len(losses), {"rewards_chosen": chosen, "rewards_rejected": rejected, "rewards_accuracy": right}


def logits_of(model, row):
    return model(input_ids=torch.tensor([row["input_ids"]])).logits[0]


def label_loss(model, batch, kind, logits_of=logits_of):
    """The mean over labels; a class is right where its score is the highest, bits where all are."""
    losses, right = [], 0
    for row in batch:
        found = logits_of(model, row)
        if kind == "tokens":
            there = [i for i, label in enumerate(row["token_labels"]) if label != -100]
            target = torch.tensor(row["token_labels"])[there]
            losses += list(cross_entropy(found[there], target, reduction="none"))
            right += (found[there].argmax(-1) == target).sum().item()
            continue
        label = torch.tensor(row["label"])
        if kind == "class":
            losses.append(cross_entropy(found, label))
            right += (found.argmax(-1) == label).item()
        elif kind == "bits":
            losses.append(binary_cross_entropy_with_logits(found, label.float()))
            right += ((found > 0) == (label > 0)).all().item()
        else:
            losses.append((found[0] - label) ** 2)
    return sum(losses) / len(losses), {} if kind == "number" else {"accuracy": right / len(losses)}


def objective_of(model, batch, settings, objective):
    return label_loss(model, batch, settings["kind"]) if "kind" in settings else reward_loss(model, batch, objective)


def run_case(case, folder):
    settings, objective = case
    data = {part: cases.data_of(settings, part) for part in ("train", "valid")}
    model = load_model(folder, settings, cases.labels_of(case))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_golden.adamw(model, settings)
    out = {}
    for step in range(settings["steps"]):
        batch = [data["train"][(step * cases.ROWS + i) % len(data["train"])] for i in range(cases.ROWS)]
        optimizer.zero_grad()
        loss, figures = objective_of(model, batch, settings, objective)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings["clip_norm"]).item()
        for key, value in {"loss": loss.item(), "grad_norm": norm, **figures}.items():
            out.setdefault(key, []).append(value)
        optimizer.step()
    with torch.no_grad():
        out["valid_loss"] = objective_of(model, data["valid"], settings, objective)[0].item()
    return out


if __name__ == "__main__":
    torch.set_default_dtype(torch.float32)
    make_golden.make(GOLDEN if len(sys.argv) < 2 else sys.argv[1], cases.CASES, run_case)
