"""verify --digest, verify --same and run.trace: the digest is the one that Python makes of a checkpoint's tensors, whatever the grid that wrote it; of runs that
were made different on purpose the first step, key, tensor and rank are named."""

import hashlib
import json
import os
import shutil
import sys
import tempfile

try:  # what Python reads of HDF5 is compared where it can
    import h5py
    import numpy
except ImportError:
    h5py = None

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: llama, layers: 2, width: 64, mlp_width: 160, heads: 4, kv_heads: 2, vocab: 257, context: 128}"
SEQUENCES = [[(i * i + 7 * j + i * j * j) % 257 for j in range(20 + i * 7 % 50)] for i in range(16)]
OTHER_STEP, OTHER_RANK = 2, 1  # which takes the sequence that is another in other.h5
checks = harness.Checks()


def configure(folder, name, method=None, data="data", **train):
    return harness.write_config(f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}", "trace": True}, base=f"{folder}/base.h5",
                                method=method or {"name": "lora", "rank": 4, "targets": ["all"]}, data={"train": f"{folder}/{data}.h5", "shuffle": False},
                                batch={"sequences": 4, "micro": 1}, train={"steps": 4, "save_every": 2, **train}, kernels={"product": "native"}, precision="fp32")


def digest_of(step):
    """As docs/checkpoints.md has it."""
    tensors = {}
    with open(f"{step}/MANIFEST.json") as file:
        manifest = json.load(file)
    for state in manifest["files"]:
        with h5py.File(f"{step}/{state['name']}") as file:
            for kind in ("value", "moment1", "moment2"):
                for name, part in file[kind].items():
                    rows, cols = int(part.attrs["rows"]), int(part.attrs.get("cols", part.shape[1]))
                    whole = tensors.setdefault((kind, name.split("@")[0]), numpy.zeros((rows, cols), "<f4"))
                    row, col = int(part.attrs["first_row"]), int(part.attrs.get("first_col", 0))
                    whole[row:row + part.shape[0], col:col + part.shape[1]] = part[...]
    hashed = hashlib.sha256()
    for kind in ("value", "moment1", "moment2"):
        for name in sorted(n for k, n in tensors if k == kind):
            whole = tensors[kind, name]
            hashed.update(f"{kind}/{name} {whole.shape[0]} {whole.shape[1]}\n".encode() + whole.tobytes())
    progress = manifest["progress"]
    hashed.update(f"step {progress['step']} cursor {progress['cursor']}\n".encode())
    return hashed.hexdigest()


def digests(*paths):
    return [line.split("  ")[0] for line in harness.mpilora("verify", "--digest", *paths).splitlines()]


def compared(a, b, code):
    done = harness.start("verify", "--same", a, b, "--json")
    checks.that(done.returncode == code, f"--same {a} {b}: exit code {done.returncode}: {done.stderr}")
    checks.that(done.stderr.count("\n") == (code != 0), f"--same {a} {b}: {done.stderr}")
    found = json.loads(done.stdout)
    checks.that(found["same"] == (code == 0), f"--same {a} {b}: {found}")
    return {line["what"]: line for line in found["compared"]}


def differs(what, line, **expected):
    checks.that(not line["same"] and all(line.get(key) == value for key, value in expected.items()), f"{what}: {line}, expected {expected}")


def check_digests(folder):
    harness.mpilora("train", configure(folder, "full", {"name": "full"}), "--set", "parallel.tp=2", ranks=2)
    for run in ("lora", "full"):
        newest = f"{folder}/{run}/checkpoints/step-00000004"
        of_run, of_step, of_file, older = digests(f"{folder}/{run}", newest, f"{newest}/{os.listdir(newest)[0]}", f"{folder}/{run}/checkpoints/step-00000002")
        checks.that(of_run == of_step == of_file != older, f"{run}: {of_run}, {of_step}, {of_file}; step 2 has {older}")
        if h5py:
            checks.that(of_run == digest_of(newest), f"{run}: {of_run}; Python has {digest_of(newest)}")
    a, b, c = digests(*(f"{folder}/{name}/adapter.h5" for name in ("lora", "again", "other")))
    checks.that(a == b != c, f"adapters: {a}, {b}, other data {c}")
    base, data, other = json.loads(harness.mpilora("verify", "--digest", "--json", *(f"{folder}/{name}.h5" for name in ("base", "data", "other"))))["digests"]
    checks.that([base["kind"], data["kind"]] == ["base", "dataset"] and data["sha256"] != other["sha256"], f"{base}, {data}, {other}")


