"""Heads through stops, changes of the grid and faults: runs of the objectives on labels, on vectors and on masked tokens, each with all that it trains beside the method. What was
saved on one grid goes on upon another as the run that was never stopped; killed or failed in a save the same command comes to the same bytes; a damaged checkpoint is set
aside, a damaged adapter is refused by every command that reads it.
"""

import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness
import kills
import miniature

checks = harness.Checks()
rng = random.Random(3)
SIZES = {"layers": 2, "width": 32, "heads": 4, "mlp_width": 48, "vocab": 101, "context": 32}
FAMILIES = {"bert": {"token_types": 2}, "roberta": {"token_types": 1}, "llama": {"kv_heads": 2}}
LORA, FULL = {"name": "lora", "rank": 4, "dropout": 0.1, "targets": ["q", "v", "o"]}, {"name": "full"}
# objective → base, method, tensors of its head, what it is
CASES = {
    "classify": ("bert", LORA, {}),
    "regress": ("roberta", FULL, {}),
    "tokens": ("llama", LORA, {}),
    "reward": ("llama", LORA, {}),
    "contrastive": ("bert", LORA, {"pooling": "mean"}),
    "mlm": ("bert", LORA, {"mask_token": 4, "mask_probability": 0.3}),
}
GRIDS = {"1x1": (0, 1), "2x1": (2, 1), "1x2": (2, 2), "2x2": (4, 2)}
CHAIN = [("2x1", 3), ("1x2", 5), ("2x2", 8)]  # saved by one, resumed by the next
STEPS = 8
# With which call of a run's files what happens; the places are drawn.
FAULTS = [("write", "KILL_AFTER", -9), ("rename", "KILL_BEFORE", -9), ("write", "ENOSPC", 4), ("fsync", "EIO", 4)]


def ids(i):
    return [(i * i + 7 * j + i * j * j) % 96 + 5 for j in range(6 + (5 * i) % 17)]


def row(objective, i):
    return {
        "classify": {"input_ids": ids(i), "token_type_ids": [0] * 3 + [1] * (len(ids(i)) - 3), "label": i % 3},
        "regress": {"input_ids": ids(i), "label": 0.25 * (i % 5)},
        "tokens": {"input_ids": ids(i), "token_labels": [-100 if j % 3 else (i + j) % 4 for j in range(len(ids(i)))]},
        "reward": {"prompt_ids": ids(i)[:4], "chosen_ids": ids(i)[4:], "rejected_ids": ids(i + 1)[:3]},
        "contrastive": {"anchor_ids": ids(i), "positive_ids": ids(i + 40), "negative_ids": ids(i + 80)},
        "mlm": {"input_ids": ids(i)},
    }[objective]


def prepare(folder):
    for family, more in FAMILIES.items():
        with open(f"{folder}/{family}.yaml", "w") as file:
            json.dump({"family": family, **SIZES, **more}, file)
        harness.mpilora("import", "--init", "random", "--config", f"{folder}/{family}.yaml", "--dtype", "fp32", f"{folder}/{family}.h5")
    for objective, (base, _, _) in CASES.items():
        with open(f"{folder}/{objective}.jsonl", "w") as file:
            file.writelines(json.dumps(row(objective, i)) + "\n" for i in range(11))
        harness.mpilora("tokenize", "--base", f"{folder}/{base}.h5", "--format", "ids", f"{folder}/{objective}.jsonl", f"{folder}/{objective}.h5")


def write_config(folder, objective, name):
    base, method, more = CASES[objective]
    return harness.write_config(f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}", "seed": 3}, base=f"{folder}/{base}.h5", method=method,
                                objective={"name": objective, **more}, data={"train": f"{folder}/{objective}.h5", "shuffle": True}, batch={"sequences": 4, "micro": 2},
                                optim={"lr": 5e-3, "schedule": "constant"}, train={"steps": STEPS, "save_every": 1, "keep": 2}, kernels={"product": "native"}, precision="fp32")


def result(folder, objective, name):
    """Name → bytes, of what the run made."""
    return pathlib.Path(folder, name, "model.h5" if CASES[objective][1] is FULL else "adapter.h5").read_bytes()


def losses(folder, name):
    return [line["loss"] for line in harness.read_metrics(f"{folder}/{name}")]


