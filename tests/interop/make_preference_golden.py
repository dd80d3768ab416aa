"""Makes tests/golden/preferences.json: losses, gradient norms and rewards of ten steps of every objective of preference_cases.py in PyTorch and PEFT,
fp32, with the formulas written down here. For developers; see make_golden.py for what it needs."""

import os
import sys
import tempfile

import peft
import torch
from torch.nn.functional import logsigmoid

import make_golden
import preference_cases
import reference_models as reference
import torch_side

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "preferences.json")


def log_ps(model, prompt, answer):
    """log p of each of the answer's tokens."""
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(answer)[:, None])[:, 0]


def odds(mean):
    return mean - torch.log1p(-torch.exp(mean))


def both(model, pair, alpha):
    """Σ log p of each answer, tokens beyond the shorter one's length times alpha; Σ log p of the chosen one as it is."""
    each = [log_ps(model, pair["prompt_ids"], pair[key]) for key in ("chosen_ids", "rejected_ids")]
    shorter = min(map(len, each))
    return [x[:shorter].sum() + alpha * x[shorter:].sum() for x in each] + [each[0].sum()]


def smoothed(t, beta, eps):
    return -(1 - eps) * logsigmoid(beta * t) - eps * logsigmoid(-beta * t)


def pair_loss(kind, u, v, n, m, beta, eps, gamma, own):
    """`own`: of an objective that asks no reference, whose sigmoid reads the smoothing."""
    d, means = u - v, u / n - v / m
    x, s = beta * (u - v), torch.sigmoid
    return {
        "sigmoid": lambda: smoothed(d, beta, eps if own else 0.0),
        "hinge": lambda: torch.relu(1 - x),
        "ipo": lambda: (means - 1 / (2 * beta)) ** 2,
        "sigmoid_norm": lambda: -logsigmoid(beta * means),
        "robust": lambda: (-(1 - eps) * logsigmoid(x) + eps * logsigmoid(-x)) / (1 - 2 * eps),
        "exo_pair": lambda: s(x) * (logsigmoid(x) - torch.log(torch.tensor(1 - eps))) + s(-x) * (logsigmoid(-x) - torch.log(torch.tensor(eps))),
        "nca_pair": lambda: -logsigmoid(beta * u) - 0.5 * logsigmoid(-beta * u) - 0.5 * logsigmoid(-beta * v),
        "bco_pair": lambda: -logsigmoid(beta * u) - logsigmoid(-beta * v),
        "sppo_hard": lambda: (u - 0.5 / beta) ** 2 + (v + 0.5 / beta) ** 2,
        "apo_zero": lambda: 1 - s(beta * u) + s(beta * v),
        "apo_down": lambda: s(beta * u) + 1 - s(beta * d),
        "discopop": lambda: -logsigmoid(x) * (1 - s(x / 0.05)) + torch.exp(-x) * s(x / 0.05),
        "simpo": lambda: smoothed(means - gamma / beta, beta, eps),
        "orpo": lambda: -beta * logsigmoid(odds(u / n) - odds(v / m)),
    }[kind]()


def sorted_loss(kind, sums, references, beta, eps):
    """AOT: smallest meets smallest, over the batch."""
    c, r = (torch.stack([x[i] for x in sums]) for i in range(2))
    ref_c, ref_r = (torch.tensor([x[i] for x in references]) for i in range(2))
    left, right = (c - r, ref_c - ref_r) if kind == "aot" else (c - ref_c, r - ref_r)
    return smoothed(left.sort()[0] - right.sort()[0], beta, eps).mean()


def objective_of(model, batch, references, objective):
    """The loss, and the means of what metrics.jsonl says of rewards."""
    name = objective["name"]
    kinds = {"ipo": "ipo", "simpo": "simpo", "orpo": "orpo"}.get(name, objective.get("loss_type", "sigmoid"))
    kinds = kinds if isinstance(kinds, list) else [kinds]
    weights = dict(zip(kinds, objective.get("loss_weights", [1] * len(kinds))))
    beta, eps, own = objective.get("beta", 0.1), objective.get("label_smoothing", 0.0), name in ("cpo", "simpo", "orpo")
    loss, nll, tokens, right, margin = 0.0, 0.0, 0, 0.0, 0.0
    sums = [both(model, pair, objective.get("ld_alpha", 1.0)) for pair in batch]
    for pair, (c, r, whole_c), (ref_c, ref_r) in zip(batch, sums, references):
        n, m = len(pair["chosen_ids"]), len(pair["rejected_ids"])
        u, v = (c, r) if own else (c - ref_c, r - ref_r)
        for kind in set(kinds) - {"aot", "aot_unpaired", "sft"}:
            loss = loss + weights[kind] * pair_loss(kind, u, v, n, m, beta, eps, objective.get("gamma", 0.5), own) / len(batch)
        mean = own and kinds[0] in ("ipo", "simpo", "orpo")
        worth = (beta * (u / n if mean else u) - beta * (v / m if mean else v)).item()
        if name == "orpo":  # learns the chosen answers' prompts, too
            whole = pair["prompt_ids"] + pair["chosen_ids"]
            whole_c, n = log_ps(model, whole[:1], whole[1:]).sum(), len(whole) - 1
        nll, tokens = nll - whole_c, tokens + n
        right, margin = right + (worth > 0) / len(batch), margin + worth / len(batch)
    for kind in {"aot", "aot_unpaired"} & set(kinds):
        loss = loss + weights[kind] * sorted_loss(kind, sums, references, beta, eps)
    if own:
        share = 1.0 if name == "orpo" else objective.get("cpo_alpha", 1.0)
    else:
        share = objective.get("sft_weight", 0.0) + weights.get("sft", 0.0)
    return loss + share * nll / tokens, right, margin


