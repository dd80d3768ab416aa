"""Objectives on the scores of a head for labels, laid over PyTorch's curves on every grid; adapters and bases with a head out and back; what is refused.
tests/golden/classification.json comes from make_classification_golden.py."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import classification_cases as cases
import preference_cases
import score_curves
import reference_models as reference

GOLDEN = os.path.join(harness.SOURCE, "tests", "golden", "classification.json")
EVERYWHERE = ["reward-llama", "reward-gpt2-full", "class-llama", "bits-gpt2", "tokens-llama-full"]  # the others on one rank


def prepare(folder):
    for model in sorted({settings["model"] for settings, _ in cases.CASES.values()}):
        reference.write_model(f"{folder}/{model}", model)
        harness.mpilora("import", f"{folder}/{model}", f"{folder}/{model}.h5", "--dtype", "fp32")
    for model, kind in sorted({(settings["model"], settings.get("kind", "pairs")) for settings, _ in cases.CASES.values()}):
        for part in ("train", "valid"):
            preference_cases.write_pairs(f"{folder}/{part}.jsonl", cases.data_of({} if kind == "pairs" else {"kind": kind}, part))
            words = ["--labels", cases.LABELS] if kind in ("class", "tokens") else []
            harness.mpilora("tokenize", "--base", f"{folder}/{model}.h5", *words, f"{folder}/{part}.jsonl", f"{folder}/{model}-{kind}-{part}.h5")
    for name, case in cases.CASES.items():
        settings, labels = case[0], cases.labels_of(case)
        if settings["method"] == "lora":
            cases.write_adapter(f"{folder}/{name}-adapter", settings, labels)
        else:
            cases.write_scoring_model(f"{folder}/{name}-model", settings["model"], labels, settings.get("kind") == "tokens")
            harness.mpilora("import", f"{folder}/{name}-model", f"{folder}/{name}.h5", "--dtype", "fp32")


def write_config(folder, name, run_dir, tp=1, micro=4):
    settings, objective = cases.CASES[name]
    model, kind = f"{folder}/{settings['model']}", settings.get("kind", "pairs")
    base, method = f"{folder}/{name}.h5", {"name": "full"}
    if settings["method"] == "lora":
        base = f"{model}.h5"
        method = {"name": "lora", **{key: settings[key] for key in ("rank", "alpha", "targets")}, "init": f"{folder}/{name}-adapter"}
    return harness.write_config(
        f"{run_dir}.yaml",
        run={"dir": run_dir, "seed": 1},
        base=base,
        method=method,
        objective=objective,
        data={"train": f"{model}-{kind}-train.h5", "valid": f"{model}-{kind}-valid.h5", "shuffle": False},
        batch={"sequences": cases.ROWS, "micro": micro},
        optim={"lr": settings["lr"], "weight_decay": settings["weight_decay"], "clip_norm": settings["clip_norm"]},
        train={"steps": settings["steps"]},
        parallel={"tp": tp},
        precision="fp32",
    )


def evaluate(config, *words, ranks=0):
    return json.loads(harness.mpilora("eval", config, "--json", *words, ranks=ranks))


def check_round_trip(checks, folder):
    """A new head beside LoRA: its adapter, also from other grids, as a PEFT directory, merged, and exported and imported again, is worth the same."""
    name = "reward-llama"
    config, adapter = write_config(folder, name, f"{folder}/new", 2, 2), f"{folder}/new/adapter.h5"
    harness.mpilora("train", config, "--set", "method.init=null", ranks=4)
    base, merged = f"{folder}/llama.h5", f"{folder}/merged.h5"
    harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", adapter, f"{folder}/peft")
    with open(f"{folder}/peft/adapter_config.json") as file:
        exported = json.load(file)
    checks.that(exported["task_type"] == "SEQ_CLS" and exported["modules_to_save"] == ["score"], f"PEFT: {exported}")
    harness.mpilora("merge", "--base", base, "--adapter", adapter, "--dtype", "fp32", merged)
    harness.mpilora("export", "--format", "hf", "--base", merged, f"{folder}/hf")
    with open(f"{folder}/hf/config.json") as file:
        exported = json.load(file)
    checks.that(exported["architectures"] == ["LlamaForSequenceClassification"] and exported["id2label"] == {"0": "LABEL_0"}, f"hf: {exported}")
    harness.mpilora("import", f"{folder}/hf", f"{folder}/again.h5", "--dtype", "fp32")
    one = ("--set", "parallel.tp=1")
    here = evaluate(config, *one, "--adapter", adapter)
    checks.close("what train says", harness.read_summary(f"{folder}/new")["valid_loss"], here["loss"], 1e-5)
    for what, words in {
        "the adapter as PEFT's directory": ["--adapter", f"{folder}/peft"],
        "merged": ["--set", f"base={merged}"],
        "exported and imported": ["--set", f"base={folder}/again.h5"],
    }.items():
        there = evaluate(config, *one, *words)
        for key, value in here.items():
            checks.that(abs(there[key] - value) <= 1e-5, f"{what}: {key} {there[key]}, {value} with the adapter")
    checks.that(here["pairs"] == len(cases.PAIRS["valid"]) and here["rewards_accuracy"] in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), f"eval: {here}")
    lengths = [max(len(pair["prompt_ids"] + pair[key]) for key in ("chosen_ids", "rejected_ids")) for pair in cases.PAIRS["valid"]]
    for most in (min(lengths), sorted(lengths)[2]):  # a pair that would be cut is left out
        found = evaluate(config, *one, "--adapter", adapter, "--set", f"data.max_len={most}")["pairs"]
        checks.that(found == sum(n <= most for n in lengths), f"max_len {most}: {found} pairs of {lengths}")
    for key, value in evaluate(config, "--adapter", adapter, ranks=4).items():
        checks.that(abs(here[key] - value) <= 1e-5, f"on 4 ranks: {key} {value}, {here[key]} on one")


def refused(checks, what, words, code, *parts):
    done = harness.start(*words)
    lines = done.stderr.strip().split("\n")
    checks.that(done.returncode == code and all(p in lines[-1] for p in parts) and len(lines) == 1, f"{what}: code {done.returncode}, {done.stderr}")


def check_methods(checks, folder):
    """The head trains beside every method, and the adapter that comes out has it."""
    for method in ("full", "top", "bitfit", "prefix_embed", "prefix_kv", "adapter_h", "compacter", "lora+prefix_layer"):
        run_dir = f"{folder}/method-{method}"
        config = write_config(folder, "reward-gpt2", run_dir)
        sizes = ["method.init=null", f"method.name={method}", "method.prefix=2", "method.infix=0", "method.bottleneck=4", "method.factors=2", "train.steps=3"]
        sets = [word for key in sizes for word in ("--set", key)]
        harness.mpilora("train", config, *sets, ranks=2)
        words = ["--set", f"base={run_dir}/model.h5"] if method == "full" else ["--adapter", f"{run_dir}/adapter.h5"]
        checks.close(f"{method}: eval", evaluate(config, *words)["loss"], harness.read_summary(run_dir)["valid_loss"], 1e-5)
        if method in ("prefix_embed", "prefix_kv"):
            refused(checks, f"{method} to PEFT", ["export", "--format", "peft", "--base", f"{folder}/gpt2.h5", *words, f"{folder}/out-{method}"], 2, "head for labels", method)
        losses = [line["loss"] for line in harness.read_metrics(run_dir)]
        checks.that(len(set(losses)) == 3, f"{method}: losses {losses}")


def check_resumed(checks, folder):
    """A run of four steps goes on to ten on another grid."""
    run_dir = f"{folder}/resumed"
    config = write_config(folder, "reward-llama", run_dir)
    harness.mpilora("train", config, "--set", "train.steps=4", ranks=2)
    harness.mpilora("train", config, "--set", "parallel.tp=2", ranks=2)
    resumed, whole = harness.read_metrics(run_dir), harness.read_metrics(f"{folder}/reward-llama-1rank")
    checks.that(all(abs(a["loss"] - b["loss"]) <= 2e-5 for a, b in zip(resumed, whole, strict=True)), "resumed: losses differ")


def macro_f1(rows):
    """As scikit-learn defines it: the mean over the classes that are true or predicted somewhere."""
    truth, predicted = ([row[key] for row in rows] for key in ("label", "prediction"))
    figures = []
    for one in set(truth) | set(predicted):
        both = sum(a == b == one for a, b in zip(truth, predicted, strict=True))
        figures.append(2 * both / (truth.count(one) + predicted.count(one)))
    return sum(figures) / len(figures)


def check_wider_head(checks, folder):
    """A head for more classes than the data have; num_labels of config.json says how many, whatever id2label names."""
    path = f"{folder}/wide/config.json"
    cases.write_scoring_model(f"{folder}/wide", "llama", 9)
    with open(path) as file:
        plain = json.load(file)
    names = {str(i): f"class {i}" for i in range(cases.LABELS)}
    reference.write_json(path, plain | {"num_labels": 9, "id2label": names, "label2id": {}})
    harness.mpilora("import", f"{folder}/wide", f"{folder}/wide.h5", "--dtype", "fp32")
    config = write_config(folder, "class-llama", f"{folder}/wide-run")
    found = evaluate(config, "--set", "method.init=null", "--set", f"base={folder}/wide.h5", "--predictions", f"{folder}/wide.jsonl", ranks=2)
    with open(f"{folder}/wide.jsonl") as file:
        rows = [json.loads(line) for line in file]
    right = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
    checks.that(any(row["prediction"] >= cases.LABELS for row in rows), f"no row has a class that is not among the data's: {rows}")
    checks.close("accuracy of a wider head", found["accuracy"], right, 1e-6)
    checks.close("F1 of a wider head", found["f1_macro"], macro_f1(rows), 1e-6)
    for said in (0, -3, "9", 1 << 30):
        reference.write_json(path, plain | {"num_labels": said})
        refused(checks, f"num_labels {said}", ["import", f"{folder}/wide", f"{folder}/refused.h5"], 3, "num_labels")


def check_refused(checks, folder):
    config = write_config(folder, "reward-llama", f"{folder}/refused")
    reference.write_data(f"{folder}/plain.jsonl", reference.TRAIN)
    harness.mpilora("tokenize", "--base", f"{folder}/llama.h5", f"{folder}/plain.jsonl", f"{folder}/plain.h5")

    def train(what, code, parts, *sets):
        refused(checks, what, ["train", config, *(word for key in sets for word in ("--set", key))], code, *parts)

    train("no pairs", 3, ["plain.h5", "has no pairs"], f"data.train={folder}/plain.h5")
    train("a head for tokens", 2, ["method.targets", "head for tokens"], "method.targets=[q,head]")
    train("an infix", 2, ["method.infix", "set it to 0"], "method.name=prefix_embed", "method.init=null", "method.infix=2")
    train("another's key", 2, ["objective.center_rewards", "reward"], "objective.name=dpo", "objective.center_rewards=0.1")
    train("smoothing", 2, ["optim.label_smoothing"], "optim.label_smoothing=0.1")
    train("tokens with a head for labels", 3, ["head for 1 label", "none for the next token"], f"base={folder}/reward-llama-full.h5", "objective.name=dpo", "method.init=null")
    refused(checks, "eval without a head", ["eval", config], 3, "llama.h5", "has no head for labels")
    refused(checks, "eval --generate", ["eval", config, "--adapter", f"{folder}/new/adapter.h5", "--generate", f"{folder}/out.jsonl"], 2, "continues no prompt")
    data = {kind: f"{folder}/llama-{kind}-train.h5" for kind in ("class", "number", "tokens", "pairs")}
    train("no labels", 3, ["plain.h5", "has no labels"], "objective.name=classify", f"data.train={folder}/plain.h5", f"data.valid={folder}/plain.h5")
    train("numbers for classes", 3, ["kind number", "objective.name to regress"], "objective.name=classify", f"data.train={data['number']}")
    train("classes for tokens", 3, ["kind class", "objective.name to classify"], "objective.name=sft", f"data.train={data['class']}")
    head = ["objective.name=classify", "method.init=null", f"data.train={data['class']}", f"data.valid={data['class']}"]
    train("more classes than the head", 3, ["head for 1 label", "the data have 3"], *head, f"base={folder}/reward-llama-full.h5")
    train("a head for tokens", 3, ["labels of tokens", "none for sequences"], *head, f"base={folder}/tokens-llama-full.h5")
    words = [word for key in ("objective.name=classify", f"data.valid={data['class']}") for word in ("--set", key)]
    refused(checks, "an adapter for one label", ["eval", config, *words, "--adapter", f"{folder}/new/adapter.h5"], 3, "head for 1 label", "the data have 3")
    checks.that(not os.path.exists(f"{folder}/refused"), "a refused run made its folder")


def main():
    checks = harness.Checks()
    with open(GOLDEN) as file:
        curves = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        for name, golden in curves.items():
            for layout in score_curves.LAYOUTS if name in EVERYWHERE else ["1 rank"]:
                score_curves.check_curve(checks, folder, name, golden, layout, write_config)
        check_round_trip(checks, folder)
        check_methods(checks, folder)
        check_resumed(checks, folder)
        check_wider_head(checks, folder)
        check_refused(checks, folder)
    checks.end()


if __name__ == "__main__":
    main()
