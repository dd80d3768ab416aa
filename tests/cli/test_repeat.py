"""The same command, the same bits: one choice of the kernels' paths beside a load on all cores, recorded where a run can be repeated from it; taken again by
a resumed run where the processor has it, and by every rank of unequal nodes."""

import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: llama, layers: 2, width: 256, heads: 4, kv_heads: 2, mlp_width: 512, vocab: 257, context: 64}"
STARTS = 8
WIDE = "avx512,avx2"  # what is left without them is in every build
checks = harness.Checks()


def configure(folder, name, **kernels):
    kernels = {"kernels": kernels} if kernels else {}
    return harness.write_config(f"{folder}/{name}.yaml", run={"dir": f"{folder}/{name}"}, base=f"{folder}/base.h5", method={"rank": 4},
                                data={"train": f"{folder}/data.h5"}, batch={"sequences": 4, "micro": 2}, train={"steps": 2, "save_every": 1}, **kernels)


def train(config, *options, launcher=(), **environment):
    done = subprocess.run([*launcher, *harness.command("train", config, *options)], text=True, capture_output=True, timeout=120,
                          env=dict(os.environ, **environment))
    if done.returncode:
        sys.exit(f"{config}: exit code {done.returncode}: {done.stderr}")
    return done.stderr


def losses(run_dir):
    return [line["loss"].hex() for line in harness.read_metrics(run_dir)]


def kernels_of(run_dir):
    """Of every start: its step and the paths, as product/vector."""
    return [(line["step"], line["kernel"]) for line in harness.read_metrics(run_dir) if "kernel" in line]


def check_starts(folder):
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        config, found = configure(folder, "starts"), set()
        for _ in range(STARTS):
            train(config, "--fresh", OMP_NUM_THREADS=str(os.cpu_count()), OMP_WAIT_POLICY="passive")
            found.add((*losses(f"{folder}/starts"), *kernels_of(f"{folder}/starts")))
    finally:
        for process in load:
            process.kill()
            process.wait()
    checks.that(len(found) == 1, f"{STARTS} equal starts beside a load have {len(found)} results: {found}")


def check_records(folder):
    """config.yaml as resolved, summary.json, metrics.jsonl and the adapter name the paths; that configuration repeats the run."""
    train(configure(folder, "recorded", product="blas"))
    run_dir = f"{folder}/recorded"
    summary, before = harness.read_summary(run_dir), losses(run_dir)
    kernel = f"{summary['product_path']}/{summary['vector_path']}"
    checks.that(summary["product_path"] == "blas" and kernels_of(run_dir) == [(1, kernel)], f"{kernels_of(run_dir)}, expected step 1 with {kernel}")
    with open(f"{run_dir}/config.yaml") as file:
        text = file.read()
    checks.that('product: "blas"' in text and f'vector: "{summary["vector_path"]}"' in text, f"config.yaml does not name {kernel}: {text}")
    adapter = json.loads(harness.mpilora("inspect", f"{run_dir}/adapter.h5", "--json"))
    checks.that(adapter.get("kernel") == kernel, f"adapter.h5 has {adapter.get('kernel')}, expected {kernel}")
    os.rename(f"{run_dir}/config.yaml", f"{folder}/again.yaml")
    train(f"{folder}/again.yaml", "--fresh")
    checks.that(losses(run_dir) == before, "config.yaml as resolved does not repeat the run")


def check_other_processor(folder):
    """A requeue where the recorded paths are not there goes on with others and says so once; where they are it takes them again."""
    train(configure(folder, "whole", product="onednn"), "--set", "train.steps=3")
    for name, without in (("same", ""), ("other", f"onednn,{WIDE}")):
        config, run_dir = configure(folder, name, product="onednn"), f"{folder}/{name}"
        train(config)
        plain = configure(folder, name)  # leaves the choice to the program
        said = train(plain, "--set", "train.steps=3", MPILORA_WITHOUT_PATHS=without)
        starts = kernels_of(run_dir)
        if without:
            checks.that(said.count("made with products by onednn") == 1 and "may differ" in said, f"{name}: {said}")
            checks.that(starts[-1][0] == 3 and not set(starts[-1][1].split("/")) & set(without.split(",")), f"{name}: {starts}")
        else:
            checks.that("made with products by" not in said and starts[-1] == (3, starts[0][1]), f"{name}: {starts}: {said}")
            checks.that(losses(run_dir) == losses(f"{folder}/whole"), f"{name}: resumed with other bits than a run that nothing stopped")


def check_unequal_nodes(folder):
    """Rank 1's processor lacks what rank 0's has: both take what both have."""
    config = configure(folder, "unequal")
    one = harness.command("train", config)
    call = ["mpirun", "--oversubscribe", "-n", "1", *one, ":", "-n", "1", "env", f"MPILORA_WITHOUT_PATHS={WIDE}", *one]
    done = subprocess.run(call, text=True, capture_output=True, timeout=120)
    checks.that(done.returncode == 0, f"unequal nodes: exit code {done.returncode}: {done.stderr}")
    if done.returncode == 0:
        summary = harness.read_summary(f"{folder}/unequal")
        checks.that(summary["vector_path"] == "generic", f"unequal nodes: vectors by {summary['vector_path']}, which rank 1 does not have")


with tempfile.TemporaryDirectory() as folder:
    harness.make_base(folder, MODEL)
    harness.make_data(folder, [[(i * i + 7 * j + j * j * i) % 257 for j in range(30 + i % 30)] for i in range(20)])
    check_starts(folder)
    check_records(folder)
    check_other_processor(folder)
    check_unequal_nodes(folder)
checks.end()
