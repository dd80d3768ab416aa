#!/usr/bin/env python3
"""DPO with LoRA by mpilora beside TRL's DPOTrainer, in alternating runs: pairs a second and peak memory of both.

    python3 tests/bench/compare_trl.py --program build/mpilora --python venv/bin/python [--models gpt2-124m] [--variants mpilora-fp32 trl-fp32-before …]
        [--turns 2] [--steps 2] [--pairs 2] [--results FILE]

--python has torch, transformers, peft, datasets and trl 1.16. Pairs of 256 prompt tokens and twice 128 answer tokens, drawn at random, on models with random
weights; LoRA of rank 8 on q and v (GPT-2: its fused projection on TRL's side). Variants are fp32 and bf16 (TRL: autocast), for TRL with the reference computed
before the first step or within each; the best one of each side counts. A step's seconds are the median without the first; those of all pairs have the reference's
pass and the start of training beside them, on TRL's side without the imports and the loading of weights, on ours with all of the process.

Every run is printed when it has ended, the ratios so far after every turn, and what was measured also where the script is interrupted (Ctrl-C, SIGTERM). A run
that fails or takes longer than --seconds is named, and the others go on. --results adds a line of JSON a run to a file. Not part of CTest.
"""

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT, ANSWER = 256, 128
MODELS = {
    "gpt2-124m": ("gpt2", {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}, ["c_attn"]),
    "smollm2-135m": (
        "llama",
        {
            "num_hidden_layers": 30,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
        ["q_proj", "v_proj"],
    ),
}
MODELS["tiny"] = ("gpt2", {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 500, "n_positions": 512}, ["c_attn"])  # to try this script
VARIANTS = ["mpilora-fp32", "mpilora-bf16", "trl-fp32-before", "trl-fp32-within", "trl-bf16-before", "trl-bf16-within"]


class Failed(Exception):
    """A run without a figure; its text says why."""


def make_rows(vocabulary, count):
    draw = random.Random(7)

    def ids(n):
        return [draw.randrange(vocabulary) for _ in range(n)]

    return [{"prompt_ids": ids(PROMPT), "chosen_ids": ids(ANSWER), "rejected_ids": ids(ANSWER)} for _ in range(count)]


# ---- TRL's side, in a process of its own -----------------------------------------------------------


def train_trl(job):
    import datasets
    import peft
    import tokenizers
    import torch
    import transformers
    import trl

    class InOrder(trl.DPOTrainer):
        def _prepare_dataset(self, dataset, *words, **options):
            return dataset

        def _get_train_sampler(self, *words, **options):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    class Clock(transformers.TrainerCallback):
        def __init__(self):
            self.steps = []

        def on_step_begin(self, *words, **more):
            self.began = time.perf_counter()

        def on_step_end(self, *words, **more):
            self.steps.append(time.perf_counter() - self.began)

    torch.set_num_threads(job["threads"])
    words = tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), eos_token="a", pad_token="b")
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    clock, began = Clock(), time.perf_counter()
    options = trl.DPOConfig(
        output_dir=job["out"],
        per_device_train_batch_size=job["pairs"],
        max_steps=job["steps"],
        learning_rate=1e-4,
        bf16=job["precision"] == "bf16",
        precompute_ref_log_probs=job["before"],
        gradient_checkpointing=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=job["steps"],
    )
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=job["targets"], task_type="CAUSAL_LM")
    rows = datasets.Dataset.from_list(job["rows"])
    InOrder(model=model, args=options, train_dataset=rows, processing_class=tokenizer, peft_config=lora, callbacks=[clock]).train()
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step": statistics.median(clock.steps[1:]), "whole": end - began, "peak": peak}))


def make_model(job):
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(job["family"], **job["config"])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(job["out"])


# ---- both --------------------------------------------------------------------------------------------


