#!/usr/bin/env python3
"""DPO with LoRA by mpilora beside TRL's DPOTrainer, in alternating runs: pairs a second and peak memory of both.

    python3 tests/bench/compare_trl.py --program build/mpilora --python venv/bin/python [--models gpt2-124m smollm2-135m] [--turns 3] [--steps 8]

--python has torch, transformers, peft, datasets and trl 1.16. Pairs of 256 prompt tokens and twice 128 answer tokens, drawn at random, on models with random
weights; LoRA of rank 8 on q and v (GPT-2: its fused projection on TRL's side). TRL runs with every variant, fp32 and bf16 autocast, the reference computed before
and in every step; its best one counts. A step's seconds are the median without the first two; those of all pairs have the reference's pass and the start of
training beside them, on TRL's side without the imports and the loading of weights, on ours with all of the process. Not part of CTest.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT, ANSWER, PAIRS = 256, 128, 4
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
VARIANTS = [(precision, before) for precision in ("fp32", "bf16") for before in (True, False)]


def make_rows(vocabulary, count):
    draw = random.Random(7)

    def ids(n):
        return [draw.randrange(vocabulary) for _ in range(n)]

    return [{"prompt_ids": ids(PROMPT), "chosen_ids": ids(ANSWER), "rejected_ids": ids(ANSWER)} for _ in range(count)]


# ---- TRL's side, in a process of its own -----------------------------------------------------------


def run_trl(job):
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
            self.times = []

        def on_step_end(self, *words, **more):
            self.times.append(time.perf_counter())

    torch.set_num_threads(job["threads"])
    words = tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), eos_token="a", pad_token="b")
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    clock, began = Clock(), time.perf_counter()
    options = trl.DPOConfig(
        output_dir=job["out"],
        per_device_train_batch_size=PAIRS,
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
    steps = [b - a for a, b in zip(clock.times, clock.times[1:])][1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step": statistics.median(steps), "whole": end - began, "peak": peak}))


def make_model(job):
    import torch
    import transformers

    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(job["family"], **job["config"])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(job["out"])


# ---- both --------------------------------------------------------------------------------------------


def call(words, **more):
    done = subprocess.run([str(word) for word in words], text=True, capture_output=True, timeout=7200, **more)
    if done.returncode:
        sys.exit(f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def in_python(options, folder, what, job):
    with open(f"{folder}/job.json", "w") as file:
        json.dump(job, file)
    return call([options.python, os.path.abspath(__file__), what, f"{folder}/job.json"])


def run_ours(options, folder, precision, turn):
    home = f"{folder}/run-{precision}-{turn}"
    config = {
        "run": {"dir": home},
        "base": f"{folder}/base.h5",
        "method": {"name": "lora", "rank": 8, "alpha": 16, "targets": ["q", "v"]},
        "objective": {"name": "dpo"},
        "data": {"train": f"{folder}/pairs.h5", "shuffle": False},
        "batch": {"sequences": PAIRS, "micro": PAIRS},
        "optim": {"lr": 1e-4},
        "train": {"steps": options.steps},
        "precision": precision,
    }
    with open(f"{folder}/config.yaml", "w") as file:
        json.dump(config, file)
    for name in os.listdir(folder):  # what an earlier turn has left of its reference
        if ".reference-" in name:
            os.remove(f"{folder}/{name}")
    before = time.perf_counter()
    process = subprocess.Popen(
        [options.program, "train", f"{folder}/config.yaml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
    )
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    whole = time.perf_counter() - before
    if status:
        sys.exit(f"mpilora train ended with status {status}\n{said}")
    with open(f"{home}/metrics.jsonl") as file:
        steps = [json.loads(line)["step_s"] for line in file][2:]
    return {"step": statistics.median(steps), "whole": whole, "peak": used.ru_maxrss * 1024}


def compare(options, name):
    family, config, targets = MODELS[name]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = make_rows(config["vocab_size"], options.steps * PAIRS)
        in_python(options, folder, "make", {"family": family, "config": config, "out": f"{folder}/model"})
        with open(f"{folder}/pairs.jsonl", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        call([options.program, "import", f"{folder}/model", f"{folder}/base.h5", "--dtype", "fp32"])
        call([options.program, "tokenize", "--base", f"{folder}/base.h5", f"{folder}/pairs.jsonl", f"{folder}/pairs.h5"])
        found = {}
        for turn in range(options.turns):
            sides = [("mpilora", precision, None) for precision in ("fp32", "bf16")] + [("trl", *variant) for variant in VARIANTS]
            for side in sides if turn % 2 == 0 else sides[::-1]:
                if side[0] == "mpilora":
                    result = run_ours(options, folder, side[1], turn)
                else:
                    job = {"model": f"{folder}/model", "out": f"{folder}/trl", "rows": rows, "steps": options.steps, "threads": options.threads}
                    job |= {"precision": side[1], "before": side[2], "targets": targets}
                    result = json.loads(in_python(options, folder, "trl", job).splitlines()[-1])
                found.setdefault(side, []).append(result)
    report(options, name, found)


def report(options, name, found):
    def middle(side, key):
        return statistics.median(each[key] for each in found[side])

    pairs = options.steps * PAIRS
    print(f"{name}: {options.turns} turns of {options.steps} steps of {PAIRS} pairs, {options.threads} threads")
    for side in found:
        how = "" if side[2] is None else ", reference before" if side[2] else ", reference in every step"
        print(
            f"  {side[0]} {side[1]}{how}: {PAIRS / middle(side, 'step'):.3f} pairs/s in a step, {pairs / middle(side, 'whole'):.3f} with all around, "
            f"{middle(side, 'peak') / 2**20:.0f} MiB at most"
        )
    for key, what in (("step", "steps"), ("whole", "all pairs")):
        ours, theirs = (min(middle(side, key) for side in found if side[0] == name) for name in ("mpilora", "trl"))
        print(f"  {what}: TRL's seconds, best of its variants, by ours: {theirs / ours:.2f}")
    ours, theirs = (min(middle(side, "peak") for side in found if side[0] == name) for name in ("mpilora", "trl"))
    print(f"  memory: ours by TRL's least: {ours / theirs:.3f}", flush=True)


def main():
    if len(sys.argv) == 3 and sys.argv[1] in ("trl", "make"):
        with open(sys.argv[2]) as file:
            return (run_trl if sys.argv[1] == "trl" else make_model)(json.load(file))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/mpilora")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch, transformers, peft, datasets and trl")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["gpt2-124m", "smollm2-135m"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--folder", help="where the temporary folders are made")
    options = parser.parse_args()
    if options.steps < 4 or options.turns < 1 or options.threads < 1:
        parser.error("--steps: at least 4, --turns and --threads: at least 1")
    options.program = os.path.abspath(options.program)
    for name in options.models:
        compare(options, name)


main()
