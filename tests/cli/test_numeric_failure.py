"""Numbers that stop being numbers: exit code 5 names step and tensor, nothing that holds them is saved or written, and a resumed run may leave them behind
with another optim.lr, which it records."""

import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: llama, layers: 2, width: 64, heads: 4, kv_heads: 2, mlp_width: 128, vocab: 257, context: 64}"
NUMERIC, USAGE = 5, 2
TENSOR = "layers.0.attn.q.lora_"
# The parameters of the next step are finite, what the model makes of them is not.
TOO_LARGE = "optim.lr=1e30"
checks = harness.Checks()


def configure(folder, name, **changes):
    sections = {"run": {"dir": f"{folder}/{name}"}, "base": f"{folder}/base.h5", "method": {"rank": 4, "dropout": 0.1}, "data": {"train": f"{folder}/data.h5"},
                "batch": {"sequences": 4, "micro": 2}, "optim": {"lr": 1e-3}, "train": {"steps": 6, "save_every": 1}, "kernels": {"product": "native"}}
    for section, values in changes.items():
        sections[section] = {**sections[section], **values}
    return harness.write_config(f"{folder}/{name}.yaml", **sections)


def checkpoints(run_dir):
    return sorted(name for name in os.listdir(f"{run_dir}/checkpoints") if name.startswith("step-"))


def train(config, *options, ranks=0, sets=()):
    return harness.start("train", config, *[word for value in sets for word in ("--set", value)], *options, ranks=ranks)


def check_no_nan(what, run_dir):
    for name in os.listdir(run_dir):
        if name.endswith((".json", ".jsonl")):
            with open(f"{run_dir}/{name}") as file:
                for line in [file.read()] if name.endswith(".json") else file:
                    json.loads(line, parse_constant=lambda word, name=name, line=line: checks.that(False, f"{what}: {name} has {word}: {line}"))


def expect_failure(what, done, run_dir, words, saved):
    checks.that(done.returncode == NUMERIC, f"{what}: exit code {done.returncode}, expected {NUMERIC}: {done.stderr}")
    for word in words:
        checks.that(word in done.stderr, f"{what}: \"{word}\" is missing in: {done.stderr}")
    checks.that(checkpoints(run_dir) == saved, f"{what}: {checkpoints(run_dir)}, expected {saved}")
    left = [name for name in os.listdir(run_dir) if name.endswith(".h5")]
    checks.that(not left, f"{what}: {left} should not be there")
    check_no_nan(what, run_dir)


def check_after_update(folder, ranks, steps, found, data=None, **train_keys):
    """An update that overflows fp32: the factor of lora_plus brings B beyond it. It is found before a save, else by the next step."""
    what = f"after update, {ranks} ranks, {steps} steps, {train_keys}"
    name = f"update-{ranks}-{steps}-{len(train_keys)}"
    config = configure(folder, name, method={"lora_plus": 1e9}, train={"steps": steps, **train_keys}, data=data or {})
    done = train(config, ranks=ranks, sets=[TOO_LARGE, f"memory.shard_optimizer={'true' if ranks else 'false'}"])
    expect_failure(what, done, f"{folder}/{name}", [f"step {found}:", "parameter", TENSOR, "lora_B"], [])


def check_next_step(folder, ranks):
    """The checkpoint of a step whose next loss is not finite does not stay the newest."""
    name = f"next-{ranks}"
    config = configure(folder, name)
    harness.mpilora("train", config, "--set", "train.steps=3", ranks=ranks)
    os.remove(f"{folder}/{name}/adapter.h5")
    what = f"next step, {ranks} ranks"
    done = train(config, ranks=ranks, sets=[TOO_LARGE])
    checks.that(done.returncode == USAGE and "--allow-change optim.lr" in done.stderr, f"{what}: exit code {done.returncode}: {done.stderr}")
    done = train(config, "--allow-change", "optim.lr", ranks=ranks, sets=[TOO_LARGE])
    expect_failure(what, done, f"{folder}/{name}", ["step 5:", TENSOR], ["step-00000003"])
    return config


