"""Runs of other objectives than sft in one job on one copy of the frozen weights: those of preferences with their references, sft and kto beside them, each with its own data;
classes, numbers and rewards, each run with its own head; hidden tokens of an encoder. Losses, evaluations, figures and results are those of each run alone, on 1 and 2
ranks, also where a job was stopped; what cannot be together is refused before anything is written."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

STEPS, USAGE, STOPPED = 5, 2, 75
DECODER = "{family: llama, layers: 2, width: 32, heads: 4, kv_heads: 2, mlp_width: 48, vocab: 101, context: 64}\n"
ENCODER = "{family: bert, layers: 2, width: 32, heads: 4, mlp_width: 48, vocab: 101, context: 64}\n"
ANSWERS = {
    "dpo": {"objective": {"name": "dpo"}},
    "list": {"objective": {"name": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5], "ld_alpha": 0.5}, "method.rank": 4, "method.dropout": 0.1},
    "sorted": {"objective": {"name": "dpo", "loss_type": "aot"}, "batch.sequences": 3, "batch.micro": 2},
    "orpo": {"objective": {"name": "orpo"}, "train.steps": STEPS - 2},
    "simpo": {"objective": {"name": "simpo", "beta": 2.0}, "method.name": "adapter_h", "method.bottleneck": 4},
    "kto": {"objective": {"name": "kto"}, "data.train": "wanted.h5", "data.valid": "wanted.h5", "batch.sequences": 5, "batch.micro": 3},
    "taken": {"objective": {"name": "kto"}, "run.seed": 5},
    "sft": {"data.train": "plain.h5", "data.valid": "plain.h5"},
}
LABELS = {
    "classes": {"objective": {"name": "classify"}, "data.train": "class.h5", "data.valid": "class.h5"},
    "others": {"objective": {"name": "classify"}, "data.train": "class.h5", "data.valid": "class.h5", "run.seed": 4, "method.rank": 4, "batch.sequences": 6},
    "chosen": {"data.train": "class.h5", "data.valid": "class.h5", "optim.lr": 0.02},
}
REWARDS = {
    "reward": {"objective": {"name": "reward"}},
    "centred": {"objective": {"name": "reward", "center_rewards": 0.1}, "run.seed": 4},
    "number": {"objective": {"name": "regress"}, "data.train": "number.h5", "data.valid": "number.h5"},
}
DISTANCES = "{family: deberta_v2, layers: 2, width: 32, heads: 4, mlp_width: 48, vocab: 101, context: 64, positions: none, relative_keys: true, relative_queries: true, relative_distances: 20, relative_shared: %s}\n"
HIDDEN = {
    "hidden": {"objective": {"name": "mlm", "mask_token": 3}, "data.train": "plain.h5", "data.valid": "plain.h5"},
    "more": {"objective": {"name": "mlm", "mask_token": 3, "mask_probability": 0.4}, "data.train": "plain.h5", "data.valid": "plain.h5", "run.seed": 9},
}
FIGURES = ("loss", "grad_norm", "rewards_accuracy", "rewards_margin", "logps_chosen", "logps_rejected", "kl", "accuracy")


def rows_of(kind):
    prompt = [(7 * j) % 90 + 5 for j in range(8)]
    answers = [[(5 * i + 3 * j) % 90 + 5 for j in range(3 + i % 4)] for i in range(14)]
    if kind == "pairs":
        return [{"prompt_ids": prompt + [5 + i], "chosen_ids": answers[i], "rejected_ids": answers[i + 1]} for i in range(12)]
    if kind == "wanted":
        return [{"prompt_ids": prompt, "completion_ids": answers[i], "label": i % 3 > 0} for i in range(12)]
    if kind == "plain":
        return [{"input_ids": prompt + answers[i] * 2} for i in range(12)]
    return [{"input_ids": prompt + answers[i], "label": i % 3 if kind == "class" else i / 8} for i in range(12)]


def prepare(base, kinds):
    for kind in kinds:
        with open(f"{kind}.jsonl", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows_of(kind))
        labels = ("--labels", "3") if kind == "class" else ("--labels", "number") if kind == "number" else ()
        harness.mpilora("tokenize", "--base", base, *labels, f"{kind}.jsonl", f"{kind}.h5")


def write(base, where, runs=None):
    listed = {} if runs is None else {"runs": [{"dir": f"{where}/{name}", "set": keys_of(sets)} for name, sets in runs.items()]}
    return harness.write_config(
        f"{where}.yaml", base=base, run={"dir": f"{where}/none"}, method={"rank": 2, "targets": ["q", "v"]}, data={"train": "pairs.h5", "valid": "pairs.h5"},
        batch={"sequences": 4, "micro": 2}, optim={"lr": 0.01}, train={"steps": STEPS, "eval_every": 2, "save_every": 2}, precision="fp32", **listed)  # fmt: skip


def keys_of(sets):
    found = {}
    for key, value in sets.items():
        found |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
    return found


def train_alone(base, where, runs):
    for name, sets in runs.items():
        words = [word for key, value in keys_of(sets).items() for word in ("--set", f"{key}={json.dumps(value)}")]
        harness.mpilora("train", write(base, where), "--set", f"run.dir={where}/{name}", *words)


def curves(run_dir):
    with open(f"{run_dir}/evaluations.jsonl") as file:
        evaluations = [{key: value for key, value in json.loads(line).items() if key not in ("step", "time")} for line in file]
    steps = [{key: line[key] for key in FIGURES if key in line} for line in harness.read_metrics(run_dir)]
    return {f"{what} {i + 1} {key}": value for what, rows in (("step", steps), ("evaluation", evaluations)) for i, row in enumerate(rows) for key, value in row.items()}


def least_of(key):
    """Below it a figure counts as this large. kl is a difference of log p, of which one token's has steps of 4.8e-7."""
    return 5e-2 if key.endswith(" kl") else 1e-2


