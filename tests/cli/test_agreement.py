"""Ranks agree before they communicate: whatever one rank was given that the others were not ends all of them with 2 and one line, soon; and a program that
its launcher started several times is one run of several ranks, or it is refused."""

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


def ranks(*groups):
    """mpirun's words for groups of ranks that differ: (number of ranks, words[, environment[, working directory]])."""
    words = ["mpirun", "--oversubscribe"]
    for i, (count, own, *rest) in enumerate(groups):
        environment, folder = (*rest, *({}, None)[len(rest):])
        words += ([":"] if i else []) + ["-n", str(count)]
        words += [word for name, value in environment.items() for word in ("-x", f"{name}={value}")]
        words += (["-wdir", folder] if folder else []) + [harness.PROGRAM, *map(str, own)]
    return words


def run(words, folder, **environment):
    """(finished process, seconds)"""
    began = time.monotonic()
    try:
        done = subprocess.run(words, text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL, cwd=folder, env=dict(os.environ, **environment))
    except subprocess.TimeoutExpired:
        sys.exit(f"{words}: still running after 60 s")
    return done, time.monotonic() - began


def spoken(done):
    """Our own lines among the launcher's."""
    return [line for line in done.stderr.splitlines() if line.startswith("mpilora")]


def refused(what, words, folder, *expected, code=2, **environment):
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
    checks.that(not os.path.exists(f"{folder}/run"), "a run was begun in spite of it all")


def check_environment(folder):
    for name, value in (("MPILORA_PRODUCT_PATH", "native"), ("MPILORA_VECTOR_PATH", "scalar"), ("MPILORA_SHARED_MEMORY", "window")):
        refused(f"{name} on one rank only", ranks((1, ["train", "run.yaml"]), (1, ["train", "run.yaml"], {name: value})), folder, name,
                "unset on rank 0", f"{value} on rank 1")


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
    other = shutil.which("mpiexec.hydra")
    if other:
        refused("MPICH's own mpiexec", [other, "-n", "2", *train], folder, "2 ranks were started", "PMI_SIZE", "Open MPI")


def check_single_commands(folder):
    """What is one process: one starts, or it is refused."""
    words = [harness.PROGRAM, "compare", "run.yaml", "--methods", "lora", "--out", "out"]
    for name in ("compare", "sweep", "scale", "inspect"):
        refused(f"{name} under mpirun", ranks((2, [name, *words[2:]])), folder, f"mpilora {name}: 2 ranks of it were started", "start it alone")
    refused("compare as four tasks of srun's", words, folder, "start it", SLURM_STEP_ID="0", SLURM_PROCID="0", SLURM_NTASKS="4")
    refused("compare as a second rank of PMIx's", words, folder, "start it", PMIX_RANK="1")
    checks.that(not os.path.exists(f"{folder}/out"), "a comparison was begun")
    went("inspect in a batch script", [harness.PROGRAM, "inspect", "base.h5"], folder, SLURM_NTASKS="4", SLURM_PROCID="0")
    shown = went("help of several", ranks((2, ["train", "--help"])), folder)
    checks.that(shown.stdout.count("usage:") == 1, f"help of two ranks came {shown.stdout.count('usage:')} times")


def main():
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        check_words(folder)
        check_environment(folder)
        check_single_commands(folder)
        check_launchers(folder)
    checks.end()


main()
