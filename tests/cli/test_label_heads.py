"""Heads for labels where they do not belong, answers and pairs in one run, and labelled sequences that data.max_len cuts: each is said in one line that names the file, or is as it should be."""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

USAGE = 2
MODEL = "{family: llama, layers: 2, width: 32, heads: 4, kv_heads: 2, mlp_width: 48, vocab: 101, context: 64}\n"
ENCODER = "{family: bert, layers: 1, width: 32, heads: 4, kv_heads: 4, head_dim: 8, mlp_width: 48, vocab: 101, context: 64}\n"


def make_rows(folder, base, name, rows):
    with open(f"{folder}/{name}.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    harness.mpilora("tokenize", "--base", f"{folder}/{base}.h5", f"{folder}/{name}.jsonl", f"{folder}/{name}.h5")


def config(folder, run, base="base", **data):
    return harness.write_config(
        f"{folder}/{run}.yaml", base=f"{folder}/{base}.h5", run={"dir": f"{folder}/{run}"}, method={"rank": 2, "targets": ["q", "v"]},
        data={key: f"{folder}/{name}.h5" for key, name in data.items()}, batch={"sequences": 4, "micro": 2},
        optim={"lr": 0.01}, train={"steps": 3, "eval_every": 1}, precision="fp32")  # fmt: skip


def refused(checks, what, needle, *words):
    done = harness.start(*words)
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("warning:")]
    checks.that(done.returncode == USAGE and needle in lines[-1], f"{what}: exit {done.returncode}: {done.stderr}")


def check_heads(checks, folder):
    reward = config(folder, "reward", train="pairs")
    harness.mpilora("train", reward, "--set", "objective.name=reward")
    adapter, base, merged = f"{folder}/reward/adapter.h5", f"{folder}/base.h5", f"{folder}/merged.h5"
    harness.mpilora("merge", "--base", base, "--adapter", adapter, merged)
    subtract = ("merge", "--base", merged, "--adapter", adapter, "--subtract", f"{folder}/back.h5")
    refused(checks, "the merge of a head, subtracted", "needs --original", *subtract)
    refused(checks, "the same beside the original", f"take {base} as it is", *subtract, "--original", base)
    harness.mpilora("export", "--format", "peft", "--base", base, "--adapter", adapter, f"{folder}/peft")
    for path in (adapter, f"{folder}/peft"):
        refused(checks, f"sft from {path}", f"{path}: method.init: the adapter has a head for labels", "train", config(folder, "begun", train="plain"), "--set",
                f"method.init={path}")  # fmt: skip


def evaluations(folder, run):
    with open(f"{folder}/{run}/evaluations.jsonl") as file:
        return [json.loads(line)["valid_loss"] for line in file]


def check_answers(checks, folder):
    """The same answers, as pairs or each by itself, have the same loss before the first step, whichever of them trains."""
    for train, valid in (("pairs", "answers"), ("answers", "pairs"), ("pairs", "pairs"), ("answers", "answers")):
        harness.mpilora("train", config(folder, f"kto-{train}-{valid}", train=train, valid=valid), "--set", "objective.name=kto", "--set", "train.eval_first=true",
                        "--set", "objective.loss_type=apo_zero_unpaired")  # fmt: skip
        found = evaluations(folder, f"kto-{train}-{valid}")
        checks.that(len(found) >= 3 and abs(found[0] - 0.5) < 1e-6 and found[-1] != found[0], f"kto of {train} beside {valid}: {found}")


def check_cut(checks, folder):
    labelled = config(folder, "labelled", base="encoder", train="classes")
    whole = harness.start("train", labelled, "--set", "objective.name=classify")
    checks.that(whole.returncode == 0 and "data.max_len" not in whole.stderr, f"whole sequences: exit {whole.returncode}: {whole.stderr}")
    cut = harness.start("train", labelled, "--fresh", "--set", "objective.name=classify", "--set", "data.max_len=6")
    needle = f"{folder}/classes.h5: data.max_len 6 cuts 6 sequences"
    checks.that(cut.returncode == 0 and needle in cut.stderr and "--max-len 6" in cut.stderr, f"cut sequences: exit {cut.returncode}: {cut.stderr}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL, "fp32")
        harness.make_data(folder, [[(5 * i + 3 * j) % 101 for j in range(9)] for i in range(12)])
        os.rename(f"{folder}/data.h5", f"{folder}/plain.h5")
        with open(f"{folder}/encoder.yaml", "w") as file:
            file.write(ENCODER)
        harness.mpilora("import", "--init", "random", "--config", f"{folder}/encoder.yaml", f"{folder}/encoder.h5")
        ids = [[(7 * i + 3 * j) % 90 + 1 for j in range(12)] for i in range(12)]
        make_rows(folder, "base", "pairs", [{"prompt_ids": row[:5], "chosen_ids": row[5:8], "rejected_ids": row[8:]} for row in ids])
        make_rows(folder, "base", "answers", [{"prompt_ids": row[:5], "completion_ids": row[5:8] if wanted else row[8:], "label": wanted}
                                              for row in ids for wanted in (True, False)])  # fmt: skip
        make_rows(folder, "encoder", "classes", [{"input_ids": row[: 5 + 4 * (i % 2)], "label": i % 3} for i, row in enumerate(ids)])
        for check in (check_heads, check_answers, check_cut):
            check(checks, folder)
    checks.end()


main()
