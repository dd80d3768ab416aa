"""What a user, a disk or another program does to the files of a run between two starts: lines that are gone or garbled are said and never stop a run whose checkpoint is
whole, and what stands in the way of an output is refused before the first step, in one line."""

import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "interop")]
import harness
import said_models as said

DONE, STEPS = 6, 8
LINES = ("metrics.jsonl", "metrics.csv", "evaluations.jsonl", "samples.jsonl", "trace.jsonl")
checks = harness.Checks()


def prepare(folder):
    said.write_model(f"{folder}/model", "llama")
    harness.mpilora("import", f"{folder}/model", f"{folder}/base.h5", "--dtype", "fp32")
    harness.make_data(folder, [[(i * i + 7 * j + i * j) % 61 for j in range(9 + i % 5)] for i in range(12)])
    with open(f"{folder}/prompts.jsonl", "w") as file:
        file.write('{"prompt_ids": [1, 2, 3]}\n')


def configure(folder, name, steps, method="lora", **train):
    return harness.write_config(f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}", "trace": True}, base=f"{folder}/base.h5",
                                method={"name": method}, data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"}, batch={"sequences": 4}, precision="fp32",
                                train={"steps": steps, "save_every": 2, "eval_every": 2, "samples": {"file": f"{folder}/prompts.jsonl", "every": 2, "max_new": 2}, **train})


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def digest(run):
    return harness.mpilora("verify", "--digest", run).split()[0]


# ---- lines that earlier starts wrote ------------------------------------------------------------------------------------------------


def join(lines, *order):
    return b"".join(lines[i] for i in order)


def without_newline(lines):
    return join(lines, 0, 1, 2) + lines[3][:-9]


DAMAGES = {  # what becomes of the lines of metrics.jsonl, steps that lack one then, lines that are none
    "as it was": (lambda lines: join(lines, 0, 1, 2, 3, 4, 5), 0, 0),
    "deleted": (None, 6, 0),
    "emptied": (lambda lines: b"", 6, 0),
    "three lines": (lambda lines: join(lines, 0, 1, 2), 3, 0),
    "cut within a line": (without_newline, 3, 0),
    "without its beginning": (lambda lines: join(lines, 2, 3, 4, 5), 2, 0),
    "with a hole": (lambda lines: join(lines, 0, 1, 4, 5), 2, 0),
    "zeros in a line": (lambda lines: join(lines, 0, 1) + b"\0" * len(lines[2]) + b"\n" + join(lines, 3, 4, 5), 1, 1),
    "zeros at the end": (lambda lines: join(lines, 0, 1, 2, 3) + b"\0" * 4096 + b"\n", 2, 1),
    "a line of other words": (lambda lines: join(lines, 0, 1) + b"hello\n" + join(lines, 2, 3, 4, 5), 0, 1),
    "a line without a step": (lambda lines: b'{"loss": 1.0}\n' + join(lines, 0, 1, 2, 3, 4, 5), 0, 1),
    "a line twice": (lambda lines: join(lines, 0, 1, 1, 2, 3, 4, 5), 0, 1),
    "out of order": (lambda lines: join(lines, 0, 2, 1, 3, 4, 5), 1, 1),
    "a later step in the midst": (lambda lines: join(lines, 0, 1) + b'{"step": 70}\n' + join(lines, 2, 3, 4, 5), 0, 1),
    "later steps behind": (lambda lines: join(lines, 0, 1, 2, 3, 4, 5) + b'{"step": 7}\n{"step": 8, "lo', 0, 0),
}


def warnings(done, name):
    return [line for line in done.stderr.splitlines() if line.startswith("warning: ") and name in line]


def resume(folder, what, reference, ranks=0):
    done = harness.start("train", configure(folder, "run", STEPS), ranks=ranks)
    checks.that(done.returncode == 0, f"{what}: exit {done.returncode}: {done.stderr}")
    if ranks < 2:
        checks.that(digest(f"{folder}/run") == reference, f"{what}: the run came to another end")
    return done