def read_changes(path):
    with open(path) as file:
        return [(change["key"], float(change["from"]), float(change["to"]), change["step"]) for change in json.load(file).get("allowed_changes", [])]


def check_allowed_change(folder):
    """The newest good checkpoint goes on with another value: the results of a run that had it from there on."""
    config = check_next_step(folder, 0)
    run_dir = f"{folder}/next-0"
    harness.mpilora("train", config)  # with the value that the newest checkpoint has: not a change
    checks.that(read_changes(f"{run_dir}/summary.json") == [], "a run that went back to its own value has changes")
    plain = configure(folder, "plain")
    harness.mpilora("train", plain)
    with open(f"{run_dir}/adapter.h5", "rb") as one, open(f"{folder}/plain/adapter.h5", "rb") as other:
        checks.that(one.read() == other.read(), "after a failure and a resume the adapter differs from that of a run without the failure")

    config, run_dir = configure(folder, "changed"), f"{folder}/changed"
    harness.mpilora("train", config, "--set", "train.steps=2")
    harness.mpilora("train", config, "--set", "train.steps=4", "--set", "optim.lr=2e-3", "--allow-change=optim.lr", "--allow-change", "optim.eps")
    expected = [("optim.lr", 1e-3, 2e-3, 2)]
    checks.that(read_changes(f"{run_dir}/checkpoints/step-00000004/MANIFEST.json") == expected, "the manifest does not name the change")
    checks.that([line["lr"] for line in harness.read_metrics(run_dir)][2:] == [2e-3, 2e-3], "the new lr was not taken")
    done = train(config)
    checks.that(done.returncode == USAGE and "optim.lr" in done.stderr and "step 4" in done.stderr,
                f"a resume without the option: exit code {done.returncode}: {done.stderr}")
    checks.that(checkpoints(run_dir) == ["step-00000003", "step-00000004"], f"a refused resume left {checkpoints(run_dir)}")
    harness.mpilora("train", config, "--set", "optim.lr=2e-3", "--set", "train.steps=5")
    harness.mpilora("train", config, "--set", "optim.lr=4e-3", "--allow-change", "optim.lr")
    expected.append(("optim.lr", 2e-3, 4e-3, 5))
    checks.that(read_changes(f"{run_dir}/summary.json") == expected, f"summary.json has {read_changes(f'{run_dir}/summary.json')}, expected {expected}")
    harness.mpilora("train", config, "--fresh", "--set", "train.steps=1")
    checks.that(read_changes(f"{run_dir}/summary.json") == [], "a fresh run has the changes of the one before")


def check_keys(folder):
    config = configure(folder, "keys")
    for key in ("method.rank", "optim", "optim.lrr", "batch.sequences", "lr"):
        done = train(config, "--allow-change", key)
        checks.that(done.returncode == USAGE and key in done.stderr, f"--allow-change {key}: exit code {done.returncode}: {done.stderr}")


def check_evaluation(folder):
    """Finite parameters, and a loss on data.valid that is not."""
    config = configure(folder, "evaluation", train={"steps": 1}, data={"valid": f"{folder}/data.h5"})
    expect_failure("evaluation", train(config, sets=[TOO_LARGE]), f"{folder}/evaluation", ["step 1:", "data.valid"], [])


with tempfile.TemporaryDirectory() as folder:
    harness.make_base(folder, MODEL)
    harness.make_data(folder, [[(i * i + 7 * j + j * j * i) % 257 for j in range(20 + i % 20)] for i in range(40)])
    for ranks in (0, 2):
        check_after_update(folder, ranks, 1, 1)
        check_after_update(folder, ranks, 3, 2, save_every=2)
    check_after_update(folder, 0, 1, 1, save_every=0)
    check_after_update(folder, 0, 2, 1, {"valid": f"{folder}/data.h5"}, save_every=0, eval_every=1, keep_best=True)
    check_next_step(folder, 2)
    check_allowed_change(folder)
    check_keys(folder)
    check_evaluation(folder)
checks.end()
