"""Runs that train in one job on one copy of the frozen weights: each one's losses, evaluations and adapter are those of the run alone, on 1, 2 and 4 ranks, also when
they differ in everything that is their own; a signal stops all and the same command goes on; a run whose numbers are none any more, or never were any, leaves the others going; the
memory is as planned, with the frozen weights once; what cannot be together is refused before anything is written. compare trains so with --together."""
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

STEPS, USAGE, NUMERIC, STOPPED = 8, 2, 5, 75
MODEL = "{family: llama, layers: 2, width: 32, heads: 4, kv_heads: 2, mlp_width: 48, vocab: 101, context: 64}\n"
RUNS = {
    "plain": {},
    "larger": {"method.rank": 8, "optim.lr": 0.02, "run.seed": 7, "optim.schedule": "linear", "optim.clip_norm": 0.5},
    "others": {"method.targets": ["q", "k", "down", "head"], "method.dropout": 0.1, "batch.sequences": 7, "batch.micro": 3, "train.steps": STEPS - 3},
    "dora": {"method.dora": True, "method.targets": ["q", "o", "up", "down"], "run.seed": 3, "optim.lr": 0.005},
    "behind": {"method.name": "adapter_h", "method.bottleneck": 4, "run.seed": 4},
    "norms": {"method.name": "adapter_l", "method.bottleneck": 3, "batch.sequences": 2, "batch.micro": 2},
    "factors": {"method.name": "compacter", "method.bottleneck": 4, "method.factors": 2},
    "more": {"method.targets": ["embed", "up"], "method.alpha": 4, "data.share_prompts": False, "data.shuffle": False, "train.eval_every": 2},
}


def write(path, folder, runs=None, **more):
    listed = {} if runs is None else {"runs": runs}
    return harness.write_config(
        path, base=f"{folder}/base.h5", run={"dir": f"{folder}/none"}, method={"rank": 2, "targets": ["q", "v"]},
        data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"}, batch={"sequences": 4, "micro": 2},
        optim={"lr": 0.01}, train={"steps": STEPS, "eval_every": 3, "save_every": 2}, precision="fp32", **listed, **more)


def listed(folder, runs):
    return [{"dir": f"{folder}/{name}", "set": sets} for name, sets in runs.items()]


def losses(run_dir):
    with open(f"{run_dir}/evaluations.jsonl") as file:
        evaluations = [json.loads(line)["valid_loss"] for line in file]
    return [line["loss"] for line in harness.read_metrics(run_dir)], [line["grad_norm"] for line in harness.read_metrics(run_dir)], evaluations