def restore(folder):
    shutil.rmtree(f"{folder}/run", ignore_errors=True)
    shutil.copytree(f"{folder}/template", f"{folder}/run")


def check_damage(folder, what, reference, ranks=0):
    make, lacking, damaged = DAMAGES[what]
    restore(folder)
    path = f"{folder}/run/metrics.jsonl"
    lines = read(path).splitlines(keepends=True)
    found = make(lines) if make else None
    if found is None:
        os.remove(path)
    else:
        write(path, found)
    done = resume(folder, what, reference, ranks)
    said = warnings(done, "/metrics.jsonl")
    checks.that(len(said) == (lacking > 0) + (damaged > 0), f"{what}: {said}")
    checks.that(not lacking or any(f": {lacking} of the steps" in line for line in said), f"{what}: expected {lacking} steps without a line: {said}")
    checks.that(not damaged or any(f": {damaged} of its lines" in line and f"{path}.damaged" in line for line in said), f"{what}: expected {damaged} lines that are none: {said}")
    checks.that(os.path.exists(f"{path}.damaged") == (damaged > 0) and (not damaged or read(f"{path}.damaged") == found), f"{what}: the file as it was found")
    after = read(path).splitlines(keepends=True)
    steps = [json.loads(line)["step"] for line in after]
    kept = [line for line in after if json.loads(line)["step"] <= DONE]
    checks.that(steps == sorted(set(steps)) and steps[-2:] == [7, 8] and len(kept) == DONE - lacking, f"{what}: steps {steps}")
    checks.that(all(line in lines for line in kept), f"{what}: a line that stayed has other bytes")


def check_lines(folder):
    harness.mpilora("train", configure(folder, "whole", STEPS))
    reference = digest(f"{folder}/whole")
    harness.mpilora("train", configure(folder, "run", DONE))
    shutil.move(f"{folder}/run", f"{folder}/template")
    for what in DAMAGES:
        check_damage(folder, what, reference)
    check_damage(folder, "zeros in a line", reference, ranks=2)
    for name in LINES:
        restore(folder)
        os.remove(f"{folder}/run/{name}")
        done = resume(folder, f"{name} deleted", reference)
        checks.that(len(warnings(done, f"/{name}: ")) == 1, f"{name} deleted: {done.stderr}")
        restore(folder)
        lines = read(f"{folder}/run/{name}").splitlines(keepends=True)
        write(f"{folder}/run/{name}", lines[0] + b"\xff\xfe\n" + b"".join(lines[1:]))
        done = resume(folder, f"{name} garbled", reference)
        checks.that(len(warnings(done, f"/{name}: 1 of its lines")) == 1, f"{name} garbled: {done.stderr}")
        checks.that(read(f"{folder}/run/{name}").startswith(b"".join(lines)), f"{name} garbled: other lines have changed")


# ---- what stands in the way of an output ----------------------------------------------------------------------------------------------


def check_refused(folder, what, config, name, code, *words):
    done = harness.start("train", config)
    said = [line for line in done.stderr.splitlines() if line.startswith("mpilora")]
    checks.that(done.returncode == code and len(said) == 1, f"{what}: exit {done.returncode}, expected {code}: {done.stderr}")
    checks.that(all(word in "".join(said) for word in (name, *words)), f"{what}: {said}, expected {name} and {words}")


