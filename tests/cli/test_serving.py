"""Many tasks from one base: generate with several adapters and a prompts file, eval --generate, on any grid; each continuation is that of its request alone."""
import json
import os
import re
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import harness

MODEL = "{family: gpt2, layers: 3, width: 32, heads: 4, vocab: 401, context: 96}\n"
WIDE_MODEL = "{family: gpt2, layers: 8, width: 512, heads: 8, vocab: 401, context: 96}\n"
PROMPTS = ("name : The Eagle | food : French", "name : The Eagle | area : riverside", "Mr. Brown, 12 years old", "x")
TEXTS = ("the eagle is a french place .", "it is by the river .", "he was twelve , and tired .", "what is x ?")
# name -> keys of the method, and how far the adapter is to go: outputs must differ
TASKS = {
    "lora": {"lr": 0.002, "rank": 4, "targets": ["qkv", "o", "fc", "proj"]},
    "dora": {"lr": 0.02, "name": "lora", "rank": 2, "dora": True, "targets": ["q", "proj"]},
    "adapter_l": {"lr": 0.05, "bottleneck": 6},
    "compacter": {"lr": 0.002, "bottleneck": 4, "factors": 2},
    "prefix_layer": {"lr": 0.05, "prefix": 3, "infix": 2},
    "prefix_kv": {"lr": 0.1, "prefix": 4},
    "lora+prefix_embed": {"lr": 0.006, "rank": 2, "prefix": 2, "infix": 0},
    "top": {"lr": 0.02, "top": 1},
    "bitfit": {"lr": 0.002},
}


def make_world(folder, model=MODEL, tasks=TASKS):
    """A base with a tokenizer, a data set, and an adapter of every task."""
    harness.make_base(folder, model, "fp32")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/base.h5", f"{folder}/hf")
    shutil.copy(f"{harness.SOURCE}/tests/golden/tokenizer/gpt2/tokenizer.json", f"{folder}/hf")
    harness.mpilora("import", f"{folder}/hf", "--dtype", "fp32", f"{folder}/spoken.h5")
    with open(f"{folder}/lines.txt", "w") as file:
        for prompt, text in zip(PROMPTS, TEXTS):
            file.write(f"{prompt}||{text}\n{prompt}||again {text}\n")
    harness.mpilora("tokenize", "--base", f"{folder}/spoken.h5", "--format", "e2e", f"{folder}/lines.txt", f"{folder}/data.h5")
    for number, (task, keys) in enumerate(tasks.items()):
        keys = dict(keys)
        lr = keys.pop("lr")
        config = harness.write_config(
            f"{folder}/{task}.yaml", run={"dir": f"{folder}/{task}", "seed": 3 + number}, base=f"{folder}/spoken.h5", method={"name": task, **keys},
            data={"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5"}, batch={"sequences": 4, "micro": 4}, optim={"lr": lr},
            train={"steps": 5}, precision="fp32")
        harness.mpilora("train", config)


def generate(folder, *words, ranks=0):
    return harness.start("generate", "--base", f"{folder}/spoken.h5", "--precision", "fp32", "--max-new", "12", *words, ranks=ranks)


def alone(folder, search, prompts=PROMPTS):
    """Each prompt under each adapter, and under none, by a run of its own task: what everything else is compared with."""
    outputs = {}
    for task in (None, *TASKS):
        for prompt in prompts:
            words = ("--adapter", f"{folder}/{task}/adapter.h5") if task else ()
            done = generate(folder, *words, "--prompt", prompt, "--json", *search)
            if done.returncode:
                sys.exit(f"generate under {task}: exit {done.returncode}: {done.stderr}")
            outputs[task, prompt] = json.loads(done.stdout)["output"]
    return outputs


def read_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def check_all_adapters(checks, folder, expected, label, search, ranks, texts=PROMPTS):
    adapters = [word for task in TASKS for word in ("--adapter", f"{task}={folder}/{task}/adapter.h5")]
    prompts = [word for prompt in texts for word in ("--prompt", prompt)]
    done = generate(folder, *adapters, *prompts, *search, "--json", ranks=ranks)
    found = [(line["adapter"], line["prompt"], line["output"]) for line in read_lines(done.stdout)]
    wanted = [(task, prompt, expected[task, prompt]) for task in TASKS for prompt in texts]
    checks.that(found == wanted, f"{label}: {[pair for pair in zip(found, wanted) if pair[0] != pair[1]][:3]} {done.stderr[-300:]}")
    switches = re.search(r"(\d+) switches, ", done.stderr)
    checks.that(switches and int(switches[1]) >= len(TASKS), f"{label}: how often adapters were switched: {done.stderr}")


