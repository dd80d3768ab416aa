"""What people watch a run by: TensorBoard's events, rows of CSV, a Prometheus file; and what lengthens or ends it: epochs, an evaluation before the first step, early stopping."""

import csv
import glob
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: gpt2, layers: 2, width: 32, heads: 4, mlp_width: 64, vocab: 257, context: 64}\n"
check = harness.Checks()


def write_config(name, steps=10, train=None, **sections):
    return harness.write_config(
        f"{name}.yaml",
        run={"dir": name, **sections.pop("run", {})},
        base="base.h5",
        data={"train": "data.h5", "valid": "data.h5", **sections.pop("data", {})},
        batch={"sequences": 5, "micro": 5},
        method={"name": "lora", "rank": 4},
        optim={"lr": 2e-2, **sections.pop("optim", {})},
        train={**({"steps": steps} if steps else {}), **(train or {})},
        precision="fp32",
        kernels={"product": "ref", "vector": "ref"},
    )


def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def refused(config, says, code=2, words=()):
    done = harness.start("train", config, *words)
    check.that(done.returncode == code and says in done.stderr, f"{config}: exit code {done.returncode}, expected {code} and {says!r}: {done.stderr}")


# ---- TensorBoard ------------------------------------------------------------------------------------------------------------


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(data):
    """(number, value) of a protocol buffer; value: an integer, or bytes."""
    at, out = 0, []

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            out.append((tag >> 3, varint()))
            continue
        size = {1: 8, 5: 4}.get(tag & 7) or varint()
        out.append((tag >> 3, data[at : at + size]))
        at += size
    return out


def records(path):
    with open(path, "rb") as file:
        data = file.read()
    at = 0
    while at < len(data):
        length, head = struct.unpack_from("<QI", data, at)
        body, (tail,) = data[at + 12 : at + 12 + length], struct.unpack_from("<I", data, at + 12 + length)
        check.that(head == crc32c(data[at : at + 8]) and tail == crc32c(body), f"{path}: a wrong CRC at byte {at}")
        yield dict(fields(body))
        at += 16 + length


def read_curves(folder):
    """tag → {step: value}, as EventAccumulator makes it: a start of a session drops what stands from its step on."""
    curves = {}
    for path in sorted(glob.glob(f"{folder}/tb/*tfevents*")):
        events = list(records(path))
        check.that(events[0].get(3) == b"brain.Event:2" and events[1].get(7) == b"\x08\x01", f"{path}: begins with {events[:2]}")
        for event in events[1:]:
            step = event.get(2, 0)
            if 7 in event:
                curves = {tag: {s: v for s, v in curve.items() if s < step} for tag, curve in curves.items()}
            if 5 in event:
                value = dict(fields(dict(fields(event[5]))[1]))
                curve = curves.setdefault(value[1].decode(), {})
                check.that(step not in curve, f"{path}: step {step} of {value[1]} comes twice")
                curve[step] = struct.unpack("<f", value[2])[0]
    return curves


def go_back(name, step):
    """The run as it was when the checkpoint of a step was its newest."""
    for path in glob.glob(f"{name}/checkpoints/step-*"):
        if int(path[-8:]) > step:
            shutil.rmtree(path)


