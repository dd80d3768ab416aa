"""train.samples: samples.jsonl has what the model made of the prompts at its steps, the same on every grid; that of the last step is what generate gives with the
adapter that was trained, with virtual tokens, too; a resumed run has each step once; prompts that cannot be continued are refused before the first step."""

import json
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "interop")]
import harness
import said_models as said

USAGE, INPUT = 2, 3
PROMPTS = [{"prompt": "<5><17><3>"}, {"prompt_ids": [9, 8, 7, 6]}, {"prompt": "<4>"}]


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def train(folder, name, ranks=0, code=0, method=None, samples=None, runs=None, data=None, **train_keys):
    config = harness.write_config(
        f"{folder}/{name}.yaml",
        run={"dir": f"{folder}/{name}", "seed": 1},
        base=f"{folder}/base.h5",
        method=method or {"name": "lora", "rank": 4, "alpha": 16, "targets": ["all"]},
        data={"train": f"{folder}/data.h5", "max_len": 12, **(data or {})},
        batch={"sequences": 4},
        optim={"lr": 1e-2},
        train={"steps": 7, "save_every": 2, "samples": {"file": f"{folder}/prompts.jsonl", "every": 3, "max_new": 6} | (samples or {})} | train_keys,
        parallel={"tp": 2 if ranks == 2 else 1},
        precision="fp32",
        **({"runs": runs} if runs else {}),
    )
    done = harness.start("train", config, ranks=ranks)
    if done.returncode != code:
        sys.exit(f"{name}: exit {done.returncode}, expected {code}: {done.stderr}")
    return done.stderr


def check_last(checks, folder, name):
    """(step, output) of all lines; the last step's are generate's."""
    found = read(f"{folder}/{name}/samples.jsonl")
    text = harness.mpilora("generate", "--base", f"{folder}/base.h5", "--adapter", f"{folder}/{name}/adapter.h5", "--prompts", f"{folder}/prompts.jsonl", "--max-new", 6, "--precision", "fp32")
    wanted = [json.loads(line)["output"] for line in text.splitlines()]
    checks.that([line["output"] for line in found[-len(PROMPTS) :]] == wanted, f"{name}: {found[-len(PROMPTS) :]}, generate gives {wanted}")
    return [(line["step"], line["output"]) for line in found]


def refuse(checks, folder, words, prompts, code=INPUT):
    with open(f"{folder}/bad.jsonl", "w") as file:
        for prompt in prompts:
            file.write(json.dumps(prompt) + "\n")
    text = train(folder, "bad", code=code, samples={"file": f"{folder}/bad.jsonl"})
    checks.that(len(text.strip().splitlines()) == 1 and all(word in text for word in words), f"{prompts}: {text}")
    checks.that(not os.path.exists(f"{folder}/bad/metrics.jsonl"), f"{prompts}: the run began")


def check_together(checks, folder, alone):
    """Runs of one job make the samples that each makes alone, of its own prompts and at its own steps."""
    behind = {"name": "adapter_p", "bottleneck": 8}
    train(folder, "behind", method=behind, samples={"every": 2, "max_new": 4})
    own = {"method.name": "adapter_p", "method.bottleneck": 8, "train.samples.every": 2, "train.samples.max_new": 4}
    train(folder, "job", runs=[{"dir": f"{folder}/job/lora"}, {"dir": f"{folder}/job/behind", "set": own}, {"dir": f"{folder}/job/none", "set": {"train.samples.every": 0}}])
    checks.that(check_last(checks, folder, "job/lora") == alone, f"lora beside others samples otherwise: {read(f'{folder}/job/lora/samples.jsonl')}")
    found = [read(f"{folder}/{name}/samples.jsonl") for name in ("job/behind", "behind")]
    checks.that(found[0] == found[1] and len(found[0]) == 12, f"an adapter beside others samples otherwise: {found}")
    checks.that(not os.path.exists(f"{folder}/job/none/samples.jsonl") or not read(f"{folder}/job/none/samples.jsonl"), "a run without samples has some")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        said.write_model(f"{folder}/model", "llama")
        harness.mpilora("import", f"{folder}/model", f"{folder}/base.h5", "--dtype", "fp32")
        harness.make_data(folder, [[(7 * i * j + 3) % 200 for j in range(12)] for i in range(8)])
        with open(f"{folder}/prompts.jsonl", "w") as file:
            for prompt in PROMPTS:
                file.write(json.dumps(prompt) + "\n")
        train(folder, "alone")
        alone = check_last(checks, folder, "alone")
        checks.that([step for step, _ in alone] == [3, 3, 3, 6, 6, 6, 7, 7, 7], f"steps of samples: {alone}")
        checks.that(alone[0][1] != alone[3][1], f"training changes nothing: {alone}")
        train(folder, "two", ranks=2)
        checks.that(check_last(checks, folder, "two") == alone, f"tp 2 samples otherwise: {read(f'{folder}/two/samples.jsonl')}")
        check_together(checks, folder, alone)
        train(folder, "prefix", method={"name": "prefix_embed", "prefix": 3, "infix": 2})
        check_last(checks, folder, "prefix")
        train(folder, "part", steps=4)
        train(folder, "part", steps=7)
        steps = [line["step"] for line in read(f"{folder}/part/samples.jsonl")]
        checks.that(steps == [3, 3, 3, 4, 4, 4, 6, 6, 6, 7, 7, 7], f"steps of a resumed run: {steps}")
        train(folder, "early", data={"valid": f"{folder}/data.h5"}, eval_every=2, early_stop={"patience": 1, "min_delta": 10.0})
        steps = [line["step"] for line in read(f"{folder}/early/samples.jsonl")]
        checks.that(steps == [3, 3, 3, 4, 4, 4], f"steps of a run that ends early, at step 4: {steps}")
        check_last(checks, folder, "early")
        train(folder, "none", samples={"every": 0})
        checks.that(not os.path.exists(f"{folder}/none/samples.jsonl") or not read(f"{folder}/none/samples.jsonl"), "every 0 samples all the same")
        refuse(checks, folder, ["bad.jsonl:2", "context"], [{"prompt": "<3>"}, {"prompt_ids": list(range(60))}])
        refuse(checks, folder, ["bad.jsonl:1", "203"], [{"prompt_ids": [203]}])
        refuse(checks, folder, ["adapter"], [{"prompt": "<3>", "adapter": f"{folder}/alone/adapter.h5"}])
        text = train(folder, "bad", code=USAGE, samples={"file": None})
        checks.that("train.samples.file is missing" in text and not os.path.exists(f"{folder}/bad"), f"samples without a file: {text}")
        text = train(folder, "bad", code=INPUT, samples={"file": f"{folder}/nothing.jsonl"})
        checks.that("nothing.jsonl" in text, f"a file that is not there: {text}")
    checks.end()


main()
