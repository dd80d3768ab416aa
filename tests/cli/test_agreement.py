"""Ranks agree before they communicate: whatever one rank was given that the others were not ends all of them with 2 and one line, soon; and a program that
its launcher started several times is one run of several ranks, or it is refused."""

import concurrent.futures
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: llama, layers: 2, width: 32, heads: 4, kv_heads: 2, mlp_width: 64, vocab: 61, context: 32}"
SOON = 5.0  # seconds
checks = harness.Checks()
pool = concurrent.futures.ThreadPoolExecutor(2)  # a start waits more than it computes
waiting = []
ranks = harness.launch_apart


def run(words, folder, **environment):
    """(finished process, seconds)"""
    began = time.monotonic()
    try:
        done = subprocess.run(words, text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL, cwd=folder, env={**harness.WITHOUT_DELAY, **environment})
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{words}: still running after 60 s") from None
    return done, time.monotonic() - began


def spoken(done):
    """Our own lines among the launcher's."""
    return [line for line in done.stderr.splitlines() if line.startswith("mpilora")]


def refused(*arguments, **options):
    """One of those that write nothing: they are started side by side, and looked at by then()."""
    waiting.append(pool.submit(check_refusal, *arguments, **options))


def then():
    for job in waiting:
        job.result()
    waiting.clear()


def check_refusal(what, words, folder, *expected, code=2, **environment):
    done, seconds = run(words, folder, **environment)
    lines = spoken(done)
    checks.that(done.returncode == code, f"{what}: exit {done.returncode}, expected {code}: {done.stdout[-300:]}{done.stderr[-600:]}")
    checks.that(seconds < SOON, f"{what}: took {seconds:.1f} s")
    checks.that(len(lines) == 1, f"{what}: {len(lines)} lines of ours: {done.stderr}")
    for text in expected:
        checks.that(any(text in line for line in lines), f"{what}: \"{text}\" is not in {lines}")


def went(what, words, folder, **environment):
    done, _ = run(words, folder, **environment)
    checks.that(done.returncode == 0, f"{what}: exit {done.returncode}: {done.stderr}")
    return done


def prepare(folder):
    harness.make_base(folder, MODEL, "fp32")
    harness.make_data(folder, [[(5 * i + 3 * j) % 61 for j in range(12)] for i in range(8)])
    return harness.write_config(
        f"{folder}/run.yaml", run={"dir": "run"}, base="base.h5", method={"rank": 2}, data={"train": "data.h5", "valid": "data.h5"},
        batch={"sequences": 4, "micro": 2}, train={"steps": 2}, precision="fp32", kernels={"product": "native"})


# ---- command lines and environment ---------------------------------------------------------------


def check_words(folder):
    host = socket.gethostname()
    train = ["train", "run.yaml"]
    for what, other, first, second in (
        ("a key set on one rank only", [*train, "--set", "optim.lr=0.1"], "nothing on rank 0", "--set optim.lr=0.1 on rank 1"),
        ("another configuration", ["train", "missing.yaml"], "run.yaml on rank 0", "missing.yaml on rank 1"),
        ("another parallel command", ["eval", "run.yaml"], "train run.yaml on rank 0", "eval run.yaml on rank 1"),
        ("a command that is one process", ["inspect", "base.h5"], "train run.yaml on rank 0", "inspect base.h5 on rank 1"),
        ("a request for help", ["train", "--help"], "run.yaml on rank 0", "--help on rank 1"),
        ("no command at all", ["trian", "run.yaml"], "train run.yaml on rank 0", "trian run.yaml on rank 1"),
        ("an empty word more", [*train, ""], "2 on rank 0", "3 on rank 1"),
    ):
        refused(what, ranks((1, train), (1, other)), folder, first, second, f"(host {host})")
    refused("another seed on the last of four", ranks((3, [*train, "--set", "run.seed=1"]), (1, [*train, "--set", "run.seed=2"])), folder,
            "run.seed=1 on rank 0", "run.seed=2 on rank 3")
    refused("the lowest rank that differs", ranks((1, train), (1, [*train, "--fresh"]), (2, [*train, "--set", "run.seed=2"])), folder, "--fresh on rank 1")
    then()
    checks.that(not os.path.exists(f"{folder}/run"), "a run was begun in spite of it all")


