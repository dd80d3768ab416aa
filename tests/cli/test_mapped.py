"""memory.load: frozen weights that are the base file's own pages give the same bits as copies of it, for every grid, type and way of sharing. A file that is cut
while it is mapped ends the run on every rank, with 3 and one line that names it; one that is written to does, too, and one whose time alone is set does not. No
number that was computed with what was lost gets out."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODELS = {
    "gpt2": "{family: gpt2, layers: 2, width: 256, heads: 4, vocab: 513, context: 64}",
    "llama": "{family: llama, layers: 2, width: 256, mlp_width: 768, heads: 4, kv_heads: 2, vocab: 513, context: 64, tied_head: true}",
}
NEEDS_TOKENIZER = "llama"
BASES = {"gpt2": ("gpt2", ()), "llama": ("llama", ()), "wide": ("llama", ("--dtype", "fp32")), "blocks": ("llama", ("--quantise", "q8_0"))}
GRIDS = ((0, 1, "auto"), (4, 2, "on"), (2, 1, "auto"), (2, 1, "off"), (2, 2, "auto"))  # ranks, tp, share_frozen
SECONDS = 40  # until a run that somebody has cut the base of must have ended
checks = harness.Checks()


def prepare(folder, name):
    """A base and its data in FOLDER/NAME."""
    model, options = BASES[name]
    place = f"{folder}/{name}"
    os.mkdir(place)
    with open(f"{place}/model.yaml", "w") as file:
        file.write(MODELS[model])
    if name == NEEDS_TOKENIZER:
        subprocess.run([sys.executable, f"{harness.SOURCE}/jobs/make_byte_tokenizer.py", f"{place}/tokenizer"], check=True)
        options = (*options, "--tokenizer", f"{place}/tokenizer")
    harness.mpilora("import", "--init", "random", "--config", f"{place}/model.yaml", *options, f"{place}/base.h5")
    harness.make_data(place, [[(7 * i + 11 * j) % 513 for j in range(20 + i)] for i in range(16)])
    return place


def configure(place, name, load, tp=1, steps=3, valid=True, precision="bf16", **memory):
    data = {"train": f"{place}/data.h5", "max_len": 64, **({"valid": f"{place}/data.h5"} if valid else {})}
    return harness.write_config(f"{place}/{name}.yaml", run={"dir": f"{place}/{name}"}, base=f"{place}/base.h5", method={"rank": 4}, data=data,
                                batch={"sequences": 8, "micro": 2}, optim={"lr": 1e-3, "schedule": "constant", "warmup": 0}, train={"steps": steps},
                                parallel={"tp": tp}, memory={"load": load, **memory}, precision=precision, kernels={"product": "native"})


def result(run):
    with open(f"{run}/adapter.h5", "rb") as file:
        adapter = file.read()
    return adapter, [(line["loss"], line["grad_norm"]) for line in harness.read_metrics(run)], harness.read_summary(run)


def check_same(place, name):
    """Mapped and read; dp, tp and both, with one copy of a node and without."""
    precision = "fp32" if name == "wide" else "bf16"
    for ranks, tp, share in GRIDS if name == "llama" else GRIDS[:2]:
        found = {}
        for load in ("map", "read"):
            run = f"{load}-{ranks}-{tp}-{share}"
            harness.mpilora("train", configure(place, run, load, tp, precision=precision, share_frozen=share), ranks=ranks)
            found[load] = result(f"{place}/{run}")
        what, (mapped, read) = f"{name}, {ranks} ranks, tp {tp}, share_frozen {share}", (found[load] for load in ("map", "read"))
        checks.that(mapped[:2] == read[:2], f"{what}: mapped weights do not give the bits of weights that were read")
        checks.that(mapped[2]["valid_loss"] == read[2]["valid_loss"], f"{what}: valid_loss {mapped[2]['valid_loss']} mapped, {read[2]['valid_loss']} read")
        loads = mapped[2]["load"], read[2]["load"]
        least = 0.95 if tp == 1 else 0.1  # of tp some matrices are cut into columns, and rows of others lie elsewhere in their page
        checks.that(loads[0]["mapped_bytes"] > least * loads[0]["bytes"],
                    f"{what}: {loads[0]['mapped_bytes']} bytes of {loads[0]['bytes']} are mapped")
        checks.that(loads[1]["mapped_bytes"] == 0 and loads[0]["bytes"] == loads[1]["bytes"], f"{what}: load says {loads}")
        memory = mapped[2]["memory"], read[2]["memory"]
        for key in ("frozen", "frozen_shared_by"):
            checks.that(memory[0][key] == memory[1][key], f"{what}: {key} {memory[0][key]} mapped, {memory[1][key]} read")
        off = abs(memory[0]["predicted"]["total_bytes"] - memory[0]["total_peak_bytes"])
        checks.that(off <= 0.01 * memory[0]["total_peak_bytes"] + (64 << 10), f"{what}: predicted bytes are off by {off}")


def check_auto(place):
    """Mapped where the file system is a local one, without a copy in each replica having been asked for."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", place], text=True, capture_output=True, check=True).stdout.strip()
    with open("/sys/devices/system/node/online") as file:
        apart = not file.read().strip().isdigit()
    local = kind in ("ext2/ext3", "xfs", "btrfs", "f2fs", "tmpfs") and not apart
    for ranks, share, expected in ((0, "auto", local), (2, "auto", local), (2, "off", False)):
        run = f"chosen-{ranks}-{share}"
        harness.mpilora("train", configure(place, run, "auto", share_frozen=share), ranks=ranks)
        mapped = harness.read_summary(f"{place}/{run}")["load"]["mapped_bytes"]
        checks.that((mapped > 0) == expected, f"auto on {kind}, {ranks} ranks, share_frozen {share}: {mapped} bytes are mapped")


