"""mpilora sweep: ranks within a budget of parameters, also where k and v are narrower than q; the runs and their table; words that make no sense."""
import csv
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

# 3 layers; q and o are 32 x 32, k and v 8 x 32
MODEL = "{family: llama, layers: 3, width: 32, heads: 4, kv_heads: 1, mlp_width: 48, vocab: 61, context: 48}\n"
PARAMETERS = {"q": 64, "k": 40, "v": 40, "o": 64}


def trained(targets, rank):
    return 3 * rank * sum(PARAMETERS[target] for target in targets.split(","))


def check_plan(checks, path):
    for budget, words in ((1500, ("--budget", "1500")), (trained("q,v", 2), ())):
        plan = json.loads(harness.mpilora("sweep", "weights", path, "--plan", "--json", *words))
        checks.that(plan["budget"] == budget, f"budget {plan['budget']}, expected {budget}")
        checks.that([row["targets"] for row in plan["rows"]] == ["q", "k", "v", "o", "q,k", "q,v", "q,k,v,o"], f"choices {plan}")
        for row in plan["rows"]:
            checks.that(row["params_trainable"] == trained(row["targets"], row["rank"]), f"parameters: {row}")
            checks.that(row["params_trainable"] <= budget < trained(row["targets"], row["rank"] + 1), f"not the largest rank within {budget}: {row}")
    rows = json.loads(harness.mpilora("sweep", "ranks", path, "--plan", "--json", "--lora-ranks", "1,5", "--targets", "k,q+v"))["rows"]
    checks.that([(row["targets"], row["rank"]) for row in rows] == [("k", 1), ("k", 5), ("q,v", 1), ("q,v", 5)], f"ranks: {rows}")


def check_runs(checks, folder, path):
    words = ("sweep", "weights", path, "--budget", "700", "--targets", "k,q+v", "--seeds", "1,2", "--out", f"{folder}/out")
    said = harness.mpilora(*words)
    with open(f"{folder}/out/compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    checks.that([row["what"] for row in rows] == ["lora:targets=[k]:rank=5", "lora:targets=[q,v]:rank=2"], f"rows {rows}")
    checks.that([float(row["params_trainable"]) for row in rows] == [trained("k", 5), trained("q,v", 2)], "what was planned was not trained")
    for row in rows:
        text = f"{float(row['valid_loss']):.4f}  ({float(row['valid_loss_min']):.4f} to {float(row['valid_loss_max']):.4f})"
        checks.that(row["seeds"] == "2" and text in said, f"{text} is not in the table: {said}")
    before = os.stat(f"{folder}/out/runs/lora-targets--k--rank-5-seed2/metrics.jsonl").st_mtime_ns
    table = json.loads(harness.mpilora(*words, "--json"))
    checks.that([row["seeds"] for row in table["rows"]] == [2, 2], f"again: {table}")
    checks.that(os.stat(f"{folder}/out/runs/lora-targets--k--rank-5-seed2/metrics.jsonl").st_mtime_ns == before, "a finished run was run again")


def check_words(checks, folder, path):
    for what, words, expected in (
        ("neither weights nor ranks", ("width", path), "weights or ranks"),
        ("a budget below rank 1", ("weights", path, "--budget", "100"), "192 of rank 1"),
        ("no budget", ("weights", path, "--budget", "0"), "--budget"),
        ("a budget for ranks", ("ranks", path, "--budget", "500"), "sweep weights"),
        ("ranks for a budget", ("weights", path, "--lora-ranks", "1"), "sweep ranks"),
        ("a rank that is none", ("ranks", path, "--lora-ranks", "1,x"), "--lora-ranks"),
        ("a weight that is none", ("ranks", path, "--targets", "q,w"), '"w"'),
        ("an empty choice", ("ranks", path, "--targets", "q,,v"), "--targets"),
        ("a choice twice", ("ranks", path, "--targets", "q,q"), "twice"),
        ("a pattern of ranks", ("ranks", path, "--set", "method.rank_pattern={q: 4}"), "rank_pattern"),
    ):
        done = harness.start("sweep", *words, "--out", f"{folder}/none")
        lines = done.stderr.strip().splitlines()
        checks.that(done.returncode == 2 and len(lines) == 1 and expected in lines[0], f"{what}: exit {done.returncode}: {done.stderr}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL, "fp32")
        harness.make_data(folder, [[(5 * i + 3 * j) % 61 for j in range(20)] for i in range(8)])
        path = harness.write_config(
            f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", method={"rank": 2},
            data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"}, batch={"sequences": 4}, optim={"lr": 0.01}, train={"steps": 2}, precision="fp32")
        check_plan(checks, path)
        check_runs(checks, folder, path)
        check_words(checks, folder, path)
    checks.end()


main()