def check_cost_of_a_switch(checks, folder):
    """A switch is a few pointers, whatever the base's size: beside a base of 100 MB next to nothing. (One that is read in 0.3 ms says nothing of it.)"""
    tasks = {task: TASKS[task] for task in ("lora", "dora")}
    make_world(folder, WIDE_MODEL, tasks)
    adapters = [word for task in tasks for word in ("--adapter", f"{task}={folder}/{task}/adapter.h5")]
    done = generate(folder, *adapters, *[word for prompt in PROMPTS for word in ("--prompt", prompt)])
    told = re.search(r"(\d+) switches, .* each \(([\d.e+-]+) % of reading the base\)", done.stderr)
    checks.that(told and int(told[1]) >= len(tasks) and float(told[2]) <= 1.0, f"what a switch costs: {done.stderr}")


def check_wide_passes(checks, folder):
    """So many rows at once (64 requests, 10 beams) that the model goes through them in several chunks."""
    adapters = [word for task in TASKS for word in ("--adapter", f"{task}={folder}/{task}/adapter.h5")]
    prompts = [word for prompt in 2 * PROMPTS for word in ("--prompt", prompt)]
    few, many = (generate(folder, *adapters, *prompts, "--beams", "10", "--max-new", "4", "--json", "--batch", batch).stdout for batch in (3, 64))
    different = [pair for pair in zip(read_lines(few), read_lines(many)) if pair[0] != pair[1]]
    checks.that(few and not different, f"3 requests at once and 64: {different[:3]}")


def check_prompts_file(checks, folder, expected):
    """Every prompt names its own adapter, in any order, by a name, by a path, or none."""
    order = [(list(TASKS)[(7 * i) % len(TASKS)] if i % 5 else None, PROMPTS[(3 * i) % 4]) for i in range(21)]
    with open(f"{folder}/prompts.jsonl", "w") as file:
        for i, (task, prompt) in enumerate(order):
            adapter = f"{folder}/{task}/adapter.h5" if task and i % 2 else task
            file.write(json.dumps({"prompt": prompt, "adapter": adapter}) + "\n")
    named = [word for task in TASKS for word in ("--adapter", f"{task}={folder}/{task}/adapter.h5")]
    for ranks, batch in ((0, 1), (0, 5), (2, 64)):
        generate(folder, *named, "--prompts", f"{folder}/prompts.jsonl", "--batch", batch, "--out", f"{folder}/out.jsonl", ranks=ranks)
        with open(f"{folder}/out.jsonl") as file:
            found = [line["output"] for line in read_lines(file.read())]
        wanted = [expected[pair] for pair in order]
        checks.that(found == wanted, f"prompts file, {ranks or 1} ranks, {batch} at a time: {[p for p in zip(order, found, wanted) if p[1] != p[2]][:3]}")
    with open(f"{folder}/prompts.jsonl", "w") as file:
        file.write(json.dumps({"prompt": PROMPTS[0]}) + "\n\n")
    done = generate(folder, "--adapter", f"{folder}/lora/adapter.h5", "--prompts", f"{folder}/prompts.jsonl")
    checks.that(read_lines(done.stdout)[0]["output"] == expected["lora", PROMPTS[0]], f"a line without an adapter takes the one that is given: {done.stdout}")


def check_outputs(checks, folder, expected, task):
    """eval --generate: outputs beside all references of a prompt, the same on any grid."""
    files = []
    for ranks, tp, batch in ((0, 1, 8), (2, 1, 1), (2, 2, 8), (4, 2, 2)):
        path = f"{folder}/outputs-{ranks}-{tp}.jsonl"
        harness.mpilora("eval", f"{folder}/{task}.yaml", "--adapter", f"{folder}/{task}/adapter.h5", "--set", f"parallel.tp={tp}", "--generate", path,
                        "--max-new", "12", "--batch", batch, ranks=ranks)
        with open(path) as file:
            files.append(file.read())
    checks.that(all(text == files[0] for text in files), f"{task}: eval --generate on other grids: {files}")
    lines = read_lines(files[0])
    checks.that([line["prompt"] for line in lines] == list(PROMPTS), f"{task}: prompts {[line['prompt'] for line in lines]}")
    for line, prompt, text in zip(lines, PROMPTS, TEXTS):
        checks.that(line["references"] == [text, f"again {text}"], f"{task}: references {line['references']}, expected {text}")
        checks.that(line["output"] == expected[task, prompt], f"{task}: output {line['output']}, generate gave {expected[task, prompt]}")
    scores = json.loads(harness.mpilora("score", f"{folder}/outputs-0-1.jsonl", "--json"))
    checks.that(0.0 <= scores["bleu"] <= 1.0, f"{task}: score of the outputs: {scores}")


