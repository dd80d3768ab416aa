#!/usr/bin/env python3
"""Classification with encoders by mpilora beside transformers + PEFT, in alternating runs: sentences a second, and the most memory that a process has.

    python3 tests/bench/compare_encoders.py --program build/mpilora --text FILE [--models roberta-base deberta-v3-base modernbert-base] [--pairs 3] [--steps 8] [--micro 32]

32 sentences a step, as long as those of FILE (a sentence a line; of `a||b` the part behind the bars; pieces of words by --tokenizer, else words and signs), LoRA of rank 8 on q and v
(ModernBERT: on its fused projection), a head for two labels that trains, random weights of the models' shapes, the same on both sides: the losses of the first step must agree. mpilora's
sentences have no padding; the other side pads each batch to its longest one. Each variant of PyTorch runs alone first (fp32, compiled, products or weights in bf16), then the fastest one
and mpilora take turns, on the same batches. The first step of a turn, which touches new memory or compiles, does not count. Without --python a virtual environment with torch,
transformers and peft is made beside the program and kept. Not part of CTest.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile

from torch_comparison import report, torch_environment
from torch_comparison.our_side import SOURCE, Program
from torch_comparison.torch_process import TorchFault, TorchSide

SCRIPT = os.path.join(SOURCE, "tests/bench/torch_comparison/encoder_side.py")
SHARED = os.environ.get("MPILORA_SHARED_DATA", os.path.join(os.path.dirname(SOURCE), "shared", "data"))
SENTENCES, LEAST_ID = 32, 5
VARIANTS = ["fp32", "fp32-compile", "autocast", "autocast-compile", "bf16", "bf16-compile"]
TOLERANCE = 0.03  # of the first loss, ours in bf16

_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_DEBERTA = {"vocab_size": 128100, "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p",
            "position_biased_input": False, "max_relative_positions": -1, "type_vocab_size": 0, "max_position_embeddings": 512, "pooler_hidden_act": "gelu", "pooler_dropout": 0}
# Name: family, configuration, targets of theirs and of ours.
MODELS = {
    "roberta-base": ("roberta", {**_ROBERTA, **_BASE}, ["query", "value"], ["q", "v"]),
    "deberta-v3-base": ("deberta-v2", {**_DEBERTA, **_BASE, "intermediate_size": 3072, "pooler_hidden_size": 768}, ["query_proj", "value_proj"], ["q", "v"]),
    "modernbert-base": ("modernbert", {}, ["Wqkv"], ["qkv"]),
    # To try this script.
    "tiny-roberta": ("roberta", {**_ROBERTA, **_TINY}, ["query", "value"], ["q", "v"]),
    "tiny-deberta": ("deberta-v2", {**_DEBERTA, **_TINY, "pooler_hidden_size": 64}, ["query_proj", "value_proj"], ["q", "v"]),
    "tiny-modernbert": ("modernbert", _TINY, ["Wqkv"], ["qkv"]),
}


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(SOURCE, "build", "mpilora"))
    parser.add_argument("--python", help="an interpreter that has torch, transformers and peft")
    parser.add_argument("--text", default=os.path.join(SHARED, "e2e", "train.txt"))
    parser.add_argument("--tokenizer", help="a directory that transformers reads; RoBERTa's pieces are GPT-2's")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[name for name in MODELS if not name.startswith("tiny")])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--micro", type=int, default=SENTENCES, help="sentences of mpilora's micro-batches; the losses and gradients are the same")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of mpilora")
    options = parser.parse_args()
    if options.steps < 2 or min(options.pairs, options.threads, options.micro) < 1:
        parser.error("--steps: at least 2, --pairs, --threads and --micro: at least 1")
    if not os.path.exists(options.text):
        parser.error(f"--text: {options.text}: there is no such file; name one with a sentence a line")
    return options


def read_lengths(options, count):
    """Pieces of the first sentences, with the two special ones around them."""
    with open(options.text, encoding="utf-8") as file:
        sentences = [line.rstrip("\n").split("||")[-1].strip() for line, _ in zip(file, range(count))]
    if len(sentences) < count:
        sys.exit(f"{options.text}: has {len(sentences)} sentences, expected {count} for {options.steps} steps")
    if not options.tokenizer:
        return [2 + len(re.findall(r"\w+|[^\w\s]", sentence)) for sentence in sentences]
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(options.tokenizer)
    return [2 + len(tokenizer(sentence, add_special_tokens=False)["input_ids"]) for sentence in sentences]


def write_rows(path, lengths, vocab):
    with open(path, "w", encoding="ascii") as file:
        for i, length in enumerate(lengths):
            ids = [LEAST_ID + (i * 7919 + j * 104729) % (vocab - LEAST_ID) for j in range(length)]
            file.write(json.dumps({"input_ids": ids, "label": i % 2}) + "\n")


def prepare(program, python, folder, name, options, lengths):
    """The specification of PyTorch's side and the configuration of ours."""
    family, config, theirs, ours = MODELS[name]
    model, base, rows, data = (os.path.join(folder, each) for each in ("model", "base.h5", "rows.jsonl", "rows.h5"))
    with TorchSide(python, {"variant": "make", "directory": model, "make": {"family": family, "config": config}}, program.threads, SCRIPT) as side:
        side.ask("nothing")
    write_rows(rows, lengths, config.get("vocab_size", 50368))
    program.run("import", model, base, "--dtype", options.precision)
    program.run("tokenize", "--base", base, "--format", "ids", "--labels", "2", rows, data)
    spec = {"directory": model, "file": rows, "batch": SENTENCES, "targets": theirs}
    run = {"run": {"dir": os.path.join(folder, "run")}, "base": base, "method": {"name": "lora", "rank": 8, "alpha": 16, "targets": ours}, "objective": {"name": "classify"},
           "data": {"train": data, "max_len": 512, "shuffle": False}, "batch": {"sequences": SENTENCES, "micro": min(options.micro, SENTENCES)},
           "optim": {"lr": 1e-4, "weight_decay": 0.01, "schedule": "constant", "warmup": 0}, "train": {"steps": options.steps}, "precision": options.precision}
    return spec, run


