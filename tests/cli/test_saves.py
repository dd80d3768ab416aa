"""Saves beside training: what they leave in the metrics, and what a save that fails there does to a run."""

import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

STEPS = 20
SHIM = os.environ.get("MPILORA_FAULT_SHIM", "")  # not in sanitizer builds
MODEL = "{family: gpt2, layers: 2, width: 64, heads: 4, mlp_width: 128, vocab: 257, context: 64}\n"


def prepare(folder):
    with open(f"{folder}/model.yaml", "w") as file:
        file.write(MODEL)
    base = f"{folder}/base.h5"
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/model.yaml", "--dtype", "fp32", base)
    for name, factor in (("data", 7), ("other", 11)):
        with open(f"{folder}/{name}.jsonl", "w") as file:
            for i in range(24):
                file.write(json.dumps({"input_ids": [(i * i + factor * j + j * j * i) % 257 for j in range(20 + i)]}) + "\n")
        harness.mpilora("tokenize", "--base", base, "--format", "ids", f"{folder}/{name}.jsonl", f"{folder}/{name}.h5")


def write_config(folder, name, method="lora", lr=2e-4, valid="data", **train):
    return harness.write_config(
        f"{folder}/{name}.yaml",
        run={"dir": f"{folder}/{name}"},
        base=f"{folder}/base.h5",
        method={"name": method, "targets": ["all"], "rank": 16},
        data={"train": f"{folder}/data.h5", "valid": f"{folder}/{valid}.h5"},
        batch={"sequences": 4},
        optim={"lr": lr},
        train={"steps": STEPS, **train},
        precision="fp32",
        kernels={"product": "ref", "vector": "ref"},
    )


def read_lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def bytes_of(run_dir, step):
    folder = f"{run_dir}/checkpoints/step-{step:08d}"
    return sum(os.path.getsize(f"{folder}/{name}") for name in os.listdir(folder) if name.endswith(".h5"))


def check_metrics(checks, folder, method, ranks):
    name = f"{method}-{ranks}"
    label, run_dir = f"{method}, {ranks or 1} ranks", f"{folder}/{name}"
    harness.mpilora("train", write_config(folder, name, method, save_every=3, keep=3), ranks=ranks)
    saves, metrics, summary = read_lines(f"{run_dir}/saves.jsonl"), harness.read_metrics(run_dir), harness.read_summary(run_dir)
    steps = [3, 6, 9, 12, 15, 18, STEPS]
    checks.that([line["step"] for line in saves] == steps, f"{label}: saves.jsonl has steps {[line['step'] for line in saves]}, expected {steps}")
    checks.that(saves[-1]["bytes"] == bytes_of(run_dir, STEPS), f"{label}: {saves[-1]['bytes']} bytes, on disk are {bytes_of(run_dir, STEPS)}")
    checks.that(all(0 < line["waited_seconds"] <= line["seconds"] + 0.1 for line in saves), f"{label}: times {saves}")
    waited = [line["step"] for line in metrics if line["save_s"] > 0]
    checks.that(waited == [step + 1 for step in steps[:-1]], f"{label}: save_s in the lines of steps {waited}")
    checks.that(summary["saves"] == len(steps), f"{label}: the summary says {summary['saves']} saves, expected {len(steps)}")
    checks.close(f"{label}: save_seconds", summary["save_seconds"], sum(line["seconds"] for line in saves), 1e-6)
    return run_dir