def check_same(folder):
    lora = f"{folder}/lora"
    found = compared(lora, f"{folder}/again", 0)
    checks.that(sorted(found) == ["checkpoint", "metrics", "trace"] and found["metrics"]["steps"] == 4 and found["checkpoint"]["step"] == 4, f"{found}")
    found = compared(lora, f"{folder}/other", 3)
    differs("other data", found["metrics"], step=OTHER_STEP, key="loss")
    differs("other data", found["trace"], step=OTHER_STEP, rank=OTHER_RANK, tensor="layers.0.attn.q.lora_A", sum="before")
    differs("other data", found["checkpoint"], step=4, tensor="value/layers.0.attn.k.lora_A")
    said = harness.start("verify", "--same", lora, f"{folder}/other")
    checks.that(f"DIFFER trace: step {OTHER_STEP}: the gradient of layers.0.attn.q.lora_A (whole) on rank {OTHER_RANK} differs before the sum" in said.stdout, said.stdout)


def copy(folder, run, name):
    shutil.copytree(f"{folder}/{run}", f"{folder}/{name}")
    return f"{folder}/{name}"


def keep(path, lines, rest=0):
    """The first lines of a file, and as many bytes of the next one."""
    with open(path, "rb") as file:
        all_lines = file.readlines()
    with open(path, "wb") as file:
        file.write(b"".join(all_lines[:lines]) + all_lines[lines][:rest])


def both_ways(what, whole, cut, *words, key, **expected):
    """The run that has more is named, whichever comes first, and what it has; the rest is the same."""
    for pair in ((whole, cut), (cut, whole)):
        found = compared(*pair, 3)
        differs(what, found[key], more=whole, **expected)
        checks.that(all(word in found[key]["text"] for word in (whole, *words)), f"{what}: {found[key]['text']}: expected {words}")
        checks.that(all(line["same"] for name, line in found.items() if name != key), f"{what}: {found}")


def check_more(folder):
    """Of runs whose numbers are equal one goes on, or has lost something."""
    lora = f"{folder}/lora"
    cut = copy(folder, "lora", "cut-trace")
    lines = len(found_lines(folder, "lora"))
    step = lines // 4
    for kept, rest, first, words in ((3 * step, 0, 4, ("at step 3",)), (2 * step + 5, 0, 3, (f"{2 * step + 5} gradients", "ends at step 4", "at step 3")),
                                     (lines - 1, 40, 4, ("at step 4 in the midst of a line", "on rank 1")), (0, 0, 1, ("at step 0",))):
        shutil.copy(f"{lora}/trace.jsonl", cut)
        keep(f"{cut}/trace.jsonl", kept, rest)
        both_ways(f"a trace of {kept} lines", lora, cut, cut, *words, key="trace", step=first, last=4)
    with open(f"{lora}/trace.jsonl") as file, open(f"{cut}/trace.jsonl", "w") as late:
        late.writelines(file.readlines()[step:])
    both_ways("a trace that begins at step 2", lora, cut, cut, key="trace", step=1, last=4)
    os.remove(f"{cut}/trace.jsonl")
    found = compared(lora, cut, 0)
    checks.that(found["trace"]["same"] is None and f"only {lora} has trace.jsonl" in found["trace"]["text"], f"one has no trace: {found}")
    checks.that("-      trace: only" in harness.mpilora("verify", "--same", lora, cut), "what was not compared has no line")

    cut = copy(folder, "lora", "cut-metrics")
    for kept, rest, words in ((3, 0, ("3 steps are the same, to step 3",)), (3, 60, ("3 steps are the same, to step 3", "in the midst of a line"))):
        shutil.copy(f"{lora}/metrics.jsonl", cut)
        keep(f"{cut}/metrics.jsonl", kept, rest)
        both_ways(f"metrics of {kept} lines", lora, cut, cut, "goes on to step 4", *words, key="metrics", step=4, last=4, steps=3)
    keep(f"{cut}/metrics.jsonl", 0, 60)
    done = harness.start("verify", "--same", lora, cut)
    checks.that(done.returncode == 3 and f"{cut}/metrics.jsonl: has no whole line" in done.stderr and not done.stdout, f"no metrics: {done.stdout}{done.stderr}")

    cut = copy(folder, "lora", "cut-checkpoint")
    with open(f"{cut}/checkpoints/step-00000004/MANIFEST.json", "a") as file:
        file.write("damage")
    both_ways("a damaged checkpoint", lora, cut, "step 2: all", "of step 4 only", key="checkpoint", step=4)
    shutil.rmtree(f"{cut}/checkpoints/step-00000004")
    both_ways("no newest checkpoint", lora, cut, "step 2: all", "of step 4 only", key="checkpoint", step=4)
    older = copy(folder, "lora", "older")
    shutil.rmtree(f"{older}/checkpoints/step-00000002")
    checks.that(compared(lora, older, 0)["checkpoint"]["step"] == 4, "an older checkpoint that train.keep took is a difference")
    differs("no checkpoint in common", compared(cut, older, 3)["checkpoint"], more=older, step=4)
    shutil.rmtree(f"{older}/checkpoints/step-00000004")
    shutil.rmtree(f"{cut}/checkpoints/step-00000002")
    differs("none in one", compared(lora, older, 3)["checkpoint"], more=lora, step=4)
    checks.that(compared(cut, older, 0)["checkpoint"]["same"] is None, "no checkpoints at all, and they are compared")


