"""One layer of the width of GPT-3 175B, OPT-175B and BLOOM-176B with random weights in blocks: steps of LoRA (q and v) on one rank and on two of a tensor-parallel group. Printed are the
bytes of the fullest rank by plan and as accounted, those of all processes together, and tokens a second; with --beside those of the same layer in bf16 as well, in turns. Wrong is what goes
beyond 4 GiB for all processes, bytes further than 3 % from the plan, or losses of tp 1 and 2 that differ by more than 1e-4.

usage: python3 tests/bench/wide_layers.py MPILORA [--models gpt3-175b,opt-175b,bloom-176b | MODEL.yaml] [--quantise q4_k] [--tokens 2048] [--steps 2] [--turns 1] [--beside] [--folder DIR]
"""
import argparse
import json
import os
import statistics
import sys
import tempfile

from torch_comparison.our_side import SOURCE, Program, read_run, write_config

MOST, OFF = 4 << 30, 0.03


def make_base(program, model, name, path):
    description = model if model.endswith(".yaml") else f"{SOURCE}/configs/models/{model}-1layer.yaml"
    program.run("import", "--init", "random", "--config", description, *([] if name == "bf16" else ["--quantise", name]), path)


def make_data(program, options, base, folder):
    """One sequence a step."""
    with open(f"{folder}/rows.jsonl", "w") as file:
        for i in range(8):
            file.write(json.dumps({"input_ids": [(i * 131 + 7 * j + j * j) % 250 for j in range(options.tokens)]}) + "\n")
    program.run("tokenize", "--base", base, "--format", "ids", f"{folder}/rows.jsonl", f"{folder}/data.h5")


def train(program, options, folder, base, tp):
    """What the run's summary says, and the plan's bytes for a rank."""
    config = {"run": {"dir": f"{folder}/run-tp{tp}"}, "base": base, "method": {"name": "lora", "rank": 8, "targets": ["q", "v"]}, "data": {"train": f"{folder}/data.h5", "max_len": options.tokens},
              "batch": {"sequences": 1, "micro": 1}, "train": {"steps": options.steps}, "precision": "bf16", "parallel": {"tp": tp}, "memory": {"activations": "full"}}  # fmt: skip
    planned = json.loads(program.run("plan", write_config(config), "--ranks", str(tp), "--json"))["methods"][0]["total_bytes_per_rank"]
    program.finish(program.start("train", write_config(config), "--fresh", ranks=tp))
    metrics, summary = read_run(config)
    seconds = [line["step_s"] for line in metrics]
    return summary, planned, options.tokens / statistics.median(seconds[1:] or seconds)


def measure(program, options, model, folder):
    names = [options.quantise, *(["bf16"] if options.beside else [])]
    for name in names:
        make_base(program, model, name, f"{folder}/{name}.h5")
    make_data(program, options, f"{folder}/{options.quantise}.h5", folder)
    wrong, losses, rates = [], {}, {}
    for tp in (1, 2):
        for turn in range(options.turns):
            for name in names[:: -1 if turn % 2 else 1]:
                summary, planned, rate = train(program, options, folder, f"{folder}/{name}.h5", tp)
                memory, label = summary["memory"], f"{model}, {name}, {options.tokens} tokens, tp {tp}"
                accounted, processes = memory["total_peak_bytes"], memory["node_process_peak_bytes"]
                print(f"{label}: planned {planned / 1e6:.1f} MB a rank, accounted {accounted / 1e6:.1f}, a process {memory['process_peak_bytes'] / 1e6:.0f}, all {processes / 1e6:.0f}; "
                      f"{rate:.2f} tokens/s, loss {summary['loss_last']:.6f}", flush=True)  # fmt: skip
                rates.setdefault((name, tp), []).append(rate)
                losses[name, tp] = summary["loss_last"]
                if abs(accounted - planned) > OFF * planned:
                    wrong.append(f"{label}: {accounted} bytes accounted, {planned} planned")
                if name != "bf16" and processes > MOST:
                    wrong.append(f"{label}: all processes take {processes} bytes, more than {MOST}")
        if options.beside:
            ratios = [a / b for a, b in zip(rates[options.quantise, tp], rates["bf16", tp])]
            print(f"{model}, tp {tp}: {statistics.median(ratios):.3f} of bf16's tokens a second ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)
    for name in names:
        if abs(losses[name, 1] - losses[name, 2]) > 1e-4 * losses[name, 1]:
            wrong.append(f"{model}, {name}: losses {losses[name, 1]} with tp 1, {losses[name, 2]} with tp 2")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mpilora")
    parser.add_argument("--models", default="gpt3-175b,opt-175b,bloom-176b")
    parser.add_argument("--quantise", default="q4_k")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--folder")
    for name, value in (("tokens", 2048), ("steps", 2), ("turns", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options, wrong = parser.parse_args(), []
    program = Program(options.mpilora, len(os.sched_getaffinity(0)))
    for model in options.models.split(","):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            wrong += measure(program, options, model, folder)
    for text in wrong:
        print("WRONG:", text)
    sys.exit(1 if wrong else 0)


main()
