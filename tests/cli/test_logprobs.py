"""generate --logprobs: log-probabilities of continuations and, with --echo, of prompts, as JSON: those of the loss that eval finds, the same on every grid and with
adapters; the greedy continuations are those that llama.cpp gave (tests/golden/llama_cpp.json, by interop/check_llama_cpp.py)."""

import json
import math
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "interop")]
import harness
import reference_models as reference
import said_models as said

USAGE, INPUT = 2, 3
PROMPT = [5, 17, 3, 44, 2]


def lines(folder, prompts):
    with open(f"{folder}/prompts.jsonl", "w") as file:
        for prompt in prompts:
            file.write(json.dumps(prompt) + "\n")
    return f"{folder}/prompts.jsonl"


def generate(base, file, *words, ranks=0):
    text = harness.mpilora("generate", "--base", base, "--prompts", file, "--precision", "fp32", *words, ranks=ranks)
    return [json.loads(line) for line in text.splitlines()]


def close(a, b, limit=2e-5):
    return len(a) == len(b) and all(x is y or abs(x - y) < limit for x, y in zip(a, b))


def check_golden(checks, folder):
    with open(os.path.join(HERE, "..", "golden", "llama_cpp.json")) as file:
        golden = json.load(file)["models"]
    for name in ("llama", "gpt2", "qwen3", "gemma3_text"):
        source, base = f"{folder}/{name}", f"{folder}/{name}.h5"
        said.write_model(source, name)
        harness.mpilora("import", source, base, "--dtype", "fp32")
        (found,) = generate(base, lines(folder, [{"prompt_ids": PROMPT}]), "--max-new", 50, "--logprobs", 1)
        wanted = golden[name]["tokens"]
        checks.that(found["logprobs"]["tokens"] == wanted and len(wanted) > 5, f"{name}: {found['logprobs']['tokens']}, llama.cpp gave {wanted}")
        best = [token for ((token, _),) in found["logprobs"]["top"]]
        checks.that(best == wanted, f"{name}: the most probable tokens are {best}")


def check_loss(checks, folder, base):
    """Σ −log p over the tokens of a prompt is the loss of the same tokens as data."""
    sequences = [[(7 * i * j + 3 * i + 5) % 203 for j in range(9 + i)] for i in range(5)]
    with open(f"{folder}/data.jsonl", "w") as file:
        for ids in sequences:
            file.write(json.dumps({"input_ids": ids}) + "\n")
    harness.mpilora("tokenize", "--base", base, "--format", "ids", f"{folder}/data.jsonl", f"{folder}/data.h5")
    config = harness.write_config(f"{folder}/eval.yaml", base=base, data={"valid": f"{folder}/data.h5", "max_len": 32}, precision="fp32")
    loss = json.loads(harness.mpilora("eval", config, "--json"))
    file = lines(folder, [{"prompt_ids": ids} for ids in sequences])
    found = generate(base, file, "--max-new", 0, "--echo", "--logprobs", 3)
    for one, ids in zip(found, sequences):
        scored = one["logprobs"]
        checks.that(scored["tokens"] == ids and scored["prompt"] == len(ids) and one["output"] == "", f"echo of {ids}: {scored['tokens']}")
        checks.that(scored["logprobs"][0] is None and scored["top"][0] is None, f"the first token has {scored['logprobs'][0]}")
        for top in scored["top"][1:]:
            values = [p for _, p in top]
            checks.that(len(top) == 3 and values == sorted(values, reverse=True) and values[0] <= 0, f"the most probable tokens: {top}")
    total = -sum(sum(one["logprobs"]["logprobs"][1:]) for one in found)
    checks.close("the sum of log-probabilities", total / loss["target_tokens"], loss["loss"], 1e-6)
    return file, found


