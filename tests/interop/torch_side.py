"""What make_golden.py and check_peft.py share: the reference models in PyTorch, and the loss as mpilora defines it."""

import os

import torch
import transformers

import reference_models as reference

torch.manual_seed(0)
torch.set_num_threads(1)


def load_model(folder, name):
    """The model `name`, written below `folder` and read by transformers, every weight from the file."""
    directory = os.path.join(folder, f"model-{name}")
    reference.write_model(directory, name)
    kind = getattr(transformers, reference.MODELS[name]["architectures"][0])
    model, report = kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"], report
    return model.eval()  # no dropout


def targets(line, max_len):
    labels = line.get("labels", line["input_ids"])[:max_len]
    return torch.tensor(labels[1:])


def batch_loss(model, batch, max_len, smoothing=0.0, backward=False):
    """Mean negative log-likelihood over the unmasked targets of all sequences, one sequence at a time; with `backward` its gradient, that of
    the smoothed loss where there is smoothing."""
    count = sum(int((targets(line, max_len) != -100).sum()) for line in batch)
    total = 0.0
    for line in batch:
        target = targets(line, max_len)
        logits = model(input_ids=torch.tensor([line["input_ids"][:max_len]])).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
        if backward:
            loss = torch.nn.functional.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
            (loss / count).backward()
    return total / count


def evaluate(model, max_len):
    with torch.no_grad():
        return batch_loss(model, reference.VALID, max_len)