def total(model, row, answer):
    return log_ps(model, row["prompt_ids"], answer).sum()


def kto_of(model, batch, objective):
    """`batch`: rows, each with the answer that stands behind its prompt for z, and both answers' log p before the first step."""
    beta, loss, sums = objective.get("beta", 0.1), 0.0, {True: [], False: []}
    moved = 0.0
    if objective.get("loss_type", "kto") == "kto":
        with torch.no_grad():
            moved = sum(total(model, row, other).item() - ref_other for row, other, _, ref_other in batch) / len(batch)
    z = max(0.0, moved)
    for row, _, ref, _ in batch:
        u = total(model, row, row["completion_ids"]) - ref
        key, sign = ("desirable_weight", 1) if row["label"] else ("undesirable_weight", -1)
        loss = loss + objective.get(key, 1.0) * (1 - torch.sigmoid(sign * beta * (u - z))) / len(batch)
        sums[row["label"]].append(beta * u.item())
    means = [sum(x) / len(x) for x in (sums[True], sums[False])]
    return loss, z, means[0] - means[1]


def run_kto(model, name, settings, objective):
    both = []
    for rows in preference_cases.data_of(name):
        others = [rows[i]["completion_ids"] for i in preference_cases.partners(name, len(rows))]
        with torch.no_grad():
            both.append([(row, other, total(model, row, row["completion_ids"]).item(), total(model, row, other).item()) for row, other in zip(rows, others)])
    train, valid = both
    parameters, optimizer = [p for p in model.parameters() if p.requires_grad], make_golden.adamw(model, settings)
    out = {"loss": [], "grad_norm": [], "kl": [], "rewards_margin": []}
    for step in range(preference_cases.STEPS):
        batch = [train[(step * preference_cases.PAIRS + i) % len(train)] for i in range(preference_cases.PAIRS)]
        optimizer.zero_grad()
        loss, z, margin = kto_of(model, batch, objective)
        loss.backward()
        out["grad_norm"].append(torch.nn.utils.clip_grad_norm_(parameters, settings["clip_norm"]).item())
        out["loss"].append(loss.item())
        out["kl"].append(z)
        out["rewards_margin"].append(margin)
        optimizer.step()
    with torch.no_grad():
        loss, _, out["valid_margin"] = kto_of(model, valid, objective)
    out["valid_loss"] = loss.item()
    return out


def run_case(case, folder):
    name, settings, objective = case
    model = torch_side.load_model(folder, settings["model"])
    if settings["method"] == "lora":
        reference.write_adapter(f"{folder}/adapter", settings)
        model = peft.PeftModel.from_pretrained(model, f"{folder}/adapter", is_trainable=True)
    if objective["name"] == "kto":
        return run_kto(model, name, settings, objective)
    train, valid = preference_cases.TRAIN, preference_cases.VALID
    with torch.no_grad():
        references = {id(pair): [x.item() for x in both(model, pair, objective.get("ld_alpha", 1.0))[:2]] for pair in train + valid}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_golden.adamw(model, settings)
    out = {"loss": [], "grad_norm": [], "rewards_accuracy": [], "rewards_margin": []}
    for step in range(preference_cases.STEPS):
        batch = [train[(step * preference_cases.PAIRS + i) % len(train)] for i in range(preference_cases.PAIRS)]
        optimizer.zero_grad()
        loss, right, margin = objective_of(model, batch, [references[id(p)] for p in batch], objective)
        loss.backward()
        out["grad_norm"].append(torch.nn.utils.clip_grad_norm_(parameters, settings["clip_norm"]).item())
        out["loss"].append(loss.item())
        out["rewards_accuracy"].append(right)
        out["rewards_margin"].append(margin)
        optimizer.step()
    with torch.no_grad():
        loss, _, out["valid_margin"] = objective_of(model, valid, [references[id(p)] for p in valid], objective)
    out["valid_loss"] = loss.item()
    return out


if __name__ == "__main__":
    torch.set_default_dtype(torch.float32)
    make_golden.make(GOLDEN if len(sys.argv) < 2 else sys.argv[1], {name: (name, *case) for name, case in preference_cases.CASES.items()}, run_case)
