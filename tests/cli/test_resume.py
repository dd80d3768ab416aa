"""Stopping and going on: a run that signals stopped, started again by the same command, ends with the same bytes as one that was never stopped."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

STOPPED = 75
STEPS = 40
MODEL = """
family: llama
layers: 3
width: 128
heads: 4
kv_heads: 2
mlp_width: 384
vocab: 257
context: 128
"""
METHODS = {
    "lora": {"name": "lora", "rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["all"]},
    "full": {"name": "full"},
}
RESULT = {"lora": "adapter.h5", "full": "model.h5"}


def prepare(folder):
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(i * i + 7 * j + j * j * i) % 257 for j in range(40 + i % 60)] for i in range(50)])


def write_config(folder, name, method, precision="fp32", kernels=None, tp=1):
    sections = {
        "run": {"dir": f"{folder}/{name}", "seed": 3},
        "base": f"{folder}/base.h5",
        "method": METHODS[method],
        "data": {"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5", "shuffle": True},
        "batch": {"sequences": 8, "micro": 4},
        "optim": {"lr": 1e-3, "schedule": "cosine", "warmup": 5},
        "train": {"steps": STEPS, "save_every": 6, "keep": 2},
        "parallel": {"tp": tp},
        "precision": precision,
    }
    if kernels:
        sections["kernels"] = kernels
    return harness.write_config(f"{folder}/{name}.yaml", **sections)


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def try_to_stop(config, run_dir, lines, number, ranks):
    """None where the run was through before the signal came: a busy machine."""
    process = subprocess.Popen(harness.command("train", config, ranks=ranks), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    end = time.monotonic() + 60
    while harness.count_lines(f"{run_dir}/metrics.jsonl") < lines and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    late = process.poll() == 0
    for pid in [] if late else harness.ranks_of(process.pid) if ranks and number == signal.SIGTERM else [process.pid]:
        os.kill(pid, number)
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        sys.exit(f"{config}: still running 60 s after signal {number}")
    return None if late else (process.returncode, said)


def stop_at(config, run_dir, lines, number, ranks):
    """Starts training, sends the signal once metrics.jsonl has `lines` lines: the exit code and what was said. TERM goes to each rank as srun
    sends it, USR1 through mpirun."""
    before = f"{run_dir}.before"
    if os.path.exists(run_dir):
        shutil.copytree(run_dir, before)
    for _ in range(5):
        stopped = try_to_stop(config, run_dir, lines, number, ranks)
        if stopped:
            break
        shutil.rmtree(run_dir)
        if os.path.exists(before):
            shutil.copytree(before, run_dir)
    shutil.rmtree(before, ignore_errors=True)
    return stopped or sys.exit(f"{config}: five times the run was through before line {lines} was seen")


def numbers(run_dir):
    """What must not depend on interruptions: all but times and memory."""
    keep = ("step", "loss", "lr", "grad_norm", "tokens", "allreduce_bytes")
    return [[line[key] for key in keep] for line in harness.read_metrics(run_dir)]


def check_same(checks, folder, method, precision, ranks=0, tp=1):
    """One run that nothing stopped, and one stopped twice; bit for bit the same."""
    label = f"{method}, {precision}, {ranks or 1} ranks, tp {tp}"
    whole, broken = (f"{method}-{precision}-{ranks}-{part}" for part in ("whole", "broken"))
    harness.mpilora("train", write_config(folder, whole, method, precision, tp=tp), ranks=ranks)
    summary = harness.read_summary(f"{folder}/{whole}")
    kernels = {"product": summary["product_path"], "vector": summary["vector_path"]}  # measured anew, another path may win
    config, run_dir = write_config(folder, broken, method, precision, kernels, tp), f"{folder}/{broken}"
    for lines, number in ((9, signal.SIGTERM), (20, signal.SIGUSR1)):
        code, said = stop_at(config, run_dir, lines, number, ranks)
        checks.that(code == STOPPED, f"{label}: exit code {code} after signal {number}, expected {STOPPED}: {said}")
        done = harness.count_lines(f"{run_dir}/metrics.jsonl")
        checks.that(lines <= done < STEPS, f"{label}: {done} lines in metrics.jsonl after a stop at line {lines}")
        before = read_bytes(f"{run_dir}/metrics.jsonl")
    harness.mpilora("train", config, ranks=ranks)
    checks.that(read_bytes(f"{run_dir}/metrics.jsonl").startswith(before), f"{label}: lines of metrics.jsonl were changed by the resumed run")
    checks.that(numbers(run_dir) == numbers(f"{folder}/{whole}"), f"{label}: metrics.jsonl differs from the run that nothing stopped")
    results = [read_bytes(f"{folder}/{name}/{RESULT[method]}") for name in (whole, broken)]
    checks.that(results[0] == results[1], f"{label}: {RESULT[method]} differs from the run that nothing stopped")
    losses = [harness.read_summary(f"{folder}/{name}")["valid_loss"] for name in (whole, broken)]
    checks.that(losses[0] == losses[1], f"{label}: valid_loss {losses[1]}, expected {losses[0]}")
    return f"{folder}/{whole}", config, run_dir


def check_other_grid(checks, folder, whole):
    """Stopped on one rank, gone on with on dp 2, then on tp 2."""
    config, run_dir = write_config(folder, "moved", "lora"), f"{folder}/moved"
    code, said = stop_at(config, run_dir, 9, signal.SIGTERM, 0)
    checks.that(code == STOPPED, f"other grid: exit code {code}: {said}")
    code, said = stop_at(config, run_dir, 20, signal.SIGTERM, 2)
    checks.that(code == STOPPED, f"other grid, dp 2: exit code {code}: {said}")
    harness.mpilora("train", config, "--set", "parallel.tp=2", "--set", "batch.micro=3", ranks=2)
    for key in ("loss", "grad_norm"):
        found, expected = ([line[key] for line in harness.read_metrics(path)] for path in (run_dir, whole))
        checks.close(f"other grid: {key}", found, expected, 1e-5)


def check_finished(checks, config, run_dir):
    """Starting a finished run again changes nothing."""
    files = [f"{run_dir}/{name}" for name in ("adapter.h5", "metrics.jsonl", "summary.json")]
    before = [(read_bytes(path), os.stat(path).st_mtime_ns, os.stat(path).st_ino) for path in files]
    for ranks in (0, 2):
        harness.mpilora("train", config, ranks=ranks, timeout=20)
    after = [(read_bytes(path), os.stat(path).st_mtime_ns, os.stat(path).st_ino) for path in files]
    checks.that(before == after, "a finished run: its files were touched")


def check_refused(checks, config, run_dir):
    """What must be the same on resuming: refused with the key and both values, on any number of ranks; the run stays as it was."""
    changes = {
        "optim.lr": ("0.002", "0.001"),
        "method.rank": ("8", "4"),
        "batch.sequences": ("6", "8"),
        "run.seed": ("4", "3"),
        "data.shuffle": ("false", "true"),
        "precision": ("bf16", "fp32"),
        "data.max_len": ("50", ""),
    }
    before = read_bytes(f"{run_dir}/adapter.h5"), read_bytes(f"{run_dir}/metrics.jsonl")
    for key, values in changes.items():
        for ranks in (0, 2):
            done = harness.start("train", config, "--set", f"{key}={values[0]}", ranks=ranks, timeout=20)
            says = key.split(".")[-1] in done.stderr and all(value in done.stderr for value in values)
            checks.that(done.returncode == 2 and says, f"{key} changed, {ranks} ranks: code {done.returncode}, expected 2 and both values: {done.stderr}")
    after = read_bytes(f"{run_dir}/adapter.h5"), read_bytes(f"{run_dir}/metrics.jsonl")
    checks.that(before == after, "a refused resume changed the run's files")


def check_more_steps_and_fresh(checks, config, run_dir):
    harness.mpilora("train", config, "--set", f"train.steps={STEPS + 5}")
    checks.that(len(numbers(run_dir)) == STEPS + 5, "train.steps raised: the run did not go on")
    done = harness.start("train", config)
    checks.that(done.returncode == 2 and str(STEPS) in done.stderr, f"train.steps lowered: code {done.returncode}: {done.stderr}")
    harness.mpilora("train", config, "--fresh", "--set", "train.steps=3")
    steps = [line[0] for line in numbers(run_dir)]
    checks.that(steps == [1, 2, 3], f"--fresh: steps {steps}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        whole, config, run_dir = check_same(checks, folder, "lora", "fp32")
        check_same(checks, folder, "lora", "bf16", ranks=2, tp=2)
        check_same(checks, folder, "full", "bf16", ranks=2)
        check_other_grid(checks, folder, whole)
        check_finished(checks, config, run_dir)
        check_refused(checks, config, run_dir)
        check_more_steps_and_fresh(checks, config, run_dir)
    checks.end()


main()
