"""mpilora scale: every grid is a row, repetitions are in the spread, bytes are the formula's, memory is plan's, and a run that fails is a row that says why."""

import csv
import json
import os
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: llama, layers: 2, width: 64, heads: 4, kv_heads: 2, mlp_width: 128, vocab: 257, context: 64}"
checks = harness.Checks()


def prepare(folder):
    harness.make_base(folder, MODEL)
    harness.make_data(folder, [[(7 * i + 11 * j) % 257 for j in range(40)] for i in range(16)])
    return harness.write_config(f"{folder}/run.yaml", run={"dir": f"{folder}/untouched"}, base=f"{folder}/base.h5", data={"train": f"{folder}/data.h5"},
                                batch={"sequences": 4, "micro": 2}, train={"steps": 7})


def check_table(folder, config):
    out = f"{folder}/strong"
    machine = os.path.join(os.environ["MPILORA_SOURCE_DIR"], "configs", "machines", "zen3-2core.yaml")
    text = harness.mpilora("scale", config, "--grid", "1x1,2x1,1x2,1x1x2", "--methods", "lora,full", "--repetitions", 2, "--steps", 2, "--machine", machine, "--out", out)
    with open(f"{out}/scaling.csv") as file:
        rows = list(csv.DictReader(file))
    grids = (("1", "1", "1"), ("2", "1", "1"), ("1", "2", "1"), ("1", "1", "2"))
    checks.that([(row["method"], row["dp"], row["tp"], row["pp"]) for row in rows] == [(m, *grid) for m in ("lora", "full") for grid in grids], f"rows: {rows}")
    for row in rows:
        stages = f"x{row['pp']}" if row["pp"] != "1" else ""
        what = f"{row['method']}-{row['dp']}x{row['tp']}{stages}"
        checks.that(row["status"] == "ok" and row["repetitions"] == "2" and row["sequences"] == "4", f"{what}: {row}")
        checks.that(row["allreduce_bytes"] == row["allreduce_bytes_expected"], f"{what}: {row['allreduce_bytes']} bytes, formula {row['allreduce_bytes_expected']}")
        checks.that(row["piped_bytes"] == row["planned_piped_bytes"] and (float(row["piped_bytes"]) > 0) == (row["pp"] == "2"), f"{what}: bytes sent to the next stage: {row}")
        check_planned(what, config, row, machine)
        if row["pp"] == "1":
            for part in ("frozen", "trainable", "gradient", "optimizer", "activation", "workspace"):
                checks.that(row[f"memory_{part}"] == row[f"planned_{part}"], f"{what}: {part}: {row[f'memory_{part}']}, planned {row[f'planned_{part}']}")
        else:  # parts are those of the stage that has most of each, plan's those of the stage that has most of all
            total, planned = float(row["memory_total"]), float(row["planned_total"])
            checks.that(abs(total - planned) < max(0.04 * planned, 1 << 19), f"{what}: {total} bytes in all, planned {planned}")
        low, middle, high = (float(row[f"tokens_per_s{end}"]) for end in ("_min", "", "_max"))
        checks.that(low <= middle <= high, f"{what}: {low}, {middle}, {high}")
        steps = [line for repetition in (1, 2) for line in harness.read_metrics(f"{out}/runs/{what}-{repetition}")[1:]]
        for key in ("tokens_per_s", "step_s", *(f"{phase}_s" for phase in ("forward", "backward", "comm", "optimizer", "data", "other"))):
            checks.close(f"{what}: {key}", float(row[key]), statistics.median(line[key] for line in steps), 1e-6)
    first = {row["method"]: float(row["tokens_per_s"]) / int(row["ranks"]) for row in reversed(rows)}
    for row in rows:
        own = float(row["tokens_per_s"]) / int(row["ranks"])
        if row["efficiency"]:  # empty: within the spread of the repetitions
            checks.close("efficiency", float(row["efficiency"]), own / first[row["method"]], 1e-6)
        elif row["ranks"] == "1":
            checks.that(False, f"no efficiency of the first grid: {row}")
    lines = [line.split() for line in text.splitlines() if line.startswith(("lora ", "full "))]
    checks.that([line[5] for line in lines if line[1].isdigit()] == [row["pp"] for row in rows], f"the column pp: {text}")
    checks.that(f"lora, dp 1 x tp 1 x pp 2: {rows[3]['piped_bytes']} bytes a step to neighbouring stages, {rows[3]['planned_piped_bytes']} planned" in text, f"planned: {text}")
    checks.that("scaling.csv" in text and os.path.getsize(f"{out}/scaling.h5") > 0, f"said: {text}")
    checks.that(not os.path.exists(f"{folder}/untouched"), "the configuration's own run.dir was used")


