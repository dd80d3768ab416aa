"""memory.share_frozen: replicas of a node hold one copy of the frozen weights. Results are the same bits with and without, sums count the copy once and are
those of plan, what cannot be shared is said, and a rank that is killed leaves no file in shared memory."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: gpt2, layers: 2, width: 384, heads: 4, vocab: 513, context: 64}"
WIDE = MODEL.replace("384", "768")  # its weights are far more than what the peaks of two equal processes differ by
FROZEN = 7_000_000  # bytes in bf16, at least
STRUCTURES = 64 << 10  # bytes of small structures in a rank that no plan counts
SHM = "/dev/shm"
checks = harness.Checks()


def prepare(folder, description=MODEL):
    model, base, lines, data = (os.path.join(folder, name) for name in ("model.yaml", "base.h5", "lines.jsonl", "data.h5"))
    with open(model, "w") as file:
        file.write(description)
    harness.mpilora("import", "--init", "random", "--config", model, base)
    with open(lines, "w") as file:
        for i in range(16):
            file.write(json.dumps({"input_ids": [(7 * i + 11 * j) % 513 for j in range(20 + i)]}) + "\n")
    harness.mpilora("tokenize", "--base", base, lines, data, "--format", "ids")
    return base, data


def configure(folder, files, name, tp=1, steps=4, method="lora", **memory):
    run = os.path.join(folder, name)
    base, data = files
    config = harness.write_config(run + ".yaml", run={"dir": run}, base=base, method={"name": method, "rank": 4},
                                  data={"train": data, "valid": data, "max_len": 64}, batch={"sequences": 8, "micro": 2},
                                  train={"steps": steps}, parallel={"tp": tp}, memory=memory, kernels={"product": "blas"})
    return run, config


def start(config, ranks, way=None, limit=None, wrapper=()):
    environment = dict(os.environ, **({"MPILORA_SHARED_MEMORY": way} if way else {}))

    def lower():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    call = [*wrapper, *harness.command("train", config, ranks=ranks)]
    return subprocess.run(call, text=True, capture_output=True, timeout=120, env=environment, stdin=subprocess.DEVNULL,
                          preexec_fn=lower if limit else None)


def result(run):
    with open(os.path.join(run, "adapter.h5"), "rb") as file:
        adapter = file.read()
    return adapter, [line["loss"] for line in harness.read_metrics(run)], harness.read_summary(run)


def check_same(folder, files):
    """On and off, each way, dp 2 and dp 2 x tp 2; and what sums say about it."""
    for ranks, tp in ((2, 1), (4, 2), (3, 1)):
        found = {}
        for name, share, way in (("off", "off", None), ("auto", "auto", None), ("file", "on", "file"), ("window", "on", "window")):
            run, config = configure(folder, files, f"run-{ranks}-{tp}-{name}", tp, share_frozen=share)
            done = start(config, ranks, way)
            if done.returncode:
                sys.exit(f"{ranks} ranks, {name}: {done.stderr}")
            found[name] = result(run)
            checks.that(("one copy" in done.stderr) == (share != "off"), f"{ranks} ranks, {name}: wrong about one copy:\n{done.stderr}")
            check_figures(f"{ranks} ranks, tp {tp}, {name}", config, ranks, found[name][2]["memory"], found["off"][2]["memory"], tp)
            checks.that(found[name][:2] == found["off"][:2], f"{ranks} ranks, tp {tp}: {name} does not give the bits of off")


def check_processes(folder):
    """What the system counts of the processes falls by the copies that are not there."""
    os.mkdir(folder)
    files, peak = prepare(folder, WIDE), {}
    for ranks, tp in ((2, 1), (3, 1), (4, 2)):
        for name, share, way in (("off", "off", None), ("file", "on", "file"), ("window", "on", "window")):
            run, config = configure(folder, files, f"wide-{ranks}-{tp}-{name}", tp, steps=1, share_frozen=share)
            done = start(config, ranks, way)
            if done.returncode:
                sys.exit(f"{ranks} ranks, {name}: {done.stderr}")
            memory = harness.read_summary(run)["memory"]
            peak[name] = memory["node_process_peak_bytes"]
            saved = (ranks - tp) * memory["frozen"]
            checks.that(name == "off" or peak[name] < peak["off"] - 0.6 * saved,
                        f"{ranks} ranks, tp {tp}, {name}: processes {peak[name]} bytes, apart {peak['off']}, of which {saved} are copies")


def check_figures(what, config, ranks, memory, apart, tp):
    shared = memory["frozen_shared_by"] > 1
    checks.that(memory["frozen_shared_by"] in (1, ranks // tp), f"{what}: shared by {memory['frozen_shared_by']}")
    checks.that(memory["frozen"] == apart["frozen"] > FROZEN / tp, f"{what}: {memory['frozen']} frozen bytes in the largest rank, apart {apart['frozen']}")
    saved = (ranks - tp) * memory["frozen"] if shared else 0
    checks.that(abs(apart["node_peak_bytes"] - saved - memory["node_peak_bytes"]) <= ranks * STRUCTURES,
                f"{what}: a node's peak of {memory['node_peak_bytes']} bytes, {apart['node_peak_bytes']} apart, should have saved {saved}")
    plan = json.loads(harness.mpilora("plan", config, "--ranks", ranks, "--json"))["methods"][0]
    for name, found, expected, ranks_of in (("a rank's bytes, plan beside run", plan["total_bytes_per_rank"], memory["total_peak_bytes"], 1),
                                            ("a node's bytes, plan beside run", plan["node_bytes"], memory["node_peak_bytes"], ranks),
                                            ("a node's bytes, prediction beside run", memory["predicted"]["node_bytes"], memory["node_peak_bytes"], ranks)):
        checks.that(abs(found - expected) <= ranks_of * STRUCTURES, f"{what}: {name}: {found} for {expected}")
    checks.that(plan["frozen_shared_by"] == memory["frozen_shared_by"], f"{what}: plan says shared by {plan['frozen_shared_by']}")
    checks.that(plan["total_bytes"] == plan["node_bytes"], f"{what}: on one node {plan['node_bytes']} bytes, in all {plan['total_bytes']}")


def check_refusals(folder, files):
    """Nothing to share: said, and done without. No room: a copy each under auto, exit 4 under on; never a signal."""
    for name, ranks, method, word in (("alone", 0, "lora", "no two ranks"), ("trained", 2, "full", "leaves no weight frozen")):
        done = start(configure(folder, files, name, method=method, share_frozen="on")[1], ranks)
        checks.that(done.returncode == 0 and word in done.stderr, f"{name}: exit {done.returncode}: {done.stderr}")
    for share, code in (("auto", 0), ("on", 4)):
        done = start(configure(folder, files, f"limit-{share}", share_frozen=share)[1], 2, "file", limit=6 << 20)
        checks.that(done.returncode == code, f"ulimit -f, {share}: exit {done.returncode}, expected {code}: {done.stderr}")
        checks.that("the frozen weights" in done.stderr and "ulimit -f" in done.stderr and re.search(r"\d{7} bytes", done.stderr),
                    f"ulimit -f, {share}: {done.stderr}")
        checks.that(("a copy each" in done.stderr) == (share == "auto"), f"ulimit -f, {share}: {done.stderr}")
    check_small_shm(folder, files)
    done = harness.start("plan", configure(folder, files, "wrong", share_frozen="perhaps")[1])
    checks.that(done.returncode == 2 and "memory.share_frozen" in done.stderr, f"share_frozen: perhaps: exit {done.returncode}: {done.stderr}")


def check_small_shm(folder, files):
    """A window where /dev/shm has no room for it."""
    wrapper = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=6m none {SHM} && exec "$0" "$@"']
    if not shutil.which("unshare") or subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        print("no mount name space of its own here: /dev/shm without room is not tested")
        return
    for share, code in (("auto", 0), ("on", 4)):
        done = start(configure(folder, files, f"shm-{share}", share_frozen=share)[1], 2, "window", wrapper=wrapper)
        checks.that(done.returncode == code and f"{SHM} has room for" in done.stderr, f"small {SHM}, {share}: exit {done.returncode}: {done.stderr}")
    done = start(configure(folder, files, "shm-file", share_frozen="on")[1], 2, wrapper=wrapper)
    checks.that(done.returncode == 0, f"small {SHM}, a memory file: exit {done.returncode}: {done.stderr}")


def children(pid):
    """Those that run: a dead one that mpirun has not waited for does not."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in found if not line.split()[1].startswith("Z")]


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def end_by_force(job, everyone):
    """Whether MPI could clean up after itself: not where mpirun was killed, or hung in its own end (its PMIx can)."""
    ranks = children(job.pid)
    kill([job.pid, *ranks] if everyone else ranks[-1:] or [job.pid])
    try:
        job.wait(timeout=20)
    except subprocess.TimeoutExpired:
        checks.that(not children(job.pid), "a rank still runs 20 s after another was killed")
        kill([job.pid, *children(job.pid)])
        job.wait()
        return False
    time.sleep(0.2)
    return not everyone and bool(ranks)


