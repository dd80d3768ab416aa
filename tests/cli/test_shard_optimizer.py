"""memory.shard_optimizer: replicas divide the optimizer's moments (ZeRO's first stage). Losses and results are those of whole moments, a rank holds its share of them and
no more, plan says so, and a run may change its mind when it is resumed, on any grid."""

import json
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: gpt2, layers: 3, width: 384, heads: 4, vocab: 513, context: 64}"  # full: two pieces of moments
checks = harness.Checks()


def configure(folder, method, **change):
    return harness.write_config(
        f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/base.h5", method={"name": method, "rank": 4},
        data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5", "max_len": 48}, batch={"sequences": 8, "micro": 2},
        optim={"lr": 1e-3, "clip_norm": 0.5}, train={"steps": 4, **change.pop("train", {})}, kernels={"product": "blas"}, **{"precision": "fp32", **change})


def train(folder, *words, ranks=0, keep=False):
    if not keep:
        shutil.rmtree(f"{folder}/run", ignore_errors=True)
    harness.mpilora("train", f"{folder}/run.yaml", *words, ranks=ranks)
    return [m["loss"] for m in harness.read_metrics(f"{folder}/run")], harness.read_summary(f"{folder}/run")


def divided(tp=1):
    return "--set", "memory.shard_optimizer=true", "--set", f"parallel.tp={tp}"


def check_grids(folder, method, precision):
    """Every grid beside one rank, and what a rank holds beside plan."""
    configure(folder, method, precision=precision)
    near = 1e-6 if precision == "fp32" else 2e-3
    alone, _ = train(folder)
    for ranks, tp in ((2, 1), (4, 1), (4, 2)):
        title = f"{method}, {precision}, {ranks} ranks, tp {tp}"
        whole, beside = train(folder, "--set", f"parallel.tp={tp}", ranks=ranks)
        losses, summary = train(folder, *divided(tp), ranks=ranks)
        checks.close(f"{title}: losses", losses, alone, near)
        checks.close(f"{title}: beside whole moments", losses, whole, 1e-6 if precision == "fp32" else near)
        share = summary["memory"]["optimizer"] / beside["memory"]["optimizer"]
        checks.that(abs(share - tp / ranks) < 0.01, f"{title}: a rank holds {share:.4f} of the moments, expected {tp / ranks}")
        checks.that(summary["memory"]["predicted"]["optimizer"] == summary["memory"]["optimizer"], f"{title}: plan says {summary['memory']['predicted']}")
        checks.that(summary["allreduce_bytes_per_step"] == 4 * summary["params_trainable"], f"{title}: payload {summary['allreduce_bytes_per_step']}")
        plan = json.loads(harness.mpilora("plan", f"{folder}/run.yaml", "--ranks", ranks, *divided(tp), "--json"))["methods"]
        planned = next(m for m in plan if m["name"] == method)["per_rank"]["optimizer"]
        checks.that(planned == summary["memory"]["optimizer"], f"{title}: plan {planned}, run {summary['memory']['optimizer']}")


def check_resume(folder, method):
    """From divided to whole and back, over other grids; the best checkpoint's values are found in it too."""
    configure(folder, method, train={"steps": 6, "eval_every": 2, "keep_best": True})
    never, summary = train(folder)
    train(folder, *divided(), "--set", "train.steps=2", ranks=4)
    train(folder, "--set", "parallel.tp=2", "--set", "train.steps=4", ranks=2, keep=True)
    losses, last = train(folder, *divided(2), ranks=4, keep=True)
    checks.close(f"{method}: divided, whole, divided again", losses, never, 1e-5)
    checks.close(f"{method}: validation after it", last["valid_loss"], summary["valid_loss"], 1e-5)
    result = "model.h5" if method == "full" else "adapter.h5"
    checks.that(os.path.exists(f"{folder}/run/best-{result}"), f"{method}: no best-{result}")


def main():
    folder = tempfile.mkdtemp(prefix="mpilora-shard-")
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(7 * i + 11 * j * (1 + i % 2)) % 513 for j in range(20 + i)] for i in range(16)])
    check_grids(folder, "full", "fp32")
    check_grids(folder, "full", "bf16")
    check_grids(folder, "lora", "fp32")
    check_resume(folder, "full")
    check_resume(folder, "lora")
    done = harness.start("plan", configure(folder, "lora"), "--set", "memory.shard_optimizer=perhaps")
    checks.that(done.returncode == 2 and "memory.shard_optimizer" in done.stderr, f"perhaps: exit {done.returncode}: {done.stderr}")
    shutil.rmtree(folder)
    checks.end()


main()
