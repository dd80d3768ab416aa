#!/usr/bin/env python3
"""Shows what a quickstart run brought.

usage: show_results.py answers DIRECTORY NAME   losses and answers, before and after
       show_results.py classes DIRECTORY NAME   accuracy before and after, and some definitions with what they were taken for
       show_results.py table DIRECTORY NAME BASE.h5   memory of LoRA and of full fine-tuning, sizes of files, where everything lies
"""

import json
import os
import sys

MIB = 1024 * 1024


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_lines(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()


def show_answers(directory, name):
    before, after = (read_json(f"{directory}/{name}.{when}.json") for when in ("before", "after"))
    for prompt, *answers in zip(*(read_lines(f"{directory}/{path}.txt") for path in ("prompts", f"{name}.before", f"{name}.after"))):
        print(f"\n  prompt  {prompt}")
        for when, answer in zip(("before", "after"), answers):
            print(f"  {when:7} {answer.strip() or '(nothing)'}")
    for key, what in (("loss", "validation loss"), ("perplexity", "perplexity")):
        print(f"\n  {what}: {before[key]:.3f} before, {after[key]:.3f} after", end="")
    print()


def show_classes(directory, name):
    evaluations = [json.loads(line) for line in read_lines(f"{directory}/{name}/evaluations.jsonl")]
    texts = [json.loads(line)["text"] for line in read_lines(f"{directory}/senses/valid.jsonl")]
    found = [json.loads(line) for line in read_lines(f"{directory}/predictions.jsonl")]
    for text, line in list(zip(texts, found))[:8]:
        right = "" if line["prediction"] == line["label"] else f"   (it is {line['label']})"
        print(f"  {line['prediction']:20} {text}{right}")
    after = sum(line["prediction"] == line["label"] for line in found) / len(found)
    print(f"\n  accuracy: {evaluations[0]['accuracy']:.3f} before, {after:.3f} after; {len(found)} definitions")
    print(f"\n  {directory}/{name}/adapter.h5: the adapter with its head\n  {directory}/predictions.jsonl: what each definition was taken for")


def show_memory(summary, plan):
    """Bytes a rank: measured for the run, predicted for both methods."""
    methods = {method["name"]: method for method in plan["methods"]}
    columns = {
        "LoRA measured": summary["memory"],
        "LoRA predicted": methods["lora"]["per_rank"],
        "full predicted": methods["full"]["per_rank"],
    }
    print(f"\n  {'MiB a rank':16}" + "".join(f"{title:>16}" for title in columns))
    for category in methods["lora"]["per_rank"]:
        print(f"  {category:16}" + "".join(f"{column.get(category, 0) / MIB:16.1f}" for column in columns.values()))
    totals = [summary["memory"]["total_peak_bytes"]] + [methods[name]["total_bytes_per_rank"] for name in ("lora", "full")]
    print(f"  {'total at peak':16}" + "".join(f"{total / MIB:16.1f}" for total in totals))
    print(f"\n  trainable parameters: LoRA {methods['lora']['params_trainable']:,}, full {methods['full']['params_trainable']:,}")


def show_files(directory, name, base):
    adapter = os.path.getsize(f"{directory}/{name}/adapter.h5")
    model = os.path.getsize(base)
    print(f"  adapter {adapter / MIB:.2f} MiB, model {model / MIB:.1f} MiB: {model / adapter:.0f} times as large")
    print(f"\n  {base}: the model\n  {directory}/{name}/adapter.h5: the adapter\n  {directory}/{name}/metrics.jsonl: a line for each step")
    print(f"  {directory}/{name}.yaml: the configuration; change it and run\n      mpirun -n 2 build/mpilora train {directory}/{name}.yaml --fresh")


def main():
    what, directory, name, *base = sys.argv[1:]
    if what == "answers":
        show_answers(directory, name)
    elif what == "classes":
        show_classes(directory, name)
    else:
        summary, plan = read_json(f"{directory}/{name}/summary.json"), read_json(f"{directory}/plan.json")
        show_memory(summary, plan)
        print(f"  training: {summary['tokens']:,} tokens at {summary['tokens_per_s']:.0f} tokens/s on {summary['ranks']} ranks")
        show_files(directory, name, *base)


main()