def check_planned(what, config, row, machine):
    """plan's seconds a step for this grid."""
    sets = (f"parallel.tp={row['tp']}", f"parallel.pp={row['pp']}", f"method.name={row['method']}")
    words = [word for one in sets for word in ("--set", one)]
    plan = json.loads(harness.mpilora("plan", config, "--ranks", row["ranks"], "--machine", machine, "--threads", row["threads"], *words, "--json"))
    checks.close(f"{what}: planned_step_s", float(row["planned_step_s"]), plan["methods"][row["method"] == "full"]["time"]["step_s"], 1e-6)


def check_lora_file(folder, config):
    """LoRA's own file, with all that its variants read and with train.keep_best: the other methods leave these keys unread and say so."""
    with open(config) as file:
        keys = json.load(file)
    variants = {"dora": True, "lora_plus": 4, "layers": [0], "rank_pattern": {"q": 2}, "alpha_pattern": {"q": 2}}
    keys.update(method={"name": "lora", **variants}, data={**keys["data"], "valid": keys["data"]["train"]}, train={"steps": 7, "eval_every": 2, "keep_best": True})
    own = harness.write_config(f"{folder}/lora.yaml", **keys)
    answer = json.loads(harness.mpilora("scale", own, "--ranks", "1", "--methods", "lora,full", "--repetitions", 1, "--steps", 1, "--out", f"{folder}/own", "--json"))
    checks.that([e["status"] for e in answer["experiments"]] == ["ok", "ok"], f"keep_best and LoRA's variants: {answer}")
    done = harness.start("train", own, "--set", "method.name=full", "--set", "method.init=pissa", "--set", f"run.dir={folder}/full", "--set", "train.steps=1")
    for key in (*variants, "init"):
        line = [line for line in done.stderr.splitlines() if line.startswith("warning:") and f"method.{key}" in line and "does not read it" in line]
        checks.that(done.returncode == 0 and len(line) == 1, f"method full, {key}: {done.stderr}")


def check_weak(folder, config):
    answer = json.loads(harness.mpilora("scale", config, "--ranks", "1,2", "--weak", "--repetitions", 1, "--steps", 1, "--out", f"{folder}/weak", "--json"))
    checks.that(answer["scaling"] == "weak" and [e["sequences"] for e in answer["experiments"]] == [4, 8], f"weak: {answer}")
    checks.that(all(e["pp"] == 1 and e["planned_piped_bytes"] == 0 and e["planned_step_s"] is None for e in answer["experiments"]), f"weak: {answer}")
    words = ("--ranks", "2,4", "--set", "parallel.pp=2", "--weak", "--repetitions", 1, "--steps", 1, "--out", f"{folder}/stages", "--json")
    grids = [(e["dp"], e["tp"], e["pp"], e["sequences"], e["status"]) for e in json.loads(harness.mpilora("scale", config, *words))["experiments"]]
    checks.that(grids == [(1, 1, 2, 4, "ok"), (2, 1, 2, 8, "ok")], f"the configuration's own stages: {grids}")


LAUNCHER = """import json, os, sys
words = dict(word.split("=", 1) for word in sys.argv if "=" in word)
run_dir, ranks, repetition = words["run.dir"], int(sys.argv[1]), int(words["run.dir"].rsplit("-", 1)[1])
with open("{log}", "a") as file:
    file.write(f"{ranks} ")
os.makedirs(run_dir, exist_ok=True)
rates = {1: [100, 102, 98], 2: {clear}}[ranks]
with open(run_dir + "/metrics.jsonl", "w") as file:
    for rate in (1, rates[repetition - 1], rates[repetition - 1], 3 * rates[repetition - 1]):
        file.write(json.dumps({"tokens_per_s": rate, "step_s": 1.0}) + "\\n")
with open(run_dir + "/summary.json", "w") as file:
    json.dump({"params_trainable": 1}, file)
"""


