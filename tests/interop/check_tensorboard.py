"""TensorBoard's own readers on what runs write: the page's default one, EventAccumulator and, where the package brings its server, the page itself. A run that was killed between two steps,
or stopped by a signal, lost its newest steps and a piece of its last record, and went on, on one rank and on two; each of several runs of a job; preferences, whose tags are TRL's. A resumed
run is one curve in all of them. For developers; needs the package tensorboard:

    MPILORA=build/mpilora MPILORA_SOURCE_DIR=. venv/bin/python tests/interop/check_tensorboard.py
"""

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from tensorboard.backend.event_processing import directory_watcher, event_file_loader, io_wrapper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: gpt2, layers: 1, width: 32, heads: 4, mlp_width: 64, vocab: 257, context: 64}\n"
STEPS = 10
PLAIN = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm"}
# What TRL 1.16's trainers log of an objective, and our names of it.
REWARDS = {f"{what}/{side}": f"{what}_{side}" for what in ("rewards", "logps") for side in ("chosen", "rejected")} | {"rewards/margins": "rewards_margin"}
TAGS = {
    "dpo": REWARDS | {"rewards/accuracies": "rewards_accuracy"},
    "simpo": REWARDS | {"rewards/accuracies": "rewards_accuracy"},
    "orpo": REWARDS | {"rewards/accuracies": "rewards_accuracy"},
    "kto": REWARDS | {"kl": "kl"},
    "reward": {"accuracy": "rewards_accuracy", "margin": "rewards_margin"},
}
check = harness.Checks()


def page_curve(folder, tag):
    """What the page's reader in Python keeps: a step at or below an earlier one drops what stands from it on."""
    watcher = directory_watcher.DirectoryWatcher(folder, event_file_loader.LegacyEventFileLoader, io_wrapper.IsTensorFlowEventsFile)
    curve = {}
    for event in watcher.Load():
        for value in event.summary.value:
            if value.tag == tag:
                curve = {step: kept for step, kept in curve.items() if step < event.step}
                curve[event.step] = value.simple_value
    return curve


def served_curves(folder, wanted):
    """(run, tag) → [[time, step, value], …] by the page's own server; {} where it does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open("served.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", str(port)], stdout=log, stderr=log)
    address, found = f"http://127.0.0.1:{port}/data/plugin/scalars", {}
    try:
        for _ in range(300):
            time.sleep(0.2)
            if server.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{address}/tags", timeout=10) as answer:
                    tags = json.load(answer)
            except OSError:
                continue
            if all(tag in tags.get(run, {}) for run, tag in wanted):
                break
        for run, tag in wanted if server.poll() is None else ():
            with urllib.request.urlopen(f"{address}/scalars?{urllib.parse.urlencode({'run': run, 'tag': tag})}", timeout=10) as answer:
                found[run, tag] = json.load(answer)
    finally:
        server.terminate()
        server.wait()
    return found


def configure(name, objective="sft", data=None, runs=None, **train):
    data = data or ("pairs.h5" if objective not in ("sft", "kto") else "data.h5")
    listed = {"runs": runs} if runs else {}
    return harness.write_config(f"{name}.yaml", run={"dir": name}, base="base.h5", data={"train": data, "valid": data}, batch={"sequences": 4, "micro": 2}, objective={"name": objective},
                                method={"name": "lora", "rank": 2}, optim={"lr": 1e-2}, train={"steps": STEPS, "save_every": 4, "keep": 9, "eval_every": 5, **train}, precision="fp32", **listed)


def compare(run, tags=None):
    """All of a run's curves, by both readers in Python, beside metrics.jsonl and evaluations.jsonl."""
    accumulator = EventAccumulator(f"{run}/tb")
    accumulator.Reload()
    with open(f"{run}/evaluations.jsonl") as file:
        evaluations = [json.loads(line) for line in file]
    names = {f"train/{tag}": (key, harness.read_metrics(run)) for tag, key in {**PLAIN, **(tags or {})}.items()}
    names |= {f"eval/{tag}": (key, evaluations) for tag, key in {"loss": "valid_loss", **(tags or {})}.items()}
    missing = names.keys() - set(accumulator.Tags()["scalars"])
    check.that(not missing, f"{run}: no curves {missing}; there are {accumulator.Tags()['scalars']}")
    for tag, (key, lines) in names.items():
        if tag in missing:
            continue
        lines = [line for line in lines if key in line]
        steps, values = [line["step"] for line in lines], [line[key] for line in lines]
        events, page = accumulator.Scalars(tag), page_curve(f"{run}/tb", tag)
        for what, found in (("EventAccumulator", [(event.step, event.value) for event in events]), ("the page", list(page.items()))):
            check.that([step for step, _ in found] == steps and len(steps) > 1, f"{run}, {tag}: {what} has steps {[step for step, _ in found]}, expected {steps}")
            # values near 0 are what rounding leaves, and fp32 has them as they are
            good = all(abs(a - b) <= 1e-6 * abs(b) + 1e-30 for (_, a), b in zip(found, values))
            check.that(good, f"{run}, {tag}: {what} has {found}, expected {values}")
    return names


