"""The same command, the same bits: one choice of the kernels' paths beside a load on all cores, kept for later starts, recorded where a run can be repeated
from it; taken again by a resumed run where the processor has it, and by every rank of unequal nodes; refused where a new run's processor lacks it."""

import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: llama, layers: 2, width: 256, heads: 4, kv_heads: 2, mlp_width: 512, vocab: 257, context: 64}"
WIDER = "{family: llama, layers: 1, width: 512, heads: 4, kv_heads: 2, mlp_width: 1024, vocab: 257, context: 64}"  # has a product of 1e8 operations
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
        config, found = configure(folder, "starts", measure="always"), set()
        for _ in range(STARTS):
            train(config, "--fresh", OMP_NUM_THREADS=str(os.cpu_count()), OMP_WAIT_POLICY="passive")
            found.add((*losses(f"{folder}/starts"), *kernels_of(f"{folder}/starts")))
    finally:
        for process in load:
            process.kill()
            process.wait()
    checks.that(len(found) == 1, f"{STARTS} equal starts beside a load have {len(found)} results: {found}")


def check_kept(folder):
    """Rates are measured once, in a file that decides the next start's choice; what cannot be read is measured again, what cannot be written is said once."""
    os.mkdir(f"{folder}/kept")
    harness.make_base(f"{folder}/kept", WIDER)
    base, cache = f"{folder}/kept/base.h5", f"{folder}/kept/cache"
    config = configure(folder, "kept-run", measure="once")
    start = ("--fresh", "--set", f"base={base}", "--set", "batch.micro=4")
    kept = "as an earlier start measured"

    def chosen(*options, **environment):
        said = train(config, *start, *options, **dict({"XDG_CACHE_HOME": cache}, **environment))
        return said, harness.read_summary(f"{folder}/kept-run")["product_path"]

    said, first = chosen()
    files = os.listdir(f"{cache}/mpilora")
    checks.that(kept not in said and len(files) == 1 and files[0].startswith("products-"), f"first start: {files}: {said}")
    file = f"{cache}/mpilora/{files[0]}"
    said, again = chosen()
    checks.that(kept in said and again == first, f"second start: {again} after {first}: {said}")
    checks.that(kept not in chosen("--set", "kernels.measure=always")[0], "kernels.measure=always did not measure")
    if harness.read_summary(f"{folder}/kept-run")["vector_path"] != "generic":  # with whose instructions native multiplies, too
        checks.that(kept not in chosen("--set", "kernels.vector=generic")[0], "rates of one vector path are taken for those of another")
        checks.that(kept in chosen("--set", "kernels.vector=generic")[0] and kept in chosen()[0], "rates of each vector path are not kept")
    with open(file) as f:
        good = json.load(f)
    other = next(rate["path"] for rate in good["rates"] if rate["path"] not in (first, "native"))
    for rate in good["rates"]:
        rate["forward"] = rate["backward"] = [900.0, 800.0, 1000.0] if rate["path"] == other else [10.0, 9.0, 11.0]
    with open(file, "w") as f:
        json.dump(good, f)
    checks.that(chosen()[1] == other, f"the kept rates name {other}, taken was {chosen()[1]}")
    for name, text in (("cut", json.dumps(good)[:-9]), ("another's", json.dumps(dict(good, measured_with="another processor"))), ("empty", ""),
                       ("unknown path", json.dumps(good).replace(f'"{other}"', '"abacus"')), ("kinds", json.dumps(dict(good, rates=[{"path": 7}]))),
                       ("negative", json.dumps(good).replace("900.0", "-900.0"))):
        with open(file, "w") as f:
            f.write(text)
        said, path = chosen()
        # Measured again it need not be the first choice, where two paths are nearly as fast; it is not what the file would have.
        checks.that(kept not in said and path != other, f"kept rates, {name}: {path} after {first}: {said}")
        checks.that(kept in chosen()[0], f"kept rates, {name}: not written again")
    for name, environment in (("no room", {"XDG_CACHE_HOME": "/proc/nowhere"}), ("no place", {"XDG_CACHE_HOME": "", "HOME": ""})):
        said = chosen(**environment)[0]
        checks.that(said.count("are not kept, so the next start measures again") == 1, f"kept rates, {name}: {said}")


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


def check_missing(folder):
    """What a configuration names and a processor lacks is refused before anything of a new run is written; one that goes on takes other paths."""
    for key, value, ranks in (("vector", "avx2", 0), ("vector", "avx2", 2), ("product", "onednn", 0)):
        what, run_dir = f"without {value}, {ranks} ranks", f"{folder}/missing-{key}{ranks}"
        config, lacking = configure(folder, f"missing-{key}{ranks}", **{key: value}), dict(os.environ, MPILORA_WITHOUT_PATHS=value)

        def refused(*options, what=what, key=key, value=value, config=config, ranks=ranks, lacking=lacking):
            done = subprocess.run(harness.command("train", config, *options, ranks=ranks), text=True, capture_output=True, timeout=120, env=lacking)
            lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora train: ")]
            checks.that(done.returncode == 2 and len(lines) == 1 and f"kernels.{key}" in lines[0] and value in lines[0], f"{what}: exit {done.returncode}: {done.stderr}")

        refused()
        checks.that(not os.path.exists(run_dir), f"{what}: {run_dir} was made")
        harness.mpilora("train", config, ranks=ranks)
        before = {name: os.stat(f"{run_dir}/{name}").st_mtime_ns for name in os.listdir(run_dir)}
        refused("--fresh")
        after = {name: os.stat(f"{run_dir}/{name}").st_mtime_ns for name in os.listdir(run_dir)}
        checks.that(after == before, f"{what}, --fresh: {sorted(after)}, before {sorted(before)}")
        done = subprocess.run(harness.command("train", config, "--set", "train.steps=3", ranks=ranks), text=True, capture_output=True, timeout=120, env=lacking)
        checks.that(done.returncode == 0 and "goes on with others" in done.stderr, f"{what}, resumed: exit {done.returncode}: {done.stderr}")


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
    check_kept(folder)
    check_records(folder)
    check_other_processor(folder)
    check_missing(folder)
    check_unequal_nodes(folder)
checks.end()
