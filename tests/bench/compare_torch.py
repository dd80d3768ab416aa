#!/usr/bin/env python3
"""A LoRA step of mpilora beside PyTorch + PEFT: alternating runs, ratios of each pair, peak memory of both. Not part of CTest.

    python3 tests/bench/compare_torch.py --program build/mpilora [--pairs 5] [--row 1] [--precision fp32]

Needs torch, transformers and peft for the interpreter named by --python (default: this one), for example in a virtual environment:
    python3 -m venv venv && venv/bin/pip install torch transformers peft && venv/bin/python tests/bench/compare_torch.py --program build/mpilora
Rows: 1 GPT-2 124M, r = 8 on the fused q|k|v, 4 x 512 tokens; 2 SmolLM2-135M's shape, r = 8 on q and v, 4 x 512; 3 two layers of width 4096, 2 x 512.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROWS = {
    1: {"model": "gpt2-small", "sequences": 4, "targets": "[qkv]", "vocab": 50257},
    2: {"model": "smollm2-135m", "sequences": 4, "targets": "[q, v]", "vocab": 49152},
    3: {"model": "llama-7b-2layers", "sequences": 2, "targets": "[q, v]", "vocab": 32000},
}
LENGTH = 512

TORCH_SIDE = r"""
import resource, sys, time, torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
row, sequences, threads = (int(x) for x in sys.argv[1:4])
torch.set_num_threads(threads)
if row == 1:
    model, targets = GPT2LMHeadModel(GPT2Config()), ["c_attn"]
elif row == 2:
    model, targets = LlamaForCausalLM(LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True)), ["q_proj", "v_proj"]
else:
    model, targets = LlamaForCausalLM(LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=2,
        num_attention_heads=32, max_position_embeddings=4096)), ["q_proj", "v_proj"]
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=row == 1))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
ids = torch.randint(0, model.config.vocab_size, (sequences, 512))
model.train()
for line in sys.stdin:
    started = time.perf_counter()
    optimizer.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def prepare(program, folder, row):
    """Base, data set and configuration of a row; returns the configuration's path."""
    shape = ROWS[row]
    base = os.path.join(folder, "base.h5")
    run(program, "import", "--init", "random", "--config", f"{SOURCE}/configs/models/{shape['model']}.yaml", base)
    lines = os.path.join(folder, "ids.jsonl")
    with open(lines, "w", encoding="ascii") as file:
        for i in range(shape["sequences"]):
            file.write(json.dumps({"input_ids": [(i * 7919 + j * 104729) % shape["vocab"] for j in range(LENGTH)]}) + "\n")
    data = os.path.join(folder, "ids.h5")
    run(program, "tokenize", "--base", base, lines, data, "--format", "ids")
    path = os.path.join(folder, "run.yaml")
    with open(path, "w", encoding="ascii") as file:
        file.write(f"""run: {{dir: {folder}/run}}
base: {base}
method: {{rank: 8, alpha: 16, targets: {shape['targets']}}}
data: {{train: {data}, max_len: {LENGTH}, shuffle: false}}
batch: {{sequences: {shape['sequences']}, micro: {shape['sequences']}}}
optim: {{lr: 1.0e-4}}
train: {{steps: 3}}
""")
    return path


def our_step(program, path, folder, precision, environment):
    """Seconds of the best of steps 2 and 3, and the process's peak."""
    run(program, "train", path, "--fresh", "--set", f"precision={precision}", env=environment)
    with open(f"{folder}/run/metrics.jsonl", encoding="ascii") as file:
        seconds = [json.loads(line)["step_s"] for line in file]
    with open(f"{folder}/run/summary.json", encoding="ascii") as file:
        peak = json.load(file)["memory"]["process_peak_bytes"]
    return min(seconds[1:]), peak


def torch_step(side):
    """Seconds of the best of two steps, and the process's peak."""
    answers = []
    for _ in range(2):
        side.stdin.write("step\n")
        side.stdin.flush()
        answers.append([float(x) for x in side.stdout.readline().split()])
    return min(a[0] for a in answers), answers[-1][1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", default="build/mpilora")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--row", type=int, default=1, choices=ROWS)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    environment = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    shape, ratios = ROWS[arguments.row], []
    tokens = shape["sequences"] * LENGTH
    with tempfile.TemporaryDirectory() as folder:
        path = prepare(arguments.program, folder, arguments.row)
        side = subprocess.Popen([arguments.python, "-c", TORCH_SIDE, str(arguments.row), str(shape["sequences"]), str(arguments.threads)],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        torch_step(side)  # warm-up
        for pair in range(arguments.pairs):
            ours, our_peak = our_step(arguments.program, path, folder, arguments.precision, environment)
            theirs, their_peak = torch_step(side)
            ratios.append(theirs / ours)
            print(f"pair {pair + 1}: mpilora {tokens / ours:.0f} tokens/s, torch {tokens / theirs:.0f} tokens/s, ratio {ratios[-1]:.2f}", flush=True)
        side.stdin.close()
        side.wait()
    print(f"row {arguments.row}, {arguments.precision}, {arguments.threads} threads: median ratio {statistics.median(ratios):.2f} "
          f"({min(ratios):.2f} to {max(ratios):.2f}); peak memory mpilora {our_peak / 1e9:.2f} GB, torch {their_peak / 1e9:.2f} GB")


main()