def check_in_the_way(folder):
    lora = ("metrics.jsonl", "metrics.csv", "saves.jsonl", "evaluations.jsonl", "samples.jsonl", "trace.jsonl", "config.yaml", "summary.json", "adapter.h5",
            "best-adapter.h5", "lock")
    for method, names in (("lora", lora), ("full", ("model.h5", "best-model.h5"))):
        for name in names:
            config, path = configure(folder, "blocked", 3, method, keep_best=True), f"{folder}/blocked/{name}"
            for what in ("directory", "dangling link", "link to itself"):
                shutil.rmtree(f"{folder}/blocked", ignore_errors=True)
                os.makedirs(os.path.dirname(path))
                if what == "directory":
                    os.mkdir(path)
                else:
                    os.symlink(path if "itself" in what else f"{folder}/nothing", path)
                check_refused(folder, f"{name} is a {what}", config, path, 4 if what == "directory" else 2, "is a directory" if what == "directory" else "symbolic link")
                checks.that(what != "directory" or name == "metrics.jsonl" or not os.path.exists(f"{folder}/blocked/metrics.jsonl"), f"{name} is a {what}: found after the first step")
    for name in ("checkpoints", "tb", "checkpoints/set-aside"):
        shutil.rmtree(f"{folder}/blocked", ignore_errors=True)
        os.makedirs(os.path.dirname(f"{folder}/blocked/{name}"))
        write(f"{folder}/blocked/{name}", b"")
        check_refused(folder, f"{name} is a file", configure(folder, "blocked", 3), f"{folder}/blocked/{name}", 2, "not a directory")
    restore(folder)  # of a run that goes on, too
    os.remove(f"{folder}/run/summary.json")
    os.mkdir(f"{folder}/run/summary.json")
    before = read(f"{folder}/run/metrics.jsonl")
    check_refused(folder, "a resumed run", configure(folder, "run", STEPS), f"{folder}/run/summary.json", 4)
    checks.that(read(f"{folder}/run/metrics.jsonl") == before, "a resumed run has done steps whose summary cannot be written")


# ---- a fresh start ----------------------------------------------------------------------------------------------------------------------

RESULTS = (*LINES, "saves.jsonl", "config.yaml", "summary.json", "adapter.h5", "best-adapter.h5")


def check_fresh(folder):
    """Nothing of the earlier run is lost, and nothing of it stands beside what the new one writes."""
    run = f"{folder}/twice"
    harness.mpilora("train", configure(folder, "twice", 4, keep_best=True))
    first = {name: read(f"{run}/{name}") for name in RESULTS}
    os.makedirs(f"{run}/set-aside.new")  # left by a start that was killed while it moved them
    shutil.move(f"{run}/metrics.jsonl", f"{run}/set-aside.new/metrics.jsonl")
    for ranks, steps in ((0, 3), (2, 2)):
        before = {name: read(f"{run}/{name}") for name in RESULTS if os.path.exists(f"{run}/{name}")}
        harness.mpilora("train", configure(folder, "twice", steps), "--fresh", ranks=ranks)
        aside = {name: read(f"{run}/set-aside/{name}") for name in RESULTS if os.path.exists(f"{run}/set-aside/{name}")}
        checks.that(aside == (first if steps == 3 else before), f"fresh, {ranks} ranks: set-aside/ has {sorted(aside)}, expected {sorted(before)} with the same bytes")
        checks.that(os.path.isdir(f"{run}/set-aside/tb") and not os.path.exists(f"{run}/set-aside.new"), f"fresh, {ranks} ranks: {os.listdir(run)}")
        checks.that(len(harness.read_metrics(run)) == steps and not os.path.exists(f"{run}/best-adapter.h5"), f"fresh, {ranks} ranks: {os.listdir(run)}")
    kept = read(f"{run}/set-aside/metrics.jsonl")
    for name in os.listdir(run):  # a start that left nothing takes nothing's place
        if name in RESULTS:
            os.remove(f"{run}/{name}")
    harness.mpilora("train", configure(folder, "twice", 2), "--fresh")
    checks.that(read(f"{run}/set-aside/metrics.jsonl") == kept, "fresh after a start that left nothing: what was set aside is gone")


def main():
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_lines(folder)
        check_in_the_way(folder)
        check_fresh(folder)
    checks.end()


if __name__ == "__main__":
    main()
