"""mpilora verify and the list that inspect makes of a run: a whole run is ok line by line; each kind of damage is one WRONG line that names the file, with exit
code 3; nothing is changed by looking."""

import json
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: llama, layers: 2, width: 64, mlp_width: 160, heads: 4, kv_heads: 2, vocab: 257, context: 128}"
checks = harness.Checks()


def prepare(folder):
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(i * i + 7 * j) % 257 for j in range(20 + i % 30)] for i in range(50)])
    for name, method in (("lora", {"name": "lora", "targets": ["all"]}), ("full", {"name": "full"})):
        config = harness.write_config(
            f"{folder}/{name}.yaml",
            run={"dir": f"{folder}/{name}"},
            base=f"{folder}/base.h5",
            method=method,
            data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"},
            batch={"sequences": 8},
            train={"steps": 6, "save_every": 2, "eval_every": 3},
        )
        harness.mpilora("train", config)
    adapter = f"{folder}/lora/adapter.h5"
    harness.mpilora("export", "--format", "peft", "--base", f"{folder}/base.h5", "--adapter", adapter, f"{folder}/peft")


def snapshot(folder):
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                found[path] = (file.read(), os.stat(path).st_mtime_ns)
    return found


def check_whole(folder):
    paths = [f"{folder}/{name}" for name in ("lora", "full", "base.h5", "data.h5", "lora/adapter.h5", "full/model.h5", "peft", "lora/checkpoints/step-00000006")]
    before = snapshot(folder)
    lines = harness.mpilora("verify", *paths).splitlines()
    checks.that(len(lines) > 20 and all(line.startswith("ok ") for line in lines), f"a whole run: {lines}")
    found = json.loads(harness.mpilora("verify", *paths, "--json"))
    checks.that(found["ok"] and [p["path"] for p in found["paths"]] == paths, f"--json: {found}")
    kinds = [p["kind"] for p in found["paths"]]
    checks.that(kinds == ["run", "run", "base", "dataset", "adapter", "base", "peft", "checkpoint"], f"kinds: {kinds}")
    checks.that(snapshot(folder) == before, "verify changed something")


def check_wrong(folder, what, path, damage, given=None):
    """`damage(bytes)` gives the new content of `path`, None removes it; `given`: what verify is asked for."""
    given = given or path
    with open(path, "rb") as file:
        content = file.read()
    changed = damage(content)
    if changed is None:
        os.remove(path)
    else:
        with open(path, "wb") as file:
            file.write(changed)
    done = harness.start("verify", given)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG ")]
    checks.that(done.returncode == 3 and wrong, f"{what}: code {done.returncode}: {done.stdout}")
    checks.that(any(os.path.basename(path) in line or os.path.dirname(path) in line for line in wrong), f"{what}: not named: {wrong}")
    checks.that(done.stderr.count("\n") == 1, f"{what}: not one line of error: {done.stderr}")
    with open(path, "wb") as file:
        file.write(content)


def flipped(at):
    return lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def check_damages(folder):
    run = f"{folder}/lora"
    for part in (0.001, 0.3, 0.5, 0.9, 0.999):
        for path in (f"{folder}/base.h5", f"{folder}/data.h5", f"{run}/adapter.h5", f"{run}/checkpoints/step-00000004/state.h5", f"{folder}/full/model.h5"):
            check_wrong(folder, f"{path}, a byte at {part} of it changed", path, lambda content: flipped(int(part * len(content)))(content))
    for path in (f"{run}/adapter.h5", f"{run}/checkpoints/step-00000006/MANIFEST.json", f"{run}/checkpoints/step-00000006/state.h5", f"{folder}/full/model.h5"):
        given = run if path.startswith(run) else f"{folder}/full"
        check_wrong(folder, f"{path} changed in its run", path, flipped(300), given)
        check_wrong(folder, f"{path} cut", path, lambda content: content[: len(content) // 2], given)
        if not path.endswith("MANIFEST.json"):
            check_wrong(folder, f"{path} removed", path, lambda content: None, given)
    metrics = f"{run}/metrics.jsonl"
    check_wrong(folder, "metrics: the last line cut", metrics, lambda content: content[:-20], run)
    check_wrong(folder, "metrics: a line lost", metrics, lambda content: b"".join(content.splitlines(True)[:2] + content.splitlines(True)[3:]), run)
    check_wrong(folder, "metrics: a line twice", metrics, lambda content: b"".join(content.splitlines(True)[:2] + content.splitlines(True)[1:]), run)
    check_wrong(folder, "metrics: the end lost", metrics, lambda content: b"".join(content.splitlines(True)[:4]), run)
    check_wrong(folder, "metrics: no JSON", metrics, lambda content: content.replace(b"{", b"[", 1), run)
    check_wrong(folder, "metrics removed", metrics, lambda content: None, run)
    check_wrong(folder, "summary: no JSON", f"{run}/summary.json", lambda content: content[:-5], run)
    check_wrong(folder, "summary removed", f"{run}/summary.json", lambda content: None, run)
    check_wrong(folder, "latest names another", f"{run}/checkpoints/latest", lambda content: b"step-00000099\n", run)
    check_wrong(folder, "PEFT weights cut", f"{folder}/peft/adapter_model.safetensors", lambda content: content[:-1], f"{folder}/peft")
    check_wrong(folder, "PEFT configuration", f"{folder}/peft/adapter_config.json", lambda content: content[:-5], f"{folder}/peft")
    os.rename(f"{run}/checkpoints/latest", f"{folder}/latest")
    checks.that(harness.start("verify", run).returncode == 0, "`latest` is a hint only, but its loss was called a fault")
    os.rename(f"{folder}/latest", f"{run}/checkpoints/latest")
    for given in ("nothing", "model.yaml", "."):
        done = harness.start("verify", f"{folder}/{given}")
        checks.that(done.returncode == 3 and "WRONG" in done.stdout, f"{given}: code {done.returncode}: {done.stdout}")
    checks.that(harness.start("verify").returncode == 2, "no path: exit code")
    checks.that(harness.start("verify", run).returncode == 0, "the damages were not undone")


def check_inspect(folder):
    """step, age, size and the verdict of every checkpoint, also of one that is bad and of one that was never committed."""
    run = f"{folder}/lora"
    with open(f"{run}/checkpoints/step-00000006/state.h5", "r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    os.mkdir(f"{run}/checkpoints/step-00000007")
    found = json.loads(harness.mpilora("inspect", run, "--json"))
    listed = [(c["step"], c["whole"], c["bytes"] is not None, c["age_s"] is not None, "fault" in c) for c in found["checkpoints"]]
    checks.that(listed == [(4, True, True, True, False), (6, False, True, True, True), (7, False, False, False, True)], f"inspect --json: {listed}")
    checks.that(found["step"] == 4, f"inspect: the step to go on from is {found['step']}")
    table = [line.split(None, 4) for line in harness.mpilora("inspect", run).splitlines() if line.strip()[:1].isdigit()]
    checks.that([row[0] for row in table] == ["4", "6", "7"], f"inspect: {table}")
    checks.that("yes" in " ".join(table[0]) and "SHA-256" in " ".join(table[1]) and "not committed" in " ".join(table[2]), f"inspect: {table}")
    shutil.rmtree(f"{run}/checkpoints/step-00000007")


with tempfile.TemporaryDirectory() as scratch:
    prepare(scratch)
    check_whole(scratch)
    check_damages(scratch)
    check_inspect(scratch)
checks.end()