def check_commands(place):
    """eval says the same of a base that is mapped and of one that is read."""
    adapter = f"{place}/map-0-1-auto/adapter.h5"
    said = [json.loads(harness.mpilora("eval", configure(place, f"eval-{load}", load), "--adapter", adapter, "--json"))["loss"] for load in ("map", "read")]
    checks.that(said[0] == said[1], f"eval: {said[0]} mapped, {said[1]} read")


def wait_for_lines(job, path, count):
    end = time.monotonic() + SECONDS
    while harness.count_lines(path) < count and job.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def disturb(place, name, ranks, tp, action, steps=1000000, **memory):
    """A run in whose middle `action` is done to the base; its exit code and standard error, None where it hangs."""
    shutil.rmtree(f"{place}/{name}", ignore_errors=True)
    config = configure(place, name, "map", tp, steps=steps, valid=False, **memory)
    job = subprocess.Popen(harness.command("train", config, ranks=ranks), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                           text=True, env=harness.WITHOUT_DELAY)
    wait_for_lines(job, f"{place}/{name}/metrics.jsonl", 8)
    action(f"{place}/base.h5")
    try:
        _, said = job.communicate(timeout=SECONDS)
        return job.returncode, said
    except subprocess.TimeoutExpired:
        job.kill()
        return None, job.communicate()[1]


