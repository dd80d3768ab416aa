"""Time by phase: forward, backward, comm, optimizer, data and a small rest add up to each step, in metrics.jsonl, in summary.json and in the table at the end;
sums inside forward and backward count as communication, and a rank that waits for a slower one says so."""

import json
import os
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

PHASES = ["forward", "backward", "comm", "optimizer", "data", "other"]
MODEL = "{family: llama, layers: 2, width: 128, mlp_width: 384, heads: 4, vocab: 257, context: 256}"
STEPS = 6
checks = harness.Checks()


def prepare(folder, name, lengths):
    """A base (once) and a data set of sequences of these lengths; returns the paths of both."""
    base, lines, data = (os.path.join(folder, file) for file in ("base.h5", name + ".jsonl", name + ".h5"))
    if not os.path.exists(base):
        model = os.path.join(folder, "model.yaml")
        with open(model, "w") as file:
            file.write(MODEL)
        harness.mpilora("import", "--init", "random", "--config", model, base)
    with open(lines, "w") as file:
        for i, length in enumerate(lengths):
            file.write(json.dumps({"input_ids": [(7 * i + 11 * j) % 257 for j in range(length)]}) + "\n")
    harness.mpilora("tokenize", "--base", base, lines, data, "--format", "ids")
    return base, data


def train(folder, base, data, ranks, tp, sequences):
    """Standard error, metrics and summary of a run."""
    run = os.path.join(folder, f"run-{os.path.basename(data)}-{ranks}-{tp}")
    config = harness.write_config(run + ".yaml", run={"dir": run}, base=base, method={"targets": ["all"]},
                                  data={"train": data, "max_len": 256, "shuffle": False}, batch={"sequences": sequences, "micro": 2},
                                  train={"steps": STEPS}, parallel={"tp": tp}, kernels={"product": "blas"})
    done = harness.start("train", config, ranks=ranks)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stderr, harness.read_metrics(run), harness.read_summary(run)


def check_sum(what, line):
    """The phases of a step, or of the mean step, make the whole of it."""
    total, step = sum(line[phase + "_s"] for phase in PHASES), line["step_s"]
    checks.close(f"{what}: sum of the phases", total, step, 1e-3)
    checks.that(all(line[phase + "_s"] >= 0 for phase in PHASES), f"{what}: a negative time in {line}")
    computed = step - line["comm_s"]  # ranks that share cores with other programs wait for each other at length
    checks.that(line["forward_s"] > 0.05 * computed and line["backward_s"] > 0.05 * computed, f"{what}: forward or backward is missing in {line}")
    checks.that(line["optimizer_s"] > 0 and line["data_s"] > 0, f"{what}: optimizer or data is missing in {line}")
    checks.that(-1e-12 <= line["wait_s"] <= line["comm_s"] + 1e-12, f"{what}: waited {line['wait_s']} s of {line['comm_s']} s in collectives")


def check_grids(folder):
    base, data = prepare(folder, "even", [200] * 4)
    for ranks, tp in ((1, 1), (2, 1), (2, 2)):
        what = f"{ranks} ranks, tp {tp}"
        text, metrics, summary = train(folder, base, data, ranks, tp, 4)
        for line in metrics:
            check_sum(f"{what}, step {line['step']}", line)
        unnamed = [line["other_s"] / line["step_s"] for line in metrics]  # the median: other programs may interrupt a step between two phases
        checks.that(statistics.median(unnamed) <= 0.02, f"{what}: shares of the steps that belong to no phase: {unnamed}")
        check_sum(f"{what}, summary", summary["phases"])
        checks.that(("wait_s_by_rank" in summary["phases"]) == (ranks > 1) == ("slowest_rank" in summary["phases"]), f"{what}: waits by rank: {summary['phases']}")
        for key in [phase + "_s" for phase in PHASES] + ["step_s", "wait_s"]:
            mean = sum(line[key] for line in metrics) / STEPS
            checks.that(abs(summary["phases"][key] - mean) <= 1e-6 * summary["phases"]["step_s"], f"{what}: {key} {summary['phases'][key]}, mean {mean}")
        checks.that((summary["phases"]["comm_s"] > 0) == (ranks > 1), f"{what}: {summary['phases']['comm_s']} s of communication")
        for phase in PHASES:
            checks.that(f"\n    {phase} " in text, f"{what}: the table at the end has no line for {phase}:\n{text}")
        checks.that(("waiting for slower ranks" in text) == (ranks > 1), f"{what}: a line about waiting is wrong or missing:\n{text}")


def check_waiting(folder):
    """dp 2: replica 0 has 4 tokens and waits for replica 1, which has 250; and the other way round."""
    for name, lengths, waits in (("short", [4, 250], True), ("long", [250, 4], False)):
        base, data = prepare(folder, name, lengths)
        text, metrics, summary = train(folder, base, data, 2, 1, 2)
        phases = summary["phases"]
        share = phases["wait_s"] / (phases["step_s"] if waits else phases["comm_s"])
        checks.that(share > 0.3 if waits else share < 0.3, f"rank 0 has the {name} sequence, yet: {phases}")
        slow = 1 if waits else 0
        by_rank = phases["wait_s_by_rank"]
        checks.that(phases["slowest_rank"] == slow and len(by_rank) == 2 and by_rank[slow] < 0.1 * by_rank[1 - slow], f"rank {slow} has the long sequence, yet: {phases}")
        checks.that(f"; rank {slow} waited least, the others " in text, f"rank {slow} is not named:\n{text}")
        for line in metrics:
            checks.that(len(line["wait_s_by_rank"]) == 2 and min(line["wait_s_by_rank"]) == 0 and abs(line["wait_s_by_rank"][0] - line["wait_s"]) <= 0.01 * line["wait_s"], f"waits by rank: {line}")


with tempfile.TemporaryDirectory() as folder:
    check_grids(folder)
    check_waiting(folder)
checks.end()