def check_spread(folder, config):
    """A launcher that writes known rates: every second repetition in reverse order, the median of all steps but the first of a run, and no efficiency that the
    spread does not allow."""
    for name, rates, efficiency in (("clear", "[150, 151, 149]", 151 / 2 / 102), ("unclear", "[150, 290, 195]", None)):
        log, script = f"{folder}/{name}.log", f"{folder}/{name}.py"
        with open(script, "w") as file:
            file.write(LAUNCHER.replace("{log}", log).replace("{clear}", rates))
        words = ("scale", config, "--ranks", "1,2", "--repetitions", 3, "--steps", 3, "--out", f"{folder}/{name}", "--launcher", f"{sys.executable} {script} {{ranks}}")
        one, two = json.loads(harness.mpilora(*words, "--json"))["experiments"]
        with open(log) as file:
            order = file.read().split()
        checks.that(order == ["1", "2", "2", "1", "1", "2"], f"{name}: order of the repetitions: {order}")
        checks.that(one["tokens_per_s"] == {"median": 102, "min": 98, "max": 102}, f"{name}: {one['tokens_per_s']}")
        found = two["efficiency"]
        checks.that(found == efficiency if efficiency is None else found is not None and abs(found - efficiency) < 1e-9, f"{name}: efficiency {found}, expected {efficiency}")
        os.remove(log)
        text = harness.mpilora(*words)
        checks.that(("74%" in text) == (efficiency is not None), f"{name}: {text}")


def check_failures(folder, config):
    done = harness.start("scale", config, "--grid", "1x1,1x3", "--repetitions", 1, "--steps", 1, "--out", f"{folder}/some", "--json")
    bad = json.loads(done.stdout)["experiments"][1]
    checks.that(done.returncode == 0 and bad["repetitions"] == 0 and bad["tokens_per_s"]["median"] is None and "exit code 2" in bad["status"], f"a bad grid: {bad}")
    checks.that("repetition 1: lora, dp 1 x tp 3: exit code 2" in done.stderr and "nan tokens" not in done.stderr, f"what a bad grid says: {done.stderr}")
    done = harness.start("scale", config, "--grid", "1x1x3,1x1", "--repetitions", 1, "--steps", 1, "--out", f"{folder}/layers", "--json")
    bad = json.loads(done.stdout)["experiments"][0]
    checks.that(done.returncode == 0 and "3 stages, but the model has 2 layers" in bad["status"] and bad["planned_piped_bytes"] is None, f"more stages than layers: {bad}")
    cases = [(["--grid", ""], 2, "--grid"), (["--ranks", ""], 2, "--ranks"), (["--ranks", "1", "--methods", ""], 2, "--methods"), (["--grid", "1x1x1x1x1"], 2, "--grid"), (["--grid", "1x1x0"], 2, "--grid"), (["--grid", "1x1x"], 2, "--grid"), (["--grid", "1000000x1000000x2"], 2, "--grid"),
             (["--ranks", "3", "--set", "parallel.pp=2"], 2, "parallel.pp 2"), (["--ranks", "1", "--nodes", "2"], 2, "--machine"),
             (["--ranks", "1", "--machine", "nowhere.yaml"], 2, "nowhere.yaml"), (["--ranks", "1,x"], 2, "--ranks"), (["--ranks", "0"], 2, "--ranks"), (["--grid", "2"], 2, "--grid"), (["--grid", "1x1,"], 2, "--grid"), ([], 2, "--ranks"),
             (["--ranks", "1", "--methods", "lora,magic"], 2, "--methods"), (["--ranks", "1", "--weak", "--strong"], 2, "--weak"),
             (["--ranks", "1", "--launcher", "no-such-launcher {ranks}"], 2, "no-such-launcher"), (["--ranks", "1", "--repetitions", "0"], 2, "--repetitions"),
             (["--ranks", "3", "--set", "parallel.tp=3", "--repetitions", "1"], 3, "no run ended well")]
    for words, code, needle in cases:
        done = harness.start("scale", config, *words, "--out", f"{folder}/bad")
        checks.that("scale: scale" not in done.stderr, f"{words}: the command is named twice: {done.stderr}")
        checks.that(done.returncode == code and needle in done.stderr, f"{words}: exit code {done.returncode}, expected {code}: {done.stderr}")


with tempfile.TemporaryDirectory() as folder:
    config = prepare(folder)
    check_table(folder, config)
    check_lora_file(folder, config)
    check_weak(folder, config)
    check_spread(folder, config)
    check_failures(folder, config)
checks.end()