def call(words, seconds=None):
    """Its output, the resources it used, and its seconds; its own process group, so that nothing of it outlives this script."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen([str(word) for word in words], stdout=out, stderr=err, start_new_session=True)
        try:
            while True:
                done, status, used = os.wait4(process.pid, os.WNOHANG)
                if done:
                    break
                if seconds and time.perf_counter() - began > seconds:
                    raise Failed(f"took longer than {seconds} s")
                time.sleep(0.02)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            os.wait4(process.pid, 0)
            raise
        whole = time.perf_counter() - began
        out.seek(0)
        err.seek(0)
        if status:
            lines = (err.read() or out.read()).strip().splitlines()
            raise Failed(f"ended with status {os.waitstatus_to_exitcode(status)}: {lines[-1] if lines else 'nothing said'}")
        return out.read(), used, whole


def in_python(options, folder, what, job, seconds=None):
    with open(f"{folder}/job.json", "w") as file:
        json.dump(job, file)
    return call([options.python, os.path.abspath(__file__), what, f"{folder}/job.json"], seconds)[0]


def run_trl(options, folder, model, precision, reference):
    job = {"model": f"{folder}/model", "out": f"{folder}/trl", "rows": model["rows"], "targets": model["targets"]}
    job |= {"steps": options.steps, "pairs": options.pairs, "threads": options.threads, "precision": precision, "before": reference == "before"}
    return json.loads(in_python(options, folder, "trl", job, options.seconds).splitlines()[-1])


def run_ours(options, folder, precision):
    home = tempfile.mkdtemp(prefix=f"run-{precision}-", dir=folder)
    config = {
        "run": {"dir": f"{home}/run"},
        "base": f"{folder}/base.h5",
        "method": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["q", "v"]},
        "objective": {"name": "dpo"},
        "data": {"train": f"{folder}/pairs.h5", "shuffle": False},
        "batch": {"sequences": options.pairs, "micro": options.pairs},
        "optim": {"lr": 1e-4},
        "train": {"steps": options.steps},
        "precision": precision,
    }
    with open(f"{home}/config.yaml", "w") as file:
        json.dump(config, file)
    for name in os.listdir(folder):  # what an earlier run has left of its reference
        if ".reference-" in name:
            os.remove(f"{folder}/{name}")
    _, used, whole = call([options.program, "train", f"{home}/config.yaml"], options.seconds)
    with open(f"{home}/run/metrics.jsonl") as file:
        steps = [json.loads(line)["step_s"] for line in file][1:]
    return {"step": statistics.median(steps), "whole": whole, "peak": used.ru_maxrss * 1024}


def prepare(options, folder, name):
    family, config, targets = MODELS[name]
    rows = make_rows(config["vocab_size"], options.steps * options.pairs)
    in_python(options, folder, "make", {"family": family, "config": config, "out": f"{folder}/model"})
    with open(f"{folder}/pairs.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    call([options.program, "import", f"{folder}/model", f"{folder}/base.h5", "--dtype", "fp32"])
    call([options.program, "tokenize", "--base", f"{folder}/base.h5", f"{folder}/pairs.jsonl", f"{folder}/pairs.h5"])
    return {"rows": rows, "targets": targets}


def measure(options, folder, name, model, turn, side, found):
    label = f"{name}, turn {turn + 1} of {options.turns}, {side}"
    who, *how = side.split("-")
    try:
        result = run_ours(options, folder, *how) if who == "mpilora" else run_trl(options, folder, model, *how)
    except Failed as error:
        print(f"{label}: {error}", flush=True)
        return
    found.setdefault(side, []).append(result)
    print(f"{label}: {describe(options, [result])}", flush=True)
    if options.results:
        with open(options.results, "a") as file:
            shape = {"pairs": options.pairs, "steps": options.steps, "threads": options.threads}
            file.write(json.dumps({"model": name, "side": side, "turn": turn + 1} | shape | result) + "\n")


def compare(options, name):
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model, found, said = prepare(options, folder, name), {}, 0
        try:
            for turn in range(options.turns):
                for side in options.variants if turn % 2 == 0 else options.variants[::-1]:
                    measure(options, folder, name, model, turn, side, found)
                said = report(options, name, found)
        finally:
            if sum(map(len, found.values())) > said:
                report(options, name, found)


def middle(results, key):
    return statistics.median(each[key] for each in results)


def describe(options, results):
    pairs = options.steps * options.pairs
    return (
        f"{options.pairs / middle(results, 'step'):.3f} pairs/s in a step, {pairs / middle(results, 'whole'):.3f} with all around, "
        f"{middle(results, 'peak') / 2**20:.0f} MiB at most"
    )


def report(options, name, found):
    """The medians so far and their ratios; how many runs they come from."""
    runs = sum(map(len, found.values()))
    print(f"{name} after {runs} runs of {options.steps} steps of {options.pairs} pairs, {options.threads} threads")
    for side, results in found.items():
        print(f"  {side}: {describe(options, results)}")
    sides = [[results for side, results in found.items() if side.startswith(who)] for who in ("mpilora", "trl")]
    if all(sides):
        for key, what in (("step", "steps"), ("whole", "all pairs")):
            ours, theirs = (min(middle(results, key) for results in side) for side in sides)
            print(f"  {what}: TRL's seconds, best of its variants, by ours: {theirs / ours:.2f}")
        ours, theirs = (min(middle(results, "peak") for results in side) for side in sides)
        print(f"  memory: ours by TRL's least: {ours / theirs:.3f}")
    sys.stdout.flush()
    return runs


def interrupt(*_):
    sys.exit("interrupted")


def main():
    if len(sys.argv) == 3 and sys.argv[1] in ("trl", "make"):
        with open(sys.argv[2]) as file:
            return (train_trl if sys.argv[1] == "trl" else make_model)(json.load(file))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/mpilora")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch, transformers, peft, datasets and trl")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["gpt2-124m"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="steps a run")
    parser.add_argument("--pairs", type=int, default=2, help="pairs a step")
    parser.add_argument("--seconds", type=int, default=900, help="after which a run is given up")
    parser.add_argument("--results", help="a file that gets one line of JSON a run")
    parser.add_argument("--folder", help="where the temporary folders are made")
    options = parser.parse_args()
    if options.steps < 2 or min(options.turns, options.pairs, options.threads, options.seconds) < 1:
        parser.error("--steps: at least 2; --turns, --pairs, --threads and --seconds: at least 1")
    options.program = os.path.abspath(options.program)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    for name in options.models:
        try:
            compare(options, name)
        except Failed as error:
            sys.exit(f"{name}: {error}")


main()
