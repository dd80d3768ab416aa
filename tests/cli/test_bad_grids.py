"""Grids that do not fit: every command that takes one refuses it in one line that names what would fit, on 1, 2 and 4 ranks, before anything is written; none waits."""

import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

USAGE, NO_ROW = 2, 3
MODEL = "{{family: {family}, layers: {layers}, width: 32, mlp_width: 48, heads: 4, {more}vocab: 257, context: 1024}}"
MODELS = {"llama": ("llama", 4, "kv_heads: 2, "), "single": ("llama", 1, "kv_heads: 2, "), "bert": ("bert", 2, "")}
checks = harness.Checks()

# What train and eval say: base, keys, ranks, text.
JOBS = {
    "stages beyond the layers": ("llama", ["parallel.pp=8"], 8, "parallel.pp: 8 stages, but the model has 4 layers; choose at most 4"),
    "stages of one layer": ("single", ["parallel.pp=2"], 2, "parallel.pp: 2 stages, but the model has 1 layer; choose at most 1"),
    "stages on one rank": ("llama", ["parallel.pp=2"], 1, "start a multiple of 2 ranks, or choose pp 1"),
    "three stages": ("llama", ["parallel.pp=3"], 4, "start a multiple of 3 ranks, or choose pp 1, 2 or 4"),
    "all of them": ("llama", ["parallel.tp=2", "parallel.cp=2", "parallel.pp=2"], 4, "parallel.pp: 2 stages of tp 2 times cp 2 do not divide the 4 ranks of this job; start a multiple of 8 ranks, or choose pp 1"),
    "cp beyond a block": ("llama", ["parallel.cp=4"], 4, "parallel.cp: 4 would share the longest sequence, of 300 tokens, among ranks that have less than 128 of them; choose cp 2, or"),
    "cp beyond a piece": ("llama", ["parallel.cp=2", "numerics=grid"], 2, "less than 512 of them (numerics is grid); choose cp 1, or sequences of 1024 tokens"),
    "cp of an encoder": ("bert", ["parallel.cp=2", "objective.name=mlm", "objective.mask_token=3"], 2, "parallel.cp: 2 does not know encoders"),
    "tp beyond the shares": ("llama", ["parallel.tp=4", "numerics=grid"], 4, "in 2 shares, which parallel.tp: 4 does not divide; choose tp 1 or 2, or numerics: fast"),
    "tp of no heads": ("llama", ["parallel.tp=3"], 3, "choose 1, 2 or 4"),
    "no replica's sequence": ("llama", ["batch.sequences=1", "batch.micro=1"], 2, "less than the 2 data-parallel replicas"),
}
# What every command says of a configuration, whatever it is for.
KEYS = {
    "parallel.tp=0": "parallel.tp: expected a number in [1, 1048576], found 0",
    "parallel.cp=-1": "parallel.cp: expected a number in [1, 1048576], found -1",
    "parallel.pp=1000000000": "parallel.pp: expected a number in [1, 1048576], found 1000000000",
    "parallel.tp=1.5": "parallel.tp",
    "parallel.tp=null": "parallel.tp",
    "parallel=[2]": "parallel",
    "parallel.tp=1048576 parallel.cp=1048576 parallel.pp=1048576": "are 1152921504606846976 ranks, expected 16777216 at most",
    "numerics=exact": "numerics",
}
# generate has options of its own.
GENERATE = (
    ("llama", ["--pp", 3], 2, "--pp: 3 does not divide the 2 ranks; choose 1 or 2"),
    ("llama", ["--tp", 3], 4, "--tp: 3 does not divide the 4 ranks; choose 1, 2 or 4"),
    ("llama", ["--pp", 2, "--tp", 2], 2, "--tp: 2 does not divide the 1 ranks of a stage; choose 1"),
    ("llama", ["--tp", 0], 1, "--tp: 0, expected 1 or more"),
    ("llama", ["--tp", -1], 1, "--tp: -1, expected 1 or more"),
    ("llama", ["--pp", 10**12], 2, "--pp: 1000000000000 does not divide the 2 ranks; choose 1 or 2"),
    ("single", ["--pp", 2], 2, "the model has 1 layer; choose at most 1"),
    ("bert", ["--pp", 2], 2, "is an encoder"),
)


def prepare(folder):
    for name, (family, layers, more) in MODELS.items():
        harness.make_base(folder, MODEL.format(family=family, layers=layers, more=more), "fp32")
        harness.make_data(folder, [[(i * i + 7 * j) % 257 for j in range(300 - 20 * i)] for i in range(6)], name)
        os.rename(f"{folder}/base.h5", f"{folder}/{name}-base.h5")
    with open(f"{folder}/prompts.jsonl", "w") as file:
        file.write('{"prompt_ids": [1, 2, 3]}\n')


