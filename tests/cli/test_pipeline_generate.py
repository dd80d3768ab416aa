"""Pipeline stages that write text: continuations, log-probabilities, what eval and train have a model say, with adapters of several methods, are those of one rank on every grid."""

import json
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "interop")]
import harness
import said_models as said

USAGE = 2
PROMPTS = [{"prompt_ids": ids} for ids in ([5, 17, 3, 44, 2], [5, 17, 3, 9], [8], [101, 7, 7, 60, 32, 12, 77, 150])]
SEARCHES = ([], ["--beams", 3, "--no-repeat-ngram", 2], ["--temperature", 1.2, "--top-k", 20, "--seed", 3])
GRIDS = {"2 stages": (["--pp", 2], 2), "2 stages of 2 ranks": (["--pp", 2, "--tp", 2], 4), "2 replicas of 2 stages": (["--pp", 2, "--tp", 1], 4)}
METHODS = {
    "lora": {"name": "lora", "rank": 4, "alpha": 32, "targets": ["all", "head", "embed"]},
    "magnitudes": {"name": "lora", "rank": 4, "targets": ["all"], "dora": True},
    "bottlenecks": {"name": "adapter_h", "bottleneck": 4},
    "biases": {"name": "bitfit", "new_biases": True},
    "virtual tokens": {"name": "prefix_layer", "prefix": 3, "infix": 0, "prefix_init": "random"},
    "virtual keys": {"name": "prefix_kv", "prefix": 3, "prefix_init": "random"},
}
checks = harness.Checks()


def generate(folder, base, *words, ranks=0):
    text = harness.mpilora("generate", "--base", f"{folder}/{base}.h5", "--prompts", f"{folder}/prompts.jsonl", "--precision", "fp32", "--max-new", 8, *words, ranks=ranks)
    return [json.loads(line) for line in text.splitlines()]


def same(found, alone):
    """Texts and tokens are equal, log-probabilities but for rounding."""
    for a, b in zip(found, alone, strict=True):
        scores = [[None if p is None else (p, *(q for _, q in top)) for p, top in zip(line["logprobs"]["logprobs"], line["logprobs"]["top"], strict=True)] for line in (a, b)]
        if a["output"] != b["output"] or a["logprobs"]["tokens"] != b["logprobs"]["tokens"]:
            return False
        if any((x is None) != (y is None) or x and max(abs(p - q) for p, q in zip(x, y, strict=True)) > 2e-5 for x, y in zip(*scores, strict=True)):
            return False
    return True


def check_searches(folder, base):
    for search in SEARCHES:
        alone = generate(folder, base, "--logprobs", 2, "--echo", *search)
        checks.that(len({line["output"] for line in alone}) > 1, f"{base} {search}: all prompts have one continuation")
        for grid, (words, ranks) in GRIDS.items():
            found = generate(folder, base, "--logprobs", 2, "--echo", *search, *words, ranks=ranks)
            checks.that(same(found, alone), f"{base} {search} on {grid}: {found}, one rank {alone}")


def config_of(folder, base, name, method, pp, **keys):
    return harness.write_config(
        f"{folder}/{name}.yaml",
        run={"dir": f"{folder}/{name}", "seed": 2},
        base=f"{folder}/{base}.h5",
        method=method,
        data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5", "max_len": 12},
        batch={"sequences": 4, "micro": 2},
        optim={"lr": 3e-2},
        train={"steps": 4, "samples": {"file": f"{folder}/prompts.jsonl", "every": 2, "max_new": 6}},
        parallel={"pp": pp},
        precision="fp32",
        **keys,
    )


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def check_methods(folder, base):
    """Samples while stages train; then generate and eval with the adapter, which all stages have parts of."""
    plain = generate(folder, base)
    for name, method in METHODS.items():
        runs = {pp: name.replace(" ", "-") + f"-{pp}" for pp in (1, 2)}
        for pp, run in runs.items():
            harness.mpilora("train", config_of(folder, base, run, method, pp), ranks=pp)
        samples = [read(f"{folder}/{run}/samples.jsonl") for run in runs.values()]
        checks.that(samples[0] == samples[1] and len(samples[0]) == 2 * len(PROMPTS), f"{base}, {name}: samples of stages {samples[1]}, of one rank {samples[0]}")
        adapter = ["--adapter", f"{folder}/{runs[1]}/adapter.h5"]
        alone = generate(folder, base, *adapter)
        checks.that(alone != plain, f"{base}, {name}: the adapter changes nothing")
        checks.that(generate(folder, base, *adapter, "--pp", 2, ranks=2) == alone, f"{base}, {name}: other continuations in stages")
        outputs = []
        for pp in runs:
            harness.mpilora("eval", f"{folder}/{runs[pp]}.yaml", *adapter, "--generate", f"{folder}/out.jsonl", "--max-new", 6, ranks=pp)
            outputs.append(read(f"{folder}/out.jsonl"))
        checks.that(outputs[0] == outputs[1] and outputs[0], f"{base}, {name}: eval --generate of stages {outputs[1]}, of one rank {outputs[0]}")
    both = [word for name in ("lora", "bottlenecks") for word in ("--adapter", f"{name}={folder}/{name}-1/adapter.h5")]
    with open(f"{folder}/mixed.jsonl", "w") as file:
        for i, prompt in enumerate(PROMPTS):
            file.write(json.dumps({**prompt, "adapter": ("lora", "bottlenecks")[i % 2]}) + "\n")
    mixed = [harness.mpilora("generate", "--base", f"{folder}/{base}.h5", "--prompts", f"{folder}/mixed.jsonl", "--precision", "fp32", "--max-new", 8, *both, *words, ranks=ranks) for words, ranks in ([[], 0], [["--pp", 2], 2])]
    checks.that(mixed[0] == mixed[1], f"{base}: two adapters in one pass: {mixed[1]}, one rank {mixed[0]}")


def check_refused(folder, base, layers):
    for words, ranks, said_ in ((["--pp", 2], 3, "--pp: 2 does not divide the 3 ranks"), (["--pp", 0], 1, "--pp: 0, expected 1"), (["--pp", layers + 1], layers + 1, f"{layers} layers"), (["--pp", 2, "--tp", 2], 2, "of a stage")):
        done = harness.start("generate", "--base", f"{folder}/{base}.h5", "--prompts", f"{folder}/prompts.jsonl", *words, ranks=ranks)
        said_lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora")]
        checks.that(done.returncode == USAGE and len(said_lines) == 1 and said_ in said_lines[0], f"{words} on {ranks} ranks: {done.returncode}, {done.stderr}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/prompts.jsonl", "w") as file:
            file.writelines(json.dumps(prompt) + "\n" for prompt in PROMPTS)
        for base in ("llama", "gemma3_text"):
            said.write_model(f"{folder}/{base}", base)
            harness.mpilora("import", f"{folder}/{base}", f"{folder}/{base}.h5", "--dtype", "fp32")
            check_searches(folder, base)
        os.rename(f"{folder}/llama.h5", f"{folder}/base.h5")
        harness.make_data(folder, [[(7 * i * j + 3) % 200 for j in range(12)] for i in range(8)])
        check_methods(folder, "base")
        check_refused(folder, "base", json.loads(harness.mpilora("inspect", f"{folder}/base.h5", "--json"))["architecture"]["layers"])
    checks.end()


main()