def compare(checks, label, runs, alone, together):
    for name in runs:
        a, b = curves(f"{alone}/{name}"), curves(f"{together}/{name}")
        checks.that(a.keys() == b.keys() and len(a) > 10, f"{label}: {name}: {sorted(b)} beside {sorted(a)}")
        # before the first update rewards are what rounding leaves of 0, and so is which of two is higher
        far, where = max((abs(a[key] - b[key]) / max(least_of(key), abs(a[key])), key) for key in a if key in b and key != "step 1 rewards_accuracy")
        checks.that(far <= 2e-5, f"{label}: {name}: {where} is {far:.2g} from that alone")
        checks.that(os.path.exists(f"{together}/{name}/adapter.h5"), f"{label}: {name} has no adapter")


def check(checks, base, what, runs, grids):
    train_alone(base, f"alone-{what}", runs)
    for ranks, tp, *stages in grids:
        where = f"{what}-{ranks}-{tp}{''.join(f'-{pp}' for pp in stages)}"
        path = write(base, where, runs)
        for left in (name for name in os.listdir(".") if ".reference-" in name):  # what the runs before it have left
            os.remove(left)
        harness.mpilora("train", path, "--set", f"parallel.tp={tp}", *[word for pp in stages for word in ("--set", f"parallel.pp={pp}")], ranks=ranks)
        compare(checks, f"{what}, {ranks} ranks, tp {tp}{''.join(f', pp {pp}' for pp in stages)}", runs, f"alone-{what}", where)
        if ranks:
            continue
        memory = harness.read_summary(f"{where}/{next(iter(runs))}")["memory"]
        share = memory["total_peak_bytes"] / memory["predicted"]["total_bytes"]
        checks.that(0.85 <= share <= 1.03, f"{what}: memory is {share:.4f} of what was predicted")
        plan = json.loads(harness.mpilora("plan", path, "--json"))["methods"][0]
        checks.close(f"{what}: the plan beside what was predicted at the start", plan["total_bytes"], memory["predicted"]["total_bytes"], 0.02)


def check_stopped(checks, base):
    path = write(base, "stopped", ANSWERS)
    process = subprocess.Popen(harness.command("train", path), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not (os.path.exists("stopped/sft/metrics.jsonl") and harness.count_lines("stopped/sft/metrics.jsonl")):
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    checks.that(process.returncode in (0, STOPPED), f"after a signal: exit {process.returncode}: {said}")
    again = harness.start("train", path)
    checks.that(again.returncode == 0, f"going on: exit {again.returncode}: {again.stderr}")
    compare(checks, "stopped and gone on with", ANSWERS, "alone-answers", "stopped")


def refused(checks, base, what, runs, code, *parts):
    done = harness.start("train", write(base, "refused", runs))
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith(("warning:", "objective.name is not given"))]
    checks.that(done.returncode == code and len(lines) == 1 and all(part in lines[0] for part in parts), f"{what}: exit {done.returncode}: {done.stderr}")
    checks.that(not os.path.exists("refused"), f"{what}: something was written")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, model in (("decoder", DECODER), ("encoder", ENCODER), ("own", DISTANCES % "false"), ("shared", DISTANCES % "true")):
            with open(f"{name}.yaml", "w") as file:
                file.write(model)
            harness.mpilora("import", "--init", "random", "--config", f"{name}.yaml", "--dtype", "fp32", f"{name}.h5")
        prepare("decoder.h5", ("pairs", "wanted", "plain", "class", "number"))
        check(checks, "decoder.h5", "answers", ANSWERS, ((0, 1), (2, 1), (2, 2), (4, 1, 2)))
        check(checks, "decoder.h5", "labels", LABELS, ((0, 1), (2, 1), (2, 1, 2)))
        check(checks, "decoder.h5", "rewards", REWARDS, ((0, 1), (2, 2)))
        check_stopped(checks, "decoder.h5")
        refused(checks, "decoder.h5", "a head beside none", {"dpo": ANSWERS["dpo"], **LABELS}, USAGE, "classify needs a head", "of the first run")
        refused(checks, "decoder.h5", "heads of other sizes", {"reward": REWARDS["reward"], "classes": LABELS["classes"]}, USAGE, "for 3 labels", "for 1 (")
        refused(checks, "decoder.h5", "pairs for sft", {"dpo": ANSWERS["dpo"], "sft": {}}, 3, "would learn both")
        check(checks, "encoder.h5", "classes", LABELS, ((0, 1),))
        check(checks, "own.h5", "distances", LABELS, ((0, 1), (2, 2)))
        positions = {name: {**sets, "method.targets": ["q", "pos_k"]} for name, sets in LABELS.items()}
        refused(checks, "own.h5", "adapters of distances", positions, USAGE, "pos_q or pos_k", "rows of distances")
        refused(checks, "shared.h5", "adapters of q, which distances share", LABELS, USAGE, "q, k or v", "rows of distances")
        refused(checks, "encoder.h5", "a new head for hidden tokens", HIDDEN, USAGE, "mlm needs a head for masked tokens", "alone")
        train_alone("encoder.h5", "head", {"hidden": HIDDEN["hidden"]})
        harness.mpilora("merge", "--base", "encoder.h5", "--adapter", "head/hidden/adapter.h5", "headed.h5")
        check(checks, "headed.h5", "hidden", HIDDEN, ((0, 1), (2, 1), (4, 2, 2)))
    checks.end()


main()