def configure(folder, base):
    return harness.write_config(
        f"{folder}/run.yaml", run={"dir": f"{folder}/run"}, base=f"{folder}/{base}-base.h5", method={"name": "lora", "rank": 2, "targets": ["q", "v"]},
        data={"train": f"{folder}/{base}.h5", "valid": f"{folder}/{base}.h5"}, batch={"sequences": 4, "micro": 2}, train={"steps": 1}, precision="fp32")  # fmt: skip


def refused(what, done, text, code=USAGE):
    lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora")]
    checks.that(done.returncode == code and len(lines) == 1 and text in (done.stderr if code == NO_ROW else lines[0]), f"{what}: exit code {done.returncode}: {done.stderr}, expected {text}")


def words_of(sets):
    return [word for one in sets for word in ("--set", one)]


def check_jobs(folder):
    for what, (base, sets, ranks, text) in JOBS.items():
        config = configure(folder, base)
        for command in ("train", "eval") if "replica" not in what else ("train",):
            refused(f"{command}, {what}", harness.start(command, config, *words_of(sets), ranks=ranks if ranks > 1 else 0), text)
        refused(f"plan, {what}", harness.start("plan", config, "--ranks", ranks, *words_of(sets)), text)


def check_keys(folder):
    config = configure(folder, "llama")
    for key, text in KEYS.items():
        sets = words_of(key.split())
        for command, *words in (["train"], ["eval"], ["plan"], ["scale", "--ranks", 1], ["compare", "--methods", "lora"]):
            refused(f"{command}, {key}", harness.start(command, config, *words, *sets), text)
        refused(f"sweep, {key}", harness.start("sweep", "ranks", config, *sets), text)
        refused(f"train on 2 ranks, {key}", harness.start("train", config, *sets, ranks=2), text)


def check_experiments(folder):
    config, cut = configure(folder, "llama"), "among ranks that have less than 128 of them; choose cp 2, or"
    refused("sweep", harness.start("sweep", "ranks", config, "--plan", "--set", "parallel.cp=4"), cut)
    refused("scale, stages", harness.start("scale", config, "--ranks", 4, "--set", "parallel.pp=3"), "expected multiples of parallel.tp 1 x parallel.pp 3 x parallel.cp 1; name the grids with --grid")
    refused("scale, tokens", harness.start("scale", config, "--grid", "1x1x1x4", "--steps", 1, "--repetitions", 1, "--out", f"{folder}/scaled"), cut, NO_ROW)
    for what, sets, ranks, text in (("stages on one rank", ["parallel.pp=2"], 1, "--ranks 1: parallel.pp: 2 stages of tp 1 do not divide the 1 ranks"),
                                    ("tp", ["parallel.tp=2"], 3, "--ranks 3: parallel.tp: 2 does not divide the 3 ranks"),
                                    ("no replica's sequence", ["batch.sequences=1", "batch.micro=1"], 2, "less than the 2 data-parallel replicas")):
        for command, *words in (["compare", "--methods", "lora"], ["sweep", "ranks"]):
            first, *rest = words if command == "sweep" else ("", *words)
            done = harness.start(command, *filter(None, [first]), config, *rest, "--ranks", ranks, "--out", f"{folder}/none", *words_of(sets))
            refused(f"{command}, {what}", done, text)
            checks.that("eval" not in done.stderr and not os.path.exists(f"{folder}/none"), f"{command}, {what}: something was begun: {done.stderr}")
    done = harness.start("compare", config, "--methods", "lora", "--ranks", 3, "--out", f"{folder}/heads", "--set", "parallel.tp=3")
    refused("compare, tp of no heads", done, "the base alone cannot be evaluated: exit code 2: ")
    checks.that("mpilora eval" not in done.stderr and "choose 1, 2 or 4" in done.stderr, f"compare in the words of eval: {done.stderr}")
    refused("plan, ranks", harness.start("plan", config, "--ranks", 0), "--ranks: 0, expected 1 to 16777216")
    refused("plan, less than no ranks", harness.start("plan", config, "--ranks", -1), "--ranks: -1, expected 1 to 16777216")


def check_generate(folder):
    for base, words, ranks, text in GENERATE:
        done = harness.start("generate", "--base", f"{folder}/{base}-base.h5", "--prompts", f"{folder}/prompts.jsonl", "--max-new", 2, *words, ranks=ranks if ranks > 1 else 0)
        refused(f"generate {words} on {ranks} ranks", done, text)


def main():
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        for check in (check_jobs, check_keys, check_experiments, check_generate):
            check(folder)
        checks.that(not os.path.exists(f"{folder}/run"), "a refused run has written something")
    checks.end()


main()