def train_alone(folder):
    for name, sets in RUNS.items():
        words = [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        harness.mpilora("train", write(f"{folder}/alone.yaml", folder), "--set", f"run.dir={folder}/alone/{name}", *words)


def compare(checks, folder, label, where):
    for name in RUNS:
        alone, together = losses(f"{folder}/alone/{name}"), losses(f"{where}/{name}")
        for what, tolerance, a, b in zip(("losses", "gradient norms", "evaluations"), (1e-6, 1e-5, 1e-6), alone, together):
            checks.that(len(a) == len(b), f"{label}: {name}: {len(b)} {what}, alone {len(a)}")
            far = max((abs(x - y) / abs(x) for x, y in zip(a, b)), default=1)
            checks.that(far <= tolerance, f"{label}: {name}: {what} are {far:.2g} from those alone")


def check_stages(checks, path, run, ranks):
    """Memory and bytes between stages, of all runs, as they were planned."""
    summary, plan = harness.read_summary(run), json.loads(harness.mpilora("plan", path, "--ranks", ranks, "--json"))["methods"][0]
    share = summary["memory"]["total_peak_bytes"] / summary["memory"]["predicted"]["total_bytes"]
    checks.that(0.85 <= share <= 1.01, f"{ranks} ranks in stages: memory is {share:.4f} of what was predicted")
    checks.close(f"{ranks} ranks in stages: the plan beside what was predicted at the start", plan["total_bytes_per_rank"], summary["memory"]["predicted"]["total_bytes"], 0.03)
    checks.that(plan["piped_bytes_per_step"] > 0, "no bytes between stages are planned")


def check_grids(checks, folder):
    for ranks, tp, pp in ((0, 1, 1), (2, 1, 1), (2, 2, 1), (4, 2, 1), (2, 1, 2), (4, 2, 2)):
        where = f"{folder}/grid-{ranks}-{tp}" + (f"-{pp}" if pp > 1 else "")
        path = write(f"{folder}/together.yaml", folder, listed(where, RUNS), parallel={"tp": tp, "pp": pp})
        harness.mpilora("train", path, ranks=ranks)
        compare(checks, folder, f"{ranks} ranks, tp {tp}, pp {pp}", where)
        if pp > 1:
            check_stages(checks, path, f"{where}/plain", ranks)
    memory = harness.read_summary(f"{folder}/grid-0-1/plain")["memory"]
    share = memory["total_peak_bytes"] / memory["predicted"]["total_bytes"]  # checkpoints of all runs, an eighth here, may wait at once or not
    checks.that(0.87 <= share <= 1.001, f"memory is {share:.4f} of what was predicted")
    path = write(f"{folder}/together.yaml", folder, listed(f"{folder}/grid-0-1", RUNS))
    plan = json.loads(harness.mpilora("plan", path, "--json"))["methods"][0]
    checks.close("the plan beside what was predicted at the start", plan["total_bytes"], memory["predicted"]["total_bytes"], 0.02)
    trained = sum(harness.read_summary(f"{folder}/alone/{name}")["params_trainable"] for name in RUNS)
    checks.that(plan["params_trainable"] == trained, f"the plan trains {plan['params_trainable']} parameters, the runs {trained}")
    alone = harness.read_summary(f"{folder}/alone/plain")["memory"]
    checks.that(memory["frozen"] == alone["frozen"], f"frozen weights: {memory['frozen']} bytes of four runs, {alone['frozen']} of one")


def files_of(pid):
    """Which files a process has open; none where it has ended."""
    try:
        return [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


def check_signal(checks, folder):
    where = f"{folder}/stopped"
    path = write(f"{folder}/together.yaml", folder, listed(where, RUNS))
    process = subprocess.Popen(harness.command("train", path), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not (os.path.exists(f"{where}/more/metrics.jsonl") and harness.count_lines(f"{where}/more/metrics.jsonl")):
        time.sleep(0.01)
    opened = files_of(process.pid)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    mine = [path for path in opened if path == os.path.realpath(f"{folder}/data.h5")]
    checks.that(len(mine) == 2 or not opened, f"data.h5 is open {len(mine)} times for {len(RUNS)} runs, expected once to train on and once to validate")
    checks.that(process.returncode in (0, STOPPED), f"after a signal: exit {process.returncode}: {said}")
    again = harness.start("train", path)
    checks.that(again.returncode == 0, f"going on: exit {again.returncode}: {again.stderr}")
    compare(checks, folder, "stopped and gone on with", where)
    again = harness.start("train", path)
    checks.that(again.returncode == 0 and again.stderr.count("finished at step") == len(RUNS), f"finished: exit {again.returncode}: {again.stderr}")


def check_late_signal(checks, folder):
    """A signal that comes while one run evaluates for the last time: it is saved, and so are the others, which have saved nothing before."""
    where = f"{folder}/late"
    harness.make_data(folder, [[(i * i + 3 * j) % 101 for j in range(60)] for i in range(4000)], "long")
    only_at_the_end = {"train.save_every": 0, "train.eval_every": 0}
    short = {**only_at_the_end, "train.steps": 1, "data.valid": f"{folder}/long.h5"}
    for first in (True, False):
        runs = {"short": short, "going": {**only_at_the_end, "train.steps": 100000}}
        path = write(f"{folder}/together.yaml", folder, listed(where, runs if first else dict(reversed(runs.items()))))
        process = subprocess.Popen(harness.command("train", path), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while process.poll() is None and not os.path.exists(f"{where}/short/checkpoints/step-00000001/MANIFEST.json"):
            time.sleep(0.002)
        process.send_signal(signal.SIGUSR1)
        _, said = process.communicate(timeout=60)
        checks.that(process.returncode == STOPPED and said.count("mpilora train: stopped by a signal") == 1, f"a late signal: exit {process.returncode}: {said}")
        checks.that(not os.path.exists(f"{where}/short/adapter.h5"), "the last evaluation was over before the signal came")
        steps = harness.count_lines(f"{where}/going/metrics.jsonl")
        checks.that(steps == 1 and os.path.exists(f"{where}/going/checkpoints/step-00000001/MANIFEST.json"), f"a late signal: {steps} steps of the other run, of which none is saved")
        shutil.rmtree(where)


def check_watched(checks, folder):
    """The Prometheus file of a run that has come to its end says so while the job goes on."""
    where, watched = f"{folder}/watched", f"{folder}/prometheus"
    os.mkdir(watched)
    path = write(f"{folder}/together.yaml", folder, listed(where, {name: {"train.steps": steps, "run.prometheus": watched} for name, steps in (("short", 1), ("long", 100000))}))
    process = subprocess.Popen(harness.command("train", path), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not (os.path.exists(f"{where}/long/metrics.jsonl") and harness.count_lines(f"{where}/long/metrics.jsonl") > 3):
        time.sleep(0.01)
    text = ""
    for name in os.listdir(watched):
        with open(f"{watched}/{name}") as file:
            text += file.read()
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    checks.that(process.returncode == STOPPED, f"watched: exit {process.returncode}: {said}")
    for name, running in (("short", 0), ("long", 1)):
        checks.that(f'mpilora_running{{run="{os.path.realpath(where)}/{name}"}} {running}\n' in text, f"watched: {name} is not said to be {running} while the other trains: {text}")


def check_failure(checks, folder):
    where = f"{folder}/failed"
    wild = {"optim.lr": 1e30, "optim.clip_norm": None}
    runs = {"plain": {}, "wild": wild, "larger": RUNS["larger"], "wilder": {**wild, "method.targets": ["o"]}}
    done = harness.start("train", write(f"{folder}/together.yaml", folder, listed(where, runs)))
    last = done.stderr.strip().splitlines()[-1]
    checks.that(done.returncode == NUMERIC and "2 of 4 runs" in last and f"{where}/wild" in last, f"a run that diverges: exit {done.returncode}: {last}")
    for name, tensor in (("wild", ".q.lora"), ("wilder", ".o.lora")):  # both in the same step
        said = [line for line in done.stderr.splitlines() if line.startswith(f"warning: {where}/{name}: ")]
        checks.that(len(said) == 1 and tensor in said[0], f"{name}: {said}, expected one line about {tensor}")
    checks.that(not os.path.exists(f"{where}/wild/adapter.h5"), "a run that diverged has a result")
    for name in ("plain", "larger"):
        checks.that(losses(f"{where}/{name}") == losses(f"{folder}/alone/{name}"), f"{name} is not as alone beside a run that diverges")


def expect_first_failure(checks, what, done, failed, text, others):
    last = [line for line in done.stderr.splitlines() if line.startswith("mpilora train: ") and "runs ended" in line][-1:]  # a launcher says more
    last = last[0] if last else ""
    checks.that(done.returncode == NUMERIC and f"1 of {1 + len(others)} runs" in last and f"{failed}: {text}" in last, f"{what}: exit {done.returncode}: {done.stderr}")
    for run, alone in others:
        checks.that(all(len(x) == len(y) and all(abs(a - b) <= 1e-5 * abs(b) for a, b in zip(x, y)) for x, y in zip(losses(run), losses(alone))),
                    f"{what}: {run} is not as alone")
        checks.that(os.path.exists(f"{run}/adapter.h5"), f"{what}: {run} has no result")


def check_first_failure(checks, folder):
    """Before the first step: an adapter to start from with which the loss is none, and a checkpoint that is only evaluated by a later start."""
    rows = {"q": 32, "v": 16}
    factors = {f"model.layers.{i}.self_attn.{name}_proj": tuple((shape, struct.pack("<f", 1e25) * (shape[0] * shape[1])) for shape in ((2, 32), (rows[name], 2)))
               for i in range(2) for name in rows}
    huge = harness.make_peft(f"{folder}/huge", 2, 2, factors)
    runs = {"huge": {"method.init": huge, "method.alpha": 2, "train.eval_first": True}, "plain": {}, "larger": RUNS["larger"]}
    for ranks, grid in ((0, {}), (2, {}), (2, {"pp": 2})):
        where = f"{folder}/first-{ranks}-{len(grid)}"
        done = harness.start("train", write(f"{folder}/together.yaml", folder, listed(where, runs), parallel=grid), ranks=ranks)
        expect_first_failure(checks, f"an adapter, {ranks} ranks, {grid}", done, f"{where}/huge", "the loss on data.valid is",
                             [(f"{where}/{name}", f"{folder}/alone/{name}") for name in ("plain", "larger")])
        checks.that("before the first step: check the base and the adapter of method.init" in done.stderr, done.stderr)
        checks.that(not harness.count_lines(f"{where}/huge/metrics.jsonl"), f"{ranks} ranks: a run that began with no number has steps")
    where = f"{folder}/first-later"
    wild = {"optim.lr": 1e30, "optim.clip_norm": None, "train.steps": 1, "train.eval_every": 1, "train.save_every": 1}
    harness.mpilora("train", write(f"{folder}/together.yaml", folder, listed(where, {"wild": {**wild, "data.valid": None, "train.eval_every": 0}})))
    done = harness.start("train", write(f"{folder}/together.yaml", folder, listed(where, {"wild": {**wild, "train.steps": STEPS}, "plain": {}})))
    expect_first_failure(checks, "a checkpoint", done, f"{where}/wild", "step 1: ", [(f"{where}/plain", f"{folder}/alone/plain")])


def check_words(checks, folder):
    where = f"{folder}/refused"
    first = {"dir": f"{where}/a"}
    for what, runs, needle in (
        ("one directory twice", [first, first], "run.dir"),
        ("one directory, spelled twice", [first, {"dir": f"{where}/./a/"}], "directories of their own"),
        ("a directory in another", [first, {"dir": f"{where}/b"}, {"dir": f"{where}/a/checkpoints"}], "directories of their own"),
        ("a key twice", '[{dir: %s/a, set: {method.rank: 3, method.rank: 4}}]' % where, "method.rank: given twice"),
        ("more than the context", [first, {"dir": f"{where}/b", "set": {"data.max_len": 999}}], f"{where}/b"),
        ("another precision", [first, {"dir": f"{where}/b", "set": {"precision": "bf16"}}], "precision"),
        ("another base", [first, {"dir": f"{where}/b", "set": {"base": "other.h5"}}], "base"),
        ("another grid", [first, {"dir": f"{where}/b", "set": {"parallel.tp": 2}}], "parallel.tp"),
        ("another limit of waiting", [first, {"dir": f"{where}/b", "set": {"run.wait_limit": 60}}], "run.wait_limit"),
        ("full fine-tuning", [first, {"dir": f"{where}/b", "set": {"method.name": "full"}}], "only lora, adapter_h"),
        ("biases", [first, {"dir": f"{where}/b", "set": {"method.name": "bitfit"}}], "method.name"),
        ("virtual tokens", [first, {"dir": f"{where}/b", "set": {"method.name": "lora+prefix_kv"}}], "method.name"),
        ("modules of the base", [first, {"dir": f"{where}/b", "set": {"method.modules_to_save": ["norm"]}}], "method.modules_to_save"),
        ("a key that is none", [first, {"dir": f"{where}/b", "set": {"method.rnk": 3}}], "method.rank"),
        ("its directory as a key", [first, {"dir": f"{where}/b", "set": {"run.dir": "c"}}], "run.dir"),
        ("no directory", [first, {"set": {"method.rank": 3}}], "no dir"),
        ("another key", [first, {"dir": f"{where}/b", "sets": {}}], "dir and set"),
        ("no runs", [], "runs"),
        ("a mapping", {"a": 1}, "a list of"),
    ):
        words = ("--set", f"runs={runs}") if isinstance(runs, str) else ()
        done = harness.start("train", write(f"{folder}/refused.yaml", folder, None if words else runs), *words)
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("warning:")]
        checks.that(done.returncode == USAGE and len(lines) == 1 and needle in lines[0], f"{what}: exit {done.returncode}: {done.stderr}")
    # what the last run starts from is looked at before the first one's directory is made
    done = harness.start("train", write(f"{folder}/refused.yaml", folder, [first, {"dir": f"{where}/b", "set": {"method.init": f"{folder}/nothing.h5"}}]))
    checks.that(done.returncode == 3 and f"{where}/b" in done.stderr and "nothing.h5" in done.stderr, f"an adapter that is not there: exit {done.returncode}: {done.stderr}")
    checks.that(not os.path.exists(where), "something was written")
    os.makedirs(f"{where}/a")
    os.symlink(f"{where}/a", f"{where}/b")
    path = write(f"{folder}/refused.yaml", folder, [first, {"dir": f"{where}/b"}])
    done = harness.start("train", path)
    checks.that(done.returncode == USAGE and "another run of this job" in done.stderr, f"one directory, by a link: exit {done.returncode}: {done.stderr}")
    for words in (("eval", path), ("scale", path, "--ranks", "1", "--out", f"{folder}/none"), ("compare", path, "--methods", "lora", "--out", f"{folder}/none")):
        done = harness.start(*words)
        checks.that(done.returncode == USAGE and "runs: are read by train and plan alone" in done.stderr, f"{words[0]} of runs: exit {done.returncode}: {done.stderr}")
        done = harness.start(*words, "--set", "runs=null") if words[0] == "eval" else done
        checks.that(done.returncode == (0 if words[0] == "eval" else USAGE), f"{words[0]} with --set runs=null: exit {done.returncode}: {done.stderr}")


def check_compare(checks, folder):
    path = write(f"{folder}/compare.yaml", folder)
    words = ("compare", path, "--methods", "lora,lora:rank=4,full,lora:targets=[q,k],lora:dora=true", "--json", "--out")
    alone = json.loads(harness.mpilora(*words, f"{folder}/one-by-one"))["rows"]
    together = json.loads(harness.mpilora(*words, f"{folder}/at-once", "--together", "2"))["rows"]
    jobs = sorted(name for name in os.listdir(f"{folder}/at-once/runs") if name.startswith("together"))
    checks.that(len(jobs) == 2, f"jobs of several runs: {jobs}, expected two")
    for a, b in zip(alone, together):
        checks.that(a["what"] == b["what"] and b["seeds"] == 1, f"row {b}")
        checks.close(f"{b['what']}: validation loss", b["valid_loss"]["median"], a["valid_loss"]["median"], 1e-6)
    done = harness.start(*words, f"{folder}/none", "--together", "0")
    checks.that(done.returncode == USAGE and "--together" in done.stderr, f"--together 0: exit {done.returncode}: {done.stderr}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        harness.make_base(folder, MODEL, "fp32")
        harness.make_data(folder, [[(7 * j) % 101 for j in range(12)] + [(5 * i + 3 * j) % 101 for j in range(4 + i)] for i in range(12)])
        train_alone(folder)
        for check in (check_grids, check_signal, check_late_signal, check_watched, check_failure, check_first_failure, check_words, check_compare):
            check(checks, folder)
    checks.end()


main()