def check_failure(checks, folder, whole):
    """The disk is full when the first checkpoint is written: the run ends with 4 and one line, long before its last step; the next start makes it good."""
    config, run_dir = write_config(folder, "failing", save_every=3, keep=3), f"{folder}/failing"
    fault = {"LD_PRELOAD": SHIM, "FAULT_ROOT": f"{run_dir}/checkpoints/", "FAULT_CALL": "fallocate", "FAULT_AT": "1", "FAULT_DO": "ENOSPC"}
    done = subprocess.run(harness.command("train", config), env={**os.environ, **fault}, capture_output=True, text=True, timeout=120)
    errors = [line for line in done.stderr.splitlines() if line.startswith("mpilora train: ") and "LoRA" not in line]
    checks.that(done.returncode == 4 and len(errors) == 1 and "step-00000003/state.h5" in errors[0], f"a save that fails: code {done.returncode}: {done.stderr}")
    steps = len(harness.read_metrics(run_dir))
    checks.that(3 <= steps <= 6, f"a save that fails: {steps} steps were done, expected 3 to 6")
    checks.that(os.listdir(f"{run_dir}/checkpoints") == [], f"a save that fails left {os.listdir(f'{run_dir}/checkpoints')}")
    harness.mpilora("train", config)
    with open(f"{run_dir}/adapter.h5", "rb") as found, open(f"{whole}/adapter.h5", "rb") as expected:
        checks.that(found.read() == expected.read(), "after a save that failed: adapter.h5 differs from the undisturbed run's")