def check_all(checks, folder, base):
    """All tokens' probabilities make 1, and those of a continuation are those of the same tokens as a prompt."""
    (greedy,) = generate(base, lines(folder, [{"prompt_ids": PROMPT}]), "--max-new", 12, "--logprobs", 500)
    for top in greedy["logprobs"]["top"]:
        checks.close("the sum of all probabilities", sum(math.exp(p) for _, p in top), 1.0, 1e-5)
        checks.that(sorted(token for token, _ in top) == list(range(203)), "the most probable tokens are not all of the vocabulary")
    tokens = greedy["logprobs"]["tokens"]
    (again,) = generate(base, lines(folder, [{"prompt_ids": PROMPT + tokens}]), "--max-new", 0, "--logprobs", 0, "--echo")
    checks.that(close(again["logprobs"]["logprobs"][len(PROMPT) :], greedy["logprobs"]["logprobs"]), "a continuation's log-probabilities are not those of the same prompt")
    for words in (["--beams", 3], ["--temperature", 1.5, "--seed", 4]):
        (other,) = generate(base, lines(folder, [{"prompt_ids": PROMPT}]), "--max-new", 6, "--logprobs", 0, *words)
        ids = other["logprobs"]["tokens"]
        (again,) = generate(base, lines(folder, [{"prompt_ids": PROMPT + ids}]), "--max-new", 0, "--logprobs", 0, "--echo")
        checks.that(close(again["logprobs"]["logprobs"][len(PROMPT) :], other["logprobs"]["logprobs"]), f"{words}: other log-probabilities than the model's")


def check_grids(checks, folder, base, file, alone):
    """tp 2 and two replicas; an adapter that changes them, and a prefix before the prompt, which is not echoed."""
    for words in (["--tp", 2], ["--tp", 1]):
        found = generate(base, file, "--max-new", 0, "--echo", "--logprobs", 3, *words, ranks=2)
        same = all(close(a["logprobs"]["logprobs"][1:], b["logprobs"]["logprobs"][1:]) for a, b in zip(alone, found))
        checks.that(same and len(found) == len(alone), f"two ranks, {words}: other log-probabilities")
    adapter = f"{folder}/adapter"
    reference.write_adapter(adapter, {**reference.DEFAULTS, "model": "llama", "targets": ["all"]})
    harness.mpilora("merge", "--base", base, "--adapter", adapter, "--dtype", "fp32", f"{folder}/merged.h5")
    merged = generate(f"{folder}/merged.h5", file, "--max-new", 4, "--echo", "--logprobs", 0)
    beside = generate(base, file, "--adapter", adapter, "--max-new", 4, "--echo", "--logprobs", 0)
    same = all(close(a["logprobs"]["logprobs"][1:], b["logprobs"]["logprobs"][1:], 1e-4) for a, b in zip(merged, beside))
    checks.that(same, "an adapter's log-probabilities are not those of the merged model")
    checks.that(not close(beside[0]["logprobs"]["logprobs"][1:5], alone[0]["logprobs"]["logprobs"][1:5], 1e-3), "the adapter changes nothing")


def refuse(checks, code, words, *command):
    done = harness.start("generate", *command)
    lines = done.stderr.strip().splitlines()
    good = done.returncode == code and len(lines) == 1 and all(word in lines[0] for word in words)
    checks.that(good, f"{command}: exit {done.returncode}, expected {code}, with {words}: {done.stderr}")


def check_refusals(checks, folder, base):
    refuse(checks, USAGE, ["--echo", "--logprobs"], "--base", base, "--prompt", "<3>", "--echo")
    refuse(checks, USAGE, ["--logprobs", "1024"], "--base", base, "--prompt", "<3>", "--logprobs", 5000)
    for prompt, words in (
        ({"prompt_ids": [3, 203]}, [":1", "203"]),
        ({"prompt_ids": [3, -1]}, [":1", "element 1"]),
        ({"prompt_ids": "3"}, [":1", "no list"]),
        ({"prompt_ids": [3], "prompt": "<3>"}, [":1", "beside"]),
        ({"prompt_ids": []}, [":1", "empty"]),
    ):
        refuse(checks, INPUT, words, "--base", base, "--prompts", lines(folder, [prompt]), "--logprobs", 0)


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        check_golden(checks, folder)
        base = f"{folder}/llama.h5"
        file, alone = check_loss(checks, folder, base)
        check_all(checks, folder, base)
        file = lines(folder, [{"prompt_ids": one["logprobs"]["tokens"]} for one in alone])
        check_grids(checks, folder, base, file, alone)
        check_refusals(checks, folder, base)
    checks.end()


main()