def test_curves():
    config = write_config("curves", train={"save_every": 4, "keep": 9, "eval_every": 4}, run={"prometheus": "."})
    harness.mpilora("train", config)
    go_back("curves", 8)
    (first,) = glob.glob("curves/tb/*")
    seconds = first.split(".")[3]
    os.rename(first, first.replace(seconds, f"{int(seconds) + 10**6:012}"))  # the clock was set back since
    harness.mpilora("train", config, "--set", "train.steps=12")
    metrics, evaluations = harness.read_metrics("curves"), lines("curves/evaluations.jsonl")
    curves = read_curves("curves")
    check.that(len(glob.glob("curves/tb/*")) == 2, f"files in tb: {os.listdir('curves/tb')}")
    for tag, key in (("train/loss", "loss"), ("train/learning_rate", "lr"), ("train/grad_norm", "grad_norm"), ("train/tokens_per_second", "tokens_per_s")):
        check.that(sorted(curves[tag]) == list(range(1, 13)), f"{tag}: steps {sorted(curves[tag])}")
        check.close(tag, [curves[tag].get(line["step"], 0) for line in metrics], [line[key] for line in metrics], 1e-6)
    check.that(sorted(curves["eval/loss"]) == [4, 8, 12], f"eval/loss: steps {sorted(curves['eval/loss'])}")
    check.close("eval/loss", [curves["eval/loss"].get(line["step"], 0) for line in evaluations], [line["valid_loss"] for line in evaluations], 1e-6)
    with open("curves/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    steps, evals = [row for row in rows if row["loss"]], [row for row in rows if row["valid_loss"]]
    check.that([int(row["step"]) for row in steps] == list(range(1, 13)), f"metrics.csv: steps {[row['step'] for row in steps]}")
    check.that([float(row["loss"]) for row in steps] == [line["loss"] for line in metrics], "metrics.csv: other losses than metrics.jsonl")
    check.that([(int(row["step"]), float(row["valid_loss"])) for row in evals] == [(line["step"], line["valid_loss"]) for line in evaluations], f"metrics.csv: evaluations {evals}")
    test_prometheus(metrics[-1], evaluations[-1])
    with open("link-target", "w"):
        pass
    os.makedirs("linked")
    os.symlink(os.getcwd(), "linked/tb")
    refused(write_config("linked"), "linked/tb", code=2)


def end_late(config, run):
    """A start whose adapter cannot be written, as nobody could tell before its first step: a directory takes the name meanwhile."""
    for _ in range(10):
        process = subprocess.Popen(harness.command("train", config), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not os.path.exists(f"{run}/config.yaml") and process.poll() is None:
            pass
        if not os.path.exists(f"{run}/adapter.h5"):
            os.makedirs(f"{run}/adapter.h5")
        _, said = process.communicate(timeout=120)
        if process.returncode:
            break
        shutil.rmtree(run)  # on a busy machine it was through before
    check.that(process.returncode == 4 and f"{run}/adapter.h5" in said, f"{config}: exit code {process.returncode}: {said}")


def test_ended_after_evaluation():
    """A start that fails behind its last evaluation, or behind the one that ends the run early, is gone on with: nobody reads that evaluation twice."""
    for name, train in (("last", {"steps": 6, "eval_every": 3}), ("early", {"steps": 40, "eval_every": 2, "early_stop": {"patience": 2, "min_delta": 10.0}})):
        config = write_config(f"ended-{name}", steps=None, train=train)
        end_late(config, f"ended-{name}")
        os.rmdir(f"ended-{name}/adapter.h5")
        harness.mpilora("train", config)
        expected = [3, 6] if name == "last" else [2, 4, 6]
        found = [line["step"] for line in lines(f"ended-{name}/evaluations.jsonl")]
        check.that(found == expected, f"{name}: evaluations of steps {found}, expected {expected}")
        check.that(sorted(read_curves(f"ended-{name}")["eval/loss"]) == expected, f"{name}: eval/loss")
        with open(f"ended-{name}/metrics.csv", newline="") as file:
            rows = [int(row["step"]) for row in csv.DictReader(file) if row["valid_loss"]]
        check.that(rows == expected, f"{name}: metrics.csv has evaluations of steps {rows}, expected {expected}")
        check.that(harness.read_summary(f"ended-{name}")["steps"] == expected[-1], f"{name}: {harness.read_summary(f'ended-{name}')['steps']} steps")


def test_prometheus(step, evaluation):
    files = glob.glob("mpilora-*.prom*")
    check.that(len(files) == 1 and files[0].endswith(".prom"), f"Prometheus files: {files}")
    with open(files[0]) as file:
        text = file.read()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    label = '{run="%s"}' % os.path.realpath("curves")
    for name, value in (("running", 0), ("step", 12), ("steps", 12), ("loss", step["loss"]), ("valid_loss", evaluation["valid_loss"]), ("ranks", 1)):
        check.that(float(values[f"mpilora_{name}{label}"]) == value, f"mpilora_{name}: {values.get(f'mpilora_{name}{label}')}, expected {value}")
    check.that(text.endswith("\n") and text.count("# HELP") == text.count("# TYPE") == len(values), f"not a HELP and a TYPE for each metric: {text}")
    refused(write_config("nowhere", run={"prometheus": "no/such/folder"}), "run.prometheus", code=4)
    check.that(not os.path.exists("nowhere"), "a run whose run.prometheus is not there has begun")


# ---- length ------------------------------------------------------------------------------------------------------------------


def test_strange_place():
    """A folder whose name is no UTF-8, with a quote and a backslash: the label is a text all the same."""
    where = os.fsencode(os.getcwd()) + b'/p\xe9"\\q'
    os.makedirs(where)
    write_config("strange", steps=1, run={"prometheus": os.getcwd()})
    done = subprocess.run(harness.command("train", f"{os.getcwd()}/strange.yaml", "--set", f"base={os.getcwd()}/base.h5", "--set", f"data.train={os.getcwd()}/data.h5",
                                          "--set", f"data.valid={os.getcwd()}/data.h5"), cwd=where, text=True, capture_output=True, timeout=120)
    check.that(done.returncode == 0, f"a folder that is no UTF-8: exit code {done.returncode}: {done.stderr}")
    texts = [open(path, "rb").read() for path in glob.glob("mpilora-*.prom")]
    check.that(sum('/p\ufffd\\"\\\\q/strange"} '.encode() in text for text in texts) == 1, f"no label of a folder that is no UTF-8: {texts}")


def test_epochs():
    config = write_config("epochs", steps=None, train={"epochs": 1.5})
    harness.mpilora("train", config)
    check.that(harness.read_summary("epochs")["steps"] == 8, "1.5 epochs of 24 sequences, 5 a step, are not 8 steps")
    done = harness.start("train", "epochs/config.yaml")
    check.that(done.returncode == 0 and "finished at step 8 already" in done.stderr, f"the resolved configuration is another run: {done.stderr}")
    refused(write_config("both", train={"epochs": 2}), "both.yaml:")
    refused(write_config("both"), "name one of the two", words=("--set", "train.epochs=2", "--set", "train.steps=2"))
    for name, steps, train, word, expected in (("of-steps", 3, {}, "train.epochs=0.4", 2), ("of-epochs", None, {"epochs": 5}, "train.steps=3", 3)):
        harness.mpilora("train", write_config(name, steps=steps, train=train), "--set", word)
        found = harness.read_summary(name)["steps"]
        check.that(found == expected, f"--set {word} in the place of what the file says: {found} steps, expected {expected}")


def test_first_evaluation():
    config = write_config("first", steps=3, train={"eval_first": True, "eval_every": 2})
    harness.mpilora("train", config)
    found = lines("first/evaluations.jsonl")
    check.that([line["step"] for line in found] == [0, 2, 3], f"evaluations: {found}")
    base = json.loads(harness.mpilora("eval", config, "--json"))["loss"]
    check.close("loss before the first step", found[0]["valid_loss"], base, 1e-6)
    check.that(harness.read_summary("first")["best_step"] > 0, "the best step is the one before the first")
    refused(write_config("no-valid", data={"valid": None}, train={"eval_first": True}), "data.valid is missing")


def stop_step(evaluations, patience, min_delta, at_reset=True):
    """Where a run with these evaluations ends; at_reset False: by the Trainer's rule."""
    reference, count = float("inf"), 0
    for line in evaluations:
        better, improved = line["valid_loss"] < reference - min_delta, line["valid_loss"] < reference
        count = 0 if better else count + 1
        if better or (improved and not at_reset):
            reference = line["valid_loss"]
        if count >= patience:
            return line["step"]
    return None


def test_early_stop():
    harness.mpilora("train", write_config("whole", steps=40, train={"eval_every": 1}, optim={"lr": 1e-3, "schedule": "linear"}))
    evaluations = lines("whole/evaluations.jsonl")
    whole = evaluations[0]["valid_loss"] - evaluations[-1]["valid_loss"]
    differ = [(patience, whole / parts) for patience in (2, 3, 4) for parts in range(8, 40) if stop_step(evaluations, patience, whole / parts) not in (None, stop_step(evaluations, patience, whole / parts, at_reset=False))]
    check.that(differ, f"the two rules do not differ here: {evaluations}")
    settings = [differ[0] if differ else (2, 0.0), (3, 10.0)]
    for i, (patience, delta) in enumerate(settings):
        name = f"early-{i}"
        train = {"eval_every": 1, "save_every": 3, "early_stop": {"patience": patience, "min_delta": delta}}
        config = write_config(name, steps=40, train=train, optim={"lr": 1e-3, "schedule": "linear"})
        harness.mpilora("train", config)
        expected = stop_step(evaluations, patience, delta) or 40
        summary = harness.read_summary(name)
        check.that(summary["steps"] == expected, f"{name}: {summary['steps']} steps, expected {expected}")
        check.that([line["step"] for line in lines(f"{name}/evaluations.jsonl")] == list(range(1, expected + 1)), f"{name}: evaluations {lines(f'{name}/evaluations.jsonl')}")
        best = min(lines(f"{name}/evaluations.jsonl"), key=lambda line: line["valid_loss"])["step"]
        check.that(summary["best_step"] == best and os.path.exists(f"{name}/best-adapter.h5"), f"{name}: best step {summary['best_step']}, expected {best}")
        if expected < 40:
            done = harness.start("train", config)
            check.that(done.returncode == 0 and "finished at step" in done.stderr, f"{name}: started once more: {done.stderr}")
            go_back(name, expected - 1)
            harness.mpilora("train", config)
            check.that(harness.read_summary(name)["steps"] == expected, f"{name}: resumed, it ends at {harness.read_summary(name)['steps']}, not {expected}")
    for name, says, train in (
        ("never", "train.eval_every is 0", {"early_stop": {"patience": 2}}),
        ("wrong", "did you mean train.early_stop.patience", {"early_stop": {"patienc": 2}}),
        ("flat", "expected a mapping", {"early_stop": 3}),
    ):
        refused(write_config(name, train=train), says)
    refused(write_config("blind", data={"valid": None}, train={"eval_every": 2, "early_stop": {"patience": 1}}), "train.early_stop.patience: is on, but data.valid is missing")
    with open("early-1/config.yaml") as file:
        check.that("  early_stop:\n    patience: 3\n    min_delta: 10\n" in file.read(), "config.yaml: early_stop is not written as a mapping")
    done = harness.start("train", write_config("set", steps=6, train={"eval_every": 1}, optim={"lr": 0.0}), "--set", "train.early_stop.patience=2")
    check.that(done.returncode == 0 and harness.read_summary("set")["steps"] == 3, f"--set train.early_stop.patience=2: {done.stderr}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        harness.make_base(".", MODEL, "fp32")
        harness.make_data(".", [[(i * i + 7 * j + j * j * i) % 257 for j in range(10 + i)] for i in range(24)])
        for test in (test_curves, test_ended_after_evaluation, test_strange_place, test_epochs, test_first_evaluation, test_early_stop):
            test()
        os.chdir("/")
    check.end()


main()