def check_preferred(checks, folder):
    """Of pairs, and of answers with a verdict, what is not wanted is no reference; prompts without an answer that is are left out."""
    rows = [{"prompt": PROMPTS[0], "chosen": TEXTS[0], "rejected": TEXTS[1]}, {"prompt": PROMPTS[1], "chosen": TEXTS[1], "rejected": TEXTS[0]}]
    said = [{"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"} for row in rows for key in ("chosen", "rejected")][:3]
    said[2]["label"] = False
    for objective, lines, expected in (("dpo", rows, [[TEXTS[0]], [TEXTS[1]]]), ("kto", said, [[TEXTS[0]]])):
        with open(f"{folder}/{objective}.jsonl", "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        harness.mpilora("tokenize", "--base", f"{folder}/spoken.h5", f"{folder}/{objective}.jsonl", f"{folder}/{objective}.h5")
        harness.mpilora("eval", f"{folder}/lora.yaml", "--set", f"objective.name={objective}", "--set", f"data.valid={folder}/{objective}.h5", "--generate", f"{folder}/preferred.jsonl", "--max-new", 2)
        with open(f"{folder}/preferred.jsonl") as file:
            found = [line["references"] for line in read_lines(file.read())]
        checks.that(found == expected, f"{objective}: references {found}, expected {expected}")


def check_text_start(checks, folder):
    """A prefix that starts as a text, repeated and cut to its length, and does not train, is to a prompt what that text before it is."""
    prompt, text = " is the", "?x?x?"  # a token each
    expected = json.loads(generate(folder, "--prompt", text + prompt, "--json").stdout)["output"]
    checks.that(expected != json.loads(generate(folder, "--prompt", prompt, "--json").stdout)["output"], "the text changes nothing")
    for method in ("prefix_embed", "prefix_layer", "prefix_kv"):
        config = harness.write_config(
            f"{folder}/text.yaml", run={"dir": f"{folder}/text-{method}"}, base=f"{folder}/spoken.h5", data={"train": f"{folder}/data.h5"}, batch={"sequences": 4},
            method={"name": method, "prefix": 5, "prefix_init": "text", "prefix_text": "?x"}, optim={"lr": 0.0}, train={"steps": 1}, precision="fp32")
        harness.mpilora("train", config, ranks=2 if method == "prefix_kv" else 0)
        done = generate(folder, "--adapter", f"{folder}/text-{method}/adapter.h5", "--prompt", prompt, "--json")
        checks.that(done.returncode == 0 and json.loads(done.stdout)["output"] == expected, f"{method} as a text: {done.stdout}{done.stderr}, expected {expected}")


def check_refusals(checks, folder):
    lora = f"{folder}/lora/adapter.h5"
    with open(f"{folder}/bad.jsonl", "w") as file:
        file.write('{"prompt": "x"}\n{"prompt": 7}\n')
    for name, line in (("strange", {"prompt": "x", "adapter": "nobody"}), ("empty", {"prompt": ""}), ("long", {"prompt": "1 " * 60})):
        with open(f"{folder}/{name}.jsonl", "w") as file:
            file.write(json.dumps({"prompt": "x"}) + "\n" + json.dumps(line) + "\n")
    for what, words, code, expected in (
        ("an adapter that nobody named", ("--adapter", f"a={lora}", "--prompts", f"{folder}/strange.jsonl"), 3, "strange.jsonl:2: adapter \"nobody\""),
        ("an empty prompt in a file", ("--prompts", f"{folder}/empty.jsonl"), 3, "empty.jsonl:2"),
        ("a prompt of a file beyond the context", ("--prompts", f"{folder}/long.jsonl"), 3, "long.jsonl:2"),
        ("more new tokens than the context", ("--prompt", "x", "--max-new", "99999999999999"), 2, "--max-new"),
        ("a group that the heads cannot be divided among", ("--prompt", "x", "--tp", "3"), 2, "--tp"),
        ("a prompt that is a number", ("--prompts", f"{folder}/bad.jsonl"), 3, "bad.jsonl:2"),
        ("a file that is not there", ("--prompts", f"{folder}/none.jsonl"), 3, "none.jsonl"),
        ("both kinds of prompts", ("--prompts", f"{folder}/bad.jsonl", "--prompt", "x"), 2, "--prompts"),
        ("a name twice", ("--adapter", f"a={lora}", "--adapter", f"a={lora}", "--prompt", "x"), 2, "twice"),
        ("an adapter that is not there", ("--adapter", lora, "--adapter", f"b={folder}/none.h5", "--prompt", "x"), 3, "none.h5"),
        ("none at a time", ("--prompt", "x", "--batch", "0"), 2, "--batch"),
        ("a prompt beyond the context", ("--prompt", "x", "--prompt", "1 " * 60, "--json"), 2, "number 2"),
        ("an empty prompt", ("--prompt", "x", "--prompt", "", "--json"), 2, "prompt"),
    ):
        done = generate(folder, *words, ranks=2 if "at a time" in what else 0)
        lines = [line for line in done.stderr.splitlines() if line.startswith("mpilora")]
        checks.that(done.returncode == code and len(lines) == 1 and expected in lines[0], f"{what}: exit {done.returncode}: {done.stderr}")
    alone = json.loads(generate(folder, "--prompt", "x", "--json").stdout)
    for bad in ("", "1 " * 60):
        done = generate(folder, "--prompt", bad, "--prompt", "x", "--json", ranks=2)
        found = read_lines(done.stdout)
        checks.that(found == [{"prompt": bad, "adapter": None, "output": None}, alone], f"a bad prompt before a good one: {found}")
        checks.that(done.returncode == 2 and "number 1" in done.stderr and "1 of 2 prompts" in done.stderr, f"a bad prompt before a good one: {done.stderr}")
    for command in (("eval", f"{folder}/lora.yaml", "--generate"), ("generate", "--base", f"{folder}/spoken.h5", "--prompt", "x", "--out")):
        done = harness.start(*command, f"{folder}/no/such/x.jsonl", ranks=2)
        checks.that(done.returncode == 4 and "no/such/x.jsonl" in done.stderr and ".tmp-" not in done.stderr, f"{command[0]}: a place that is not there: {done.stderr}")
    done = harness.start("eval", f"{folder}/lora.yaml", "--generate", f"{folder}/x.jsonl", "--beams", "0")
    checks.that(done.returncode == 2 and "--beams" in done.stderr, f"eval with no beam: exit {done.returncode}: {done.stderr}")


def main():
    checks = harness.Checks()
    with tempfile.TemporaryDirectory() as folder:
        make_world(folder)
        greedy = alone(folder, ())
        tasks = {tuple(greedy[task, prompt] for prompt in PROMPTS) for task in (None, *TASKS)}
        checks.that(len(tasks) == len(TASKS) + 1, f"two adapters do the same, so a mix-up would not be seen: {greedy}")
        check_all_adapters(checks, folder, greedy, "greedy", (), 0)
        check_all_adapters(checks, folder, greedy, "greedy, 2 ranks", (), 2)
        check_all_adapters(checks, folder, greedy, "greedy, 4 ranks", ("--batch", "32"), 4)
        check_all_adapters(checks, folder, greedy, "greedy, 3 replicas", ("--batch", "5"), 3)  # 4 heads: no group of 3
        check_all_adapters(checks, folder, greedy, "greedy, 2 groups of 2", ("--tp", "2"), 4)
        beams = ("--beams", "4", "--length-penalty", "0.8", "--no-repeat-ngram", "2")
        check_all_adapters(checks, folder, alone(folder, beams, PROMPTS[:2]), "beams", beams, 0, PROMPTS[:2])
        check_wide_passes(checks, folder)
        check_prompts_file(checks, folder, greedy)
        check_outputs(checks, folder, greedy, "lora")
        check_outputs(checks, folder, greedy, "prefix_layer")
        check_preferred(checks, folder)
        check_text_start(checks, folder)
        check_refusals(checks, folder)
    with tempfile.TemporaryDirectory() as folder:
        check_cost_of_a_switch(checks, folder)
    checks.end()


main()
