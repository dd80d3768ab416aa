"""16 simulated ranks: nobody waits for ever, what is sent is what the formulas say, a pipeline waits as long as its formula says, and a step takes what plan says."""

import sys
import tempfile

import yaml

from cluster import describe, plan, simulate, skip_where_missing, summed_bytes
from harness import SOURCE

MACHINE, MODEL = f"{SOURCE}/configs/machines/fat-tree-2x100g.yaml", f"{SOURCE}/configs/models/gpt3-125m.yaml"
RANK = 32  # so that each sum of a stage is one of those that messages.c counts
METHOD = {"name": "lora", "rank": RANK, "targets": ["q", "v"]}


def check(what, found, expected, within):
    print(f"{what}: {found:g}, expected {expected:g}")
    if not abs(found - expected) <= within * expected:
        sys.exit(f"{what}: {found}, expected {expected} within {within:.1%}")


def test_run(folder):
    """GPT-2's smallest on 2 nodes of 8 ranks, tp 2 × pp 4 × dp 2."""
    tp, pp, dp, micros, length, layers, width = 2, 4, 2, 8, 512, 12, 768
    describe(folder, model=MODEL, method=METHOD, length=length, micro=1, micros=micros, tp=tp, pp=pp, dp=dp, steps=2)
    metrics, sent = simulate(folder, MACHINE, tp * pp * dp, 8)
    expected, step = plan(folder, MACHINE, tp * pp * dp, 8), metrics[-1]
    check("bytes of gradients", step["allreduce_bytes"], expected["allreduce_bytes_per_step"], 0)
    check("bytes that the busiest rank sends to its neighbours", step["piped_bytes"], expected["piped_bytes_per_step"], 0)
    check("bytes between stages", sum(sent["piped_inside"]) + sum(sent["piped_between"]),
          len(metrics) * tp * dp * micros * 2 * (pp - 1) * 4 * (length - 1) * width, 0)
    check("bytes of sums", sum(sent["sums_inside"]) + sum(sent["sums_between"]), len(metrics) * summed_bytes(RANK, layers, width, length - 1, tp, pp, dp, micros), 1e-6)
    check("a step's seconds", step["step_s"], expected["time"]["step_s"], 0.1)


def test_bubble(folder):
    """Stages of equal work, and a network that takes no time: of n + P − 1 parts of a step each stage waits P − 1."""
    with open(MACHINE, encoding="utf-8") as file:
        machine = yaml.safe_load(file)
    machine["network"] = {"inside_latency_s": 0.0, "inside_bytes_per_s": 1e15, "between_latency_s": 0.0, "between_bytes_per_s": 1e15}
    with open(f"{folder}/machine.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump(machine, file)
    with open(f"{folder}/stages.yaml", "w", encoding="utf-8") as file:
        file.write("family: gpt2\nlayers: 128\nwidth: 512\nheads: 8\nvocab: 64\ncontext: 128\n")
    for pp, micros in ((4, 4), (8, 16), (16, 8)):
        describe(folder, model=f"{folder}/stages.yaml", method=METHOD, length=128, micro=1, micros=micros, tp=1, pp=pp, dp=1)
        step = simulate(folder, f"{folder}/machine.yaml", pp, pp)[0][-1]
        waits = 1.0 - (step["forward_s"] + step["backward_s"]) / step["step_s"]
        check(f"{pp} stages, {micros} micro-batches: waiting", waits, (pp - 1) / (micros + pp - 1), 0.1)


def main():
    skip_where_missing()
    for test in (test_run, test_bubble):
        with tempfile.TemporaryDirectory() as folder:
            test(folder)


main()