def check_lost_line(checks, folder, whole):
    """The disk is full when the line of a step is written, a step or a save before the next one: 4, one line on all ranks, no later checkpoint."""
    for step, ranks in ((4, 0), (4, 2), (6, 2), (STEPS, 2)):
        name = f"line-{step}-{ranks}"
        config, run_dir = write_config(folder, name, save_every=3, keep=3), f"{folder}/{name}"
        fault = {"LD_PRELOAD": SHIM, "FAULT_ROOT": f"{run_dir}/metrics.jsonl", "FAULT_CALL": "flush", "FAULT_AT": str(step), "FAULT_DO": "ENOSPC"}
        done = subprocess.run(harness.command("train", config, ranks=ranks), env={**os.environ, **fault}, capture_output=True, text=True, timeout=120)
        errors = [line for line in done.stderr.splitlines() if line.startswith("mpilora train: ") and "LoRA" not in line]
        checks.that(done.returncode == 4 and len(errors) == 1 and f"{run_dir}/metrics.jsonl" in errors[0], f"{name}: code {done.returncode}: {done.stderr}")
        last = max(int(entry[5:]) for entry in os.listdir(f"{run_dir}/checkpoints") if entry.startswith("step-"))
        checks.that(last == (step - 1) // 3 * 3, f"{name}: there is a checkpoint of step {last}")
        harness.mpilora("train", config, ranks=ranks)
        if ranks == 0:
            with open(f"{run_dir}/adapter.h5", "rb") as found, open(f"{whole}/adapter.h5", "rb") as expected:
                checks.that(found.read() == expected.read(), f"{name}: adapter.h5 differs from the undisturbed run's")


def check_cut(checks, folder):
    """saves.jsonl of a run that goes on from step 12 keeps the lines up to there."""
    config, run_dir = write_config(folder, "cut", save_every=6), f"{folder}/cut"
    harness.mpilora("train", config)
    with open(f"{run_dir}/saves.jsonl") as file:
        before = file.read().splitlines()
    for step in (18, STEPS):
        os.truncate(f"{run_dir}/checkpoints/step-{step:08d}/MANIFEST.json", 0)
    done = harness.start("train", config)
    checks.that(done.returncode == 3, f"no checkpoint left: code {done.returncode}, expected 3")
    harness.mpilora("train", config, "--fresh", "--set", "train.keep=9")
    for step in (18, STEPS):
        os.truncate(f"{run_dir}/checkpoints/step-{step:08d}/MANIFEST.json", 0)
    with open(f"{run_dir}/saves.jsonl") as file:
        before = file.read().splitlines()
    harness.mpilora("train", config)
    with open(f"{run_dir}/saves.jsonl") as file:
        after = file.read().splitlines()
    checks.that(after[:2] == before[:2], "saves.jsonl: lines before the checkpoint were changed")
    checks.that([json.loads(line)["step"] for line in after] == [6, 12, 18, STEPS], f"saves.jsonl after going on from step 12: {after}")


def committed(run_dir):
    return sorted(int(name[5:]) for name in os.listdir(f"{run_dir}/checkpoints") if name.startswith("step-"))


def check_best(checks, folder, method, ranks=0):
    """Trained on one data set, evaluated on another: at first that helps, then it harms. The best step's checkpoint is there at the end, and its result beside the last one's."""
    label, name = f"keep_best, {method}", f"best-{method}"
    config, run_dir = write_config(folder, name, method, lr=0.01, valid="other", eval_every=2, keep=2, keep_best=True), f"{folder}/{name}"
    harness.mpilora("train", config, ranks=ranks)
    evaluations, summary = read_lines(f"{run_dir}/evaluations.jsonl"), harness.read_summary(run_dir)
    best = min(evaluations, key=lambda line: line["valid_loss"])
    checks.that(summary["best_step"] == best["step"] and summary["best_loss"] == best["valid_loss"], f"{label}: the summary says {summary['best_step']}, {summary['best_loss']}, best is {best}")
    checks.that(best["step"] < STEPS - 4, f"{label}: the data do not show anything: step {best['step']} is best")
    checks.that(best["step"] in committed(run_dir), f"{label}: the checkpoint of step {best['step']} is gone, there are {committed(run_dir)}")
    bests = [line["step"] for i, line in enumerate(evaluations) if line["valid_loss"] < min([e["valid_loss"] for e in evaluations[:i]], default=1e9)]
    checks.that([line["step"] for line in read_lines(f"{run_dir}/saves.jsonl")] == bests + [STEPS], f"{label}: saves do not follow the best evaluations {bests}")
    best_file = f"{run_dir}/best-adapter.h5" if method == "lora" else f"{run_dir}/best-model.h5"
    extra = ["--adapter", best_file] if method == "lora" else ["--set", f"base={best_file}"]
    again = json.loads(harness.mpilora("eval", config, "--json", *extra))["loss"]
    checks.close(f"{label}: loss of {best_file}", again, best["valid_loss"], 1e-9)
    harness.mpilora("train", config, "--set", f"train.steps={STEPS + 3}", "--set", "train.save_every=1", ranks=ranks)
    checks.that(best["step"] in committed(run_dir), f"{label}: the best checkpoint went when the run went on: {committed(run_dir)}")


def check_times(checks, folder):
    """train.save_every as a time: every step is later than a millisecond after the save before, none is an hour later."""
    for every, expected in (("1h", [STEPS]), ("0.001s", list(range(1, STEPS + 1)))):
        harness.mpilora("train", write_config(folder, f"time-{every}", save_every=every), ranks=2)
        found = [line["step"] for line in read_lines(f"{folder}/time-{every}/saves.jsonl")]
        checks.that(found == expected, f"save_every {every}: saves at {found}, expected {expected}")


def check_bad_values(checks, folder):
    """Refused with file, line and key."""
    for line in ("save_every: ten", "save_every: 10x", "save_every: -1", "save_every: 1.5", "save_every: 0s", "save_every: [1]", "save_every: 5m30", "keep_best: maybe", "keep_best: 1"):
        path, key = f"{folder}/bad.yaml", line.split(":")[0]
        with open(path, "w") as file:
            file.write(f"run: {{dir: {folder}/bad}}\nbase: {folder}/base.h5\ndata: {{train: {folder}/data.h5}}\ntrain:\n  steps: 2\n  {line}\n")
        done = harness.start("train", path)
        checks.that(done.returncode == 2 and f"bad.yaml:6: train.{key}" in done.stderr, f"{line}: code {done.returncode}: {done.stderr}")
    done = harness.start("train", write_config(folder, "blind", keep_best=True), "--set", "data.valid=null")
    checks.that(done.returncode == 2 and "train.keep_best" in done.stderr, f"keep_best without data.valid: code {done.returncode}: {done.stderr}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        whole = check_metrics(checks, folder, "lora", 0)
        check_metrics(checks, folder, "lora", 2)
        check_metrics(checks, folder, "full", 2)
        if SHIM:
            check_failure(checks, folder, whole)
            check_lost_line(checks, folder, whole)
        check_cut(checks, folder)
        check_best(checks, folder, "lora")
        check_best(checks, folder, "full", 2)
        check_times(checks, folder)
        check_bad_values(checks, folder)
    checks.end()


main()