def go_back(run):
    """As if killed at step 10, with half a record in the file, and nothing saved since step 8."""
    for path in glob.glob(f"{run}/checkpoints/step-*"):
        if int(path[-8:]) > 8:
            shutil.rmtree(path)
    with open(max(glob.glob(f"{run}/tb/*")), "ab") as file:
        file.write(b"\x28\0\0\0torn")


def stop(config, watched, how, ranks=0):
    """The job is ended by a signal to its ranks after its third step; whether it was."""
    process = subprocess.Popen(harness.command("train", config, "--set", "train.steps=1000", ranks=ranks), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and harness.count_lines(f"{watched}/metrics.jsonl") < 3:
        time.sleep(0.005)
    for rank in harness.ranks_of(process.pid):
        os.kill(rank, how)
    process.wait(timeout=60)
    return process.returncode


def check_resumed():
    for ranks in (0, 2):
        name = f"resumed-{ranks}"
        config = configure(name)
        harness.mpilora("train", config, ranks=ranks)
        compare(name)
        for _ in range(2):
            go_back(name)
            harness.mpilora("train", config, ranks=ranks)
        check.that(len(glob.glob(f"{name}/tb/*")) == 3, f"{name}: {os.listdir(f'{name}/tb')}")
        compare(name)


def check_stopped():
    for how, code in ((signal.SIGKILL, None), (signal.SIGUSR1, 75)):
        for ranks in (0, 2):
            name = f"{how.name}-{ranks}"
            config = configure(name, save_every=2, eval_every=2)
            ended = stop(config, name, how, ranks)
            check.that(code is None or ended == code, f"{name}: exit {ended}")
            newest = max([0, *(int(path[-8:]) for path in glob.glob(f"{name}/checkpoints/step-*"))])
            harness.mpilora("train", config, "--set", f"train.steps={newest + 7}", ranks=ranks)
            check.that(len(glob.glob(f"{name}/tb/*")) == 2, f"{name}: {os.listdir(f'{name}/tb')}")
            compare(name)


def check_together():
    """A job of several runs, one of which is short: killed, then gone on with."""
    runs = [{"dir": f"jobs/{name}", "set": sets} for name, sets in (("a", {}), ("b", {"optim.lr": 0.02}), ("short", {"train.steps": 6, "train.eval_every": 3}), ("dpo", {"objective.name": "dpo", "data.train": "pairs.h5", "data.valid": "pairs.h5"}))]
    os.makedirs("jobs")
    config = configure("jobs/none", runs=runs)
    harness.mpilora("train", config)
    for run in ("a", "b", "dpo"):
        go_back(f"jobs/{run}")
    harness.mpilora("train", config)
    for run in ("a", "b", "short"):
        compare(f"jobs/{run}")
    compare("jobs/dpo", TAGS["dpo"])


def check_preferences():
    for objective, tags in TAGS.items():
        config = configure(objective, objective, data="judged.h5" if objective == "kto" else None)
        harness.mpilora("train", config)
        go_back(objective)
        harness.mpilora("train", config)
        compare(objective, tags)


def check_page():
    """The page's server on all runs at once."""
    wanted = [(f"{run}/tb", tag) for run in ("resumed-0", "resumed-2", "SIGKILL-0", "SIGUSR1-2", "jobs/a", "jobs/short", "dpo", "kto", "reward") for tag in ("train/loss", "eval/loss")]
    found = served_curves(".", wanted)
    if not found:
        with open("served.log") as file:
            print("the page was not looked at: its server does not start here:", file.read().strip()[-300:])
        return
    for (run, tag), curve in found.items():
        folder = os.path.dirname(run)
        with open(f"{folder}/{'metrics' if tag == 'train/loss' else 'evaluations'}.jsonl") as file:
            lines = [json.loads(line) for line in file]
        key = "loss" if tag == "train/loss" else "valid_loss"
        check.that([step for _, step, _ in curve] == [line["step"] for line in lines], f"the page, {run}, {tag}: steps {[step for _, step, _ in curve]}")
        check.close(f"the page, {run}, {tag}", [value for _, _, value in curve], [line[key] for line in lines], 1e-6)
    print(f"the page: {len(found)} curves")


def write_rows(name, rows):
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    harness.mpilora("tokenize", "--base", "base.h5", f"{name}.jsonl", f"{name}.h5")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        harness.make_base(".", MODEL, "fp32")
        harness.make_data(".", [[(i * i + 7 * j) % 257 for j in range(10 + i)] for i in range(16)])
        prompt, answers = [3, 5, 8, 13], [[(5 * i + 3 * j) % 250 + 1 for j in range(3 + i % 4)] for i in range(13)]
        write_rows("pairs", [{"prompt_ids": [*prompt, i], "chosen_ids": answers[i], "rejected_ids": answers[i + 1]} for i in range(12)])
        write_rows("judged", [{"prompt_ids": [*prompt, i], "completion_ids": answers[i], "label": i % 2 > 0} for i in range(12)])
        for test in (check_resumed, check_stopped, check_together, check_preferences, check_page):
            test()
        os.chdir("/")
    check.end()


main()