def check_chain(folder, objective):
    """On three grids in turn, as on one."""
    name = f"{objective}-chain"
    config = write_config(folder, objective, name)
    for grid, steps in CHAIN:
        ranks, tp = GRIDS[grid]
        harness.mpilora("train", config, "--set", f"parallel.tp={tp}", "--set", f"train.steps={steps}", ranks=ranks)
    expected = losses(folder, f"{objective}-whole")
    checks.that(len(set(expected)) == STEPS, f"{objective}: losses {expected}")
    checks.close(f"{objective}, three grids in turn: loss", losses(folder, name), expected, 1e-4)


def start(config, session, **fault):
    environment = dict(os.environ, OMPI_MCA_orte_tmpdir_base=session, **miniature.ALONE)
    if fault:
        environment.update({key: str(value) for key, value in fault.items()}, LD_PRELOAD=miniature.SHIM)
    done = subprocess.run([harness.PROGRAM, "train", config], env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    return done.returncode, done.stderr


def check_fault(folder, objective, calls, call, action, code):
    name, at = f"{objective}-{call}-{action}", rng.randint(calls[call] // 3, calls[call])
    config = write_config(folder, objective, name)
    found, said = start(config, folder, FAULT_ROOT=f"{folder}/{name}/", FAULT_CALL=call, FAULT_AT=at, FAULT_DO=action)
    checks.that(found in (code, 0) and (found or not action.startswith("KILL")), f"{name}, call {at}: exit {found}: {said}")
    again, said = start(config, folder)
    checks.that(again == 0 and result(folder, objective, name) == result(folder, objective, f"{objective}-whole"), f"{name}, call {at}: the next start: exit {again}, or another end: {said}")
    checks.that(losses(folder, name) == losses(folder, f"{objective}-whole"), f"{name}: other losses")
    shutil.rmtree(f"{folder}/{name}")


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def check_damage(folder, objective):
    """One bit of the newest checkpoint, and of the adapter."""
    name = f"{objective}-damaged"
    config = write_config(folder, objective, name)
    harness.mpilora("train", config, "--set", "train.steps=5")
    state = pathlib.Path(folder, name, "checkpoints", "step-00000005")
    damaged = next(path for path in state.iterdir() if path.suffix == ".h5")
    flip(damaged, rng.randrange(damaged.stat().st_size))
    code, said = start(config, folder)
    checks.that(code == 0 and "set aside" in said and result(folder, objective, name) == result(folder, objective, f"{objective}-whole"), f"{name}: exit {code}, or another end: {said}")
    if CASES[objective][1] is FULL:
        return
    adapter = f"{folder}/{name}/adapter.h5"
    flip(adapter, rng.randrange(1024, os.path.getsize(adapter)))
    base = f"{folder}/{CASES[objective][0]}.h5"
    for words in (["eval", config, "--set", f"data.valid={folder}/{objective}.h5", "--adapter", adapter], ["merge", "--base", base, "--adapter", adapter, f"{folder}/out.h5"],
                  ["train", write_config(folder, objective, f"{objective}-init"), "--set", f"method.init={adapter}"]):  # fmt: skip
        done = harness.start(*words)
        lines = [line for line in done.stderr.splitlines() if not line.startswith(("warning:", "LoRA"))]
        checks.that(done.returncode == 3 and adapter in lines[-1], f"{name}: {words[0]}: exit {done.returncode}: {done.stderr}")


def main():
    if not miniature.SHIM:
        print("the shim was not built: skipped")
        return 77
    with tempfile.TemporaryDirectory(dir=miniature.scratch_folder()) as folder:
        prepare(folder)
        for objective in CASES:
            counts = f"{folder}/{objective}.counts"
            code, said = start(write_config(folder, objective, f"{objective}-whole"), folder, FAULT_ROOT=f"{folder}/{objective}-whole/", FAULT_COUNT=counts)
            checks.that(code == 0, f"{objective}: exit {code}: {said}")
            calls = {line.split()[0]: int(line.split()[1]) for line in pathlib.Path(counts).read_text().splitlines()}
            check_chain(folder, objective)
            check_damage(folder, objective)
            for call, action, expected in rng.sample(FAULTS, 2):
                check_fault(folder, objective, calls, call, action, expected)
            print(f"{objective}: done", flush=True)
    checks.end()


sys.exit(main())
