"""Real work: the first lines of an E2E file in file order, 8 a batch, loss on the completion, GPT-2 124M's shape, beside transformers + PEFT
that pads to the longest line of the batch. Both sides start from the same weights and the same adapter and train, so their losses can be
compared batch by batch.

The batches are cut into as many blocks as there are pairs; mpilora stops after each block and resumes, so that the two sides take turns. Its first step of
each block, which touches new memory, is counted; PyTorch is warmed up before its first.
"""

import os

from . import report
from .torch_process import TorchSide

BATCH, LENGTH, RANK, ALPHA, LR, WEIGHT_DECAY = 8, 512, 8, 16, 1e-3, 0.01
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # relative, of each batch's loss


def take_lines(source, count, target):
    """Copies the first lines; returns how many there were."""
    with open(source, encoding="utf-8") as file, open(target, "w", encoding="utf-8") as out:
        taken = [line for line, _ in zip(file, range(count))]
        out.writelines(taken)
    return len(taken)


def prepare(program, folder, source, options):
    """Base, its export, lines and data set. Returns the number of batches, PyTorch's specification and the configuration of a run."""
    base, export, text, data, adapter = (os.path.join(folder, name) for name in ("base.h5", "export", "lines.txt", "lines.h5", "adapter"))
    program.random_base(base, "gpt2-small", options.tokenizer)
    program.run("export", "--format", "hf", "--base", base, export)
    count = take_lines(source, options.lines, text)
    program.run("tokenize", "--base", base, text, data, "--format", "e2e")
    spec = {"variant": "eager", "directory": export, "file": text, "batch": BATCH, "adapter": adapter, "rank": RANK, "alpha": ALPHA, "lr": LR,
            "weight_decay": WEIGHT_DECAY, "targets": ["c_attn"]}
    config = {"run": {"dir": ""}, "base": base, "method": {"rank": RANK, "alpha": ALPHA, "targets": ["qkv"], "init": adapter},
              "data": {"train": data, "max_len": LENGTH, "shuffle": False}, "batch": {"sequences": BATCH, "micro": BATCH},
              "optim": {"lr": LR, "weight_decay": WEIGHT_DECAY, "schedule": "constant", "warmup": 0}, "train": {"steps": 1}}
    return count // BATCH, spec, config


def run_block(program, config, folder, precision, first, last):
    """Steps first + 1 … last of this precision's run: seconds and losses of each."""
    config = dict(config, run={"dir": os.path.join(folder, "run-" + precision)}, train={"steps": last}, precision=precision)
    metrics, _ = program.train(config, *(["--fresh"] if first == 0 else []))
    return {"seconds": [line["step_s"] for line in metrics[first:]], "losses": [line["loss"] for line in metrics[first:]]}


def run_blocks(program, config, folder, side, precisions, bounds):
    """A list of {lines, torch: {seconds, losses}, mpilora: {precision: {seconds, losses}}}."""
    blocks = []
    side.ask("warm")
    for first, last in zip(bounds, bounds[1:]):
        ours = {precision: run_block(program, config, folder, precision, first, last) for precision in precisions}
        blocks.append({"lines": BATCH * (last - first), "mpilora": ours, "torch": side.ask("batches", first=first, count=last - first)})
        print(f"  batches {first + 1} to {last}: seconds: " + ", ".join(f"mpilora {p} {sum(found['seconds']):.2f}" for p, found in ours.items()) +
              f", torch {sum(blocks[-1]['torch']['seconds']):.2f}", flush=True)
    return blocks


def summarize(blocks, precision):
    """Ratio of each block, of the whole, lines a second and the largest relative difference of a batch's loss."""
    ours, theirs = [block["mpilora"][precision] for block in blocks], [block["torch"] for block in blocks]
    seconds, their_seconds = [sum(found["seconds"]) for found in ours], [sum(found["seconds"]) for found in theirs]
    differences = [abs(a - b) / abs(b) for mine, other in zip(ours, theirs) for a, b in zip(mine["losses"], other["losses"])]
    return {"ratio": report.spread([b / a for a, b in zip(seconds, their_seconds)]), "ratio_of_all": sum(their_seconds) / sum(seconds),
            "lines_per_s": sum(block["lines"] for block in blocks) / sum(seconds), "loss_difference": max(differences),
            "same_losses": max(differences) <= TOLERANCE[precision]}


def compare(program, python, folder, options, name):
    """The answer for the file NAME.txt, printed and returned."""
    print(f"{name}.txt: {options.lines} lines, {BATCH} a batch, GPT-2 124M's shape, r = {RANK} on the fused q|k|v", flush=True)
    batches, spec, config = prepare(program, folder, os.path.join(options.data_directory, name + ".txt"), options)
    pairs = min(options.pairs, batches)
    bounds = [batches * i // pairs for i in range(pairs + 1)]
    with TorchSide(python, spec, program.threads) as side:
        blocks = run_blocks(program, config, folder, side, options.precisions, bounds)
        peak = side.high_water()
    answer = {"file": name, "lines": batches * BATCH, "blocks": blocks, "torch_peak_bytes": peak,
              "torch_lines_per_s": batches * BATCH / sum(sum(block["torch"]["seconds"]) for block in blocks),
              "mpilora": {precision: summarize(blocks, precision) for precision in options.precisions}}
    show(answer)
    return answer


def show(answer):
    lines = [[f"mpilora {precision}", f"{found['lines_per_s']:.2f}", f"{report.spread_text(found['ratio'])} x torch, {found['ratio_of_all']:.2f} over all",
              f"{found['loss_difference']:.1e}{'' if found['same_losses'] else f': more than {TOLERANCE[precision]:.0e}'}"]
             for precision, found in answer["mpilora"].items()]
    report.table(["", "lines/s", "speed", "largest difference of a loss"], [*lines, ["torch eager", f"{answer['torch_lines_per_s']:.2f}", "", ""]])
