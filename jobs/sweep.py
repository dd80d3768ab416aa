#!/usr/bin/env python3
"""The runs of a sweep: every combination of the values that one file lists.

    python3 jobs/sweep.py count SWEEP.yaml             how many runs
    python3 jobs/sweep.py point SWEEP.yaml NUMBER      configuration and key=value lines of run NUMBER, from 0
    python3 jobs/sweep.py table SWEEP.yaml             DIR/table.csv of all runs that have ended, and the same on the screen
    python3 jobs/sweep.py jobs SWEEP.yaml N            how many jobs, where up to N runs train in one on one copy of the weights
    python3 jobs/sweep.py job SWEEP.yaml NUMBER N      as point, of job NUMBER of these

SWEEP.yaml has one key a line; the values of a list are tried one after the other, the last key fastest:

    config: run.yaml                      # what the runs share
    dir: runs/sweep                       # run.dir of run N is DIR/NNNN
    method.rank: [4, 8, 16]
    method.targets: [[q, v], all]
    optim.lr: [1.0e-4, 2.0e-4]
"""

import csv
import itertools
import json
import os
import sys

# What is one for all runs of a job, and methods that do not train beside others (docs/methods.md).
COMMON = ("base", "precision", "parallel.", "memory.", "kernels.", "optim.label_smoothing", "objective.")
ALONE = {"method.dora": ("false",), "method.init": ("null",), "method.name": ("lora",), "method.modules_to_save": ("null",), "method.bias": ("none",),
         "method.trainable_tokens": ("null",), "method.trainable_head_tokens": ("null",), "objective.name": ("sft",)}
COLUMNS = ("steps", "loss_last", "valid_loss", "params_trainable", "tokens_per_s", "checkpoint_bytes")


def fail(text):
    sys.exit(f"sweep: {text}")


def split_list(text, where):
    """The items of "[a, [b, c], d]", brackets and quotes kept together."""
    items, depth, quote, item = [], 0, "", ""
    if not (text.startswith("[") and text.endswith("]")):
        fail(f"{where}: expected a list of values in brackets, found {text}")
    for letter in text[1:-1]:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        if letter == "," and depth == 0 and not quote:
            items.append(item.strip())
            item = ""
        else:
            item += letter
    items.append(item.strip())
    if depth or quote or "" in items:
        fail(f"{where}: a bracket or quote without its other half, or an empty value: {text}")
    return items


def read_sweep(path):
    """(configuration, directory, {key: values})"""
    single, lists = {}, {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as fault:
        fail(f"{path}: {fault.strerror}")
    for number, line in enumerate(lines, 1):
        line = line.split(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        key, colon, value = line.partition(":")
        key, value, where = key.strip(), value.strip(), f"{path}:{number}: {key.strip()}"
        if not colon or not value or not key or key in single or key in lists:
            fail(f"{where}: expected one `key: value` a line, each key once")
        if key in ("config", "dir"):
            single[key] = value.strip("'\"")
        else:
            lists[key] = split_list(value, where)
    for key in ("config", "dir"):
        if key not in single:
            fail(f"{path}: {key}: missing")
    if not lists:
        fail(f"{path}: no key has a list of values")
    return single["config"], single["dir"], lists


def points(sweep):
    """[(run.dir, {key: value})]"""
    _, folder, lists = sweep
    return [(os.path.join(folder, f"{i:04d}"), dict(zip(lists, values))) for i, values in enumerate(itertools.product(*lists.values()))]


def print_point(sweep, number):
    runs = points(sweep)
    if not 0 <= number < len(runs):
        fail(f"run {number}: there are {len(runs)}, numbered from 0; submit with --array=0-{len(runs) - 1}")
    folder, values = runs[number]
    print("\n".join([sweep[0], f"run.dir={folder}", *(f"{key}={value}" for key, value in values.items())]))


def jobs(sweep, most):
    """[[(run.dir, {key: value})]]: the runs in their order, up to `most` that have in common what belongs to the job."""
    groups, done = {}, []
    for folder, values in points(sweep):
        alone = any(key in ALONE and value not in ALONE[key] for key, value in values.items())
        group = groups.setdefault(tuple((key, value) for key, value in values.items() if key.startswith(COMMON)), [])
        if alone or most == 1:
            done.append([(folder, values)])
            continue
        group.append((folder, values))
        if len(group) == 1:
            done.append(group)
        if len(group) == most:
            groups = {key: others for key, others in groups.items() if others is not group}
    return done


def print_job(sweep, number, most):
    """One run as key=value lines, several as a list of runs."""
    all_jobs = jobs(sweep, most)
    if not 0 <= number < len(all_jobs):
        fail(f"job {number}: there are {len(all_jobs)}, numbered from 0; submit with --array=0-{len(all_jobs) - 1}")
    runs = [(folder, values) for folder, values in all_jobs[number]]
    if len(runs) == 1:
        print("\n".join([sweep[0], f"run.dir={runs[0][0]}", *(f"{key}={value}" for key, value in runs[0][1].items())]))
        return
    texts = (f"{{dir: {json.dumps(folder)}, set: {{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in values.items()) + "}}" for folder, values in runs)
    print(f"{sweep[0]}\nruns=[{', '.join(texts)}]")


def write_table(sweep):
    """Written beside and renamed: several tasks may end at once."""
    rows = []
    for folder, values in points(sweep):
        try:
            with open(os.path.join(folder, "summary.json"), encoding="utf-8") as file:
                summary = json.load(file)
        except (OSError, ValueError):
            summary = {}
        rows.append({"run": folder, **values, **{column: summary.get(column, "") for column in COLUMNS}})
    path = os.path.join(sweep[1], "table.csv")
    part = f"{path}.{os.getpid()}"
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
    widths = {column: max(len(column), *(len(str(row[column])) for row in rows)) for column in rows[0]}
    for row in [{column: column for column in rows[0]}, *rows]:
        print("  ".join(str(row[column]).ljust(width) for column, width in widths.items()))


def main():
    words = sys.argv[1:]
    if words[:1] == ["count"] and len(words) == 2:
        print(len(points(read_sweep(words[1]))))
    elif words[:1] == ["point"] and len(words) == 3 and words[2].isdigit():
        print_point(read_sweep(words[1]), int(words[2]))
    elif words[:1] == ["jobs"] and len(words) == 3 and words[2].isdigit() and int(words[2]) > 0:
        print(len(jobs(read_sweep(words[1]), int(words[2]))))
    elif words[:1] == ["job"] and len(words) == 4 and words[2].isdigit() and words[3].isdigit() and int(words[3]) > 0:
        print_job(read_sweep(words[1]), int(words[2]), int(words[3]))
    elif words[:1] == ["table"] and len(words) == 2:
        write_table(read_sweep(words[1]))
    else:
        sys.exit(__doc__)


main()