def check_environment(folder):
    for name, value in (("MPILORA_PRODUCT_PATH", "native"), ("MPILORA_VECTOR_PATH", "scalar"), ("MPILORA_SHARED_MEMORY", "window"), ("MPILORA_SUMS", "mpi")):
        refused(f"{name} on one rank only", ranks((1, ["train", "run.yaml"]), (1, ["train", "run.yaml"], {name: value})), folder, name,
                "unset on rank 0", f"{value} on rank 1")
    for name, word in (("MPILORA_SHARED_MEMORY", "window"), ("MPILORA_SUMS", "mpi")):
        refused(f"{name} with a word that it does not know", [harness.PROGRAM, "train", "run.yaml"], folder, name, "'shm'", word, **{name: "shm"})


# ---- launchers -----------------------------------------------------------------------------------


def check_launchers(folder):
    train = [harness.PROGRAM, "train", "run.yaml", "--fresh"]
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    for what, environment, variable in (
        ("Open MPI's mpirun", {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE"),
        ("MPICH's mpiexec", {"PMI_SIZE": "4", "PMI_RANK": "0"}, "PMI_SIZE"),
        ("srun", step, "SLURM_NTASKS"),
        ("srun of this step alone", {**step, "SLURM_STEP_NUM_TASKS": "3"}, "3 ranks"),
        ("a second rank by PMIx", {"PMIX_RANK": "1"}, "PMIX_RANK"),
    ):
        refused(f"train of one, by {what}", train, folder, "ranks were started", variable, "start it with", **environment)
    silent, _ = run(train, folder, **{**step, "SLURM_PROCID": "2"})
    checks.that(silent.returncode == 2 and not spoken(silent), f"the third of four that MPI does not join: exit {silent.returncode}: {silent.stderr}")
    for what, environment in (
        ("a batch script of four tasks", {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}),
        ("a batch script, where it has a step's number", {**step, "SLURM_STEP_ID": "4294967291"}),
        ("srun -n 1", {**step, "SLURM_STEP_NUM_TASKS": "1"}),
        ("one process of mpirun's", {"OMPI_COMM_WORLD_SIZE": "1", **step}),
    ):
        went(f"train in {what}", train, folder, **environment)
    went("mpirun -n 1 in a step of four", ranks((1, train[1:])), folder, **step)
    name, variable = ("mpiexec.hydra", "PMI_SIZE") if harness.is_open_mpi() else ("mpirun.openmpi", "OMPI_COMM_WORLD_SIZE")
    other = shutil.which(name)
    if other:
        refused("the other MPI's own launcher", [other, "-n", "2", *train], folder, "2 ranks were started", variable, "Open MPI")
    else:
        print(f"the other MPI's launcher: skipped, there is no {name}")


def check_single_commands(folder):
    """What is one process: one starts, or it is refused."""
    words = [harness.PROGRAM, "compare", "run.yaml", "--methods", "lora", "--out", "out"]
    for name in ("compare", "sweep", "scale", "inspect"):
        refused(f"{name} under mpirun", ranks((2, [name, *words[2:]])), folder, f"mpilora {name}: 2 ranks of it were started", "start it alone")
    refused("compare as four tasks of srun's", words, folder, "start it", SLURM_STEP_ID="0", SLURM_PROCID="0", SLURM_NTASKS="4")
    refused("compare as a second rank of PMIx's", words, folder, "start it", PMIX_RANK="1")
    then()
    checks.that(not os.path.exists(f"{folder}/out"), "a comparison was begun")
    went("inspect in a batch script", [harness.PROGRAM, "inspect", "base.h5"], folder, SLURM_NTASKS="4", SLURM_PROCID="0")
    shown = went("help of several", ranks((2, ["train", "--help"])), folder)
    checks.that(shown.stdout.count("usage:") == 1, f"help of two ranks came {shown.stdout.count('usage:')} times")


# ---- files ---------------------------------------------------------------------------------------


def prepare_others(folder):
    """FOLDER/other: base, data and adapter of the same names and shapes as those of FOLDER, with other contents."""
    others = f"{folder}/other"
    os.makedirs(others)
    harness.make_base(others, MODEL, "bf16")
    harness.make_data(others, [[(7 * i + 2 * j) % 61 for j in range(12)] for i in range(8)])
    for seed, place in ((1, folder), (2, others)):
        went("an adapter", [harness.PROGRAM, "train", "run.yaml", "--fresh", "--set", f"run.seed={seed}"], folder)
        shutil.copy(f"{folder}/run/adapter.h5", f"{place}/adapter.h5")
    shutil.rmtree(f"{folder}/run")


def check_texts(folder, other):
    """Rank 0's texts are everyone's."""
    for name in ("base.h5", "data.h5"):
        shutil.copy(f"{folder}/{name}", f"{other}/{name}")
    train = ["train", "run.yaml", "--fresh"]
    went("a configuration that only rank 0 has", ranks((1, train), (1, train, {}, other)), folder)
    with open(f"{other}/run.yaml", "w") as file:
        file.write("optim: {lr: much}")
    went("a configuration that is another on rank 1", ranks((1, train), (1, train, {}, other)), folder)
    refused("a configuration that rank 0 lacks", ranks((1, ["train", "only.yaml"]), (1, ["train", "only.yaml"], {}, other)), folder, "only.yaml",
            "No such file", "rank 0 on")
    refused("a key of the configuration", ranks((1, train), (1, train, {}, folder)), other, "run.yaml:1: optim.lr")
    refused("a base that rank 1 lacks", ranks((1, train), (1, train, {}, "/")), folder, "base.h5", "rank 1 on", code=3)


def check_files(folder):
    """The same name, other contents on one rank: named by their hashes."""
    train, evaluate, host = ["train", "run.yaml", "--fresh"], ["eval", "run.yaml"], socket.gethostname()

    def differs(what, words, name, count=1):
        """The file of FOLDER/other is put beside equal ones, for the last rank."""
        other = tempfile.mkdtemp(dir=folder)
        for same in ("base.h5", "data.h5", "adapter.h5"):
            shutil.copy(f"{folder}/{same}" if same != name else f"{folder}/other/{same}", other)
        refused(what, ranks((count, words), (1, words, {}, other)), folder, f" {name}: SHA-256 ", f"rank 0 (host {host})", f"rank {count} (host {host})")

    generate = ["generate", "--base", "base.h5", "--adapter", "adapter.h5", "--prompt", "a", "--max-new", "2"]
    spectrum = ["analyze", "spectrum", "--base", "base.h5", "--adapter", "adapter.h5"]
    bench = ["bench", "generate", "--base", "base.h5", "--adapter", "adapter.h5", "--tokens", "2", "--rounds", "1", "--seconds", "0"]
    differs("another base of the same shape, train on four", train, "base.h5", 3)
    differs("another data set, train", train, "data.h5")
    differs("another adapter to start from, train", [*train, "--set", "method.init=adapter.h5"], "adapter.h5")
    differs("another base, eval", evaluate, "base.h5")
    differs("another data set, eval", evaluate, "data.h5")
    differs("another adapter, eval", [*evaluate, "--adapter", "adapter.h5"], "adapter.h5")
    differs("another base, generate", generate, "base.h5")
    differs("another adapter, generate", generate, "adapter.h5")
    differs("another base, analyze", spectrum, "base.h5")
    differs("another adapter, analyze", spectrum, "adapter.h5")
    differs("another base, bench", bench, "base.h5")
    differs("another adapter, bench", bench, "adapter.h5")


def check_first_adapter(folder):
    """What a run starts from counts by its contents, not by its path."""
    shutil.copy(f"{folder}/adapter.h5", f"{folder}/copy.h5")
    words = [harness.PROGRAM, "train", "run.yaml", "--set", "run.dir=from", "--set"]
    went("a run from an adapter", [*words, "method.init=adapter.h5"], folder)
    went("the same adapter under another path", [*words, "method.init=copy.h5", "--set", "train.steps=3"], folder)
    check_refusal("another adapter", [*words, "method.init=other/adapter.h5"], folder, "method.init")
    shutil.copy(f"{folder}/other/adapter.h5", f"{folder}/copy.h5")
    check_refusal("another adapter behind the same path", [*words, "method.init=copy.h5"], folder, "method.init")


def main():
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_words(folder)
        check_environment(folder)
        check_single_commands(folder)
        check_launchers(folder)
        prepare_others(folder)
        elsewhere = f"{folder}/elsewhere"
        os.makedirs(elsewhere)
        check_texts(folder, elsewhere)
        check_files(folder)
        then()
        check_first_adapter(folder)
    checks.end()


main()
