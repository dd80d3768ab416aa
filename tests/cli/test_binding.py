"""A run says where its ranks compute, and warns where threads outnumber the cores that they may use: by rank, by host, under an affinity of the job.
Threads that wait for each other soon sleep, unless the user says how they are to wait."""

import json
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

checks = harness.Checks()
CORES = sorted(os.sched_getaffinity(0))


def prepare(folder):
    model, base, lines, data = (os.path.join(folder, file) for file in ("model.yaml", "base.h5", "lines.jsonl", "data.h5"))
    with open(model, "w") as file:
        file.write("{family: llama, layers: 1, width: 32, mlp_width: 64, heads: 2, vocab: 64, context: 32}")
    with open(lines, "w") as file:
        for i in range(4):
            file.write(json.dumps({"input_ids": [(i + j) % 64 for j in range(20)]}) + "\n")
    harness.mpilora("import", "--init", "random", "--config", model, base)
    harness.mpilora("tokenize", "--base", base, lines, data, "--format", "ids")
    return harness.write_config(os.path.join(folder, "run.yaml"), run={"dir": os.path.join(folder, "run")}, base=base,
                                data={"train": data, "max_len": 32}, batch={"sequences": 2}, train={"steps": 1}, kernels={"product": "blas"})


def train(config, ranks, threads, cores, **said):
    """Standard error of a run whose processes may use `cores` of this job's cores and have `threads` threads a rank; said: of the environment."""
    call = harness.command("train", config, "--fresh", ranks=ranks)
    done = subprocess.run(call, text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
                          env={**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1", **said},
                          preexec_fn=lambda: os.sched_setaffinity(0, CORES[:cores]))
    if done.returncode:
        sys.exit(done.stderr)
    return done.stderr


def bindings(text):
    return [line.strip().removeprefix("binding").strip() for line in text.splitlines() if " core" in line and "rank " in line and ", core" in line]


def waits(threads, **said):
    """How often OpenMP's threads look for work before they sleep, once for each time that the program starts, as libgomp itself says it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(harness.command("train", "--help"), text=True, capture_output=True, timeout=120,
                          env={**environment, "OMP_NUM_THREADS": str(threads), "OMP_DISPLAY_ENV": "verbose", **said})
    checks.that(done.returncode == 0 and "run.dir" in done.stdout, f"{threads} threads, {said}: exit {done.returncode}: {done.stderr}")
    return re.findall(r"GOMP_SPINCOUNT = '(.*)'", done.stderr)


def check_waiting():
    if len(waits(1)) != 1:
        return  # not libgomp: nothing is said here
    checks.that(waits(2)[1:] == ["5000"], f"two threads wait as {waits(2)}, not as the second start says")
    checks.that(waits(1) == waits(2)[:1], f"one thread has nobody to wait for: {waits(1)}")
    checks.that(waits(2, GOMP_SPINCOUNT="77") == ["77"], "the user's number of looks is not left alone")
    checks.that(len(waits(2, OMP_WAIT_POLICY="active")) == 1, "the user's way to wait is not left alone")


def check_bound_threads(config):
    """Threads that the user binds have a core each, though the program begins again once they are bound."""
    host, threads = os.uname().nodename, min(2, len(CORES))
    for said in ({"OMP_PROC_BIND": "close"}, {"OMP_PLACES": "cores"}, {"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"}, {"GOMP_CPU_AFFINITY": " ".join(map(str, CORES[:2]))}):
        text = train(config, 0, threads, len(CORES), **said)
        cores = re.search(r"binding +rank 0: .*, cores? ([\d,-]+), ", text)
        found = sum(int(part.split("-")[-1]) - int(part.split("-")[0]) + 1 for part in cores[1].split(",")) if cores else 0
        checks.that(found >= threads and "warning" not in text, f"{said}: {threads} threads on {found} cores:\n{text}")
    if len(CORES) > 1:
        text = train(config, 2, 1, len(CORES), OMP_PROC_BIND="true")
        checks.that(f"2 ranks x 1 threads on {host}, which has 1 cores for them" in text, f"two ranks bound to the same core:\n{text}")


check_waiting()
with tempfile.TemporaryDirectory() as folder:
    config = prepare(folder)
    host = os.uname().nodename
    text = train(config, 0, 1, 1)
    checks.that(bindings(text) == [f"rank 0: {host}, core {CORES[0]}, 1 thread"], f"one core, one thread:\n{text}")
    checks.that("warning" not in text, f"one thread on one core is no fault:\n{text}")
    text = train(config, 0, 2, 1)
    checks.that("rank 0 has 2 threads on 1 core: set OMP_NUM_THREADS to at most 1" in text, f"two threads on one core:\n{text}")
    text = train(config, 2, 1, 1)
    checks.that(bindings(text) == [f"rank {i}: {host}, core {CORES[0]}, 1 thread" for i in range(2)], f"two ranks on one core:\n{text}")
    checks.that(f"2 ranks x 1 threads on {host}, which has 1 cores for them" in text, f"two ranks on one core:\n{text}")
    text = train(config, len(CORES), 1, len(CORES))
    checks.that(len(bindings(text)) == len(CORES) and "warning" not in text, f"as many ranks as cores:\n{text}")
    check_bound_threads(config)
    # Processes alone would share Open MPI's session directory and take it away from each other: they have none.
    done = subprocess.run(harness.command("plan", config), text=True, capture_output=True, timeout=120, env={**os.environ, "OMPI_MCA_orte_tmpdir_base": "/dev/null"})
    checks.that(done.returncode == 0, f"a process alone, where no session directory can be: exit {done.returncode}: {done.stderr[:300]}")
checks.end()