def check_evaluations(folder):
    """Those that both runs made; how often each makes them is its own affair."""
    for name, every in (("often", 1), ("seldom", 2)):
        harness.mpilora("train", configure(folder, name), "--set", f"data.valid={folder}/data.h5", "--set", f"train.eval_every={every}", "--set", "optim.schedule=constant")
    often, seldom = f"{folder}/often", f"{folder}/seldom"
    checks.that(compared(often, often, 0)["evaluations"]["steps"] == 4, "a run differs from itself")
    for pair in ((often, seldom), (seldom, often)):
        found = compared(*pair, 0)["evaluations"]
        checks.that(found["same"] and found["steps"] == 2 and "2 more are of one run alone" in found["text"], f"{pair}: {found}")
    other = copy(folder, "seldom", "other-evaluation")
    with open(f"{other}/evaluations.jsonl") as file:
        first, last = (json.loads(line) for line in file)
    last["valid_loss"] += 1e-9
    with open(f"{other}/evaluations.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in (first, last))
    for a in (often, seldom):
        differs("another evaluation", compared(a, other, 3)["evaluations"], step=4, key="valid_loss")
    os.remove(f"{other}/evaluations.jsonl")
    found = compared(often, other, 0)["evaluations"]
    checks.that(found["same"] is None and f"only {often} has evaluations.jsonl" in found["text"], f"one has no evaluations: {found}")
    with open(f"{other}/evaluations.jsonl", "w") as file:
        file.write("no line\n")
    done = harness.start("verify", "--same", often, other)
    checks.that(done.returncode == 3 and f"{other}/evaluations.jsonl: a line is no JSON object" in done.stderr, f"garbage: {done.stderr}")


def check_resumed(folder):
    """Another learning rate from step 3 on: the step's lr, and the gradients of the step after it."""
    harness.mpilora("train", configure(folder, "going"), "--set", "optim.schedule=constant", ranks=2)
    config = configure(folder, "changed", steps=2)
    for options in ((), ("--set", "train.steps=4", "--set", "optim.lr=1e-3", "--allow-change", "optim.lr")):
        harness.mpilora("train", config, "--set", "optim.schedule=constant", *options, ranks=2)
    found = compared(f"{folder}/going", f"{folder}/changed", 3)
    differs("other rate", found["metrics"], step=3, key="lr")
    differs("other rate", found["trace"], step=4, rank=0, sum="before")
    with open(f"{folder}/changed/trace.jsonl") as file:
        steps = [json.loads(line)["step"] for line in file]
    checks.that(steps == sorted(steps) and set(steps) == {1, 2, 3, 4} and len(steps) == 4 * 2 * 28, f"trace.jsonl of a resumed run has {len(steps)} lines")


def check_grids(folder):
    """On another grid, also of a run that begins on the same one and goes on elsewhere, the sums alone are compared; rounding makes them differ in the first step that has
    more than one addend a rank, unless numerics is grid."""
    harness.mpilora("train", configure(folder, "one"))
    differs("another grid", compared(f"{folder}/lora", f"{folder}/one", 3)["trace"], sum="after")
    for name, ranks in (("stays", (1,)), ("goes on", (1, 2))):
        for i, n in enumerate(ranks, 5 - len(ranks)):
            harness.mpilora("train", configure(folder, name), "--set", "numerics=grid", "--set", "optim.schedule=constant", "--set", f"train.steps={i}", ranks=n)
    found = compared(f"{folder}/stays", f"{folder}/goes on", 0)
    checks.that(found["trace"]["lines"] == len(found_lines(folder, "stays")), f"one went on elsewhere: {found['trace']}")
    cut = copy(folder, "stays", "stays-cut")
    keep(f"{cut}/trace.jsonl", len(found_lines(folder, "stays")) - 3)
    both_ways("a cut trace on another grid", f"{folder}/goes on", cut, "sums of gradients", cut, key="trace", step=4, last=4)
    harness.mpilora("train", configure(folder, "divided"), "--set", "memory.shard_optimizer=true", ranks=2)
    with open(f"{folder}/divided/trace.jsonl") as file:
        checks.that(all(json.loads(line)["after"] is None for line in file), "moments are divided, and there are hashes of sums")
    line = json.loads(harness.start("verify", "--same", "--json", f"{folder}/one", f"{folder}/divided").stdout)["compared"][1]
    checks.that(line["what"] == "trace" and line["same"] is None, f"no sums in common, and they are the same: {line}")


def check_numerics_grid(folder):
    """Under numerics: grid a run is the same whatever computed it: what is summed, sent and gathered is no difference."""
    own = f"{folder}/grids"
    os.mkdir(own)
    harness.make_base(own, MODEL.replace("context: 128", "context: 1100"), "fp32")
    harness.make_data(own, [[(i * i + 7 * j + i * j * j) % 257 for j in range(n)] for i, n in enumerate((1030, 40, 9, 600))])
    config, exact = configure(own, "one", steps=2), ("--set", "numerics=grid")
    harness.mpilora("train", config, *exact)
    for key in ("tp", "cp", "pp"):
        harness.mpilora("train", config, *exact, "--set", f"run.dir={own}/{key}", "--set", f"parallel.{key}=2", ranks=2)
        found = compared(f"{own}/one", f"{own}/{key}", 0)
        checks.that(all(line["same"] for line in found.values()) and sorted(found) == ["checkpoint", "metrics", "trace"], f"one rank and {key} 2: {found}")


def found_lines(folder, name):
    with open(f"{folder}/{name}/trace.jsonl") as file:
        return file.readlines()


def check_refused(folder):
    for words, code, text in ((("--same", f"{folder}/lora"), 2, "takes two directories"), (("--same", "--digest", f"{folder}/lora"), 2, "two questions"),
                              (("--same", f"{folder}/lora", f"{folder}/base.h5"), 3, "metrics.jsonl"), (("--digest", f"{folder}/base.yaml"), 3, "base.yaml"),
                              (("--digest", folder), 3, "no checkpoints/")):
        done = harness.start("verify", *words)
        checks.that(done.returncode == code and text in done.stderr and done.stderr.count("\n") == 1, f"verify {words}: {done.returncode}: {done.stderr}")
    state = f"{folder}/again/checkpoints/step-00000004/state.h5"
    with open(state, "r+b") as file:
        file.seek(9000)
        file.write(b"damage")
    done = harness.start("verify", "--digest", os.path.dirname(state))
    checks.that(done.returncode == 3 and "SHA-256" in done.stderr, f"a damaged checkpoint has a digest: {done.stdout}{done.stderr}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL, "fp32")
        harness.make_data(folder, SEQUENCES)
        other = [list(ids) for ids in SEQUENCES]
        at = 4 * (OTHER_STEP - 1) + 2 * OTHER_RANK  # four a step, two a replica
        other[at][5] += 1
        harness.make_data(folder, other, "other")
        for name, data in (("lora", "data"), ("again", "data"), ("other", "other")):
            harness.mpilora("train", configure(folder, name, data=data), ranks=2)
        check_digests(folder)
        check_same(folder)
        check_more(folder)
        check_evaluations(folder)
        check_resumed(folder)
        check_grids(folder)
        check_numerics_grid(folder)
        check_refused(folder)
    checks.end()


main()