def check_kills(folder, files):
    """One rank, or mpirun and all ranks, at several moments from before the weights are there to the steps. MPI's files of this job alone are looked at: they go
    to a folder of their own. Where mpirun could not clean up, its files for messages (vader_segment) stay, and a window's file (osc_sm) has a name for the moment
    between its making and its mapping, both within MPI: neither is of our making, and the run's next start removes them (test_signals)."""
    _, config = configure(folder, files, "killed", steps=100000, share_frozen="on")
    place, others = os.path.join(folder, "shm"), set(os.listdir(SHM))
    os.mkdir(place)
    environment = dict(os.environ, OMPI_MCA_btl_vader_backing_directory=place, OMPI_MCA_osc_sm_backing_directory=place)
    for way in ("file", "window"):
        for moment in (0.15, 0.3, 0.45, 0.7, 1.5):
            for everyone in (False, True):
                job = subprocess.Popen(harness.command("train", config, "--fresh", ranks=2), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, env=dict(environment, MPILORA_SHARED_MEMORY=way))
                time.sleep(moment)
                clean = end_by_force(job, everyone)
                left = os.listdir(place)
                mpi = "osc_sm" if clean else ("osc_sm", "vader_segment")
                own = [name for name in left if not name.startswith(mpi)] + [name for name in os.listdir(SHM) if "mpilora" in name and name not in others]
                for name in left:
                    os.unlink(os.path.join(place, name))
                checks.that(not own, f"{way}, killed {'all' if everyone else 'one rank'} after {moment} s: left {own}")


with tempfile.TemporaryDirectory() as folder:
    files = prepare(folder)
    check_same(folder, files)
    check_processes(os.path.join(folder, "wide"))
    check_refusals(folder, files)
    check_kills(folder, files)
checks.end()