def their_turn(side, options):
    """Seconds of a step, without the first, and its loss."""
    steps = side.ask("steps", count=options.steps)["steps"]
    return sum(step["seconds"] for step in steps[1:]) / (options.steps - 1), steps[0]["loss"]


def our_turn(program, config):
    """The same, and bytes."""
    metrics, summary = program.train(config, "--fresh")
    return sum(line["step_s"] for line in metrics[1:]) / (len(metrics) - 1), metrics[0]["loss"], summary["memory"]["process_peak_bytes"]


def screen(program, python, spec, options):
    """Every variant alone: {variant: {seconds, loss, peak_bytes}}; one that cannot run is left out, and its reason said."""
    found = {}
    for variant in options.variants:
        try:
            with TorchSide(python, {**spec, "variant": variant}, program.threads, SCRIPT) as side:
                if variant.endswith("compile"):
                    side.ask("steps", count=2)  # one length, then any
                seconds, loss = their_turn(side, options)
                found[variant] = {"seconds": seconds, "loss": loss, "peak_bytes": side.high_water()}
            print(f"  torch {variant}: {SENTENCES / seconds:.2f} sentences/s, {report.gigabytes(found[variant]['peak_bytes'])}", flush=True)
        except TorchFault as fault:
            print(f"  torch {variant}: left out: {fault}", flush=True)
    return found


def compare(program, python, folder, name, options):
    lengths = read_lengths(options, SENTENCES * options.steps)
    batches = [lengths[i:i + SENTENCES] for i in range(0, len(lengths), SENTENCES)]
    print(f"{name}: {sum(lengths)} tokens in {len(lengths)} sentences, {sum(SENTENCES * max(b) for b in batches)} with padding; {options.pairs} pairs of {options.steps} steps, "
          f"{program.threads} threads; mpilora {options.precision}, micro-batches of {options.micro}", flush=True)
    spec, config = prepare(program, python, folder, name, options, lengths)
    alone = screen(program, python, spec, options)
    if not alone:
        sys.exit(f"{name}: no variant of PyTorch runs here")
    fastest = min(alone, key=lambda variant: alone[variant]["seconds"])
    ratios, ours = [], []
    with TorchSide(python, {**spec, "variant": fastest}, program.threads, SCRIPT) as side:
        side.ask("steps", count=2)
        for _ in range(options.pairs):
            ours.append(our_turn(program, config))
            theirs, _ = their_turn(side, options)
            ratios.append(theirs / ours[-1][0])
            print(f"  mpilora {SENTENCES / ours[-1][0]:.2f} sentences/s, torch {fastest} {SENTENCES / theirs:.2f}: {ratios[-1]:.2f}", flush=True)
    exact = alone.get("fp32", alone[fastest])["loss"]
    peak, least = max(turn[2] for turn in ours), min(each["peak_bytes"] for each in alone.values())
    print(f"  loss of the first step: mpilora {ours[0][1]:.6f}, torch {exact:.6f}")
    print(f"  speed: {report.spread_text(report.spread(ratios))} x torch {fastest}")
    print(f"  memory: {report.gigabytes(peak)}, {peak / alone[fastest]['peak_bytes']:.2f} of torch {fastest}'s, {peak / least:.2f} of the least", flush=True)
    if abs(ours[0][1] - exact) > TOLERANCE * abs(exact):
        sys.exit(f"{name}: the losses of the two sides differ: {ours[0][1]} and {exact}")


def main():
    options = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary folders go and PyTorch's processes end
    program = Program(options.program, options.threads)
    python = torch_environment.interpreter(options.python, os.path.join(os.path.dirname(program.path), "torch-environment"))
    for name in options.models:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(program.path)) as folder:
            compare(program, python, folder, name, options)


main()