def cut(path):
    os.truncate(path, os.path.getsize(path) // 3)


def write_zeros(path):
    """As a copy onto the file does, in its middle."""
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        file.write(bytes(4096))


def set_time(path):
    os.utime(path)


def restore(path, content):
    with open(path, "wb") as file:
        file.write(content)


def named_lines(said, path):
    """What is said of the file; the launcher's own words are its own."""
    return [line for line in said.splitlines() if path in line]


def check_disturbed(place):
    """Every line of a disturbed run's metrics is that of a run whose base nobody touches."""
    with open(f"{place}/base.h5", "rb") as file:
        content = file.read()
    for ranks, tp, share in ((0, 1, "auto"), (2, 1, "on"), (2, 2, "auto"), (4, 2, "on")):
        name = f"disturbed-{ranks}-{tp}"
        harness.mpilora("train", configure(place, f"{name}-whole", "read", tp, steps=24, valid=False), ranks=ranks)
        whole = [line["loss"] for line in harness.read_metrics(f"{place}/{name}-whole")]
        for action, word in ((cut, "the file ends at byte"), (write_zeros, "written to while in use")):
            what = f"{ranks} ranks, tp {tp}, {action.__name__}"
            code, said = disturb(place, name, ranks, tp, action, share_frozen=share)
            restore(f"{place}/base.h5", content)
            lines = named_lines(said, f"{place}/base.h5: ")
            checks.that(code == 3, f"{what}: exit {code}, expected 3: {said}")
            checks.that(len(lines) == 1 and word in lines[0], f"{what}: {len(lines)} lines, expected one with '{word}': {said}")
            losses = [line["loss"] for line in harness.read_metrics(f"{place}/{name}")][:24]
            checks.that(losses == whole[:len(losses)], f"{what}: losses of lost weights: {losses[-3:]} for {whole[len(losses) - 3:len(losses)]}")
            checks.that(not os.path.exists(f"{place}/{name}/adapter.h5"), f"{what}: wrote an adapter")
    code, said = disturb(place, "touched", 2, 1, set_time, steps=40)
    checks.that(code == 0 and len(named_lines(said, "its contents are the same")) == 1, f"time set: exit {code}: {said}")


def is_mapped(process, path):
    """Whether all ranks have pages of the file in the place of memory; None where there is no rank any more."""
    ranks = harness.ranks_of(process)
    try:
        return all(path in open(f"/proc/{rank}/maps").read() for rank in ranks) if ranks else None
    except OSError:
        return None


def cut_under(words, ranks, base):
    """A command whose base is cut while it computes: (exit code, standard output and error); None where it hangs, or mapped nothing."""
    job = subprocess.Popen(harness.command(*words, ranks=ranks), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           env=harness.WITHOUT_DELAY)
    end = time.monotonic() + SECONDS
    while job.poll() is None and not (len(harness.ranks_of(job.pid)) == max(1, ranks) and is_mapped(job.pid, base)) and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.5)  # its weights are there, and it computes with them
    if job.poll() is None:
        cut(base)
    try:
        printed, said = job.communicate(timeout=SECONDS)
        return job.returncode, printed, said
    except subprocess.TimeoutExpired:
        job.kill()
        return None, *job.communicate()


def check_cut_commands(place):
    """eval, generate and embed, each with more to do than it has time for before the cut."""
    base, out = f"{place}/base.h5", f"{place}/vectors.npy"
    with open(base, "rb") as file:
        content = file.read()
    harness.make_data(place, [[(7 * i + 11 * j) % 256 for j in range(60)] for i in range(3000)], "many")
    with open(f"{place}/prompts.jsonl", "w") as file:
        file.writelines(json.dumps({"prompt_ids": [i % 256, i % 7, 5]}) + "\n" for i in range(4000))
    with open(f"{place}/texts.txt", "w") as file:
        file.writelines(f"text {i}, of about as many bytes as the context of the model has\n" for i in range(12000))
    config = configure(place, "eval-cut", "map", valid=False)
    with open(config) as file:
        keys = json.load(file)
    harness.write_config(config, **{**keys, "data": {"valid": f"{place}/many.h5", "max_len": 64}})
    commands = {
        "eval": ("eval", config, "--json"),
        "generate": ("generate", "--base", base, "--prompts", f"{place}/prompts.jsonl", "--max-new", 40, "--precision", "bf16", "--tp", 1),
        "embed": ("embed", "--base", base, f"{place}/texts.txt", out, "--precision", "bf16"),
    }
    for name, words in commands.items():
        for ranks in (0, 2):
            code, printed, said = cut_under(words, ranks, base)
            restore(base, content)
            lines = named_lines(said, f"{base}: ")
            checks.that(code == 3, f"{name}, {ranks} ranks, cut: exit {code}, expected 3: {said}")
            checks.that(len(lines) == 1 and "the file ends at byte" in lines[0], f"{name}, {ranks} ranks, cut: {len(lines)} lines, expected one: {said}")
            checks.that(not printed and not os.path.exists(out), f"{name}, {ranks} ranks, cut: results of lost weights: {printed[:200]}")


def check_key(place):
    done = harness.start("plan", configure(place, "wrong", "perhaps"))
    checks.that(done.returncode == 2 and "memory.load" in done.stderr, f"memory.load: perhaps: exit {done.returncode}: {done.stderr}")


with tempfile.TemporaryDirectory() as folder:
    for name in BASES:
        place = prepare(folder, name)
        check_same(place, name)
    check_commands(f"{folder}/llama")
    check_auto(f"{folder}/llama")
    check_disturbed(f"{folder}/llama")
    check_cut_commands(f"{folder}/llama")
    check_key(f"{folder}/llama")
checks.end()
